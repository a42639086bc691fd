"""Frames with what a model detects in them, as one .npz: how a device knows that it computes what was computed before."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgedet import artifact
from edgedet.detections import Detections
from edgedet.errors import ArtifactError, GateFailed, UsageError
from edgedet.runtimes.detector import LoadedDetector
from edgedet.runtimes.matching import disagreement, match
from edgedet.spec import Precision

MIN_SCORE, FAINT = 0.05, 0.01
"""Detections from here on are compared; the faint ones too, where there are few others."""
FEWEST = 3
"""Detections without which frames show nothing."""
MOST_FRAMES, MOST_BYTES = 32, 1 << 28


@dataclass(frozen=True)
class Gates:
    """What the detections may differ from the reference by.

    disagreement: a share of the reference's scores, see `matching.disagreement`.
    box_error_px, score_error: of the pairs, their median; single boxes prove
    nothing where two of an object's compete.
    """

    disagreement: float
    box_error_px: float
    score_error: float


GATES: dict[Precision, Gates] = {
    "fp32": Gates(0.02, 0.25, 0.002),
    "fp16": Gates(0.15, 1.0, 0.01),
    "int8": Gates(0.4, 20.0, 0.05),
    "int8+fp16": Gates(0.4, 20.0, 0.05),
}
"""By the file's precision, against the widest file. INT8 has no parity; what its fp32 file gives is not what it is to give."""


@dataclass(frozen=True)
class Figures:
    """How the detections differed; pairs: how many there were of the same object. None without any."""

    disagreement: float
    pairs: int
    box_error_px: float | None
    score_error: float | None

    def require(self, gates: Gates, *, name: str) -> Figures:
        """Itself where it is within the gates, otherwise GateFailed; name: what was run in what."""
        figures = asdict(self)
        for key, limit in asdict(gates).items():
            figure = figures[key]
            if figure is None or not figure <= limit:  # in this order NaN fails
                told = "could not be measured" if figure is None else f"is {figure:.4g}"
                raise GateFailed(f"{name} differs from the reference: its {key} {told}, limit {limit:g}")
        return self


@dataclass(frozen=True)
class Reference:
    """frames: (H, W, 3) uint8 BGR each. detections: of each, in its pixels. min_score: from which on they count."""

    frames: tuple[np.ndarray, ...]
    detections: tuple[Detections, ...]
    min_score: float = MIN_SCORE


def record(detector: LoadedDetector, frames: Sequence[np.ndarray]) -> Reference:
    """What a detector finds in the frames, letterboxed; UsageError where that is next to nothing.

    They are letterboxed here, once: on another processor OpenCV's resizing rounds otherwise (aarch64: one pixel in twelve, by
    one), which moves faint detections further than any runtime does (disagreement .025 of YOLOX-nano; the runtimes 1e-5).
    """
    frames = [detector.letterbox([frame])[0][0] for frame in frames]
    found = tuple(detector.detect_batch(frames))
    for min_score in (MIN_SCORE, FAINT):
        if sum(int((one.scores >= min_score).sum()) for one in found) >= FEWEST:
            return Reference(tuple(frames), found, min_score)
    raise UsageError(
        f"the model detects fewer than {FEWEST} objects of score {FAINT} or more in {len(frames)} frames, too few to know "
        "it by; give frames like those it will see: --images DIR"
    )


def write(path: Path, reference: Reference) -> None:
    """Write the frames and detections."""
    arrays: dict[str, Any] = {"min_score": np.float64(reference.min_score)}
    for number, (frame, found) in enumerate(zip(reference.frames, reference.detections, strict=True)):
        arrays |= {f"frame_{number}": frame, f"boxes_{number}": found.boxes}
        arrays |= {f"scores_{number}": found.scores, f"labels_{number}": found.labels}
    with artifact.writing(path) as (temporary,):
        np.savez_compressed(temporary, **arrays)


def read(path: Path) -> Reference:
    """The frames and detections of a file."""
    try:
        _require_size(artifact.require_file(path))
        with np.load(path, allow_pickle=False) as arrays:
            numbers = range(sum(name.startswith("frame_") for name in arrays.files))
            frames = tuple(np.asarray(arrays[f"frame_{n}"]) for n in numbers)
            min_score = float(arrays["min_score"])
            found = tuple(Detections(*(arrays[f"{what}_{n}"] for what in ("boxes", "scores", "labels"))) for n in numbers)
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise ArtifactError(f"{path}: not a whole file of reference frames ({error}); copy it again") from error
    if not frames or any(frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 for frame in frames):
        raise ArtifactError(f"{path}: holds no frames of three channels; copy it again")
    return Reference(frames, found, min_score)


def _require_size(path: Path) -> None:
    """ArtifactError where the arrays would fill the memory."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if len(entries) > 4 * MOST_FRAMES + 1 or sum(entry.file_size for entry in entries) > MOST_BYTES:
        raise ArtifactError(f"{path}: unpacks to more than {MOST_BYTES >> 20} MiB or {MOST_FRAMES} frames; not read")


def compare(reference: Reference, detector: LoadedDetector) -> Figures:
    """How a detector's answers on the frames differ from the reference's."""
    found = detector.detect_batch(reference.frames)
    least = reference.min_score
    matches = [match(a, b, min_score=least) for a, b in zip(reference.detections, found, strict=True)]
    boxes = np.concatenate([one.box_errors for one in matches])
    scores = np.abs(np.concatenate([one.score_drifts for one in matches]))
    medians = (float(np.median(boxes)), float(np.median(scores))) if len(boxes) else (None, None)
    return Figures(disagreement(reference.detections, found, min_score=least), len(boxes), *medians)


def signature(detector: LoadedDetector, frame: np.ndarray) -> Mapping[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of every output for a full batch of a frame (of one, where any number fits)."""
    images, _ = detector.letterbox([frame])
    outputs = detector.session.infer(images)
    return {name: (str(array.dtype), array.shape) for name, array in outputs.items()}
