"""The rules of `lint`: each a function from a graph to the places that break it. The reasons stand in the table of `lint`."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

import numpy as np

from edgedet.calibration.quantized import CARRIES, QuantizedGraph, Step, attribute

if TYPE_CHECKING:
    import onnx

LARGEST_K = 3840
"""Of TensorRT's TopK."""
_SMALLEST = 1e-30
"""OpenVINO loses scales below about 1e-36."""
_INTEGER_OPERATORS = {"ConvInteger", "MatMulInteger", "DynamicQuantizeLinear"}
_TAKES_INTEGERS = CARRIES | _INTEGER_OPERATORS | {"DequantizeLinear"}
Broken = Iterator[tuple["onnx.NodeProto", str]]
"""The node and what is wrong with it."""


def scale_not_positive(graph: QuantizedGraph) -> Broken:
    for step in graph.steps:
        if step.scale is not None:
            scale = np.asarray(step.scale, np.float64).ravel()
            wrong = scale[~((scale > _SMALLEST) & (scale < np.inf))]
            if wrong.size:
                yield step.node, f"scale {step.node.input[1]} holds {wrong[0]:.3g}"


def scale_not_constant(graph: QuantizedGraph) -> Broken:
    for step in graph.steps:
        for name in filter(None, step.node.input[1:]):
            if not graph.is_constant(name):
                yield step.node, f"{name} is computed while the graph runs"


def scale_length(graph: QuantizedGraph) -> Broken:
    for step in graph.steps:
        if step.scale is None or step.scale.ndim > 1:  # blocks of their own scale
            continue
        if step.zero_point is not None and step.zero_point.size not in (1, step.scale.size):
            yield step.node, f"{step.scale.size} scales but {step.zero_point.size} zero-points"
        shape = graph.shape(step.node.input[0])
        if not step.per_channel or shape is None:
            continue
        if not -len(shape) <= step.axis < len(shape):
            yield step.node, f"axis {step.axis} of {step.node.input[0]}, which has {len(shape)}"
        elif shape[step.axis] not in (0, step.scale.size):
            channels = f"{shape[step.axis]} channels on axis {step.axis}"
            yield step.node, f"{step.scale.size} scales for {step.node.input[0]} of {channels}"


def per_channel_before_13(graph: QuantizedGraph) -> Broken:
    for step in graph.steps:
        if step.per_channel and graph.opset < 13:
            yield step.node, f"{step.scale.size} scales in opset {graph.opset}"  # type: ignore[union-attr]


def pair_mismatch(graph: QuantizedGraph) -> Broken:
    for step in graph.steps:
        before = graph.source(step)
        if before is not None and not step.quantizes and not step.same_grid(before):
            yield step.node, f"{step.node.input[0]} is quantised by {_grid(before)} but read by {_grid(step)}"


def requantized(graph: QuantizedGraph) -> Broken:
    for step in graph.steps:
        before = graph.source(step)
        if before is not None and step.quantizes and not step.same_grid(before):
            yield step.node, f"{step.node.input[0]} leaves {_grid(before)} and enters {_grid(step)}"


def _grid(step: Step) -> str:
    def said(array: np.ndarray | None) -> str:
        return "0" if array is None else f"{array.item():.6g}" if array.size == 1 else f"{array.size} of them"

    return f"scale {said(step.scale)}, zero-point {said(step.zero_point)}"


def quantize_alone(graph: QuantizedGraph) -> Broken:
    for step in graph.steps:
        if step.quantizes:
            for reader in graph.readers(step.node.output[0]):
                if reader.op_type not in _TAKES_INTEGERS and not reader.op_type.startswith("QLinear"):
                    yield step.node, f"{reader.op_type} {reader.name} reads the integers {step.node.output[0]}"


def _behind(graph: QuantizedGraph, name: str) -> Iterator[str]:
    """A value and those that only carry it on."""
    waiting = [name]
    while waiting:
        yield (name := waiting.pop())
        waiting += [
            out for node in graph.readers(name) if node.op_type in CARRIES | {"DequantizeLinear"} for out in node.output
        ]


def quantized_output(graph: QuantizedGraph) -> Broken:
    for step in graph.steps:
        if step.quantizes and not step.weight:
            for name in graph.outputs & set(_behind(graph, step.node.output[0])):
                yield step.node, f"output {name} is {step.node.input[0]} in integers"


def quantized_decode(graph: QuantizedGraph) -> Broken:
    network = _before_weights(graph)
    for step in graph.steps if network else ():
        name = step.node.output[0]
        if step.quantizes and graph.readers(name) and name not in network and graph.outputs.isdisjoint(_behind(graph, name)):
            yield step.node, f"{step.node.input[0]} is quantised behind the last convolution"


def _before_weights(graph: QuantizedGraph) -> set[str]:
    """Every value that an operator with weights, or with integers for data, is made from."""
    integer = [node for node in graph.nodes if node.op_type in _INTEGER_OPERATORS or node.op_type.startswith("QLinear")]
    wanted = {name for node in (*graph.weighted(), *integer) for name in node.input}
    for node in reversed(graph.nodes):
        if not wanted.isdisjoint(node.output):
            wanted.update(node.input)
    return wanted


def weights_saturated(graph: QuantizedGraph) -> Broken:
    for step in graph.steps:
        values = graph.array(step.node.input[0]) if step.weight and not step.quantizes else None
        channels = 1 if step.scale is None else step.scale.size
        # A kernel of few values has its largest at an end of the grid anyway.
        if values is None or values.dtype != np.int8 or values.size < 9 * channels:
            continue
        low, high = float((values <= -127).mean()), float((values == 127).mean())
        if min(low, high) > 0 and low + high > 0.5:
            yield step.node, f"{low + high:.0%} of {step.node.input[0]} stand at -127 or 127"


def not_int8(graph: QuantizedGraph) -> Broken:
    import onnx

    types = onnx.TensorProto
    taken = (0, types.INT8, types.INT32, types.INT4, types.FLOAT8E4M3FN, types.FLOAT4E2M1)
    for step in graph.steps:
        if step.kind not in taken:
            yield step.node, f"{graph.real(step)} is quantised to {types.DataType.Name(step.kind).lower()}"


def int32_dequantized(graph: QuantizedGraph) -> Broken:
    import onnx

    for step in graph.steps:
        if step.kind == onnx.TensorProto.INT32:
            yield step.node, f"{step.node.input[0]} is int32"


def zero_point(graph: QuantizedGraph) -> Broken:
    import onnx

    for step in graph.steps:
        if step.kind == onnx.TensorProto.INT8 and step.zero_point is not None and step.zero_point.any():
            yield step.node, f"zero-point {step.zero_point[step.zero_point != 0].flat[0]} of {graph.real(step)}"


def activation_per_channel(graph: QuantizedGraph) -> Broken:
    for step in graph.steps:
        if step.quantizes and step.per_channel and not step.weight:
            yield step.node, f"{step.scale.size} scales for the activation {step.node.input[0]}"  # type: ignore[union-attr]


def _weight_steps(graph: QuantizedGraph, kinds: Collection[str]) -> Iterator[tuple[onnx.NodeProto, Step]]:
    """Operators of the named types with the DQ of their weights."""
    for node in graph.weighted():
        step = graph.step(node.input[1])
        if node.op_type in kinds and step is not None and step.weight and not step.quantizes:
            yield node, step


def weight_axis(graph: QuantizedGraph, kinds: Collection[str]) -> Broken:
    for node, step in _weight_steps(graph, kinds):
        shape = graph.shape(step.node.input[0])
        if not step.per_channel or not shape:
            continue
        outputs = 0 if node.op_type == "Conv" or attribute(node, "transB", 0) else len(shape) - 1
        if step.axis % len(shape) != outputs:
            what = f"{node.op_type} {node.name} has its scales on axis {step.axis}"
            yield step.node, f"{what} of {step.node.input[0]}, not on {outputs}, the output channels"


def weight_per_tensor(graph: QuantizedGraph) -> Broken:
    for _, step in _weight_steps(graph, ["Conv"]):
        shape = graph.shape(step.node.input[0])
        if step.scale is not None and not step.per_channel and shape and shape[0] > 1:
            yield step.node, f"one scale for the {shape[0]} channels of {step.node.input[0]}"


def quantized_sigmoid(graph: QuantizedGraph) -> Broken:
    for step in graph.steps:
        if step.quantizes and graph.maker(step.node.input[0], "Sigmoid") is not None:
            yield step.node, f"{step.node.input[0]} is a sigmoid's output"


def residual_half_quantized(graph: QuantizedGraph) -> Broken:
    for node in graph.nodes:
        if node.op_type == "Add" and not any(graph.is_constant(name) for name in node.input):
            plain = [name for name in node.input if graph.maker(name, "DequantizeLinear") is None]
            if len(plain) == 1:
                yield node, f"{plain[0]} comes in float, the other input quantised"


def integer_operator(graph: QuantizedGraph) -> Broken:
    import onnx

    for node in graph.nodes:
        foreign = node.domain == "com.microsoft" and not onnx.defs.has(node.op_type)
        if foreign or node.op_type in _INTEGER_OPERATORS or node.op_type.startswith("QLinear"):
            yield node, f"{f'{node.domain}.' if foreign else ''}{node.op_type} makes {', '.join(node.output)}"


def uint8_not_cast(graph: QuantizedGraph) -> Broken:
    import onnx

    for name in graph.inputs:
        for node in graph.readers(name) if graph.kind(name) == onnx.TensorProto.UINT8 else ():
            if node.op_type != "Cast":
                yield node, f"{node.op_type} reads the uint8 input {name}"


def topk_too_long(graph: QuantizedGraph) -> Broken:
    for node in graph.nodes:
        k = graph.array(node.input[1]) if node.op_type == "TopK" and len(node.input) > 1 else None
        if k is not None and k.max() > LARGEST_K:
            yield node, f"k is {k.max()}"


def data_dependent_output(graph: QuantizedGraph) -> Broken:
    for node in graph.nodes:
        if node.op_type in ("NonMaxSuppression", "NonZero"):
            yield node, f"operator {node.op_type}"


def tensorrt_plugin(graph: QuantizedGraph) -> Broken:
    for node in graph.nodes:
        if node.op_type.endswith("_TRT"):
            yield node, f"operator {node.op_type}"
