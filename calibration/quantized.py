"""An ONNX graph with its quantisation read: what each QuantizeLinear and DequantizeLinear says, and who reads whom."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgedet.errors import ArtifactError

if TYPE_CHECKING:
    import onnx

_RESHAPES = {"Expand", "Flatten", "Identity", "Reshape", "Squeeze", "Tile", "Transpose", "Unsqueeze"}
CARRIES = frozenset({"Concat", "Gather", "MaxPool", "Pad", "Resize", "Slice", "Split"} | _RESHAPES)
"""Operators whose output holds values of their input, so that integers stay integers of the same grid."""
_WEIGHTED = {"Conv", "ConvTranspose", "DeformConv", "Gemm", "MatMul", "LSTM", "GRU"}


@dataclass(frozen=True, eq=False)
class Step:
    """One QuantizeLinear or DequantizeLinear.

    scale, zero_point: arrays, scalar or (channels,); None where the file does
    not give them. kind: ONNX's number of the integer type, 0 where unknown.
    weight: whether what it takes is constant.
    """

    node: onnx.NodeProto
    scale: np.ndarray | None
    zero_point: np.ndarray | None
    kind: int
    axis: int
    weight: bool

    @property
    def quantizes(self) -> bool:
        """Whether it makes integers; else it takes them."""
        return self.node.op_type == "QuantizeLinear"

    @property
    def per_channel(self) -> bool:
        """Whether it has more than one scale."""
        return self.scale is not None and self.scale.size > 1

    def same_grid(self, other: Step) -> bool:
        """Whether both put the same real value on the same integer; True as well where a scale is unknown."""
        if self.scale is None or other.scale is None:
            return True
        return _equal(self.scale, other.scale) and _equal(self.zero_point, other.zero_point)


def _equal(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    # No zero-point is one of 0, and shape () says the same as (1,).
    first, second = (np.zeros(1) if x is None else np.asarray(x, np.float64).ravel() for x in (a, b))
    if first.size != second.size and 1 not in (first.size, second.size):
        return False
    one, two = np.broadcast_arrays(first, second)
    return bool(np.array_equal(one, two, equal_nan=True))


class QuantizedGraph:
    """A model's main graph: nodes by what they make and read, constants, and the Q/DQ steps in the graph's order.

    ArtifactError where there is none, one reads what nothing before it makes, or a weight is damaged.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        if not graph.node:
            raise ArtifactError("the model has not a single operator; export it again")
        self.nodes: list[onnx.NodeProto] = list(graph.node)
        self.opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=1)
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        # Before IR 4 weights stood among the inputs too.
        self.inputs = {value.name: value for value in graph.input if value.name not in self._tensors}
        self.outputs = {value.name for value in graph.output}
        self._shapes = {value.name: value.type.tensor_type.shape for value in (*graph.input, *graph.value_info, *graph.output)}
        self._maker: dict[str, onnx.NodeProto] = {}
        self._readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        self._constants = set(self._tensors) | {tensor.values.name for tensor in graph.sparse_initializer}
        for node in self.nodes:
            self._enter(node)
        self._steps: dict[str, Step] = {}
        for node in self.nodes:
            if node.op_type in ("QuantizeLinear", "DequantizeLinear") and len(node.input) > 1 and node.output:
                self._steps[node.output[0]] = self._read(node)

    def _enter(self, node: onnx.NodeProto) -> None:
        for name in filter(None, node.input):
            if name not in self._maker and name not in self._constants and name not in self.inputs:
                where = f"{node.op_type} {node.name}".rstrip()
                raise ArtifactError(f"{where} reads {name}, which nothing before it makes; export the model again")
            self._readers[name].append(node)
        self._maker.update((name, node) for name in node.output if name)
        if all(name in self._constants for name in node.input if name):
            self._constants.update(node.output)

    @property
    def steps(self) -> Iterator[Step]:
        """Every Q and DQ, in the graph's order."""
        return iter(self._steps.values())

    def maker(self, name: str, *kinds: str) -> onnx.NodeProto | None:
        """The node that makes a value; where operators are named, only if it is one of them."""
        node = self._maker.get(name)
        return node if node is not None and (not kinds or node.op_type in kinds) else None

    def readers(self, name: str) -> list[onnx.NodeProto]:
        """The nodes that read a value."""
        return self._readers.get(name, [])

    def step(self, name: str) -> Step | None:
        """The Q or DQ that makes a value."""
        return self._steps.get(name)

    def source(self, step: Step) -> Step | None:
        """The Q that a DQ undoes, or the DQ whose values a Q takes; None where neither stands right before it."""
        before = self.step(step.node.input[0])
        return before if before is not None and before.quantizes != step.quantizes else None

    def real(self, step: Step) -> str:
        """The name of the real value that a Q takes, or a DQ gives back; of a lone DQ, its integers."""
        before = self.source(step)
        return step.node.input[0] if before is None or step.quantizes else before.node.input[0]

    def is_constant(self, name: str) -> bool:
        """Whether a value is known before the graph runs: an initializer, or made from nothing else."""
        return name in self._constants

    def array(self, name: str) -> np.ndarray | None:
        """The value of an initializer, a Constant, or an Identity behind one; None of what the graph computes."""
        from onnx import numpy_helper

        tensor = self._tensor(name)
        try:
            return None if tensor is None else numpy_helper.to_array(tensor)
        except ValueError as error:
            raise ArtifactError(f"weight {name} is damaged ({error}); copy or export the model again") from error

    def kind(self, name: str) -> int:
        """ONNX's number of a value's type where the file gives it, as of a weight or an input; else 0."""
        if (tensor := self._tensor(name)) is not None:
            return tensor.data_type
        if name in self.inputs:
            return self.inputs[name].type.tensor_type.elem_type
        if (step := self.step(name)) is not None and step.quantizes:
            return step.kind
        node = self.maker(name, *CARRIES)
        return 0 if node is None else self.kind(node.input[0])

    def shape(self, name: str) -> list[int] | None:
        """The sides of a value, 0 where one is open; None where the file does not give them."""
        if (tensor := self._tensor(name)) is not None:
            return list(tensor.dims)
        shape = self._shapes.get(name)
        return [side.dim_value for side in shape.dim] if shape is not None and len(shape.dim) else None

    def weighted(self) -> Iterator[onnx.NodeProto]:
        """The operators that multiply their first input by weights, their second; a product of two activations is none."""
        for node in self.nodes:
            if (
                node.op_type in _WEIGHTED
                and len(node.input) > 1
                and (node.op_type != "MatMul" or self.is_constant(node.input[1]))
            ):
                yield node

    def _tensor(self, name: str) -> onnx.TensorProto | None:
        import onnx

        if name in self._tensors:
            return self._tensors[name]
        node = self.maker(name, "Constant", "Identity")
        if node is None:
            return None
        if node.op_type == "Identity":
            return self._tensor(node.input[0])
        if (value := attribute(node, "value")) is not None:
            return value
        numbers = (attribute(node, f"value_{kind}") for kind in ("float", "floats", "int", "ints"))
        return next((onnx.numpy_helper.from_array(np.asarray(n)) for n in numbers if n is not None), None)

    def _read(self, node: onnx.NodeProto) -> Step:
        scale, zero_point = (self.array(name) if name else None for name in (*node.input[1:3], "")[:2])
        weight, axis = self.is_constant(node.input[0]), attribute(node, "axis", 1)
        return Step(node, scale, zero_point, self._step_kind(node), axis, weight)

    def _step_kind(self, node: onnx.NodeProto) -> int:
        """The integer type of a Q or DQ; ONNX makes it uint8 where a Q names none."""
        import onnx

        if len(node.input) > 2 and node.input[2]:
            return self.kind(node.input[2])
        if node.op_type == "QuantizeLinear":
            return attribute(node, "output_dtype", 0) or onnx.TensorProto.UINT8
        return self.kind(node.input[0])


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """The value of a node's attribute."""
    import onnx

    return next((onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)
