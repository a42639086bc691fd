"""Rules against the runtimes they speak of: what TensorRT refuses to build, what ONNX Runtime fails on."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
from qdq_graphs import COMMON, INT8, OTHERS, TENSORRT, UINT8, Graph, built, clean  # noqa: E402

from edgedet.calibration.lint import lint  # noqa: E402

REFUSED = {"scale-not-positive", "scale-length", "zero-point", "int32-dequantized", "integer-operator", "uint8-not-cast"}
REFUSED |= {"topk-too-long", "scale-not-constant"}
"""By TensorRT's parser or builder; what breaks another rule is built, and read wrongly or run in float."""
BUILD = """
import sys
import tensorrt_rtx as trt
logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
builder = trt.Builder(logger)
network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
parser = trt.OnnxParser(network, logger)
if not parser.parse_from_file(sys.argv[1]):
    sys.exit(3)
config = builder.create_builder_config()
config.num_compute_capabilities = 1
config.set_compute_capability(trt.ComputeCapability.SM86, 0)
sys.exit(0 if builder.build_serialized_network(network, config) is not None else 4)
"""


@pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is absent; pip install tensorrt-rtx-cu13"
)
@pytest.mark.parametrize("rule", ["", *COMMON, *TENSORRT])
def test_tensorrt_builds_what_no_refusing_rule_names(rule: str, tmp_path: Path):
    """In a process of its own: a scale that is computed ends the parser, and Python with it."""
    build, _ = {**COMMON, **TENSORRT}.get(rule, (clean, ""))
    onnx.save(built(build), tmp_path / "model.onnx")
    done = subprocess.run([sys.executable, "-c", BUILD, str(tmp_path / "model.onnx")], capture_output=True)
    assert (done.returncode != 0) == (rule in REFUSED), done.stderr.decode()


@pytest.mark.parametrize("rule", ["activation-per-channel", "weight-axis"])
def test_onnxruntime_opens_but_fails_to_run_what_its_rules_name(rule: str):
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail

    (build,) = (build for runtime, name, build, _ in OTHERS if (runtime, name) == ("onnxruntime", rule))
    # Its output quantised, so that the operator and its Q/DQ become one.
    model = built(lambda g: g.qdq(build(g), 0.5), UINT8)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    with pytest.raises(Fail, match=r"QLinearConv|QLinearMatMul"):
        session.run(None, {"a": np.ones((1, 8, 8, 8), np.float32)})


def outputs(model: onnx.ModelProto) -> list[np.ndarray]:
    """The first output without ONNX Runtime's optimisation, and with."""
    import onnxruntime

    levels = onnxruntime.GraphOptimizationLevel
    draw = np.random.default_rng(1).normal(1, 3, (1, 8, 8, 8)).astype(np.float32)
    found = []
    for level in (levels.ORT_DISABLE_ALL, levels.ORT_ENABLE_ALL):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = level
        found += onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, {"a": draw})
    return found


def error_of_optimising(model: onnx.ModelProto) -> float:
    """How far optimisation moves the output, as a share of its mean magnitude."""
    plain, optimised = outputs(model)
    return float(np.abs(plain - optimised).mean() / np.abs(plain).mean())


def test_onnxruntime_takes_scales_of_a_square_weights_rows_for_its_columns():
    def product(axis: int) -> onnx.ModelProto:
        def build(g: Graph) -> str:
            integers = g.constant(g.draw.integers(-127, 128, (8, 8)).astype(np.int8))
            weight = g.dq(integers, np.linspace(0.01, 0.1, 8), np.zeros(8, np.int8), axis=axis)
            return g.qdq(g.add("MatMul", g.qdq("a"), weight), 0.5)

        return built(build, UINT8)

    assert "weight-axis" in {finding.rule for finding in lint(product(0), "onnxruntime")}
    assert error_of_optimising(product(0)) > 0.1
    assert "weight-axis" not in {finding.rule for finding in lint(product(1), "onnxruntime")}
    assert error_of_optimising(product(1)) < 0.01


@pytest.mark.parametrize("zero", [INT8, UINT8])
def test_onnxruntime_computes_the_clean_file_alike_with_and_without_optimisation(zero: np.generic):
    """Within 1 % of the mean magnitude: a value on the edge of a step may fall to either side."""
    assert error_of_optimising(built(clean, zero)) < 0.01
