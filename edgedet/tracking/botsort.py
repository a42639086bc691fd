"""BoT-SORT: ByteTrack on a camera that moves (Aharon et al. 2022, arXiv:2206.14651).

To ByteTrack it adds the camera's motion, boxes whose width and height have
velocities of their own, and, where the caller has a network for it, how
objects look. Time is in seconds, taken from the frames.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgedet.detections import Detections
from edgedet.errors import UsageError
from edgedet.tracking.bytetrack import HIGH_SCORE, START_SCORE, ByteTrack
from edgedet.tracking.camera_motion import CameraMotion
from edgedet.tracking.kalman import SideMotion

Appearance = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""A picture (H, W, 3) uint8 BGR and boxes (N, 4) xyxy in it to (N, D) vectors, alike for the same object."""

_ALIKE, _NEAR = 0.25, 0.5  # half the cosine distance, and the IoU, from which looks count (equations 12 and 13)
_MEMORY = 0.9  # of how an object looked, a frame


def create(*, min_score: float | None = None) -> BotSort:
    """A BoT-SORT without appearance, with the paper's thresholds, or tracks started at min_score."""
    return BotSort() if min_score is None else BotSort(high_score=min(min_score, HIGH_SCORE), start_score=min_score)


class BotSort(ByteTrack):
    """Tracks of one stream. `see` each picture before its `update`; without it the camera counts as still.

    high_score, start_score, low_score, lost_s: as for ByteTrack. appearance: how objects
    look, None to go by their places alone.
    """

    def __init__(
        self,
        *,
        high_score: float = HIGH_SCORE,
        start_score: float = START_SCORE,
        low_score: float = 0.1,
        lost_s: float = 1.0,
        appearance: Appearance | None = None,
    ) -> None:
        super().__init__(high_score=high_score, start_score=start_score, low_score=low_score, lost_s=lost_s)
        self._motion: SideMotion = SideMotion()
        self._camera, self._appearance = CameraMotion(), appearance
        self._affine: np.ndarray | None = None
        self._image: np.ndarray | None = None
        self._looks = np.zeros((0, 0))  # (T, D) of the tracks, of length one; zero where not known
        self._looks_now = np.zeros((0, 0))  # (N, D) of the detections

    def see(self, image: np.ndarray) -> None:
        """Look at the picture, (H, W, 3) uint8 BGR, in which the objects of the next `update` were found."""
        self._affine = self._camera.since_last(image)
        self._image = image if self._appearance is not None else None

    def _advance(self, time_s: float) -> None:
        """As ByteTrack; then the boxes follow the camera. A lost track keeps its size."""
        self._motion.state[1, 2:] *= ~self._tracks["lost"]
        super()._advance(time_s)
        if self._affine is not None:
            self._motion.warp(self._affine)
            self._affine = None

    def _likeness(self, detections: Detections, rows: np.ndarray, columns: np.ndarray, iou: np.ndarray) -> np.ndarray:
        """IoU times score, or likeness of looks where that is greater and the boxes are near."""
        likeness = super()._likeness(detections, rows, columns, iou)
        if self._appearance is None:
            return likeness
        self._looks_now = self._describe(detections)
        distance = (1 - (self._looks[rows] * self._looks_now[columns]).sum(axis=1)) / 2
        counts = (distance < _ALIKE) & (iou > _NEAR)
        return np.where(counts, np.maximum(likeness, 1 - distance), likeness)

    def _describe(self, detections: Detections) -> np.ndarray:
        """(N, D) how the detections look, of length one; zero for faint ones, or where there was no picture."""
        sure = np.flatnonzero(detections.scores >= self.high_score)
        looks = np.zeros((len(detections), self._looks.shape[1]))
        if self._appearance is None or self._image is None or not len(sure):
            return looks
        found = np.asarray(self._appearance(self._image, detections.boxes[sure]), float)
        self._image = None
        if found.ndim != 2 or len(found) != len(sure):
            raise UsageError(f"appearance gave {found.shape} for {len(sure)} boxes; it must give one row of numbers a box")
        if found.shape[1] != looks.shape[1]:
            self._looks = np.zeros((len(self), found.shape[1]))
            looks = np.zeros((len(detections), found.shape[1]))
        looks[sure] = _unit(found)
        return looks

    def _correct(self, detections: Detections, owners: np.ndarray, time_s: float) -> None:
        super()._correct(detections, owners, time_s)
        if self._appearance is not None:
            objects = np.flatnonzero((owners >= 0) & self._looks_now.any(axis=1))
            seen = owners[objects]
            self._looks[seen] = _unit(_MEMORY * self._looks[seen] + (1 - _MEMORY) * self._looks_now[objects])

    def _start(self, detections: Detections, objects: np.ndarray, ids: np.ndarray, time_s: float) -> None:
        super()._start(detections, objects, ids, time_s)
        if self._appearance is not None:
            self._looks = np.concatenate([self._looks, self._looks_now[objects]])

    def _keep(self, mask: np.ndarray) -> None:
        super()._keep(mask)
        if self._appearance is not None:
            self._looks = self._looks[mask]


def _unit(vectors: np.ndarray) -> np.ndarray:
    """(N, D) vectors of length one; zero stays zero."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
