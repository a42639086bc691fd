"""INT8 files with float16 around them: the same integers where the scales fit, the same values where they do not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
import quantizable

from edgedet.calibration.encode import encode, float_by_rule
from edgedet.calibration.network import Network
from edgedet.calibration.table import ImageSet, Range, RangeTable
from edgedet.errors import ExportError
from edgedet.export import onnx_file, to_fp16

HALF = onnx.TensorProto.FLOAT16


def types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every value in the graph."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    return {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.input, *graph.output)}


@pytest.fixture
def int8() -> Callable[[float], onnx.ModelProto]:
    """The small quantised detector, the scales of one convolution's weights made this small."""

    def write(scale: float) -> onnx.ModelProto:
        model = quantizable.model()
        network = Network(model)
        ranges = dict.fromkeys(network.activations(), Range(-1, 6, 6, -1, 6))
        table = RangeTable({}, ImageSet("none", "0" * 64, 1), "minmax", ranges, {})
        for tensor in model.graph.initializer:
            if tensor.name == "whole.detector.point.weight":
                weight = onnx.numpy_helper.to_array(tensor)
                tensor.CopyFrom(
                    onnx.numpy_helper.from_array(weight * np.float32(127 * scale / np.abs(weight).max()), tensor.name)
                )
        left = float_by_rule(network.layers(), "tensorrt")
        return encode(model, table, encoding="tensorrt", left_float=left)

    return write


def weights_of(model: onnx.ModelProto, layer: str) -> np.ndarray:
    """What a convolution multiplies by: integers times scales, as the file says."""
    made = {node.output[0]: node for node in model.graph.node}
    known = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    node = made[next(node for node in model.graph.node if node.name == f"node_{layer}").input[1]]
    integers, scales = known[node.input[0]], known[node.input[1]]
    assert integers.dtype == np.int8
    assert scales.dtype == np.float16 or scales.dtype == np.float32
    return integers.astype(np.float64) * scales.astype(np.float64).reshape(-1, 1, 1, 1)


@pytest.mark.parametrize("scale", [1e-2, 3e-5, 1e-6, 2e-7])
def test_int8_weights_keep_their_values_where_float16_has_few_bits_for_the_scale(int8, scale: float):
    """Half a step of the new scale, which is at most a float16 step (6e-8, or 2^-10 of it) wider than the old."""
    model = int8(scale)
    before = weights_of(model, "point")
    to_fp16.convert(model, where="test")
    after = weights_of(model, "point")
    step = scale + max(scale * 2**-10, 2**-24)
    assert np.abs(after - before).max() <= 0.5 * step * (1 + 1e-6)


def test_int8_with_float16_around_it_computes_what_int8_with_float32_does(int8, tmp_path):
    """Of ONNX Runtime; 1 % of the scores' span, 0.3 px, medians: a rounded activation may fall into the next INT8 step."""
    model = int8(1e-2)
    spec = replace(quantizable.spec(), precision="int8", encoding="tensorrt")
    base = onnx_file.write(tmp_path / "int8.onnx", model, spec)
    narrow = to_fp16.to_fp16(base, tmp_path / "both.onnx")
    found, spec = onnx_file.read(narrow)
    assert (spec.precision, spec.encoding) == ("int8+fp16", "tensorrt")
    kinds = types(found)
    for node in found.graph.node:
        if node.op_type == "DequantizeLinear":
            assert kinds[node.output[0]] == HALF
        if node.op_type == "QuantizeLinear":
            assert (kinds[node.input[0]], kinds[node.output[0]]) == (HALF, onnx.TensorProto.INT8)
    images = quantizable.frames(1)
    wide, thin = (quantizable.run(m, images, ["candidate_boxes", "candidate_scores"]) for m in (model, found))
    assert np.median(np.abs(wide["candidate_boxes"] - thin["candidate_boxes"])) < 0.3
    assert np.median(np.abs(wide["candidate_scores"] - thin["candidate_scores"])) < 0.01
    with pytest.raises(ExportError, match=r"is int8\+fp16 already"):
        to_fp16.to_fp16(narrow, tmp_path / "again.onnx")


def test_a_scale_beyond_float16_is_refused(int8):
    with pytest.raises(ExportError, match=r"scale .* is .*, beyond float16's 65504; use int8"):
        to_fp16.convert(int8(1e5), where="test")
