"""The convolutions and matrix products of an OpenVINO model, as read from its file and as compiled."""

from __future__ import annotations

import math
from typing import Any

from edgedet.runtimes.precision import INT8, Layer, layer_name

_READ = {"Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData", "MatMul"}
_COMPILED = {"Convolution", "Deconvolution", "FullyConnected", "MatMul"}
_FACTS = {"layerType", "originalLayersNames", "runtimePrecision"}
_KEEPS_VALUES = {"Reshape", "Transpose", "Squeeze", "Unsqueeze"}
_BEFORE_WEIGHTS = {"Multiply", "Subtract", "Convert", "FakeQuantize", *_KEEPS_VALUES}


def asked(model: Any) -> dict[str, tuple[str, bool]]:
    """Name in the checkpoint, and whether it is quantised, of each layer of an openvino.Model by its name there.

    A layer is quantised where both its inputs come from a FakeQuantize, or were
    low-precision integers, scaled and shifted.
    """
    found = {}
    for node in model.get_ordered_ops():
        if node.get_type_name() in _READ:
            name, quantized = node.get_friendly_name(), all(_is_quantized(node.input_value(i).get_node()) for i in (0, 1))
            found[name] = layer_name(_weights(node.input_value(1).get_node()), _plain(name)), quantized
    return found


def executed(compiled: Any, asked: dict[str, tuple[str, bool]], *, floats: str) -> tuple[Layer, ...]:
    """The layers of an openvino.CompiledModel; floats: what the arithmetic of those not quantised was asked to run in."""
    layers = []
    for node in compiled.get_runtime_model().get_ordered_ops():
        facts = {key: value.astype(str) for key, value in node.get_rt_info().items() if key in _FACTS}
        kind = facts.get("layerType", "")
        if kind in _COMPILED:
            origins = facts.get("originalLayersNames", "").split(",")
            name, quantized = next((asked[origin] for origin in origins if origin in asked), (node.get_friendly_name(), False))
            ran = facts.get("runtimePrecision", "unknown")
            ran = INT8 if ran in ("i8", "u8") else ran
            layers.append(Layer(name, kind, INT8 if quantized else floats, ran, _macs(node, kind)))
    return tuple(layers)


def _is_quantized(node: Any) -> bool:
    """Whether a node gives values of a low-precision grid: a FakeQuantize, or integers that were scaled."""
    while node.get_type_name() in _KEEPS_VALUES:
        node = node.input_value(0).get_node()
    if node.get_type_name() == "Multiply":
        node = node.input_value(0).get_node()
        if node.get_type_name() == "Subtract":
            node = node.input_value(0).get_node()
        return node.get_type_name() == "Convert" and node.get_input_element_type(0).get_type_name() in ("i8", "u8")
    return node.get_type_name() == "FakeQuantize"


def _weights(node: Any) -> str:
    """The name of the constant that a layer's weights are made from."""
    while node.get_type_name() in _BEFORE_WEIGHTS:
        node = node.input_value(0).get_node()
    return node.get_friendly_name()


def _plain(name: str) -> str:
    """A node's name without what the ONNX front end puts behind it."""
    return name.removesuffix("/WithoutBiases")


def _macs(node: Any, kind: str) -> int:
    """Multiply-accumulates an image of a compiled layer; a side of unknown length counts once.

    Weights are (O, I, kh, kw), with groups (G, O/G, I/G, kh, kw), of a product (O, I).
    """
    data, weights = (_shape(node.input(i)) for i in (0, 1))
    output = _shape(node.output(0))
    if kind == "Convolution":
        return math.prod(weights) * math.prod(output[2:])
    if kind == "Deconvolution":
        return math.prod(weights) * math.prod(data[2:])
    return math.prod(output[1:]) * data[-1]


def _shape(port: Any) -> list[int]:
    return [side.get_length() if side.is_static else 1 for side in port.get_partial_shape()]
