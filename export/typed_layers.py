"""The convolutions and matrix products of a typed ONNX file: the precision each must have, and the one it is written in.

TensorRT's networks are strongly typed: it builds what the file says. So there are two ways to end up wider than asked
for, a file that is wider than its spec, and a builder that fuses Q/DQ away; both are found here, layer by layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgedet.engine import EngineLayer
from edgedet.errors import GateFailed
from edgedet.export.fault import LISTED
from edgedet.export.onnx_file import HEAD
from edgedet.spec import ModelSpec

if TYPE_CHECKING:
    import onnx

KINDS = ("Conv", "ConvTranspose", "MatMul", "Gemm")
_NAMES = {1: "f32", 10: "f16", 16: "bf16", 11: "f64", 3: "int8"}
"""onnx.TensorProto.DataType."""
_WIDTH = {"int8": 1, "f16": 2, "bf16": 2, "f32": 4, "f64": 8}
_CARRIES = {"DequantizeLinear", "QuantizeLinear", "Cast", "Identity", "Transpose", "Reshape"}


@dataclass(frozen=True)
class TypedLayer:
    """One layer of the file. node: its node's name, by which TensorRT knows it; reason: why it is left in float."""

    node: str
    name: str
    asked: str
    written: str
    reason: str = ""


def layers(model: onnx.ModelProto, spec: ModelSpec) -> list[TypedLayer]:
    """Every layer in the graph's order; what lies behind the raw heads is asked for as it is written."""
    graph = _Types(model)
    reasons = spec.provenance.get("calibration", {}).get("left_float", {}) if spec.precision.startswith("int8") else {}
    found = []
    for node in model.graph.node:
        if node.op_type in KINDS:
            written, name = graph.written(node), graph.name(node)
            reason = reasons.get(name, reasons.get(node.name, ""))
            asked = _asked(spec, left_float=bool(reason)) if node.output[0] in graph.network else written
            found.append(TypedLayer(node.name, name, asked, written, reason))
    return found


def _asked(spec: ModelSpec, *, left_float: bool) -> str:
    """The precision of a layer in the network, as the spec says."""
    if spec.precision.startswith("int8") and not left_float:
        return "int8"
    return {"fp32": "f32", "int8": "f32", "bf16": "bf16"}.get(spec.precision, "f16")


def compared(found: Sequence[TypedLayer], built: Mapping[str, str], *, where: str) -> tuple[EngineLayer, ...]:
    """The layers with what the builder made of them; GateFailed names those that are wider than asked for.

    built: precision by node, empty where nothing tells; then only what the file says is compared.
    """
    facts = []
    wider = []
    for layer in found:
        executed = built.get(layer.node)
        facts.append(EngineLayer(layer.name, layer.asked, executed, layer.reason))
        worst = max((layer.written, executed or layer.written), key=lambda kind: _WIDTH.get(kind, 9))
        if _WIDTH.get(worst, 9) > _WIDTH.get(layer.asked, 9):
            wider.append(f"{layer.name} is {worst} instead of {layer.asked}")
    if wider:
        more = f", and {len(wider) - LISTED} more" if len(wider) > LISTED else ""
        raise GateFailed(
            f"{where} is not written: {len(wider)} of {len(found)} layers are wider than asked for: "
            f"{', '.join(wider[:LISTED])}{more}; TensorRT cannot run them as the file says: calibrate again with "
            "--for tensorrt, or ask for a --precision that fits"
        )
    return tuple(facts)


class _Types:
    """What is known of the values of a graph; shape inference is run once."""

    def __init__(self, model: onnx.ModelProto) -> None:
        import onnx

        graph = onnx.shape_inference.infer_shapes(model).graph
        self._maker = {output: node for node in graph.node for output in node.output}
        self._kinds = {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.value_info, *graph.output)}
        self._kinds |= {tensor.name: tensor.data_type for tensor in graph.initializer}
        self.network = {node.output[0] for node in _before_heads(graph)}

    def written(self, node: onnx.NodeProto) -> str:
        """`int8` where both inputs are dequantised, otherwise the type of the weights."""
        makers = [self._maker.get(name) for name in node.input[:2]]
        if all(maker is not None and maker.op_type == "DequantizeLinear" for maker in makers):
            return "int8"
        return _NAMES.get(self._kinds.get(node.input[1], 0), "unknown")

    def name(self, node: onnx.NodeProto) -> str:
        """The layer's name in the checkpoint out of that of its weights, or the node's where they tell nothing."""
        weights = node.input[1]
        while weights in self._maker and self._maker[weights].op_type in _CARRIES:
            weights = self._maker[weights].input[0]
        name, weight, _ = weights.partition(".weight")
        return name.removeprefix("whole.detector.") if weight else node.name


def _before_heads(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes that the raw heads are made from; every node where the graph names no heads."""
    wanted = {output for node in graph.node for output in node.output if output.startswith(HEAD)}
    everything = not wanted
    for node in reversed(graph.node):
        if everything or wanted & set(node.output):
            wanted.update(node.input)
            yield node
