"""What OpenVINO's CPU plugin computes wrongly without a word, as found by running small graphs beside ONNX Runtime.

Tried on 2026.4 with f32 inference; `docs/decisions/0005-lint.md` has what was tried and how far off each was.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from edgedet.calibration.quantized import QuantizedGraph, Step, attribute

if TYPE_CHECKING:
    import onnx

_POOLS = {"MaxPool", "AveragePool", "GlobalMaxPool", "ReduceMax"}
_MOVES = {
    "Resize",
    "Slice",
    "Split",
    "Transpose",
    "Reshape",
    "Squeeze",
    "Unsqueeze",
    "Flatten",
    "Expand",
    "Pad",
    "DepthToSpace",
}
_BEFORE = {"Relu", "Identity", "Dropout", "Cast", "BatchNormalization"}
_BETWEEN = _BEFORE | _POOLS | _MOVES | {"Gather", "Neg"}
_BY_CONSTANT = ("Mul", "Div", "Add", "Sub")


def beside_concat(graph: QuantizedGraph) -> Iterator[tuple[onnx.NodeProto, str]]:
    """Each int8 Q whose scale is lost beside a Concat, and which Concat.

    The plugin runs the Concat in eight bits and takes 1.0 for the scale. At any
    zero-point, before a convolution with quantised weights in one group:

        Concat → [_BEFORE] → Q → DQ → [_BETWEEN] → Conv      where nothing else reads the Concat
        Q → DQ → [_BETWEEN] → Concat → [_BETWEEN] → Conv     where every branch is quantised

    uint8 is right; so are other consumers, and other operators in between.
    """
    found: dict[str, tuple[onnx.NodeProto, str]] = {}
    for conv in graph.weighted():
        if not _is_dense(conv) or (weight := graph.step(conv.input[1])) is None or not weight.weight:
            continue
        steps, joined = _quantized_by(graph, conv.input[0])
        for step in steps or ():
            concat = joined or _concat_before(graph, step)
            if concat is not None and _is_int8(step):
                what = f"{step.node.input[0]} is int8 beside Concat {concat.name or concat.output[0]}"
                found.setdefault(step.node.output[0], (step.node, f"{what}, for Conv {conv.name or conv.output[0]}"))
    yield from found.values()


def permuted_channels(graph: QuantizedGraph) -> Iterator[tuple[onnx.NodeProto, str]]:
    """Each Gather that permutes channels before a dense convolution, in any precision.

    The plugin moves it into the weights, but with the inverse permutation: right
    only for one that is its own inverse, such as BGR to RGB.
    """
    found: dict[str, tuple[onnx.NodeProto, str]] = {}
    for conv in filter(_is_dense, graph.weighted()):
        name = conv.input[0]
        while (node := graph.maker(name, "QuantizeLinear", "DequantizeLinear", "Gather", *_BEFORE, *_BY_CONSTANT)) is not None:
            name = node.input[0]
            if node.op_type == "Gather" and _is_misread(graph, node):
                found[node.output[0]] = (node, f"the channels of {name} are permuted for Conv {conv.name or conv.output[0]}")
            step = graph.step(node.output[0])
            if step is not None and step.quantizes and step.zero_point is not None and step.zero_point.any():
                break  # subtracting a zero-point stops it
    yield from found.values()


def quantized_maximum(graph: QuantizedGraph) -> Iterator[tuple[onnx.NodeProto, str]]:
    """Each Q right behind a maximum or minimum over an axis: the plugin rounds before all values were compared."""
    for step in graph.steps:
        node = graph.maker(step.node.input[0], "GlobalMaxPool", "ReduceMax", "ReduceMin") if step.quantizes else None
        if node is not None:
            yield step.node, f"{step.node.input[0]} is the output of {node.op_type}"


def _is_dense(node: onnx.NodeProto) -> bool:
    return node.op_type == "Conv" and attribute(node, "group", 1) == 1


def _is_int8(step: Step) -> bool:
    import onnx

    return step.kind == onnx.TensorProto.INT8


def _is_misread(graph: QuantizedGraph, gather: onnx.NodeProto) -> bool:
    """Whether a Gather permutes all channels, and not by a permutation that is its own inverse."""
    indices, shape = graph.array(gather.input[-1]), graph.shape(gather.input[0])
    if attribute(gather, "axis", 0) != 1 or indices is None or (shape is not None and shape[1:2] not in ([0], [indices.size])):
        return False
    order = indices.ravel()
    return np.array_equal(np.sort(order), np.arange(order.size)) and not np.array_equal(np.argsort(order), order)


def _quantized_by(graph: QuantizedGraph, name: str) -> tuple[list[Step] | None, onnx.NodeProto | None]:
    """The Qs that a value's integers come from, None where a part of it is float; and the Concat that joined them."""
    if graph.is_constant(name):
        return [], None
    step, node = graph.step(name), graph.maker(name)
    if step is not None and not step.quantizes:
        before = graph.source(step)
        return ([before] if before is not None else None), None
    if node is not None and node.op_type == "Concat":
        branches = [_quantized_by(graph, branch)[0] for branch in node.input]
        whole = [step for branch in branches for step in branch or ()]
        return (None if None in branches else whole), node
    if node is not None and (node.op_type in _BETWEEN or _is_by_constant(graph, node)):
        return _quantized_by(graph, next(i for i in node.input if not graph.is_constant(i)))
    return None, None


def _concat_before(graph: QuantizedGraph, step: Step) -> onnx.NodeProto | None:
    """The Concat that a Q is drawn into."""
    name, behind_relu = step.node.input[0], False
    while (node := graph.maker(name)) is not None:
        # A Relu is computed twice where something else reads it; other operators stop the Q.
        if node.op_type != "Relu" and not _ends_in_one_grid(graph, name):
            return None
        if node.op_type == "Concat":
            return node if len(node.input) > 1 else None
        scales = _is_by_constant(graph, node) or node.op_type == "BatchNormalization"
        if (scales and behind_relu) or not (scales or node.op_type in _BEFORE) or graph.is_constant(node.input[0]):
            return None
        name, behind_relu = node.input[0], behind_relu or node.op_type == "Relu"
    return None


def _is_by_constant(graph: QuantizedGraph, node: onnx.NodeProto) -> bool:
    return node.op_type in _BY_CONSTANT and any(graph.is_constant(name) for name in node.input)


def _ends_in_one_grid(graph: QuantizedGraph, name: str) -> bool:
    """Whether nothing reads the value but one operator, or Qs that are all alike."""
    steps = [graph.step(reader.output[0]) for reader in graph.readers(name)]
    alike = all(step is not None and steps[0] is not None and step.same_grid(steps[0]) for step in steps)
    return name not in graph.outputs and (len(steps) == 1 or alike)
