"""A table of ranges → Q/DQ in the graph: the same ranges spelt for the runtime that will execute them.

    tensorrt        int8, zero-point 0, clip ±amplitude: TensorRT takes nothing else
    cpu             uint8, zero-point 128, the same scales: the same arithmetic, which OpenVINO computes right
                    (it loses the scale of the other spelling beside a Concat)
    cpu-asymmetric  uint8, the zero-point where the range needs it: twice as fine after SiLU, which has hardly any
                    negative values

Weights are int8 with one scale an output channel, x ≈ s·q (Krishnamoorthi 2018, arXiv:1806.08342, eq. 2). Q/DQ stand on the
inputs of convolutions, on both inputs of residual additions and before max pools; decode and suppression stay float.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from edgedet.calibration.network import Layer, Network
from edgedet.calibration.observe import reads
from edgedet.errors import DataError

if TYPE_CHECKING:
    import onnx

    from edgedet.calibration.table import Range, RangeTable

Encoding = Literal["cpu", "cpu-asymmetric", "tensorrt"]
LARGEST = 127
"""Of an int8 weight or symmetric activation: −128 is left unused, so that the grid is symmetric."""
LARGEST_BIAS = 2**30
"""Of an int32 bias: half of what fits, because sums are added to it."""


@dataclass(frozen=True)
class Grid:
    """Where a quantised tensor's values lie: real = scale · (integer − zero_point)."""

    scale: np.ndarray
    zero_point: np.ndarray


def float_by_rule(layers: Collection[Layer], encoding: Encoding) -> dict[str, str]:
    """The layers that stay in float unless measurement says otherwise, by name, with the reason of each."""
    reasons = {
        "depthwise": "depthwise: one scale for channels of unlike range, and next to no multiplications",
        "prediction": "its output is the prediction itself: errors go straight into boxes and scores",
    }
    if encoding == "tensorrt":
        reasons["pixels"] = "int8 with zero-point 0 would keep seven of the pixels' eight bits"
    return {layer.name: reasons[layer.role] for layer in layers if layer.role in reasons}


def encode(model: onnx.ModelProto, table: RangeTable, *, encoding: Encoding, left_float: Collection[str]) -> onnx.ModelProto:
    """A copy of an FP32 model with Q/DQ around every layer but those named in `left_float`.

    Biases are corrected for what weight rounding shifts in the mean (Nagel et
    al. 2019, arXiv:1906.04721, eq. 17): b' = b − Σ (Ŵ − W)·E[x].
    """
    network = Network(copy.deepcopy(model))
    pairs = _Pairs(network, table, encoding)
    chosen = [layer for layer in network.layers() if layer.name not in left_float]
    nodes = {node.output[0]: node for node in network.nodes}
    for layer in chosen:
        node = nodes[layer.output]
        scale = pairs.quantize_input(node, 0, pixels=layer.role == "pixels")
        pairs.quantize_weight(node, layer, data_scale=scale)
    if chosen:
        for node in network.residuals():
            pairs.quantize_input(node, 0)
            pairs.quantize_input(node, 1)
        for node in network.pools():
            pairs.quantize_input(node, 0)
    return pairs.insert()


def weight_scales(weight: np.ndarray, bias: np.ndarray | None = None, data_scale: float = 1.0) -> np.ndarray:
    """(O,) float32 scales of (O, …) weights, max |w| / 127 an output channel.

    A channel next to zero gets a greater one, so that its bias (O,), which
    runtimes round to int32 in steps of data_scale times its scale, fits: ONNX
    Runtime otherwise saturates it to nothing.
    """
    largest = np.abs(weight.reshape(len(weight), -1)).max(axis=1)
    floor = np.full(len(weight), 1e-12 / LARGEST)
    if bias is not None:
        floor = np.maximum(floor, np.abs(bias) / (data_scale * LARGEST_BIAS))
    return np.maximum(largest / LARGEST, floor).astype(np.float32)


def round_weights(weight: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """int8 weights in [−127, 127], the shape of `weight`; scales: (O,)."""
    spread = scales.reshape(-1, *[1] * (weight.ndim - 1))
    return np.clip(np.round(weight / spread), -LARGEST, LARGEST).astype(np.int8)


def grid(values: Range, encoding: Encoding) -> Grid:
    """The grid of one activation in an encoding."""
    if encoding == "cpu-asymmetric":
        scale = np.float32((values.high - values.low) / 255)
        return Grid(np.asarray(scale), np.asarray(np.uint8(round(-values.low / scale))))
    zero_point = np.int8(0) if encoding == "tensorrt" else np.uint8(128)
    return Grid(np.asarray(np.float32(values.amplitude / LARGEST)), np.asarray(zero_point))


def pixel_grid(encoding: Encoding) -> Grid:
    """The grid of the image's own values: exact in uint8, of steps of two in int8."""
    if encoding == "tensorrt":
        return Grid(np.asarray(np.float32(255 / LARGEST)), np.asarray(np.int8(0)))
    return Grid(np.asarray(np.float32(1)), np.asarray(np.uint8(0)))


def bias_shift(weight: np.ndarray, rounded: np.ndarray, means: np.ndarray) -> np.ndarray:
    """(O,) what rounding adds to the mean of each output: Σ (Ŵ − W)·E[x], exact but for the padding at the borders.

    weight, rounded: (O, I, kh, kw); means: (C,) of the input's channels, C = I,
    or O·I/groups for a grouped convolution, whose I is what one group reads.
    """
    error = (rounded - weight).sum(axis=(2, 3))  # (O, I)
    groups = len(means) // error.shape[1]
    by_group = np.repeat(means.reshape(groups, -1), len(weight) // groups, axis=0)  # (O, I)
    return (error * by_group).sum(axis=1)


class _Pairs:
    """Q/DQ pairs to be inserted: one an activation, shared by all that read it, one DQ a weight."""

    def __init__(self, network: Network, table: RangeTable, encoding: Encoding) -> None:
        self._network, self._table, self._encoding = network, table, encoding
        self._graph = network.model.graph
        self._scales: dict[str, float] = {}  # of the values that have a pair
        self._behind: dict[str, list[onnx.NodeProto]] = {}  # nodes to stand behind the maker of a value
        self._weights: list[onnx.NodeProto] = []

    def quantize_input(self, node: onnx.NodeProto, index: int, *, pixels: bool = False) -> float:
        """Let a node read a value through Q/DQ; returns the scale."""
        name = node.input[index]
        if name not in self._scales:
            values = pixel_grid(self._encoding) if pixels else grid(self._range(name), self._encoding)
            self._add_pair(name, values)
            self._scales[name] = float(values.scale)
        node.input[index] = f"{name}.dq"
        return self._scales[name]

    def quantize_weight(self, node: onnx.NodeProto, layer: Layer, *, data_scale: float) -> None:
        """Let a convolution read int8 weights through DQ, its bias corrected."""
        from onnx import helper, numpy_helper

        weight = numpy_helper.to_array(self._network.weights[layer.weight])
        known = self._network.weights.get(layer.bias)
        bias = None if known is None else numpy_helper.to_array(known)
        scales = weight_scales(weight, bias, data_scale)
        integers = round_weights(weight, scales)
        # One weight or bias may serve several convolutions, whose data differ.
        name = f"{layer.weight}.{layer.output}"
        arrays = {"q": integers, "scale": scales, "zero": np.zeros(len(scales), np.int8)}
        names = [self._constant(f"{name}.{part}", array) for part, array in arrays.items()]
        self._weights.append(helper.make_node("DequantizeLinear", names, [f"{name}.dq"], f"{name}.DequantizeLinear", axis=0))
        node.input[1] = f"{name}.dq"
        means = self._table.means.get(layer.data)
        if bias is not None and means:
            shift = bias_shift(weight, integers * scales.reshape(-1, 1, 1, 1), np.asarray(means, np.float32))
            node.input[2] = self._constant(f"{name}.bias", (bias - shift).astype(np.float32))

    def insert(self) -> onnx.ModelProto:
        """The model with every pair in its place, without the weights that nothing reads any more."""
        ordered = [*self._weights, *(pair for name in self._inputs() for pair in self._behind.get(name, ()))]
        for node in self._graph.node:
            ordered.append(node)
            for output in node.output:
                ordered += self._behind.get(output, ())
        del self._graph.node[:]
        self._graph.node.extend(ordered)
        used = set().union(*map(reads, self._graph.node))
        kept = [tensor for tensor in self._graph.initializer if tensor.name in used]
        del self._graph.initializer[:]
        self._graph.initializer.extend(kept)
        return self._network.model

    def _inputs(self) -> list[str]:
        return [value.name for value in self._graph.input]

    def _range(self, name: str) -> Range:
        if name not in self._table.ranges:
            raise DataError(f"the table of ranges has none for {name}; calibrate again")
        return self._table.ranges[name]

    def _add_pair(self, name: str, values: Grid) -> None:
        from onnx import helper

        scale, zero = self._constant(f"{name}.scale", values.scale), self._constant(f"{name}.zero", values.zero_point)
        self._behind[name] = [
            helper.make_node("QuantizeLinear", [name, scale, zero], [f"{name}.q"], f"{name}.QuantizeLinear"),
            helper.make_node("DequantizeLinear", [f"{name}.q", scale, zero], [f"{name}.dq"], f"{name}.DequantizeLinear"),
        ]

    def _constant(self, name: str, array: np.ndarray) -> str:
        from onnx import numpy_helper

        self._graph.initializer.append(numpy_helper.from_array(array, name))
        return name


def int8_share(layers: Collection[Layer], left_float: Mapping[str, str] | Collection[str]) -> float:
    """Share of the convolutions' multiply-accumulates that run in INT8, in [0, 1]."""
    total = sum(layer.macs for layer in layers)
    return sum(layer.macs for layer in layers if layer.name not in left_float) / total if total else 0.0
