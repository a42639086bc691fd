"""A ModelSpec survives JSON unchanged, and a damaged one is refused by one error that names the file."""

from __future__ import annotations

import contextlib
import json
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedet.errors import SpecError
from edgedet.letterbox import Letterbox
from edgedet.spec import VERSION, Encoding, InputLayout, ModelSpec, NmsMode, Precision, Suppression

SPEC = ModelSpec("yolox", "nano", ("cat", "dog"), (416, 416))

facts = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
specs = st.builds(
    ModelSpec,
    family=st.text(),
    variant=st.text(),
    classes=st.lists(st.text(), min_size=1, max_size=5).map(tuple),
    size_hw=st.tuples(st.integers(1, 4096), st.integers(1, 4096)),
    letterbox_anchor=st.sampled_from(["top-left", "center"]),
    letterbox_fill=st.integers(0, 255),
    input_layout=st.sampled_from(get_args(InputLayout)),
    batch=st.none() | st.integers(1, 64),
    suppression=st.builds(
        Suppression,
        mode=st.sampled_from(get_args(NmsMode)),
        iou_threshold=st.floats(0, 1),
        min_score=st.floats(0, 1),
        candidates=st.integers(1, 3840),
        max_detections=st.integers(1, 1000),
        needed=st.booleans(),
    ),
    precision=st.sampled_from(get_args(Precision)),
    encoding=st.none() | st.sampled_from(get_args(Encoding)),
    weights_licence=st.text(),
    provenance=st.dictionaries(st.text(), facts, max_size=4),
)


@given(specs)
@settings(deadline=None)
def test_a_spec_survives_json_unchanged(spec):
    text = spec.to_json()
    assert ModelSpec.from_json(text, where="a file") == spec
    assert ModelSpec.from_json(text.encode(), where="a file").to_json() == text
    assert "\n" not in text


@given(field=st.sampled_from(sorted(json.loads(SPEC.to_json()))), value=facts)
@settings(deadline=None)
def test_a_damaged_field_raises_nothing_but_a_spec_error(field, value):
    text = json.dumps({**json.loads(SPEC.to_json()), field: value})
    with contextlib.suppress(SpecError):  # anything else would reach the user as a traceback
        ModelSpec.from_json(text, where="model.onnx")


@pytest.mark.parametrize("field", ["family", "classes", "size_hw", "version", "suppression"])
def test_a_lacking_field_is_named(field):
    values = {name: value for name, value in json.loads(SPEC.to_json()).items() if name != field}
    with pytest.raises(SpecError, match=rf"model\.onnx: .*{field}"):
        ModelSpec.from_json(json.dumps(values), where="model.onnx")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '"text"', "{}", b"\xff\xfe\x00"])
def test_what_is_no_spec_is_refused_by_name(text):
    with pytest.raises(SpecError, match=r"model\.onnx: .*spec is not readable .*; export the model again"):
        ModelSpec.from_json(text, where="model.onnx")


def test_another_version_is_refused_with_both_numbers():
    values = {**json.loads(SPEC.to_json()), "version": VERSION + 1}
    with pytest.raises(SpecError, match=f"spec version {VERSION + 1}, this edgedet reads {VERSION}"):
        ModelSpec.from_json(json.dumps(values), where="model.onnx")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"precision": "fp8"}, "precision is 'fp8'; it must be one of fp32, fp16"),
        ({"input_layout": "nchw"}, "input_layout is 'nchw'"),
        ({"letterbox_anchor": "left"}, "letterbox_anchor is 'left'"),
        ({"classes": ()}, "at least one class"),
        ({"classes": "cat"}, "classes is 'cat'; it must be a tuple"),
        ({"classes": ("cat", 3)}, "at least one class name"),
        ({"family": None}, "family is None; it must be text"),
        ({"size_hw": (0, 416)}, r"size_hw is \(0, 416\); it must be two positive whole numbers"),
        ({"size_hw": (416.0, 416.0)}, "two positive whole numbers"),
        ({"size_hw": (416,)}, "two positive whole numbers"),
        ({"batch": 0}, "batch is 0"),
        ({"batch": "x"}, "batch is 'x'"),
        ({"batch": True}, "batch is True"),
        ({"letterbox_fill": 999}, "letterbox_fill is 999; it must be a whole number from 0 to 255"),
        ({"encoding": "gpu"}, "encoding is 'gpu'; it must be one of cpu, cpu-asymmetric, tensorrt or None"),
        ({"encoding": []}, r"encoding is \[\]"),
        ({"task": "pose"}, "task is 'pose'; it must be one of detect"),
        ({"weights_licence": 3}, "weights_licence is 3"),
        ({"provenance": [1]}, "provenance is .* a mapping"),
        ({"suppression": None}, "suppression is None"),
    ],
)
def test_a_value_outside_its_range_is_named(change, message):
    values = {"family": "yolox", "variant": "nano", "classes": ("cat",), "size_hw": (416, 416), **change}
    with pytest.raises(SpecError, match=message):
        ModelSpec(**values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "soft"}, "suppression.mode is 'soft'; it must be one of onnx"),
        ({"iou_threshold": "x"}, "suppression.iou_threshold is 'x'; it must be a number from 0 to 1"),
        ({"min_score": float("nan")}, "suppression.min_score is nan"),
        ({"candidates": 0}, "suppression.candidates is 0"),
        ({"max_detections": 1.5}, "suppression.max_detections is 1.5"),
        ({"needed": 1}, "suppression.needed is 1"),
    ],
)
def test_a_suppression_value_outside_its_range_is_named(change, message):
    with pytest.raises(SpecError, match=message):
        Suppression(**change)


def test_a_file_from_before_encodings_has_none():
    values = {name: value for name, value in json.loads(SPEC.to_json()).items() if name != "encoding"}
    assert ModelSpec.from_json(json.dumps(values), where="model.onnx") == SPEC


def test_class_names_in_a_file_are_a_list_not_letters():
    text = json.dumps({**json.loads(SPEC.to_json()), "classes": "cat"})
    with pytest.raises(SpecError, match=r"model\.onnx: classes is 'cat'"):
        ModelSpec.from_json(text, where="model.onnx")


def test_provenance_grows_without_changing_the_original():
    grown = SPEC.with_provenance(parent="abc").with_provenance(opset=19)
    assert grown.provenance == {"parent": "abc", "opset": 19}
    assert SPEC.provenance == {}


def test_name_and_letterbox_follow_the_fields():
    assert SPEC.name == "yolox-nano"
    assert SPEC.letterbox == Letterbox((416, 416), "top-left", 114)
