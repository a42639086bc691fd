"""Small graphs with Q/DQ, drawn in a line each: a clean one, and for each rule of `lint` one that breaks it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CHANNELS = 8
INT8, UINT8 = np.int8(0), np.uint8(128)
Build = Callable[["Graph"], str]


class Graph:
    """A graph under construction: every method gives the name of what it makes.

    Inputs come of their own: `a` and `b` (1, 8, 8, 8) float32, `images` (1, 8, 8, 3) uint8, `rows`, `boxes`, `scale`.
    """

    def __init__(self, zero: np.generic = INT8) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.zero = zero
        self.draw = np.random.default_rng(0)

    def constant(self, value: object) -> str:
        name = f"constant{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(self, operator: str, *inputs: str, outputs: int = 1, **attributes: object) -> str:
        names = [f"{operator.lower()}{len(self.nodes)}{'abc'[i] if i else ''}" for i in range(outputs)]
        self.nodes.append(helper.make_node(operator, inputs, names, names[0], **attributes))
        return names[0]

    def q(self, name: str, scale: object = 0.166, zero: object = None, **attributes: object) -> str:
        return self._step("QuantizeLinear", name, scale, zero, attributes)

    def dq(self, name: str, scale: object = 0.166, zero: object = None, **attributes: object) -> str:
        return self._step("DequantizeLinear", name, scale, zero, attributes)

    def _step(self, operator: str, name: str, scale: object, zero: object, attributes: dict[str, object]) -> str:
        scale = scale if isinstance(scale, str) else self.constant(np.float32(scale))
        return self.add(operator, name, scale, self.constant(self.zero if zero is None else zero), **attributes)

    def qdq(self, name: str, *grid: object, **attributes: object) -> str:
        return self.dq(self.q(name, *grid, **attributes), *grid, **attributes)

    def weight(self, *shape: int, axis: int | None = 0, zero: object = np.int8(0), scale: float = 0.02) -> str:
        kind = np.asarray(zero).dtype
        integers = self.draw.normal(0, 40, shape).clip(-127, 127).astype(np.int8).astype(kind)
        if axis is None:
            return self.dq(self.constant(integers), scale, zero)
        scales = np.full(shape[axis], scale, np.float32)
        return self.dq(self.constant(integers), scales, np.full(shape[axis], zero), axis=axis)

    def conv(self, name: str, *bias: str, wide: int = CHANNELS, weight: str = "", group: int = 1) -> str:
        weight = weight or self.weight(CHANNELS, wide // group, 3, 3)
        return self.add("Conv", name, weight, *bias, pads=[1, 1, 1, 1], group=group)

    def concat(self, *names: str) -> str:
        return self.add("Concat", *names, axis=1)

    def float_conv(self, name: str) -> str:
        return self.conv(name, weight=self.constant(self.draw.normal(0, 0.5, (CHANNELS, CHANNELS, 3, 3)).astype(np.float32)))

    def silu(self, name: str) -> str:
        return self.add("Mul", name, self.add("Sigmoid", name))

    def model(self, *outputs: str, opset: int = 19, ir: int = 9) -> onnx.ModelProto:
        read = {name for node in self.nodes for name in node.input}
        inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8, 8, 8]) for name in "ab" if name in read]
        shapes = {"images": (TensorProto.UINT8, [1, 8, 8, 3]), "rows": (TensorProto.FLOAT, [1, 8400])}
        shapes |= {"boxes": (TensorProto.FLOAT, [1, 300, 4]), "scale": (TensorProto.FLOAT, [])}
        inputs += [helper.make_tensor_value_info(name, *shapes[name]) for name in sorted(shapes.keys() & read)]
        kinds = {n.output[0]: n.op_type for n in self.nodes}
        whole = {"QuantizeLinear": TensorProto.INT8, "NonMaxSuppression": TensorProto.INT64}
        found = [helper.make_tensor_value_info(name, whole.get(kinds[name], TensorProto.FLOAT), None) for name in outputs]
        domains = {"": opset} | {node.domain: 1 for node in self.nodes if node.domain}
        graph = helper.make_graph(self.nodes, "test", inputs, found, self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid(*one) for one in domains.items()], ir_version=ir)


def built(build: Build, zero: np.generic = INT8, **options: int) -> onnx.ModelProto:
    """The model whose output a function draws into a graph; a SiLU in float stands behind it, as a decode would."""
    graph = Graph(zero)
    return graph.model(graph.silu(build(graph)), **options)


def clean(g: Graph) -> str:
    """A residual block, a pool and a Concat, quantised as edgedet does."""
    x = g.qdq(g.silu(g.conv(g.qdq("a"))))
    y = g.qdq(g.add("Add", x, g.qdq(g.conv(x, group=CHANNELS))))
    pooled = g.add("MaxPool", y, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    return g.conv(g.qdq(g.concat(pooled, g.silu(g.conv(y)))), wide=2 * CHANNELS)


def per_channel_activation(g: Graph) -> str:
    scales = np.linspace(0.05, 0.2, CHANNELS)
    return g.conv(g.qdq("a", scales, np.full(CHANNELS, g.zero), axis=1))


def unread_weights(g: Graph, scales: np.ndarray) -> str:
    integers = g.constant(g.draw.integers(-100, 100, (CHANNELS, CHANNELS, 3, 3)).astype(np.int8))
    return g.conv(g.qdq("a"), weight=g.dq(integers, scales, np.zeros(len(scales), np.int8), axis=0))


def saturated(g: Graph) -> str:
    integers = np.where(g.draw.random((CHANNELS, CHANNELS, 3, 3)) < 0.5, -127, 127).astype(np.int8)
    return g.conv(g.qdq("a"), weight=g.dq(g.constant(integers), np.full(CHANNELS, 0.01), np.zeros(CHANNELS, np.int8), axis=0))


def gather(g: Graph, name: str, order: list[int]) -> str:
    return g.add("Gather", name, g.constant(np.int64(order)), axis=1)


COMMON: dict[str, tuple[Build, str]] = {
    "scale-not-positive": (lambda g: g.conv(g.qdq("a", 0.0)), "holds 0"),
    "scale-length": (lambda g: unread_weights(g, np.full(7, 0.01)), "7 scales for constant0 of 8 channels"),
    "pair-mismatch": (lambda g: g.conv(g.dq(g.q("a", 0.1), 0.2)), "scale 0.1"),
    "requantized": (lambda g: g.conv(g.qdq(g.qdq("a", 0.1), 0.2)), "scale 0.2"),
    "quantize-alone": (lambda g: g.float_conv(g.add("Cast", g.q("a"), to=TensorProto.FLOAT)), "Cast"),
    "quantized-decode": (lambda g: g.silu(g.qdq(g.conv(g.qdq("a")))), "conv3"),
    "weights-saturated": (saturated, "100%"),
}
TENSORRT: dict[str, tuple[Build, str]] = {
    "not-int8": (lambda g: g.conv(g.qdq("a", 0.1, np.uint8(0))), "a is quantised to uint8"),
    "zero-point": (lambda g: g.conv(g.qdq("a", 0.1, np.int8(5))), "zero-point 5 of a"),
    "int32-dequantized": (
        lambda g: g.conv(g.qdq("a"), g.dq(g.constant(np.arange(8, dtype=np.int32)), 0.001, np.int32(0))),
        "is int32",
    ),
    "scale-not-constant": (lambda g: g.conv(g.dq(g.q("a", "scale"), "scale")), "scale is computed"),
    "activation-per-channel": (per_channel_activation, "8 scales for the activation a"),
    "weight-axis": (lambda g: g.conv(g.qdq("a"), weight=g.weight(CHANNELS, CHANNELS, 3, 3, axis=1)), "axis 1"),
    "weight-per-tensor": (lambda g: g.conv(g.qdq("a"), weight=g.weight(CHANNELS, CHANNELS, 3, 3, axis=None)), "8 channels"),
    "quantized-sigmoid": (lambda g: g.conv(g.qdq(g.add("Sigmoid", g.conv(g.qdq("a"))), 1 / 127)), "sigmoid"),
    "residual-half-quantized": (lambda g: g.conv(g.qdq(g.add("Add", g.qdq("a"), g.conv(g.qdq("b"))))), "comes in float"),
    "integer-operator": (
        lambda g: g.add("Cast", g.add("ConvInteger", g.q("a"), g.constant(np.ones((8, 8, 1, 1), np.int8))), to=1),
        "ConvInteger",
    ),
    "uint8-not-cast": (
        lambda g: g.add("Cast", g.add("Transpose", "images", perm=[0, 3, 1, 2]), to=TensorProto.FLOAT),
        "Transpose reads the uint8 input images",
    ),
    "topk-too-long": (lambda g: g.add("TopK", "rows", g.constant(np.int64([3841])), outputs=2), "k is 3841"),
}
OTHERS: list[tuple[str, str, Build, str]] = [
    ("onnxruntime", "activation-per-channel", per_channel_activation, "8 scales"),
    ("onnxruntime", "weight-axis", lambda g: g.add("MatMul", g.qdq("a"), g.weight(8, 4, axis=0)), "MatMul"),
    ("openvino", "int8-beside-concat", lambda g: g.conv(g.qdq(g.concat("a", "b")), wide=16), "concat0 is int8 beside Concat"),
    ("openvino", "permuted-channels", lambda g: g.float_conv(gather(g, "a", [1, 2, 0, 3, 4, 5, 6, 7])), "channels of a"),
    ("openvino", "quantized-maximum", lambda g: g.conv(g.qdq(g.add("GlobalMaxPool", "a"))), "GlobalMaxPool"),
]
