"""What OpenVINO misreads: lint names a graph exactly where the plugin's answer differs from ONNX Runtime's unoptimised one.

The tolerance is .5 % of the mean magnitude: what is right is within .05 % (a value on the edge of a step), what is wrong is
2 % off and more.
"""

from __future__ import annotations

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
openvino = pytest.importorskip("openvino")
from qdq_graphs import INT8, UINT8, Build, Graph, gather  # noqa: E402

from edgedet.calibration.lint import lint  # noqa: E402

ORDER = [1, 2, 0, 3, 4, 5, 6, 7]
SWAP = [1, 0, 2, 3, 4, 5, 6, 7]


def pool(g: Graph, name: str) -> str:
    return g.add("MaxPool", name, kernel_shape=[3, 3], pads=[1, 1, 1, 1])


def halved(g: Graph, name: str) -> str:
    return g.add("Mul", name, g.constant(np.float32(0.7)))


def both(g: Graph) -> str:
    return g.concat("a", "b")


def pairs(g: Graph) -> str:
    return g.concat(g.qdq("a"), g.qdq("b"))


def wide(g: Graph, name: str, **options: object) -> str:
    return g.conv(name, wide=16, **options)


def with_reader(g: Graph) -> str:
    """The Concat is read in float too."""
    joined = both(g)
    return g.add("Add", wide(g, g.qdq(joined)), g.conv(joined, weight=float_weight(g)))


def float_weight(g: Graph) -> str:
    return g.constant(g.draw.normal(0, 0.2, (8, 16, 3, 3)).astype(np.float32))


BESIDE: dict[str, Build] = {
    "behind": lambda g: wide(g, g.qdq(both(g))),
    "before": lambda g: wide(g, pairs(g)),
    "two scales": lambda g: wide(g, g.concat(g.qdq("a"), g.qdq("b", 0.1))),
    "relu": lambda g: wide(g, g.qdq(g.add("Relu", both(g)))),
    "scaled": lambda g: wide(g, g.qdq(halved(g, both(g)))),
    "pooled later": lambda g: wide(g, pool(g, g.qdq(both(g)))),
    "pyramid pool": lambda g: (lambda x: wide(g, g.concat(x, pool(g, x))))(g.qdq("a")),
    "of convolutions": lambda g: wide(g, g.qdq(g.concat(g.silu(g.conv(g.qdq("a"))), g.silu(g.conv(g.qdq("b")))))),
}
APART: dict[str, Build] = {
    "no concat": lambda g: g.conv(g.qdq(g.conv(g.qdq("a")))),
    "silu between": lambda g: wide(g, g.qdq(g.silu(both(g)))),
    "pooled before": lambda g: wide(g, g.qdq(pool(g, both(g)))),
    "read by another": with_reader,
    "float weights": lambda g: g.conv(g.qdq(both(g)), weight=float_weight(g)),
    "grouped": lambda g: wide(g, g.qdq(both(g)), group=2),
    "one branch float": lambda g: wide(g, g.concat(g.qdq("a"), g.silu("b"))),
    "residual": lambda g: g.conv(g.qdq(g.add("Add", g.qdq("a"), g.qdq("b")))),
    "split": lambda g: wide(g, g.qdq(g.concat(g.add("Relu", "a"), "b")), group=4),
}
GATHERS: dict[str, tuple[Build, bool]] = {
    "permuted": (lambda g: g.float_conv(gather(g, "a", ORDER)), True),
    "permuted, quantised": (lambda g: g.conv(gather(g, g.qdq("a"), ORDER)), True),
    "swapped": (lambda g: g.float_conv(gather(g, "a", SWAP)), False),
    "permuted, depthwise": (lambda g: g.conv(gather(g, "a", ORDER), group=8), False),
}


def error_of(model: onnx.ModelProto) -> float:
    """How far OpenVINO is off, as a share of the mean magnitude."""
    import onnxruntime

    draw = np.random.default_rng(1)
    feeds = {value.name: draw.normal(1, 3, (1, 8, 8, 8)).astype(np.float32) for value in model.graph.input}
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    (right,) = onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, feeds)
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    (found,) = compiled(feeds).values()
    return float(np.abs(found - right).mean() / np.abs(right).mean())


def judged(build: Build, zero: np.generic) -> tuple[set[str], float]:
    graph = Graph(zero)
    model = graph.model(build(graph))
    return {finding.rule for finding in lint(model, "openvino")}, error_of(model)


@pytest.mark.parametrize("build", BESIDE.values(), ids=BESIDE)
def test_int8_beside_a_concat_is_misread_and_named(build: Build):
    rules, error = judged(build, INT8)
    assert rules == {"int8-beside-concat"}
    assert error > 0.005


@pytest.mark.parametrize("build", BESIDE.values(), ids=BESIDE)
def test_the_same_as_uint8_is_right_and_passes(build: Build):
    rules, error = judged(build, UINT8)
    assert rules == set()
    assert error < 0.005


@pytest.mark.parametrize("build", APART.values(), ids=APART)
def test_int8_that_openvino_reads_right_passes(build: Build):
    rules, error = judged(build, INT8)
    assert rules == set()
    assert error < 0.005


@pytest.mark.parametrize(("build", "misread"), GATHERS.values(), ids=GATHERS)
def test_channels_permuted_before_a_convolution_are_misread_unless_the_permutation_is_its_own_inverse(
    build: Build, misread: bool
):
    rules, error = judged(build, UINT8)
    assert rules == ({"permuted-channels"} if misread else set())
    assert (error > 0.005) == misread


def test_a_maximum_quantised_right_behind_is_misread():
    rules, error = judged(lambda g: g.conv(g.qdq(g.add("GlobalMaxPool", "a"))), UINT8)
    assert rules == {"quantized-maximum"}
    assert error > 0.005
