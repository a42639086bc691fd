"""FP32 ONNX → FP16 ONNX: the network in FP16 from the input's cast to the raw heads; decode and suppression stay FP32.

The precision is in the file's own types, so that a strongly typed runtime such
as TensorRT builds just this, and every change of precision is a Cast one can see.
An INT8 file becomes int8+fp16: the same integers, with FP16 around them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgedet.errors import ExportError
from edgedet.export import onnx_file
from edgedet.spec import Precision

if TYPE_CHECKING:
    import onnx

_KEEPS_FLOAT = {"Resize": (1, 2), "Upsample": (1,)}
"""Inputs, by position, that ONNX declares float32 whatever the data's type."""
_LARGEST = float(np.finfo(np.float16).max)
_SMALLEST = float(np.finfo(np.float16).smallest_subnormal)
_NARROWED: dict[Precision, Precision] = {"fp32": "fp16", "int8": "int8+fp16"}


def to_fp16(source: Path, path: Path) -> Path:
    """Write the FP16 form of an FP32 or INT8 file of edgedet's; returns the path."""
    model, spec = onnx_file.read(source)
    if spec.precision not in _NARROWED:
        raise ExportError(f"{source}: is {spec.precision} already; FP16 is made from the fp32 or int8 file")
    convert(model, where=source.name)
    return onnx_file.write(path, model, replace(spec, precision=_NARROWED[spec.precision]))


def convert(model: onnx.ModelProto, *, where: str) -> None:
    """Turn the network part of a model to FP16 in place, with a Cast behind the input and one behind each raw head."""
    graph = model.graph
    heads = {o for node in graph.node for o in node.output if o.startswith(onnx_file.HEAD)}
    if not heads:
        raise ExportError(f"{where}: names no {onnx_file.HEAD}0, so where the decode begins is unknown; export it again")
    network = _ancestors(graph, heads)
    leaving = _leaving(model, network)
    _fit_scales(graph, network, where=where)
    _convert_weights(graph, network, where=where)
    for node in network:
        _convert_attributes(node)
    _cast_inputs(graph, network)
    _cast_leaving(graph, network, leaving)
    _retype(model)


def _ancestors(graph: onnx.GraphProto, names: set[str]) -> list[onnx.NodeProto]:
    """The nodes that the named values are made from, in the graph's order."""
    wanted = set(names)
    found: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if wanted & set(node.output):
            wanted.update(node.input)
            found.append(node)
    return found[::-1]


def _inputs(node: onnx.NodeProto) -> Iterator[tuple[int, str]]:
    """Position and name of the inputs that follow the data's type."""
    keeps = _KEEPS_FLOAT.get(node.op_type, ())
    return ((i, name) for i, name in enumerate(node.input) if name and i not in keeps)


def _fit_scales(graph: onnx.GraphProto, network: list[onnx.NodeProto], *, where: str) -> None:
    """Round every scale to one that float16 holds, and the integers of weights anew to their new scale.

    Scales below 6e-5 have few bits in float16: the integers make up for what the scale is off, to half a step.
    """
    from onnx import numpy_helper

    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in network:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or node.input[1] not in tensors:
            continue
        old = numpy_helper.to_array(tensors[node.input[1]]).astype(np.float32)
        new = _upwards(old).astype(np.float32)
        if not np.isfinite(new).all():
            worst = float(old.max())
            raise ExportError(f"{where}: scale {node.input[1]} is {worst:.3g}, beyond float16's {_LARGEST:.0f}; use int8")
        if (integers := tensors.get(node.input[0])) is not None:
            whole = numpy_helper.to_array(integers)
            axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
            ratio = (old / new).reshape([-1 if old.ndim and side == axis else 1 for side in range(whole.ndim)])
            integers.CopyFrom(numpy_helper.from_array(np.rint(whole * ratio).astype(whole.dtype), integers.name))
        tensors[node.input[1]].CopyFrom(numpy_helper.from_array(new, node.input[1]))


def _upwards(scale: np.ndarray) -> np.ndarray:
    """The least float16 of at least the scale, so that no integer is clipped."""
    with np.errstate(over="ignore"):  # infinity is refused by the caller
        nearest = np.maximum(scale, _SMALLEST).astype(np.float16)
    return np.where(nearest < scale, np.nextafter(nearest, np.float16(np.inf)), nearest)


def _convert_weights(graph: onnx.GraphProto, network: list[onnx.NodeProto], *, where: str) -> None:
    """FP16 copies of the network's float32 weights; the originals stay only where something else reads them."""
    import onnx

    floats = {t.name: t for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
    halves: dict[str, onnx.TensorProto] = {}
    for node in network:
        for i, name in _inputs(node):
            if name in floats:
                half = halves.setdefault(name, _half(floats[name], name=f"{name}.fp16", where=where))
                node.input[i] = half.name
    used = {name for node in graph.node for name in node.input}
    kept = [t for t in graph.initializer if t.name in used]
    del graph.initializer[:]
    graph.initializer.extend([*kept, *halves.values()])


def _half(tensor: onnx.TensorProto, *, name: str, where: str) -> onnx.TensorProto:
    """The float32 tensor as float16; a value that float16 cannot hold is an error, never an infinity."""
    from onnx import numpy_helper

    values = numpy_helper.to_array(tensor)
    finite = values[np.isfinite(values)]
    if finite.size and np.abs(finite).max() > _LARGEST:
        worst = float(np.abs(finite).max())
        what = f"{tensor.name} reaches {worst:.3g}, beyond float16's {_LARGEST:.0f}"
        raise ExportError(f"{where}: {what}; use --precision fp32")
    return numpy_helper.from_array(values.astype(np.float16), name)


def _convert_attributes(node: onnx.NodeProto) -> None:
    """Float16 in a node's own constants, and as the target of its cast."""
    import onnx

    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == onnx.TensorProto.FLOAT:
            attribute.i = onnx.TensorProto.FLOAT16
        elif attribute.HasField("t") and attribute.t.data_type == onnx.TensorProto.FLOAT:
            attribute.t.CopyFrom(_half(attribute.t, name=attribute.t.name, where=node.name))


def _cast_inputs(graph: onnx.GraphProto, network: list[onnx.NodeProto]) -> None:
    """A Cast to float16 behind every float32 input of the graph."""
    import onnx

    for value in graph.input:
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
            half = f"{value.name}.fp16"
            for node in network:
                for i, name in _inputs(node):
                    if name == value.name:
                        node.input[i] = half
            graph.node.insert(0, onnx.helper.make_node("Cast", [value.name], [half], half, to=onnx.TensorProto.FLOAT16))


def _leaving(model: onnx.ModelProto, network: list[onnx.NodeProto]) -> set[str]:
    """The float32 values that the network makes and the rest of the graph reads: its raw heads."""
    import onnx

    inside = {node.output[0] for node in network}
    outside = {name for node in model.graph.node if node.output[0] not in inside for name in node.input}
    typed = onnx.shape_inference.infer_shapes(model).graph
    floats = {v.name for v in (*typed.value_info, *typed.output) if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    read = outside | {output.name for output in model.graph.output}
    return {o for node in network for o in node.output} & read & floats


def _cast_leaving(graph: onnx.GraphProto, network: list[onnx.NodeProto], names: set[str]) -> None:
    """A Cast to float32 behind every value that leaves the network; the value keeps its name on the float32 side."""
    import onnx

    for node in network:
        for field in (node.input, node.output):
            for i, name in enumerate(field):
                if name in names:
                    field[i] = f"{name}.fp16"
    ordered = []
    for node in graph.node:
        ordered.append(node)
        for name in names & {o.removesuffix(".fp16") for o in node.output}:
            ordered.append(onnx.helper.make_node("Cast", [f"{name}.fp16"], [name], name, to=onnx.TensorProto.FLOAT))
    del graph.node[:]
    graph.node.extend(ordered)


def _retype(model: onnx.ModelProto) -> None:
    """Declare the types anew, inferred from the weights; inference refuses a graph whose types clash."""
    import onnx

    del model.graph.value_info[:]
    model.CopyFrom(onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True))
