"""The mean of every channel inside a model over the calibration images, which bias correction needs."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgedet.calibration.observe import Session, batches
from edgedet.console import track
from edgedet.errors import DataError

if TYPE_CHECKING:
    import onnx


def channel_means(
    model: onnx.ModelProto, tensors: Sequence[str], images: Iterable[np.ndarray], *, total: int | None = None
) -> dict[str, tuple[float, ...]]:
    """E[x] of each channel of the named (B, C, H, W) values; images and total as in `observe`.

    The graph itself takes the means, so next to nothing leaves the runtime.
    """
    names = {f"{tensor}.mean": tensor for tensor in tensors}
    session = Session(_with_means(model, tensors), list(names))
    sums: dict[str, np.ndarray] = {}
    count = 0
    for batch in batches(track(images, "means of channels", total=total), session.batch):
        for name, values in session.run(batch).items():
            sums[name] = sums.get(name, 0) + values.sum(axis=0, dtype=np.float64)
        count += len(batch)
    if not count:
        raise DataError("no image was given to take means of; calibrate with at least one image")
    return {tensor: tuple((sums[name] / count).tolist()) for name, tensor in names.items()}


def _with_means(model: onnx.ModelProto, tensors: Sequence[str]) -> onnx.ModelProto:
    """The model with a (B, C) mean of each tensor."""
    import onnx

    found = copy.deepcopy(model)
    axes = onnx.numpy_helper.from_array(np.array([2, 3], np.int64), "edgedet.mean_axes")
    found.graph.initializer.append(axes)
    for tensor in tensors:
        mean = f"{tensor}.mean"
        found.graph.node.append(onnx.helper.make_node("ReduceMean", [tensor, axes.name], [mean], mean, keepdims=0))
    return found
