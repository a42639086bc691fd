"""What every session does alike: read the spec out of its file, and check and convert what it is fed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgedet.errors import SpecError, UsageError
from edgedet.spec import ModelSpec


def read_spec(text: str | None, path: Path) -> ModelSpec:
    """The ModelSpec that a file carries; text: what the file holds under `edgedet.spec.KEY`, None where nothing."""
    if text is None:
        raise SpecError(
            f"{path}: holds no edgedet spec, so its classes and its input are unknown; "
            "write it with `edgedet export CHECKPOINT --to onnx` (or `--to openvino`)"
        )
    return ModelSpec.from_json(text, where=str(path))


def check_input(shape: Sequence[int | None], spec: ModelSpec, path: Path) -> None:
    """Raise SpecError where the file's input is not what its spec says; shape: the file's, None where any number fits."""
    height, width = spec.size_hw
    told = (spec.batch, height, width, 3) if spec.input_layout == "uint8-nhwc" else (spec.batch, 3, height, width)
    if tuple(shape) != told:
        raise SpecError(f"{path}: its input is {tuple(shape)} but its spec says {told}; one was altered: export it again")


def as_input(images: np.ndarray, spec: ModelSpec) -> np.ndarray:
    """The array a file takes for letterboxed images.

    images: (B, H, W, 3) uint8 BGR, H and W the spec's. Returns the same array
    for `uint8-nhwc` files, (B, 3, H, W) float32 BGR in [0, 255] for `float32-nchw`.
    """
    height, width = spec.size_hw
    if images.ndim != 4 or images.shape[1:] != (height, width, 3) or images.dtype != np.uint8:
        raise UsageError(
            f"{spec.name} takes (B, {height}, {width}, 3) uint8 images but got {images.shape} {images.dtype}; letterbox them"
        )
    if len(images) == 0 or (spec.batch is not None and len(images) != spec.batch):
        takes = f"exactly {spec.batch}" if spec.batch is not None else "one or more"
        raise UsageError(
            f"this file takes {takes} images at once but got {len(images)}; export with --batch dynamic for any number"
        )
    if spec.input_layout == "uint8-nhwc":
        return np.ascontiguousarray(images)
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32)
