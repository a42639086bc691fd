"""Histograms of the values inside a model while images pass through it; memory does not grow with their number."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgedet.calibration.ranges import Histogram, combine, widen
from edgedet.console import track
from edgedet.errors import DataError, ExportError

if TYPE_CHECKING:
    import onnx

BINS = 8192
_LEAST_EXPONENT = -100
"""Bins begin within 2^-100: what is smaller counts as zero, and its scale stays a float32."""
_QUANTIZED = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"})


class Observer:
    """Counts one tensor's values, image after image, in one pass.

    The bins reach to the power of two above the greatest magnitude so far; when
    a greater one comes, pairs of bins are merged. So the counts are exact to a
    bin's width and depend on no order.
    name: the tensor's, for errors. axis: one histogram for each index along it,
    such as 1 for the channels of NCHW; None for one of all values.
    """

    def __init__(self, name: str = "the tensor", *, axis: int | None = None) -> None:
        self._name, self._axis = name, axis
        self._counts = np.zeros((0, BINS), np.int64)  # (channel, bin)
        self._exponents = np.zeros(0, np.int64)  # bins of a channel cover ±2^exponent
        self._extremes = np.zeros((2, 0), np.float32)  # least and greatest of each channel

    def update(self, values: np.ndarray) -> None:
        """Count the values of one more array, float32 of any shape."""
        rows = np.reshape(values, (1, -1)) if self._axis is None else _rows(values, self._axis)
        if not rows.size:
            return
        least, greatest = rows.min(axis=1), rows.max(axis=1)
        if not (np.isfinite(least).all() and np.isfinite(greatest).all()):
            raise ExportError(
                f"{self._name}: the model gives NaN or infinity here in float already, so it has no range; check its weights"
            )
        self._grow(least, greatest)
        # Scales are powers of two: the product is exact, and so is every bin. int16 is the fast way from float32.
        scaled = rows * np.ldexp(np.float32(BINS // 2), -self._exponents)[:, None]
        bins = np.floor(scaled, out=scaled).astype(np.int16).astype(np.intp)
        bins += (np.arange(len(rows)) * BINS + BINS // 2)[:, None]
        self._counts += np.bincount(bins.reshape(-1), minlength=self._counts.size).reshape(self._counts.shape)

    @property
    def histograms(self) -> list[Histogram]:
        """One histogram for each index of the axis, or the only one where there is no axis."""
        if not len(self._counts):
            raise DataError(f"{self._name}: no value was observed; calibrate with at least one image")
        (least, greatest), reaches = self._extremes, np.ldexp(1.0, self._exponents)
        return [
            Histogram(float(low), float(high), float(reach), counts)
            for low, high, reach, counts in zip(least, greatest, reaches, self._counts.copy())
        ]

    @property
    def histogram(self) -> Histogram:
        """The histogram of all values."""
        return combine(self.histograms)

    def _grow(self, least: np.ndarray, greatest: np.ndarray) -> None:
        """Widen the bins of each channel until they hold its extremes."""
        if not len(self._counts):
            self._counts = np.zeros((len(least), BINS), np.int64)
            self._exponents = np.full(len(least), _LEAST_EXPONENT)
            self._extremes = np.stack([least, greatest])
        if len(least) != len(self._counts):
            raise ExportError(f"{self._name}: has {len(least)} channels now and had {len(self._counts)}; observe it as a whole")
        self._extremes = np.stack([np.minimum(self._extremes[0], least), np.maximum(self._extremes[1], greatest)])
        needed = np.frexp(np.maximum(-least, greatest))[1]  # |x| < 2^needed
        for channel in np.flatnonzero(needed > self._exponents):
            doublings = int(needed[channel] - self._exponents[channel])
            self._counts[channel] = widen(self._counts[channel], doublings)
            self._exponents[channel] = needed[channel]


def observe(
    model: onnx.ModelProto,
    tensors: Sequence[str],
    images: Iterable[np.ndarray],
    *,
    per_channel: Collection[str] = (),
    total: int | None = None,
) -> dict[str, Histogram | list[Histogram]]:
    """A histogram of each named tensor over all images; a list of them, one a channel, where asked per channel.

    model: FP32; what the tensors do not need, such as suppression, is not run.
    images: what the file takes, letterboxed, one at a time: (1, H, W, 3) uint8
    or (1, 3, H, W) float32. A file of a fixed batch gets as many at once, the
    last filled up; what comes of filling is not counted. per_channel: names of
    (B, C, …) tensors. total: the number of images, for the progress bar.
    """
    session = Session(model, tensors)
    observers = {name: Observer(name, axis=1 if name in per_channel else None) for name in tensors}
    for batch in batches(track(images, "observing", total=total), session.batch):
        for name, values in session.run(batch).items():
            observers[name].update(values)
    return {name: one.histograms if name in per_channel else one.histogram for name, one in observers.items()}


def require_float(model: onnx.ModelProto, *, where: str) -> None:
    """Raise ExportError where the model is quantised already; `where` names it."""
    found = next((n for n in model.graph.node if n.op_type in _QUANTIZED or n.op_type.startswith(("QLinear", "QGemm"))), None)
    if found is not None:
        raise ExportError(
            f"{where}: is quantised already (it holds {found.op_type} {found.name!r}); calibrate the fp32 file it was made from"
        )


class Session:
    """The part of a model that some tensors need, with these as its outputs, in ONNX Runtime.

    Its extended optimisations leave every output as it is, to the last bit in
    YOLOX-nano, and take half the time of none; the next level, which changes
    the layout, is off by 7e-6 and no faster.
    """

    def __init__(self, model: onnx.ModelProto, tensors: Sequence[str]) -> None:
        where = model.graph.name or "the model"
        require_float(model, where=where)
        self._session = _load(_part(model, tensors, where=where), where=where)
        self._tensors = list(tensors)
        entry, *others = self._session.get_inputs()
        if others:
            raise ExportError(
                f"{where}: takes {others[0].name} beside {entry.name}; only models of one input can be calibrated"
            )
        self._name, self._shape = entry.name, [side if isinstance(side, int) else None for side in entry.shape]
        self._dtype = np.dtype({"tensor(uint8)": np.uint8, "tensor(float)": np.float32}.get(entry.type, object))
        self.batch = self._shape[0] or 1
        for output in self._session.get_outputs():
            if output.type != "tensor(float)":
                raise ExportError(f"{where}: {output.name} is {output.type}; only float32 has a range: calibrate the fp32 file")

    def run(self, batch: list[np.ndarray]) -> dict[str, np.ndarray]:
        """The tensors' values for up to as many images as the file takes at once."""
        for image in batch:
            self._check(image)
        images = np.concatenate(batch + [batch[-1]] * (self.batch - len(batch)))
        values = self._session.run(self._tensors, {self._name: images})
        return {name: _filled(value, len(batch), self.batch) for name, value in zip(self._tensors, values)}

    def _check(self, image: np.ndarray) -> None:
        fits = all(want is None or want == side for want, side in zip(self._shape[1:], image.shape[1:]))
        if image.dtype != self._dtype or image.ndim != len(self._shape) or len(image) != 1 or not fits:
            wanted = ", ".join("any" if side is None else str(side) for side in [1, *self._shape[1:]])
            raise DataError(f"an image is {image.shape} {image.dtype}; the model takes ({wanted}) {self._dtype}: letterbox it")


def _filled(value: np.ndarray, images: int, batch: int) -> np.ndarray:
    """The rows of a batch that belong to images, without those that only fill it up."""
    return value[:images] if value.ndim and len(value) == batch else value


def batches(images: Iterable[np.ndarray], size: int) -> Iterator[list[np.ndarray]]:
    """Lists of `size` images, the last of what is left."""
    remaining = iter(images)
    while batch := list(itertools.islice(remaining, size)):
        yield batch


def _rows(values: np.ndarray, axis: int) -> np.ndarray:
    """(channels, values) of an array whose channels lie along the axis."""
    return np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)


def _part(model: onnx.ModelProto, tensors: Sequence[str], *, where: str) -> bytes:
    """The serialized model with these tensors as its outputs and without what they do not need."""
    import onnx

    part = onnx.ModelProto()
    part.CopyFrom(model)
    graph = part.graph
    present = {name for node in graph.node for name in node.output} | {value.name for value in graph.input}
    if absent := [name for name in tensors if name not in present]:
        raise ExportError(f"{where}: computes no tensor {absent[0]!r}; name outputs of its nodes")
    wanted, nodes = set(tensors), []
    for node in reversed(graph.node):
        if wanted & set(node.output):
            wanted |= reads(node)
            nodes.append(node)
    weights = [tensor for tensor in graph.initializer if tensor.name in wanted]
    for field, kept in ((graph.node, nodes[::-1]), (graph.initializer, weights)):
        del field[:]
        field.extend(kept)
    del graph.output[:], graph.value_info[:]  # ONNX Runtime infers their types
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors)
    return part.SerializeToString()


def reads(node: onnx.NodeProto) -> set[str]:
    """Names of the values that a node reads, those inside its branches and loops included."""
    graphs = [graph for attribute in node.attribute for graph in (attribute.g, *attribute.graphs)]
    return set(node.input).union(*(reads(inner) for graph in graphs for inner in graph.node))


def _load(model: bytes, *, where: str) -> Any:
    """The onnxruntime.InferenceSession of a serialized model."""
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads leave the cores to counting
    refusals = (state.Fail, state.InvalidArgument, state.InvalidGraph, state.NotImplemented, state.RuntimeException)
    try:
        return onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
    except refusals as error:
        raise ExportError(f"{where}: ONNX Runtime cannot load it ({str(error).splitlines()[0]}); export it again") from error
