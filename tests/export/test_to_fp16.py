"""FP16 files: where the precision changes, what refuses to be narrowed, and what it costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from edgedet.errors import ExportError
from edgedet.export import onnx_file
from edgedet.export.graph import ExportGraph
from edgedet.export.to_fp16 import to_fp16
from edgedet.export.to_onnx import to_onnx
from edgedet.runtimes import run_onnxruntime, run_openvino
from edgedet.runtimes.session import Options

HALF, FLOAT = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT


def types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every value in the graph."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    found = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.input, *graph.output)}
    return found | {t.name: t.data_type for t in graph.initializer}


def behind(graph: onnx.GraphProto, names: set[str]) -> list[onnx.NodeProto]:
    """The nodes that read the values, directly or through others."""
    found = []
    for node in graph.node:
        if names & set(node.input):
            names = names | set(node.output)
            found.append(node)
    return found


@pytest.fixture(params=["uint8-nhwc", "float32-nchw"])
def pair(request, small, tmp_path) -> tuple[Path, Path]:
    """The small detector in fp32 and fp16."""
    base = to_onnx(small.detector, replace(small.spec, input_layout=request.param), tmp_path / "fp32.onnx")
    return base, to_fp16(base, tmp_path / "fp16.onnx")


def test_the_network_is_fp16_and_decode_and_nms_are_fp32(pair):
    model, spec = onnx_file.read(pair[1])
    kinds, graph = types(model), model.graph
    assert spec.precision == "fp16"
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert {kinds[name] for node in convolutions for name in (*node.input, *node.output)} == {HALF}
    heads = {value for value in kinds if value.startswith("head_") and not value.endswith(".fp16")}
    assert heads == {"head_0", "head_1"}
    decode = behind(graph, heads)
    assert len(decode) > 20
    assert not [node.name for node in decode for name in (*node.input, *node.output) if kinds.get(name) == HALF]
    assert kinds["candidate_boxes"] == kinds["candidate_scores"] == kinds["boxes"] == kinds["scores"] == FLOAT


def test_precision_changes_only_behind_the_input_and_behind_each_head(pair):
    model, _ = onnx_file.read(pair[1])
    kinds = types(model)
    casts = [node for node in model.graph.node if node.op_type == "Cast"]
    changes = [(kinds[c.input[0]], kinds[c.output[0]], c.output[0]) for c in casts]
    narrowing = [change for change in changes if change[1] == HALF]
    widening = [change for change in changes if change[0] == HALF]
    assert len(narrowing) == 1
    assert sorted(name for _, kind, name in widening if kind == FLOAT) == ["head_0", "head_1"]


@pytest.mark.parametrize("runtime", [run_onnxruntime, run_openvino])
def test_the_file_runs_and_stays_close(pair, small, runtime):
    """Candidates within .25 px and .005 of PyTorch's in float32."""
    images = np.random.default_rng(1).integers(0, 256, (1, *small.spec.size_hw, 3), np.uint8)
    with torch.inference_mode():
        wanted = ExportGraph(*small).candidates(torch.from_numpy(images))
    found = runtime.open(pair[1], Options(outputs="candidates")).infer(images)
    np.testing.assert_allclose(found["candidate_boxes"], wanted.boxes, rtol=0, atol=0.25)
    np.testing.assert_allclose(found["candidate_scores"], wanted.scores, rtol=0, atol=0.005)


def test_a_weight_that_fp16_cannot_hold_is_named(small, tmp_path):
    with torch.no_grad():
        small.detector.conv.weight[0, 0, 0, 0] = 1e5
    base = to_onnx(*small, tmp_path / "fp32.onnx")
    with pytest.raises(ExportError, match=r"conv\.weight reaches 1e\+05.*--precision fp32"):
        to_fp16(base, tmp_path / "fp16.onnx")
    assert not (tmp_path / "fp16.onnx").exists()


def test_fp16_is_not_made_from_fp16(pair, tmp_path):
    with pytest.raises(ExportError, match="fp16 already"):
        to_fp16(pair[1], tmp_path / "again.onnx")


def test_yolox_nano_has_every_convolution_in_fp16_and_half_the_bytes(nano_file, tmp_path):
    base = nano_file("onnx")
    path = to_fp16(base, tmp_path / "fp16.onnx")
    model, _ = onnx_file.read(path)
    kinds = {t.name: t.data_type for t in model.graph.initializer}
    weights = [name for node in model.graph.node if node.op_type == "Conv" for name in node.input[1:]]
    assert len(weights) > 200
    assert {kinds[name] for name in weights} == {HALF}
    assert path.stat().st_size < 0.53 * base.stat().st_size


@pytest.mark.slow
def test_yolox_nano_in_fp16_costs_no_ap(nano_file, yolox_nano_pth, coco_val, tmp_path):
    """|ΔAP| ≤ .002 against PyTorch in float32, in ONNX Runtime and OpenVINO."""
    from edgedet.runtimes import parity
    from edgedet.runtimes.recording import Target

    path = to_fp16(nano_file("onnx"), tmp_path / "fp16.onnx")
    report = parity.validate(Target(yolox_nano_pth), [Target(path, "onnxruntime"), Target(path, "openvino")], coco_val)
    for comparison in report.comparisons:
        assert abs(comparison.ap_drop) <= 0.002
