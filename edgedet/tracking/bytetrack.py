"""ByteTrack: associate every detection box, the faint ones too (Zhang et al., ECCV 2022, algorithm 1).

Departures from the paper, each for the edge: time is in seconds, taken from
the frames; a track changes its class only where the boxes all but coincide;
ids are counted at confirmation, so that noise uses none up.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgedet.boxes import iou_matrix
from edgedet.detections import Detections
from edgedet.tracking.assignment import assign
from edgedet.tracking.kalman import BoxMotion

_UNCONFIRMED = 0  # in place of an id


def create(*, min_score: float | None = None) -> ByteTrack:
    """A ByteTrack with the paper's thresholds, or tracks started at min_score."""
    return ByteTrack() if min_score is None else ByteTrack(high_score=min_score)


class ByteTrack:
    """Tracks of one stream.

    high_score: an object from here on is paired first, with tracks seen or
    lost, and may start a track. low_score: objects from here up to high_score
    only continue a track that was seen in the frame before. lost_s: how long
    a lost track is remembered, seconds. Minimal IoU of a pair: first_iou for
    high scores, second_iou for low ones, new_iou for a track that has been seen
    once; another_class_iou for one whose class would change.
    """

    def __init__(
        self,
        *,
        high_score: float = 0.6,
        low_score: float = 0.1,
        lost_s: float = 1.0,
        first_iou: float = 0.2,
        second_iou: float = 0.5,
        new_iou: float = 0.3,
        another_class_iou: float = 0.7,
    ) -> None:
        self.high_score, self.low_score, self.lost_s = high_score, low_score, lost_s
        self.first_iou, self.second_iou, self.new_iou, self.another_class_iou = (
            first_iou,
            second_iou,
            new_iou,
            another_class_iou,
        )
        self._motion = BoxMotion()
        self._ids = np.zeros(0, np.int64)
        self._labels = np.zeros(0, np.int32)
        self._seen_s = np.zeros(0)  # when each was last detected
        self._lost = np.zeros(0, bool)  # not detected in the latest frame
        self._time_s: float | None = None
        self._last_id = 0

    def __len__(self) -> int:
        """How many tracks are remembered, lost ones included."""
        return len(self._ids)

    def update(self, detections: Detections, time_s: float) -> Detections:
        """Those detections that belong to a confirmed track, boxes as detected, with their track_ids.

        A track is confirmed when it is seen in two frames running, or in the very first one.
        """
        detections = detections[detections.scores >= self.low_score]
        first = self._time_s is None
        self._advance(time_s)
        high = detections.scores >= self.high_score
        owners = self._associate(detections, high)
        self._correct(detections, owners, time_s)
        started = high & (owners < 0)
        ids = np.where(owners >= 0, self._ids[owners], 0) if len(self) else np.zeros(len(owners), np.int64)
        if first:
            ids[started] = self._next_ids(int(started.sum()))
        self._forget()
        self._start(detections[started], ids[started], time_s)
        return replace(detections[ids > 0], track_ids=ids[ids > 0])

    def _advance(self, time_s: float) -> None:
        """Predict every track to the frame's time, free those lost too long."""
        elapsed_s = 0.0 if self._time_s is None else max(time_s - self._time_s, 0.0)
        self._time_s = time_s
        self._seen_s = np.minimum(self._seen_s, time_s)  # a clock set back must not keep lost tracks alive
        self._keep(time_s - self._seen_s <= self.lost_s)
        self._motion.predict(elapsed_s)

    def _associate(self, detections: Detections, high: np.ndarray) -> np.ndarray:
        """(N,) index of the track each detection continues, or -1."""
        owners = np.full(len(detections), -1)
        free = np.ones(len(self), bool)
        similarity = iou_matrix(self._motion.boxes, detections.boxes)
        another_class = self._labels[:, None] != detections.labels[None]
        similarity[another_class & (similarity < self.another_class_iou)] = 0
        confirmed = self._ids != _UNCONFIRMED
        stages = (
            (confirmed, high, self.first_iou),
            (confirmed & ~self._lost, ~high, self.second_iou),
            (~confirmed, high, self.new_iou),
        )
        for candidates, wanted, min_iou in stages:
            tracks, objects = np.flatnonzero(candidates & free), np.flatnonzero(wanted & (owners < 0))
            rows, columns = assign(similarity[np.ix_(tracks, objects)], min_iou)
            owners[objects[columns]] = tracks[rows]
            free[tracks[rows]] = False
        return owners

    def _correct(self, detections: Detections, owners: np.ndarray, time_s: float) -> None:
        """Take what was seen into the tracks; confirm those seen for the second time."""
        seen = owners[owners >= 0]
        self._motion.correct(seen, detections.boxes[owners >= 0])
        self._labels[seen] = detections.labels[owners >= 0]
        self._seen_s[seen] = time_s
        self._lost[:] = True
        self._lost[seen] = False
        confirmed_now = seen[self._ids[seen] == _UNCONFIRMED]
        self._ids[confirmed_now] = self._next_ids(len(confirmed_now))

    def _forget(self) -> None:
        """Drop the unconfirmed tracks that were not seen again."""
        self._keep((self._ids != _UNCONFIRMED) | ~self._lost)

    def _start(self, detections: Detections, ids: np.ndarray, time_s: float) -> None:
        """Begin a track for each detection."""
        count = len(detections)
        self._motion.append(detections.boxes)
        self._ids = np.concatenate([self._ids, ids])
        self._labels = np.concatenate([self._labels, detections.labels])
        self._seen_s = np.concatenate([self._seen_s, np.full(count, time_s)])
        self._lost = np.concatenate([self._lost, np.zeros(count, bool)])

    def _keep(self, mask: np.ndarray) -> None:
        if not mask.all():
            self._motion.keep(mask)
            self._ids, self._labels, self._seen_s, self._lost = (
                array[mask] for array in (self._ids, self._labels, self._seen_s, self._lost)
            )

    def _next_ids(self, count: int) -> np.ndarray:
        """(count,) ids never given before by this tracker, from 1 on."""
        self._last_id += count
        return np.arange(self._last_id - count + 1, self._last_id + 1)
