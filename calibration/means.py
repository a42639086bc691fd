"""The mean of every channel inside a model over the calibration images, which bias correction needs."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgedet.console import track

if TYPE_CHECKING:
    import onnx


def channel_means(
    model: onnx.ModelProto, tensors: Sequence[str], images: Iterable[np.ndarray], *, total: int | None = None
) -> dict[str, tuple[float, ...]]:
    """E[x] of each channel of the named (B, C, H, W) values; images as `observe` takes them.

    The graph itself takes the means, so next to nothing leaves the runtime.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(_with_means(model, tensors).SerializeToString(), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    sums: list[np.ndarray] = []
    count = 0
    for images_in in track(images, "means", total=total):
        found = [means.sum(axis=0) for means in session.run(None, {name: images_in})]
        sums = [a + b for a, b in zip(sums, found)] if sums else found
        count += len(images_in)
    return {tensor: tuple((values / max(count, 1)).tolist()) for tensor, values in zip(tensors, sums)}


def _with_means(model: onnx.ModelProto, tensors: Sequence[str]) -> onnx.ModelProto:
    """The model with a (B, C) mean of each tensor as its only outputs."""
    import onnx

    found = copy.deepcopy(model)
    axes = onnx.numpy_helper.from_array(np.array([2, 3], np.int64), "edgedet.mean_axes")
    found.graph.initializer.append(axes)
    del found.graph.output[:]
    for tensor in tensors:
        mean = f"{tensor}.mean"
        found.graph.node.append(onnx.helper.make_node("ReduceMean", [tensor, axes.name], [mean], mean, keepdims=0))
        found.graph.output.append(onnx.helper.make_tensor_value_info(mean, onnx.TensorProto.FLOAT, None))
    return found
