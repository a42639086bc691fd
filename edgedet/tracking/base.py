"""What a tracker is, and how one is made from its name."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

from edgedet import plugins
from edgedet.detections import Detections
from edgedet.errors import UsageError
from edgedet.tracking.assignment import solver

_PARTS = {"base", "kalman", "assignment", "camera_motion", "mot", "zones"}


class Tracker(Protocol):
    """Gives the objects of one stream identities that last; one instance a stream."""

    def update(self, detections: Detections, time_s: float) -> Detections:
        """The tracked ones of these objects, with track_ids; time_s is when the frame was captured, in seconds."""
        ...


@runtime_checkable
class SeeingTracker(Tracker, Protocol):
    """A tracker that looks at the pictures too."""

    def see(self, image: np.ndarray) -> None:
        """Look at the picture, (H, W, 3) uint8 BGR, in which the objects of the next `update` were found."""
        ...


def names() -> list[str]:
    """The trackers there are: every file of this folder that is no part of another."""
    return [name for name in plugins.names("edgedet.tracking") if name not in _PARTS]


def create(name: str, *, min_score: float | None = None) -> Tracker:
    """A new tracker with a fresh count of ids.

    min_score: the score from which an object may start a track; None leaves
    it to the tracker. Fainter objects may still keep a track going.
    """
    if name not in names():
        raise UsageError(f"no tracker named {name!r}; there are: {', '.join(names())}")
    solver()  # said now rather than when two objects first meet
    return plugins.find("edgedet.tracking", name).create(min_score=min_score)


def above(detections: Detections, min_score: float) -> Detections:
    """The detections whose score is min_score or more."""
    wanted = detections.scores >= min_score
    return detections if np.count_nonzero(wanted) == len(wanted) else detections[wanted]


def tracked(detections: Detections, ids: np.ndarray) -> Detections:
    """The detections whose id, of (N,), is above zero, with these ids."""
    wanted = ids > 0
    if np.count_nonzero(wanted) < len(wanted):
        detections, ids = detections[wanted], ids[wanted]
    return Detections(detections.boxes, detections.scores, detections.labels, ids, detections.masks)
