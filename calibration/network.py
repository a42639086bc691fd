"""The convolutions of an ONNX detector as quantisation sees them: which there are and what they cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from edgedet.errors import ExportError

if TYPE_CHECKING:
    import onnx

HEAD = "head_"
"""The exporter names raw heads head_0, head_1, …; decode and suppression lie behind them."""
Role = Literal["pixels", "depthwise", "prediction", "plain"]
_MOVES_PIXELS = {"Cast", "Transpose", "Slice", "Concat", "SpaceToDepth", "Identity", "Reshape"}
_WEIGHTED = {"ConvTranspose", "MatMul", "Gemm", "LSTM", "GRU", "DeformConv", "Einsum"}


@dataclass(frozen=True)
class Layer:
    """One convolution.

    name: as in the checkpoint. data, weight, bias, output: values in the graph;
    bias is empty where there is none. macs: multiply-accumulates an image.
    role: `pixels` reads the image's own values, `prediction` gives a raw head,
    `depthwise` has one input channel a group.
    """

    name: str
    data: str
    weight: str
    bias: str
    output: str
    macs: int
    role: Role


class Network:
    """A model's graph with its nodes by the values they make and read; shape inference is run once."""

    def __init__(self, model: onnx.ModelProto) -> None:
        import onnx

        self.model = onnx.shape_inference.infer_shapes(model)
        graph = self.model.graph
        self.weights: Mapping[str, onnx.TensorProto] = {tensor.name: tensor for tensor in graph.initializer}
        self.maker = {output: node for node in graph.node for output in node.output}
        self.shapes = {
            value.name: [side.dim_value for side in value.type.tensor_type.shape.dim]
            for value in (*graph.value_info, *graph.output, *graph.input)
        }
        self.nodes = list(self._before_heads())
        if not self.nodes:
            raise ExportError(f"the graph names no {HEAD}0, so where the decode begins is unknown; export it with this edgedet")

    def _before_heads(self) -> Iterator[onnx.NodeProto]:
        """The nodes that the raw heads are made from, in the graph's order."""
        wanted = {output for output in self.maker if output.startswith(HEAD)}
        found = []
        for node in reversed(self.model.graph.node):
            if wanted & set(node.output):
                wanted.update(node.input)
                found.append(node)
        return reversed(found)

    def layers(self) -> list[Layer]:
        """Every convolution with constant weights, in the graph's order."""
        return [self._layer(node) for node in self.nodes if node.op_type == "Conv" and node.input[1] in self.weights]

    def residuals(self) -> list[onnx.NodeProto]:
        """The additions of two feature maps."""
        return [node for node in self.nodes if node.op_type == "Add" and all(self._is_map(name) for name in node.input)]

    def pools(self) -> list[onnx.NodeProto]:
        """The max pools."""
        return [node for node in self.nodes if node.op_type == "MaxPool"]

    def unquantizable(self) -> dict[str, str]:
        """Operators with weights for which there is no INT8 form here, and the reason each stays in float."""
        return {
            node.name or node.output[0]: f"edgedet has no INT8 form of {node.op_type}"
            for node in self.nodes
            if node.op_type in _WEIGHTED or (node.op_type == "Conv" and node.input[1] not in self.weights)
        }

    def activations(self) -> list[str]:
        """The values that an encoding may quantise: inputs of convolutions, residual additions and pools."""
        names = [layer.data for layer in self.layers()]
        names += [name for node in self.residuals() for name in node.input]
        names += [node.input[0] for node in self.pools()]
        return list(dict.fromkeys(names))

    def _is_map(self, name: str) -> bool:
        return name not in self.weights and len(self.shapes.get(name, ())) == 4

    def _layer(self, node: onnx.NodeProto) -> Layer:
        weight = self.weights[node.input[1]]
        groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
        height, width = self.shapes[node.output[0]][2:]
        name = node.input[1].removesuffix(".weight").removeprefix("whole.detector.")
        bias = node.input[2] if len(node.input) > 2 else ""
        macs = int(np.prod(weight.dims)) * height * width
        return Layer(name, node.input[0], node.input[1], bias, node.output[0], macs, self._role(node, groups))

    def _role(self, node: onnx.NodeProto, groups: int) -> Role:
        if node.output[0].startswith(HEAD):
            return "prediction"
        if groups > 1 and self.weights[node.input[1]].dims[1] == 1:
            return "depthwise"
        return "pixels" if self._is_pixels(node.input[0]) else "plain"

    def _is_pixels(self, name: str) -> bool:
        """Whether a value holds the image's own values and nothing else, only cast and moved about."""
        node = self.maker.get(name)
        if node is None:
            return name in {value.name for value in self.model.graph.input}
        moved = node.input if node.op_type == "Concat" else node.input[:1]
        return node.op_type in _MOVES_PIXELS and all(self._is_pixels(part) for part in moved)
