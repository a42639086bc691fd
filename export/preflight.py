"""What of an ONNX file a TensorRT will refuse, found without that TensorRT and without a GPU: from the table of facts.

For TensorRT-RTX the table is backed by the build itself, where the module is here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from edgedet.errors import GateFailed, RuntimeUnavailable
from edgedet.export import onnx_file, typed_layers
from edgedet.export.fault import Fault, Refused
from edgedet.export.platforms import LARGEST_K, MOST_BOXES, PLATFORMS, TYPES, PlatformName
from edgedet.export.to_tensorrt import BuildOptions, Compiler
from edgedet.spec import KEY

if TYPE_CHECKING:
    import onnx

_QDQ = ("QuantizeLinear", "DequantizeLinear")


def preflight(
    model: onnx.ModelProto,
    platform: PlatformName,
    *,
    batch: tuple[int, int, int] | None = None,
    dla: int | None = None,
) -> list[Fault]:
    """Where the model will fail on a platform, in the order of its nodes; nothing for a clean one.

    batch: least, usual and largest, without which a free batch is a fault. dla: the core it is for, None for the GPU.
    Branches and loops are read too.
    """
    graph = _Values(model)
    faults = [*_opset(model, platform), *_sides(model, batch)]
    if dla is not None and (reason := PLATFORMS[platform].no_dla):
        faults.append(Fault("", "DLA", reason, "leave --dla out"))
    for node in _nodes(model.graph):
        faults += _operator(node, platform)
        faults += _types(node, graph)
        faults += _quantized(node, graph)
        faults += _limits(node, graph)
    return faults


def built_for_nothing(path: Path, model: onnx.ModelProto, options: BuildOptions) -> list[Fault] | None:
    """What TensorRT-RTX refuses when it compiles the file; None where the module is absent, nothing where it can."""
    try:
        compiler = Compiler(options)
    except RuntimeUnavailable:
        return None
    try:
        plan = compiler.build(path, model)
        if any(entry.key == KEY for entry in model.metadata_props):  # what was asked for is in the spec
            spec = onnx_file.spec_of(model, where=path.name)
            typed_layers.compared(typed_layers.layers(model, spec), compiler.built(plan), where=path.name)
    except Refused as error:
        return list(error.faults)
    except GateFailed as error:
        return [Fault("", "", str(error), "or choose another --precision")]
    return []


class _Values:
    """The constants and the types of a graph's values; shape inference is run once."""

    def __init__(self, model: onnx.ModelProto) -> None:
        import onnx

        graph = onnx.shape_inference.infer_shapes(model).graph
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.constants |= {
            n.output[0]: a.t for n in _nodes(graph) for a in n.attribute if a.name == "value" and a.HasField("t")
        }
        self.values = {value.name: value.type.tensor_type for value in (*graph.input, *graph.value_info, *graph.output)}

    def kind(self, name: str) -> str:
        """The type of a value in ONNX's word, empty where nothing tells."""
        import onnx

        held = self.constants.get(name)
        number = held.data_type if held is not None else self.values[name].elem_type if name in self.values else 0
        return onnx.TensorProto.DataType.Name(number) if number else ""


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Every node, with those of branches and loops."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)


def _name(node: onnx.NodeProto) -> str:
    return node.name or next(iter(node.output), "")


def _opset(model: onnx.ModelProto, platform: PlatformName) -> Iterator[Fault]:
    least, most = PLATFORMS[platform].opsets
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx") and not least <= entry.version <= most:
            reason = f"the file has opset {entry.version}, {PLATFORMS[platform].title} takes {least} to {most}"
            yield Fault("", "", reason, f"export it with opset {onnx_file.OPSET}, as `edgedet export` does")


def _sides(model: onnx.ModelProto, batch: tuple[int, int, int] | None) -> Iterator[Fault]:
    """A free batch without a profile, and any other free side."""
    for value in model.graph.input:
        sides = value.type.tensor_type.shape.dim
        free = [not side.HasField("dim_value") for side in sides]
        if any(free[1:]):
            yield Fault(value.name, "input", "a side besides the batch is free", "export it with a fixed --size")
        elif any(free) and batch is None:
            reason = "its batch is free, so TensorRT needs its least, usual and largest value"
            yield Fault(value.name, "input", reason, "give --batch MIN,OPT,MAX, as in --batch 1,4,8")


def _operator(node: onnx.NodeProto, platform: PlatformName) -> Iterator[Fault]:
    known = PLATFORMS[platform].refused
    if node.op_type in known:
        yield Fault(_name(node), node.op_type, *known[node.op_type])
    elif node.domain == "com.microsoft":
        yield Fault(_name(node), node.op_type, "the operator is ONNX Runtime's own", "export without its optimiser")


def _types(node: onnx.NodeProto, graph: _Values) -> Iterator[Fault]:
    """Types that TensorRT has not, and uint8 anywhere but at an input that is cast at once."""
    for name in dict.fromkeys(node.output):
        kind = graph.kind(name)
        if kind and kind not in TYPES:
            yield Fault(_name(node), node.op_type, f"{name} is {kind.lower()}, a type TensorRT has not", "cast it to float32")
    if node.op_type in _QDQ:
        return
    for name in node.input:
        if graph.kind(name) == "UINT8" and node.op_type != "Cast":
            reason = f"it reads the uint8 value {name}, and only Cast may"
            yield Fault(_name(node), node.op_type, reason, "put the Cast first, as `edgedet export` does")


def _quantized(node: onnx.NodeProto, graph: _Values) -> Iterator[Fault]:
    """Q/DQ that is not int8 with constant scales and zero-point 0."""
    from onnx import numpy_helper

    if node.op_type not in _QDQ:
        return
    remedy = "calibrate with --for tensorrt"
    zero = node.input[2] if len(node.input) > 2 else ""
    kind = graph.kind(node.input[0] if node.op_type == "DequantizeLinear" else zero) or graph.kind(zero)
    if node.input[1] not in graph.constants:
        yield Fault(_name(node), node.op_type, f"its scale {node.input[1]} is computed, which ends TensorRT's parser", remedy)
    if kind == "INT32":
        yield Fault(_name(node), node.op_type, f"{node.input[0]} is int32: biases are to stay in float", remedy)
    elif kind in ("UINT8", "UINT16", "INT16") or (not kind and node.op_type == "QuantizeLinear"):
        said = kind.lower() or "uint8"  # what QuantizeLinear gives without a zero-point
        yield Fault(_name(node), node.op_type, f"it is {said}: TensorRT refuses that, or reads it as int8", remedy)
    elif zero in graph.constants and numpy_helper.to_array(graph.constants[zero]).any():
        yield Fault(_name(node), node.op_type, f"its zero-point {zero} is not 0", remedy)


def _limits(node: onnx.NodeProto, graph: _Values) -> Iterator[Fault]:
    """Sizes that parse and do not build."""
    from onnx import numpy_helper

    if node.op_type == "TopK" and len(node.input) > 1 and node.input[1] in graph.constants:
        k = int(numpy_helper.to_array(graph.constants[node.input[1]]).max())
        if k > LARGEST_K:
            yield Fault(_name(node), "TopK", f"k is {k}, TensorRT takes {LARGEST_K} at most", "let fewer candidates in")
    if node.op_type == "NonMaxSuppression" and node.input[0] in graph.values:
        sides = graph.values[node.input[0]].shape.dim
        if len(sides) == 3 and sides[1].dim_value > MOST_BOXES:
            reason = f"{sides[1].dim_value} boxes, TensorRT's layer takes {MOST_BOXES} at most"
            yield Fault(_name(node), node.op_type, reason, "let fewer candidates in, or export with --nms matrix")
