"""The table of ranges: round trips, hostile files, and what it says when it does not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedet import __version__
from edgedet.calibration.observe import Observer
from edgedet.calibration.ranges import amplitude, interval
from edgedet.calibration.table import MODEL_PARTS, ImageSet, Range, RangeTable, fingerprints
from edgedet.errors import ArtifactError, DataError
from edgedet.spec import KEY, ModelSpec

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

IMAGES = ImageSet("street", "c" * 64, 40, ("a.jpg: is empty (0 bytes)",), ("b.jpg and c.jpg are the same picture",))
SPEC = ModelSpec("small", "test", ("ball",), (64, 96))


def observed() -> Observer:
    """Two channels of unlike range, after SiLU."""
    draw = np.random.default_rng(0).standard_normal((4, 2, 50, 50)).astype(np.float32)
    draw[:, 1] *= 9
    observer = Observer(axis=1)
    observer.update(draw / (1 + np.exp(-draw)))
    return observer


@pytest.fixture
def table() -> RangeTable:
    """A table of two tensors, one of them with channels."""
    ranges = {
        "silu": Range.of(observed().histogram, "percentile"),
        "silu/β": Range.of(observed().histograms, "percentile"),
    }
    return RangeTable(
        dict(zip(MODEL_PARTS, ("a" * 64, "b" * 64, "d" * 64))), IMAGES, "percentile", ranges, {"silu": (0.1, -2.5e-9)}
    )


def model() -> onnx.ModelProto:
    """Two convolutions of one shape, a loop's worth of attributes, and metadata."""
    weights = np.random.default_rng(0).standard_normal((2, 3, 3, 1, 1)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["images", "first"], ["a"], "one", pads=[0, 0, 0, 0], strides=[1, 1]),
        helper.make_node("Conv", ["images", "second"], ["b"], "two"),
        helper.make_node("Constant", [], ["c"], "three", value=numpy_helper.from_array(np.float32([2]), "c")),
        helper.make_node("Mul", ["a", "c"], ["d"], "four"),
        helper.make_node("Add", ["b", "d"], ["out"], "five"),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 4, 4])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 3, 4, 4])
    graph = helper.make_graph(nodes, "net", [images], [out])
    graph.initializer.extend(numpy_helper.from_array(w, name) for w, name in zip(weights, ("first", "second")))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)])


def test_a_table_comes_back_as_it_was_written(table, tmp_path):
    path = table.write(tmp_path / "new/street.ranges.json")
    assert RangeTable.read(path) == table
    assert table.edgedet == __version__


def test_the_same_table_gives_the_same_bytes(table, tmp_path):
    first, second = table.write(tmp_path / "a"), RangeTable.read(tmp_path / "a").write(tmp_path / "b")
    assert first.read_bytes() == second.read_bytes()


def test_a_range_is_that_of_the_histogram_and_of_each_channel():
    found = Range.of(observed().histograms, "mse")
    whole, channels = observed().histogram, observed().histograms
    assert (found.least, found.greatest) == (whole.least, whole.greatest)
    assert (found.amplitude, (found.low, found.high)) == (amplitude(whole, "mse"), interval(whole, "mse"))
    assert found.channels == tuple(amplitude(channel, "mse") for channel in channels)
    assert found.channel_intervals == tuple(interval(channel, "mse") for channel in channels)
    assert Range.of(whole, "mse") == replace(found, channels=None, channel_intervals=None)


def set_at(*keys: str, value: Any) -> Callable[[dict], None]:
    """A function that puts a value at a place in nested dictionaries."""

    def change(values: dict) -> None:
        for key in keys[:-1]:
            values = values[key]
        values[keys[-1]] = value

    return change


def drop(*keys: str) -> Callable[[dict], None]:
    """A function that takes an entry out of nested dictionaries."""

    def change(values: dict) -> None:
        for key in keys[:-1]:
            values = values[key]
        del values[keys[-1]]

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (set_at("version", value=2), "no table of ranges of version 1"),
        (drop("version"), "no table of ranges of version 1"),
        (drop("images"), "images is missing"),
        (set_at("images", value=[1]), r"images is \[1\], not dict"),
        (set_at("images", "count", value=True), "count is True, not int"),
        (set_at("images", "skipped", value="none"), "skipped is 'none', not list"),
        (set_at("method", value="average"), "method is 'average', not one of minmax"),
        (set_at("method", value=["mse"]), r"method is \['mse'\]"),
        (drop("model_sha256", "graph"), "graph is missing"),
        (set_at("ranges", "silu", value=3), "silu is 3, not dict"),
        (drop("ranges", "silu", "low"), "silu has None where a float32 number should be"),
        (set_at("ranges", "silu", "high", value="5"), "silu has '5' where"),
        (set_at("ranges", "silu", "high", value=1e300), "silu has 1e[+]300 where"),
        (set_at("ranges", "silu", "high", value=10**400), "silu has 1000000000000000000000000000000000000000 where"),
        (set_at("ranges", "silu", "amplitude", value=0), "silu has an empty range, or one without zero"),
        (set_at("ranges", "silu", "low", value=0.5), "silu has an empty range, or one without zero"),
        (set_at("ranges", "silu", "least", value=99.0), "silu has an empty range, or one without zero"),
        (set_at("ranges", "silu", "channels", value=[1.0]), "silu has either of channels and channel_intervals"),
        (set_at("ranges", "silu/β", "channels", value=[1.0, -1.0]), "silu/β has an empty range"),
        (set_at("ranges", "silu/β", "channels", value=[1.0]), "silu/β has an empty range"),
        (set_at("ranges", "silu/β", "channel_intervals", value=[3, 4]), "damaged"),
        (set_at("means", value={"silu": 1.0}), "silu is 1.0, not list"),
        (set_at("means", value={"silu": [None]}), "silu has None where"),
    ],
)
def test_a_damaged_table_is_one_error_that_says_where(table, tmp_path, change, reason):
    path = table.write(tmp_path / "street.ranges.json")
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    with pytest.raises(
        ArtifactError, match=rf"street\.ranges\.json: .*{reason}.*; calibrate again|{reason}, .*; calibrate"
    ) as raised:
        RangeTable.read(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[1, 2]", b"null", b"\xff\xfe\x00", b'{"version": NaN}', b"[" * 100_000, b'{"version": 1}', b"9" * 5000],
)
def test_what_is_no_table_is_one_error(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"x\.json: .*table of ranges.*; calibrate again") as raised:
        RangeTable.read(tmp_path / "x.json")
    assert "\n" not in str(raised.value)


def test_a_table_truncated_anywhere_is_an_error(table, tmp_path):
    path = table.write(tmp_path / "x.json")
    content = path.read_bytes().rstrip()
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        with pytest.raises(ArtifactError, match="truncated"):
            RangeTable.read(path)


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(ArtifactError, match=r"gone\.json: no such file"):
        RangeTable.read(tmp_path / "gone.json")


def test_a_table_that_fits_is_taken(table):
    table.require_fit(dict(table.model_sha256), IMAGES.sha256, "percentile")


@pytest.mark.parametrize("name", [*MODEL_PARTS, "image set", "method"])
def test_each_thing_that_differs_is_named(table, name):
    prints, images, method = dict(table.model_sha256), IMAGES.sha256, table.method
    if name in prints:
        prints[name] = "e" * 64
    images = "e" * 64 if name == "image set" else images
    method = "entropy" if name == "method" else method
    with pytest.raises(DataError) as raised:
        table.require_fit(prints, images, method, where="street.ranges.json")
    there = "percentile" if name == "method" else {**table.model_sha256, "image set": IMAGES.sha256}[name][:12]
    here = "entropy" if name == "method" else "e" * 12
    assert str(raised.value) == (
        f"street.ranges.json: was calibrated with other {name} ({name} {there} there and {here} here); "
        "remove it or name another --table to calibrate anew"
    )


def test_all_that_differs_is_named_at_once(table):
    with pytest.raises(DataError, match=r"with other weights, graph, preprocessing, image set, method \("):
        table.require_fit(dict.fromkeys(MODEL_PARTS, "e" * 64), "e" * 64, "minmax")


def changed(change: Callable[[onnx.ModelProto], None]) -> set[str]:
    """The parts whose fingerprint a change of the model changes."""
    other = model()
    change(other)
    before, after = fingerprints(model(), SPEC), fingerprints(other, SPEC)
    return {part for part in MODEL_PARTS if before[part] != after[part]}


def _reorder(found: onnx.ModelProto) -> None:
    for field in (found.graph.node, found.graph.initializer):
        kept = list(field)
        kept[0], kept[1] = kept[1], kept[0]
        del field[:]
        field.extend(kept)


def _restore_as_floats(found: onnx.ModelProto) -> None:
    """The same weights in the other form a file may hold them in."""
    for tensor in found.graph.initializer:
        values = numpy_helper.to_array(tensor)
        tensor.ClearField("raw_data")
        tensor.float_data.extend(values.reshape(-1).tolist())


def _comment(found: onnx.ModelProto) -> None:
    found.metadata_props.add(key=KEY, value="{}")
    found.producer_name, found.doc_string, found.graph.doc_string, found.graph.name = "x", "x", "x", "x"
    for node in found.graph.node:
        node.name, node.doc_string = f"{node.name}.renamed", "x"
        node.metadata_props.add(key="line", value="7")
        for attribute in node.attribute:
            attribute.doc_string = "x"
    found.graph.node[2].attribute[0].t.doc_string = "x"
    found.graph.input[0].doc_string = found.graph.initializer[0].doc_string = "x"
    found.graph.value_info.add(name="a")


def _swap_weights(found: onnx.ModelProto) -> None:
    first, second = found.graph.initializer
    first.name, second.name = second.name, first.name


def _nudge(found: onnx.ModelProto) -> None:
    values = numpy_helper.to_array(found.graph.initializer[1]).copy()
    values[0, 0] = np.nextafter(values[0, 0], np.float32(9))
    found.graph.initializer[1].CopyFrom(numpy_helper.from_array(values, "second"))


@pytest.mark.parametrize("change", [_reorder, _restore_as_floats, _comment])
def test_what_changes_no_range_changes_no_fingerprint(change):
    assert changed(change) == set()


@pytest.mark.parametrize("change", [_swap_weights, _nudge])
def test_other_weights_change_their_fingerprint_alone(change):
    assert changed(change) == {"weights"}


def _resize_input(found: onnx.ModelProto) -> None:
    found.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 8


def _scale_constant(found: onnx.ModelProto) -> None:
    found.graph.node[2].attribute[0].t.CopyFrom(numpy_helper.from_array(np.float32([3]), "c"))


@pytest.mark.parametrize(
    "change",
    [
        lambda found: found.graph.node[0].input.__setitem__(0, "out"),
        lambda found: setattr(found.graph.node[4], "op_type", "Sub"),
        lambda found: setattr(found.graph.node[4], "domain", "nobody"),
        lambda found: found.graph.node[0].attribute[1].ints.__setitem__(0, 2),
        lambda found: found.graph.node[0].attribute.pop(),
        lambda found: found.graph.output.pop(),
        lambda found: setattr(found.opset_import[0], "version", 20),
        _resize_input,
        _scale_constant,
    ],
)
def test_another_graph_changes_its_fingerprint_alone(change):
    assert changed(change) == {"graph"}


@pytest.mark.parametrize(
    "other",
    [{"size_hw": (96, 64)}, {"letterbox_anchor": "center"}, {"letterbox_fill": 0}, {"input_layout": "float32-nchw"}],
)
def test_another_preprocessing_changes_its_fingerprint_alone(other):
    before, after = fingerprints(model(), SPEC), fingerprints(model(), replace(SPEC, **other))
    assert {part for part in MODEL_PARTS if before[part] != after[part]} == {"preprocessing"}


def test_names_classes_and_provenance_are_not_preprocessing():
    other = replace(SPEC, classes=("cube",), weights_licence="MIT", provenance={"parent": "x"})
    assert fingerprints(model(), SPEC) == fingerprints(model(), other)


def test_the_file_of_the_embedded_detector_keeps_its_fingerprints_when_written_again(street_onnx: Path, tmp_path):
    before = onnx.load(street_onnx)
    onnx.save(before, tmp_path / "again.onnx", save_as_external_data=True, size_threshold=0)
    assert fingerprints(onnx.load(tmp_path / "again.onnx"), SPEC) == fingerprints(onnx.load(street_onnx), SPEC)


def test_json_holds_what_a_person_looks_for(table, tmp_path):
    values = json.loads(table.write(tmp_path / "x.json").read_text())
    assert values["images"] == {**asdict(IMAGES), "skipped": list(IMAGES.skipped), "objections": list(IMAGES.objections)}
    assert (values["version"], values["method"], set(values["ranges"])) == (1, "percentile", {"silu", "silu/β"})
