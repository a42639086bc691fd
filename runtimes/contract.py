"""What every session does alike: read the spec out of its file, and check and convert what it is fed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from edgedet.errors import ArtifactError, RuntimeUnavailable, SpecError, UsageError
from edgedet.runtimes.session import Session
from edgedet.spec import CANDIDATES, FINAL, Encoding, ModelSpec

KNOWN_WRONG: dict[tuple[str, Encoding], str] = {
    ("openvino", "tensorrt"): (
        "its CPU plugin loses the scale of int8 with zero-point 0 beside a Concat, so that the detections are wrong; "
        "run the file in ONNX Runtime or TensorRT, or write one for OpenVINO with "
        "`edgedet calibrate MODEL.onnx --images DIR --for cpu`"
    ),
}
"""Encodings that a runtime computes wrongly: the reason, and what mends it."""

PLUGIN = "EfficientNMS_TRT"
"""TensorRT's own operator, which `--nms efficientnms` writes."""


def plugin_refusal(path: Path, *, runtime: str) -> RuntimeUnavailable:
    """The error that a file with TensorRT's plugin meets in another runtime."""
    return RuntimeUnavailable(
        f"{path.name} holds {PLUGIN} (--nms efficientnms), a plugin that TensorRT has and {runtime} has not; compile it with "
        f"`edgedet export {path.name} --to tensorrt` where TensorRT is, or export the checkpoint with --nms onnx or matrix"
    )


def read_spec(get_text: Callable[[], str | None], path: Path) -> ModelSpec:
    """The ModelSpec that a file carries; get_text: gives what the file holds under `edgedet.spec.KEY`, None where nothing."""
    try:
        text = get_text()
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{path}: its edgedet spec is no text ({error}); copy or export it again") from error
    if text is None:
        raise SpecError(
            f"{path}: holds no edgedet spec, so its classes and its input are unknown; "
            "write it with `edgedet export CHECKPOINT --to onnx` (or `--to openvino`)"
        )
    return ModelSpec.from_json(text, where=str(path))


def check_encoding(spec: ModelSpec, path: Path, *, runtime: str) -> None:
    """Raise RuntimeUnavailable where the runtime is known to compute the file's encoding wrongly."""
    reason = KNOWN_WRONG.get((runtime, spec.encoding)) if spec.encoding else None
    if reason:
        raise RuntimeUnavailable(f"{path.name} is quantised in the {spec.encoding} encoding, refused in {runtime}: {reason}")


def check_input(shape: Sequence[int | None], spec: ModelSpec, path: Path) -> None:
    """Raise SpecError where the file's input is not what its spec says; shape: the file's, None where any number fits."""
    height, width = spec.size_hw
    told = (spec.batch, height, width, 3) if spec.input_layout == "uint8-nhwc" else (spec.batch, 3, height, width)
    if tuple(shape) != told:
        raise SpecError(f"{path}: its input is {tuple(shape)} but its spec says {told}; one was altered: export it again")


def check_outputs(names: Sequence[str], spec: ModelSpec, path: Path) -> None:
    """Raise SpecError where the file lacks an output that its spec promises."""
    promised = CANDIDATES if spec.suppression.mode == "none" else FINAL
    if missing := [name for name in promised if name not in names]:
        raise SpecError(
            f"{path}: has no output {', '.join(missing)}, only {', '.join(names)}, but its spec says NMS mode "
            f"{spec.suppression.mode!r}; one was altered: export it again"
        )


def require_open(session: Session) -> None:
    """Raise UsageError where a session was closed."""
    if session.closed:
        raise UsageError(f"this detector of {session.spec.name} is closed; load it again")


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
