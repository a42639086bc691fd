"""Lint: a file that breaks each rule and no other; and what the runtimes themselves make of such files."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
import quantizable  # noqa: E402
from onnx import helper  # noqa: E402
from qdq_graphs import COMMON, INT8, OTHERS, TENSORRT, UINT8, Build, Graph, built, clean  # noqa: E402

from edgedet.calibration.lint import lint  # noqa: E402
from edgedet.errors import ArtifactError, UsageError  # noqa: E402


def rules_of(model: onnx.ModelProto, runtime: str) -> list[str]:
    return [finding.rule for finding in lint(model, runtime)]


@pytest.mark.parametrize(
    ("runtime", "zero"), [("tensorrt", INT8), ("onnxruntime", INT8), ("onnxruntime", UINT8), ("openvino", UINT8)]
)
def test_a_clean_file_breaks_no_rule(runtime: str, zero: np.generic):
    assert lint(built(clean, zero), runtime) == []


@pytest.mark.parametrize("runtime", ["tensorrt", "onnxruntime", "openvino"])
def test_a_file_without_quantisation_breaks_no_rule(runtime: str):
    assert lint(quantizable.model(), runtime) == []


@pytest.mark.parametrize("opset", [13, 17, 21, 25])
def test_opsets_and_ir_versions_are_read_alike(opset: int):
    model = built(lambda g: g.conv(g.qdq("a", 0.1, np.int8(3))), opset=opset, ir=3)
    # Before IR 4 weights stood among the inputs too.
    model.graph.input.extend(helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in model.graph.initializer)
    assert rules_of(model, "tensorrt") == ["zero-point"]


BROKEN = [
    *((runtime, rule, *case) for runtime in ("tensorrt", "onnxruntime", "openvino") for rule, case in COMMON.items()),
    *(("tensorrt", rule, *case) for rule, case in TENSORRT.items()),
    *OTHERS,
]


@pytest.mark.parametrize(("runtime", "rule", "build", "said"), BROKEN, ids=[f"{case[0]}-{case[1]}" for case in BROKEN])
def test_a_file_that_breaks_one_rule_breaks_no_other(runtime: str, rule: str, build: Build, said: str):
    findings = lint(built(build), runtime)
    assert {finding.rule for finding in findings} == {rule}
    assert said in findings[0].message
    assert findings[0].reason


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.1, 1e-38])
def test_a_scale_must_be_positive_and_finite(value: float):
    assert set(rules_of(built(lambda g: g.conv(g.qdq("a", value))), "tensorrt")) == {"scale-not-positive"}


def test_scales_by_channel_need_opset_13():
    model = built(lambda g: g.conv(g.qdq("a")), opset=12, ir=7)
    assert set(rules_of(model, "onnxruntime")) == {"per-channel-opset"}


def test_a_quantised_output_is_found_behind_what_only_moves_it():
    g = Graph()
    scores = g.add("Transpose", g.qdq(g.conv(g.qdq("a"))), perm=[0, 2, 3, 1])
    findings = lint(g.model(scores), "onnxruntime")
    assert [(f.rule, f.message) for f in findings] == [("quantized-output", f"output {scores} is conv3 in integers")]
    g = Graph()
    assert rules_of(g.model(g.q(g.conv(g.qdq("a")))), "onnxruntime") == ["quantized-output"]


def test_a_quantizer_without_zero_point_makes_uint8():
    """ONNX's default, which TensorRT reads as int8."""
    g = Graph()
    scale = g.constant(np.float32(0.1))
    x = g.add("DequantizeLinear", g.add("QuantizeLinear", "a", scale), scale)
    (finding,) = lint(g.model(g.conv(x)), "tensorrt")
    assert finding.rule == "not-int8"


def test_suppression_of_a_length_known_only_at_run_time_is_named():
    g = Graph()
    scores = g.constant(np.zeros((1, 1, 300), np.float32))
    chosen = g.add("NonMaxSuppression", "boxes", scores, g.constant(np.int64(100)))
    assert rules_of(g.model(chosen), "tensorrt") == ["data-dependent-output"]
    assert rules_of(g.model(chosen), "openvino") == []


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_tensorrts_plugin_is_for_tensorrt_alone(runtime: str):
    g = Graph()
    model = g.model(g.add("EfficientNMS_TRT", "boxes", "rows", outputs=2, domain="TRT"))
    assert rules_of(model, runtime) == ["tensorrt-plugin"]
    assert rules_of(model, "tensorrt") == []


def test_what_onnxruntime_writes_by_default_is_refused_for_tensorrt_and_misread_by_openvino(tmp_path: Path):
    """The facts found by running them: int32 biases, zero-points, one scale a weight, everything quantised; facts of 2026."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Frames(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(quantizable.frames(4))

        def get_next(self) -> dict[str, np.ndarray] | None:
            frame = next(self.left, None)
            return None if frame is None else {"images": frame[None]}

    onnx.save(quantizable.model(), tmp_path / "fp32.onnx")
    quantize_static(tmp_path / "fp32.onnx", tmp_path / "int8.onnx", Frames())
    model = onnx.load(tmp_path / "int8.onnx")
    refused = {"zero-point", "int32-dequantized", "weight-per-tensor", "quantized-sigmoid", "quantized-decode"}
    assert refused <= set(rules_of(model, "tensorrt"))
    assert "int8-beside-concat" in rules_of(model, "openvino")


def test_a_graph_of_800_operators_takes_less_than_a_second():
    g = Graph()
    name = "a"
    for _ in range(130):
        name = g.silu(g.conv(g.qdq(name)))
    model = g.model(name)
    assert len(model.graph.node) >= 780
    begun = time.perf_counter()
    assert lint(model, "tensorrt") == lint(model, "openvino") == []
    assert time.perf_counter() - begun < 1


def test_an_unknown_runtime_is_refused():
    with pytest.raises(UsageError, match=r"'tflite'.*tensorrt, onnxruntime, openvino"):
        lint(built(clean), "tflite")


def test_a_graph_that_reads_what_nothing_makes_is_refused():
    model = built(clean)
    model.graph.node[0].input[0] = "nowhere"
    with pytest.raises(ArtifactError, match="reads nowhere, which nothing before it makes"):
        lint(model, "openvino")


def test_a_damaged_weight_is_refused():
    model = built(clean)
    model.graph.initializer[0].raw_data = b"x"
    with pytest.raises(ArtifactError, match=r"weight constant0 is damaged .*; copy or export"):
        lint(model, "openvino")


def test_a_model_without_operators_is_refused():
    with pytest.raises(ArtifactError, match="not a single operator"):
        lint(onnx.ModelProto(), "openvino")
