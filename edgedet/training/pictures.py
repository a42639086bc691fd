"""The two pictures of a run: curves over the epochs, and predictions beside the truth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edgedet import artifact
from edgedet.data.dataset import Sample
from edgedet.detections import Detections

TILE_HW = (300, 400)
SHOWN_SCORE = 0.3
_COLORS = (
    (40, 60, 230),
    (230, 130, 30),
    (60, 170, 40),
    (200, 40, 180),
    (20, 170, 230),
    (190, 190, 30),
    (120, 90, 60),
    (90, 90, 255),
)


def draw_curves(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write a PNG with the losses, the average precision and the learning rate of every epoch."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4), layout="constrained")
    FigureCanvasAgg(figure)
    losses, scores, rate = figure.subplots(1, 3)
    epochs = [row["epoch"] for row in rows]
    for name in (key for key in rows[0] if key not in ("epoch", "lr", "ap", "ap50", "seconds")):
        losses.plot(epochs, [row[name] for row in rows], label=name)
    scored = [row for row in rows if row["ap50"] is not None]
    for name in ("ap50", "ap"):
        scores.plot(
            [row["epoch"] for row in scored], [row[name] for row in scored], marker="o", markersize=3, label=name.upper()
        )
    rate.plot(epochs, [row["lr"] for row in rows])
    for axis, title in (
        (losses, "training loss, weighted"),
        (scores, "average precision, validation"),
        (rate, "learning rate"),
    ):
        axis.set(title=title, xlabel="epoch", ylim=(0, 1) if axis is scores else (0, None))
        axis.grid(alpha=0.3)
    losses.legend()
    scores.legend(loc="lower right")
    with artifact.writing(path) as (temporary,):
        figure.savefig(temporary, dpi=100)


def draw_predictions(
    path: Path, samples: Sequence[Sample], detections: Sequence[Detections], classes: Sequence[str], *, columns: int = 2
) -> None:
    """Write a PNG of images in pairs: the annotated truth on the left, detections at score ≥ .3 on the right."""
    pairs = [_pair(sample, found, classes) for sample, found in zip(samples, detections, strict=True)]
    blank = np.full_like(pairs[0], 255)
    pairs += [blank] * (-len(pairs) % columns)
    rows = [np.hstack(pairs[start : start + columns]) for start in range(0, len(pairs), columns)]
    with artifact.writing(path) as (temporary,):
        temporary.write_bytes(cv2.imencode(".png", np.vstack(rows))[1].tobytes())


def _pair(sample: Sample, found: Detections, classes: Sequence[str]) -> np.ndarray:
    frame = sample.read()
    shown = found[found.scores >= SHOWN_SCORE]
    truth = [classes[label] for label in sample.labels]
    names = [f"{classes[label]} {score:.2f}" for label, score in zip(shown.labels, shown.scores, strict=True)]
    left = _tile(frame, sample.boxes, sample.labels, truth, f"truth: {sample.path.name}")
    right = _tile(frame, shown.boxes, shown.labels, names, "predictions")
    return np.pad(np.hstack([left, right]), ((3, 3), (3, 3), (0, 0)), constant_values=255)


def _tile(frame: np.ndarray, boxes: np.ndarray, labels: np.ndarray, texts: Sequence[str], title: str) -> np.ndarray:
    height, width = TILE_HW
    scale = min(height / frame.shape[0], width / frame.shape[1])
    tile = np.full((height, width, 3), 60, np.uint8)
    small = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)[:height, :width]
    tile[: small.shape[0], : small.shape[1]] = small
    for box, label, text in zip(boxes, labels, texts, strict=True):
        color = _COLORS[int(label) % len(_COLORS)]
        x1, y1, x2, y2 = (round(float(v) * scale) for v in box)
        cv2.rectangle(tile, (x1, y1), (x2, y2), color, 1, cv2.LINE_AA)
        _write(tile, text, (x1 + 2, max(y1 + 10, 10)), color)
    _write(tile, title, (4, height - 6), (30, 30, 30))
    return tile


def _write(tile: np.ndarray, text: str, at: tuple[int, int], color: tuple[int, int, int]) -> None:
    cv2.putText(tile, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.36, (255, 255, 255), 3, cv2.LINE_AA)
    cv2.putText(tile, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.36, color, 1, cv2.LINE_AA)
