"""ByteTrack: associate every detection box, the faint ones too (Zhang et al., ECCV 2022, algorithm 1).

Departures from the paper, each for the edge: time is in seconds, taken from
the frames; a track changes its class only where the boxes all but coincide;
ids are counted at confirmation, so that noise uses none up.
"""

from __future__ import annotations

import numpy as np

from edgedet.detections import Detections
from edgedet.tracking.assignment import overlapping, pair
from edgedet.tracking.base import above, tracked
from edgedet.tracking.kalman import BoxMotion

HIGH_SCORE, START_SCORE = 0.6, 0.7
_UNCONFIRMED = 0  # in place of an id
_NOBODY = np.array([_UNCONFIRMED])
# seen_s: when it was last detected; lost: not detected in the latest frame.
_TRACK = np.dtype([("id", np.int64), ("label", np.int32), ("seen_s", np.float64), ("lost", bool)])


def create(*, min_score: float | None = None) -> ByteTrack:
    """A ByteTrack with the paper's thresholds, or tracks started at min_score."""
    return ByteTrack() if min_score is None else ByteTrack(high_score=min(min_score, HIGH_SCORE), start_score=min_score)


class ByteTrack:
    """Tracks of one stream.

    high_score: an object from here on is paired first, with tracks seen or
    lost; from start_score on it may start a track. low_score: objects from
    here up to high_score only continue a track that was seen in the frame
    before. lost_s: how long a lost track is remembered, seconds. Of a pair at
    least: first_iou, IoU times score, for high scores; second_iou for low
    ones; new_iou, IoU times score, for a track that has been seen once;
    another_class_iou for one whose class would change.
    """

    def __init__(
        self,
        *,
        high_score: float = HIGH_SCORE,
        start_score: float = START_SCORE,
        low_score: float = 0.1,
        lost_s: float = 1.0,
        first_iou: float = 0.2,
        second_iou: float = 0.5,
        new_iou: float = 0.3,
        another_class_iou: float = 0.7,
    ) -> None:
        self.high_score, self.start_score, self.low_score, self.lost_s = high_score, start_score, low_score, lost_s
        self.first_iou, self.second_iou, self.new_iou = first_iou, second_iou, new_iou
        self.another_class_iou = another_class_iou
        self._motion = BoxMotion()
        self._tracks = np.zeros(0, _TRACK)
        self._time_s: float | None = None
        self._last_id = 0

    def __len__(self) -> int:
        """How many tracks are remembered, lost ones included."""
        return len(self._tracks)

    def update(self, detections: Detections, time_s: float) -> Detections:
        """Those detections that belong to a confirmed track, boxes as detected, with their track_ids.

        A track is confirmed when it is seen in two frames running, or in the very first one.
        """
        detections = above(detections, self.low_score)
        first = self._time_s is None
        self._advance(time_s)
        high = detections.scores >= self.high_score
        owners = self._associate(detections, high)
        self._correct(detections, owners, time_s)
        ids = np.concatenate([self._tracks["id"], _NOBODY])[owners]  # -1 is nobody
        started = ((owners < 0) & high & (detections.scores >= self.start_score)).nonzero()[0]
        if first:
            ids[started] = self._next_ids(len(started))
        self._keep((self._tracks["id"] != _UNCONFIRMED) | ~self._tracks["lost"])  # noise is not remembered
        if len(started):
            self._start(detections, started, ids, time_s)
        return tracked(detections, ids)

    def _advance(self, time_s: float) -> None:
        """Predict every track to the frame's time, free those lost too long."""
        elapsed_s = 0.0 if self._time_s is None else max(time_s - self._time_s, 0.0)
        self._time_s = time_s
        seen_s = self._tracks["seen_s"]
        np.minimum(seen_s, time_s, out=seen_s)  # a clock set back must not keep lost tracks alive
        self._keep(time_s - seen_s <= self.lost_s)
        self._motion.predict(elapsed_s)

    def _associate(self, detections: Detections, high: np.ndarray) -> np.ndarray:
        """(N,) index of the track each detection continues, or -1."""
        owners, free = np.full(len(detections), -1), np.ones(len(self), bool)
        rows, columns, iou = overlapping(self._motion.boxes, detections.boxes)
        allowed = (self._tracks["label"][rows] == detections.labels[columns]) | (iou >= self.another_class_iou)
        likeness = self._likeness(detections, rows, columns, iou)
        confirmed = self._tracks["id"] != _UNCONFIRMED
        stages = (
            (confirmed, high, likeness, self.first_iou),
            (confirmed & ~self._tracks["lost"], ~high, iou, self.second_iou),
            (~confirmed, high, likeness, self.new_iou),
        )
        for candidates, wanted, worth, min_worth in stages:
            if not np.count_nonzero(candidates):
                continue
            possible = candidates[rows] & wanted[columns] & allowed & (worth >= min_worth)
            possible = (possible & free[rows] & (owners[columns] < 0)).nonzero()[0]
            if not len(possible):
                continue
            chosen = possible[pair(rows[possible], columns[possible], worth[possible])]
            owners[columns[chosen]] = rows[chosen]
            free[rows[chosen]] = False
            if np.count_nonzero(owners < 0) == 0:
                break
        return owners

    def _likeness(self, detections: Detections, rows: np.ndarray, columns: np.ndarray, iou: np.ndarray) -> np.ndarray:
        """(P,) how well each pair of a track and a high-scoring detection fits, in [0, 1]; called once a frame.

        IoU times score, as the authors' program has it. A score counts as no
        less than their threshold: where the user's is lower, a faint object
        needs no more overlap.
        """
        return iou * np.minimum(np.maximum(detections.scores, HIGH_SCORE), 1)[columns]

    def _correct(self, detections: Detections, owners: np.ndarray, time_s: float) -> None:
        """Take what was seen into the tracks; confirm those seen for the second time."""
        objects = (owners >= 0).nonzero()[0]
        seen, tracks = owners[objects], self._tracks
        self._motion.correct(seen, detections.boxes[objects])
        tracks["lost"] = True
        tracks["lost"][seen], tracks["seen_s"][seen], tracks["label"][seen] = False, time_s, detections.labels[objects]
        confirmed_now = seen[tracks["id"][seen] == _UNCONFIRMED]
        if len(confirmed_now):
            tracks["id"][confirmed_now] = self._next_ids(len(confirmed_now))

    def _start(self, detections: Detections, objects: np.ndarray, ids: np.ndarray, time_s: float) -> None:
        """Begin a track for each of the objects (M,), with its id of (N,)."""
        self._motion.append(detections.boxes[objects])
        started = np.zeros(len(objects), _TRACK)
        started["id"], started["label"], started["seen_s"] = ids[objects], detections.labels[objects], time_s
        self._tracks = np.concatenate([self._tracks, started])

    def _keep(self, mask: np.ndarray) -> None:
        """Forget the tracks where the (T,) mask is False."""
        if np.count_nonzero(mask) < len(mask):
            self._motion.keep(mask)
            self._tracks = self._tracks[mask]

    def _next_ids(self, count: int) -> np.ndarray:
        """(count,) ids never given before by this tracker, from 1 on."""
        self._last_id += count
        return np.arange(self._last_id - count + 1, self._last_id + 1)
