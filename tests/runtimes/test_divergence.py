"""Bisection: a fault put into a copy of a file is found where it was put, whatever the precision and the runtime."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgedet.errors import ArtifactError, UsageError
from edgedet.runtimes import divergence
from edgedet.runtimes.figures import Bisection
from edgedet.runtimes.recording import Target
from edgedet.spec import KEY, ModelSpec

onnx = pytest.importorskip("onnx")
import quantizable  # noqa: E402
from onnx import helper, numpy_helper  # noqa: E402

Write = Callable[[str], Path]
RUNTIMES = ["onnxruntime", "openvino"]


def spoil(source: Path, path: Path, name: str, change: Callable[[np.ndarray], np.ndarray]) -> Path:
    """A copy of a file with one of its constants changed."""
    model = onnx.load(source)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    values = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(change(values).astype(values.dtype), name))
    onnx.save(model, path)
    return path


def respec(source: Path, path: Path, **changes: object) -> Path:
    """A copy of a file with another spec."""
    model = onnx.load(source)
    entry = next(entry for entry in model.metadata_props if entry.key == KEY)
    entry.value = replace(ModelSpec.from_json(entry.value, where="test"), **changes).to_json()
    onnx.save(model, path)
    return path


def find(reference: Path, other: Path, runtime: str = "onnxruntime", count: int = 2) -> Bisection:
    return divergence.find(reference, Target(other, runtime), list(quantizable.frames(count)))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_file_does_not_diverge_from_itself(quantizable_onnx: Path, runtime: str):
    """But for the order of sums: relative 1e-5."""
    found = find(quantizable_onnx, quantizable_onnx, runtime)
    assert found.operators == ()
    assert found.usual_error < 1e-5
    assert found.changed < 1e-5
    assert (found.runtime, found.images) == (runtime, 2)
    decoded = {"logits", "candidate_scores", "offsets", "moves", "candidate_boxes", "nothing"}
    assert found.values == len(quantizable.LAYERS) + len({*decoded, "scores", "boxes"})


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", ["stem", "depthwise", "mix", "box"])
def test_changed_weights_are_found_in_their_convolution(quantizable_onnx: Path, tmp_path: Path, runtime: str, name: str):
    """What comes behind is off too, but makes at most a hundredth of that error: ONNX Runtime's Sigmoid ends at −18."""
    noise = np.random.default_rng(0)
    spoilt = spoil(
        quantizable_onnx, tmp_path / "spoilt.onnx", f"whole.detector.{name}.weight", lambda w: w * noise.normal(1, 0.3, w.shape)
    )
    found = find(quantizable_onnx, spoilt, runtime)
    assert found.operators[0].name == name
    assert all(operator.own_error < found.operators[0].own_error / 100 for operator in found.operators[1:])
    assert found.operators[0].kind == "Conv"
    assert found.operators[0].error_in < 1e-5
    assert found.operators[0].error_out == pytest.approx(found.operators[0].own_error, rel=1e-3)


def test_the_errors_are_those_of_the_formula(quantizable_onnx: Path, tmp_path: Path):
    """‖theirs − ours‖ / ‖ours‖ over all images, from the graphs run node by node; relative 1e-3."""
    spoilt = spoil(quantizable_onnx, tmp_path / "spoilt.onnx", "whole.detector.point.weight", lambda w: w * 1.5)
    operator = find(quantizable_onnx, spoilt, count=3).operators[0]
    values = [
        [quantizable.run(model, frame[None], ["point_out"])["point_out"] for frame in quantizable.frames(3)]
        for model in (quantizable.model(), onnx.load(spoilt))
    ]
    ours, theirs = (np.stack(side).astype(np.float64) for side in values)
    expected = np.linalg.norm(theirs - ours) / np.linalg.norm(ours)
    assert operator.error_out == pytest.approx(expected, rel=1e-3)
    assert operator.own_error == pytest.approx(expected, rel=1e-3)
    assert operator.error_in < 1e-5


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_wrong_scale_in_a_quantized_file_is_found_at_the_convolution_that_reads_it(
    quantizable_onnx: Path, quantized_onnx: Write, tmp_path: Path, runtime: str
):
    """The other convolutions err too, as INT8 does, but less than half as much."""
    sound = find(quantizable_onnx, quantized_onnx("cpu"), runtime)
    assert 0.001 < max(operator.own_error for operator in sound.operators) < 0.1
    spoilt = spoil(quantized_onnx("cpu"), tmp_path / "spoilt.onnx", "both_scale", lambda scale: scale / 4)
    found = find(quantizable_onnx, spoilt, runtime)
    assert (found.operators[0].name, found.operators[0].behind[-1:]) == ("mix", ("Concat",))
    assert found.operators[0].own_error > 0.2
    assert found.operators[0].own_error > 2 * found.operators[1].own_error


def test_a_fault_before_the_first_layer_is_found_at_that_layer_and_what_stands_before_it(
    quantizable_onnx: Path, tmp_path: Path
):
    model = onnx.load(quantizable_onnx)
    model.graph.initializer.append(numpy_helper.from_array(np.int64([2, 1, 0]), "swap"))
    for node in model.graph.node:
        node.input[:] = ["swapped" if name == "images" else name for name in node.input]
    model.graph.node.insert(0, helper.make_node("Gather", ["images", "swap"], ["swapped"], axis=3))
    onnx.save(model, tmp_path / "spoilt.onnx")
    first = find(quantizable_onnx, tmp_path / "spoilt.onnx").operators[0]
    assert first.name == "stem"
    assert set(first.behind) == {"Cast", "Transpose", "Slice", "Concat"}


def test_a_fault_of_the_decode_is_found_in_the_decode(quantizable_onnx: Path, tmp_path: Path):
    spoilt = spoil(quantizable_onnx, tmp_path / "spoilt.onnx", "cells", lambda cells: cells + 2)
    assert [operator.name for operator in find(quantizable_onnx, spoilt).operators] == ["node_decode_add"]


def test_a_fault_behind_suppression_is_found_at_the_output(quantizable_onnx: Path, tmp_path: Path):
    model = onnx.load(quantizable_onnx)
    model.graph.initializer.append(numpy_helper.from_array(np.float32([1, 1, 1, 1]), "shift"))
    node = next(node for node in model.graph.node if "boxes" in node.output)
    node.output[0] = "unshifted"
    model.graph.node.append(helper.make_node("Add", ["unshifted", "shift"], ["boxes"]))
    onnx.save(model, tmp_path / "spoilt.onnx")
    operators = find(quantizable_onnx, tmp_path / "spoilt.onnx").operators
    assert [(operator.name, operator.kind) for operator in operators] == [("boxes", "GatherElements")]


def test_values_that_are_no_numbers_are_the_largest_error_that_is_told(quantizable_onnx: Path, tmp_path: Path):
    spoilt = spoil(quantizable_onnx, tmp_path / "spoilt.onnx", "whole.detector.narrow.bias", lambda b: b * np.nan)
    assert find(quantizable_onnx, spoilt).operators[0].name == "narrow"
    assert find(quantizable_onnx, spoilt).operators[0].own_error == divergence.MOST


@pytest.mark.parametrize("batch", [None, 3])
def test_files_of_another_batch_are_bisected_image_by_image(tmp_path: Path, batch: int | None):
    onnx.save(quantizable.model(batch=batch), tmp_path / "whole.onnx")
    spoilt = spoil(tmp_path / "whole.onnx", tmp_path / "spoilt.onnx", "whole.detector.inner.weight", lambda w: w * 0.5)
    assert [operator.name for operator in find(tmp_path / "whole.onnx", spoilt).operators] == ["inner"]


def test_files_of_another_input_are_refused_with_both(quantizable_onnx: Path, tmp_path: Path):
    onnx.save(quantizable.model(batch=2), tmp_path / "pair.onnx")
    with pytest.raises(UsageError, match=r"pair\.onnx@onnxruntime takes .*batch 2, but fp32\.onnx .*batch 1"):
        find(quantizable_onnx, tmp_path / "pair.onnx")


def test_files_whose_values_have_other_names_are_refused(quantizable_onnx: Path, tmp_path: Path):
    model = onnx.load(quantizable_onnx)
    kept = {output.name for output in model.graph.output} | {"images"} | {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [name if name in kept else f"{name}_renamed" for name in names]
    onnx.save(model, tmp_path / "renamed.onnx")
    with pytest.raises(ArtifactError, match=r"renamed\.onnx.*: only 2 of \d+ inner values have the reference's name"):
        find(quantizable_onnx, tmp_path / "renamed.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_one_spoilt_convolution_among_a_hundred_is_found(street_onnx: Path, tmp_path: Path, runtime: str, precision: str):
    from edgedet.export.to_fp16 import to_fp16
    from edgedet.runtimes import selfcheck

    path, suffix = (street_onnx, "") if precision == "fp32" else (to_fp16(street_onnx, tmp_path / "fp16.onnx"), ".fp16")
    name = "backbone.C3_p4.conv3.conv"
    spoilt = spoil(path, tmp_path / "spoilt.onnx", f"whole.detector.{name}.weight{suffix}", lambda w: w * 0.8)
    found = divergence.find(street_onnx, Target(spoilt, runtime), list(selfcheck.pictures((416, 416), 2)))
    assert found.operators[0].name == name
    assert found.operators[0].own_error > 0.1
    assert len(found.operators) == 1 or found.operators[1].own_error < 0.01
