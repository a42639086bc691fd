"""The convolutions and matrix products of an ONNX graph, as written and as ONNX Runtime rewrote it to run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgedet.runtimes.precision import INT8, Layer, layer_name

if TYPE_CHECKING:
    import onnx

_INTEGER = {
    "QLinearConv",
    "QLinearMatMul",
    "QGemm",
    "ConvInteger",
    "MatMulInteger",
    "ConvIntegerToFloat",
    "MatMulIntegerToFloat",
}
FLOAT_LAYERS = {"Conv", "FusedConv", "ConvTranspose", "MatMul", "FusedMatMul", "Gemm", "FusedGemm"}
_NAMES = {1: "f32", 10: "f16", 11: "f64", 16: "bf16"}
"""onnx.TensorProto.DataType."""


class OnnxGraph:
    """A model's graph, its values by the node that makes them; shape inference is run once."""

    def __init__(self, model: onnx.ModelProto) -> None:
        import onnx

        graph = onnx.shape_inference.infer_shapes(model).graph
        self.nodes = list(graph.node)
        self.maker = {output: node for node in graph.node for output in node.output}
        self.weights = {tensor.name: tensor for tensor in graph.initializer}
        self.values = {value.name: value.type.tensor_type for value in (*graph.input, *graph.value_info, *graph.output)}

    def layers(self) -> Iterator[tuple[str, Layer]]:
        """Each layer by its node's name; asked for in INT8 where both its inputs come out of DequantizeLinear."""
        for node in self.nodes:
            if node.op_type in FLOAT_LAYERS:
                quantized = all(self._is_dequantized(name) for name in node.input[:2])
                asked = INT8 if quantized else self.type_of(node.input[1])
                weights = self.source(node.input[1])
                yield node.name, Layer(layer_name(weights, node.name), node.op_type, asked, asked, self._macs(node))

    def executed(self) -> dict[str, tuple[str, str]]:
        """The kernel and the precision of each layer by its node's name, of a graph that ONNX Runtime wrote."""
        found = {node.name: (node.op_type, INT8) for node in self.nodes if node.op_type in _INTEGER}
        floats = (node for node in self.nodes if node.op_type in FLOAT_LAYERS)
        return found | {node.name: (node.op_type, self.type_of(node.input[1])) for node in floats}

    def type_of(self, name: str) -> str:
        """The type of a float value, `unknown` where the graph does not tell."""
        if name in self.weights:
            return _NAMES.get(self.weights[name].data_type, "unknown")
        if name in self.values and self.values[name].elem_type:
            return _NAMES.get(self.values[name].elem_type, "unknown")
        node = self.maker.get(name)
        if node is None:
            return "unknown"
        if node.op_type == "Cast":
            return _NAMES.get(next(a.i for a in node.attribute if a.name == "to"), "unknown")
        # DequantizeLinear gives the type of its scale, everything else here that of its first input.
        return self.type_of(node.input[1 if node.op_type == "DequantizeLinear" else 0])

    def _is_dequantized(self, name: str) -> bool:
        return name in self.maker and self.maker[name].op_type == "DequantizeLinear"

    def source(self, name: str) -> str:
        """The constant that a value is made from by what changes its type alone."""
        while name in self.maker and self.maker[name].op_type in ("DequantizeLinear", "QuantizeLinear", "Cast", "Identity"):
            name = self.maker[name].input[0]
        return name

    def _macs(self, node: onnx.NodeProto) -> int:
        """Multiply-accumulates an image; a side of unknown length counts once."""
        data, weights, output = (self._shape(name) for name in (node.input[0], self.source(node.input[1]), node.output[0]))
        if node.op_type == "ConvTranspose":
            return math.prod(weights) * math.prod(data[2:])
        if "Conv" in node.op_type:
            return math.prod(weights) * math.prod(output[2:])
        return math.prod(output[1:]) * (data[-1] if data else 1)

    def _shape(self, name: str) -> list[int]:
        if name in self.weights:
            return list(self.weights[name].dims)
        return [side.dim_value or 1 for side in self.values[name].shape.dim] if name in self.values else []
