"""Scores of tracks against ground truth in MOTChallenge text, by motmetrics. A module of its own: several tests share it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgedet import boxes
from edgedet.detections import Detections
from edgedet.tracking import mot
from edgedet.tracking.base import Tracker


def score(truth: Path, tracks: Path) -> dict[str, float]:
    """mota, idf1, num_false_positives, num_misses and num_switches at IoU 0.5, on the truth whose seventh column is above 0."""
    motmetrics = pytest.importorskip("motmetrics")
    wanted = ["mota", "idf1", "num_false_positives", "num_misses", "num_switches"]
    real, found = (np.loadtxt(path, delimiter=",", ndmin=2) for path in (truth, tracks))
    real = real[real[:, 6] > 0]
    accumulator = motmetrics.MOTAccumulator(auto_id=True)
    for frame in range(1, int(max(real[:, 0].max(), found[:, 0].max())) + 1):
        here, there = real[real[:, 0] == frame], found[found[:, 0] == frame]
        distance = 1 - boxes.iou_matrix(boxes.xywh_to_xyxy(here[:, 2:6]), boxes.xywh_to_xyxy(there[:, 2:6]))
        distance[distance > 0.5] = np.nan
        accumulator.update(here[:, 1].astype(int).tolist(), there[:, 1].astype(int).tolist(), distance)
    return motmetrics.metrics.create().compute(accumulator, metrics=wanted).iloc[0].to_dict()


def track_file(detections: Path, out: Path, tracker: Tracker, fps: float = 25) -> Path:
    """The tracks of a MOTChallenge file of detections, written as one."""
    found = mot.read(detections)
    with out.open("w") as file:
        for number in range(1, max(found) + 1):
            tracked = tracker.update(found.get(number, Detections.empty()), (number - 1) / fps)
            file.writelines(f"{line}\n" for line in mot.lines(number, tracked))
    return out


def score_tracks(detections: Path, truth: Path, tracker: Tracker, folder: Path) -> dict[str, float]:
    """The scores of what a tracker makes of a file of detections at 25 fps; the tracks are written into the folder."""
    return score(truth, track_file(detections, folder / "mot.txt", tracker))


def shipped(sequence: str) -> Path:
    """The folder of a sequence that motmetrics ships: gt.txt, and test.txt, which a published tracker gave."""
    motmetrics = pytest.importorskip("motmetrics")
    return Path(motmetrics.__file__).parent / "data" / sequence
