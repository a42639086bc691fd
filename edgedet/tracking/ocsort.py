"""OC-SORT: observation-centric SORT (Cao et al., CVPR 2023, arXiv:2203.14360).

What was observed counts for more than what a filter made of it: a track found
again relives the gap along a straight line (ORU), its direction takes part in
the pairing (OCM), and what is left over is paired where it was last seen (OCR).

Its filter is SORT's. Departures, for the edge: where frames were dropped,
motion goes on by as many frames as are missing; only pairs of enough overlap
compete; a track that was shown once is shown whenever it is seen; a track
changes its class only where the boxes all but coincide.
"""

from __future__ import annotations

import numpy as np

from edgedet.detections import Detections
from edgedet.tracking.assignment import contested, overlapping, pair
from edgedet.tracking.base import above, tracked
from edgedet.tracking.sort import AreaMotion, FrameSteps

_NOT_SHOWN = 0  # in place of an id
_SPAN = 3  # observations back, from which a direction is taken
_TRACK = np.dtype(
    [
        ("id", np.int64),
        ("label", np.int32),
        ("streak", np.int64),  # detected frames in a row, without the first one
        ("seen", np.int64),  # the frame in which it was last detected
        ("seen_s", np.float64),  # when that was
        ("box", np.float64, 4),  # where, xyxy
        ("centres", np.float64, (_SPAN, 2)),  # of the last detected boxes, oldest first
        ("heading", np.float64, 2),  # unit vector of its way; zero where unknown
    ]
)


def create(*, min_score: float | None = None) -> OcSort:
    """An OC-SORT with the paper's settings, or one of objects from min_score on."""
    return OcSort() if min_score is None else OcSort(min_score=min_score)


class OcSort:
    """Tracks of one stream.

    min_score: objects below are ignored. lost_s: how long a lost track is
    remembered, seconds. min_hits: a track is shown from that many detected
    frames in a row after its first one on; while the stream is no older than
    that, at once. min_iou: of a pair; another_class_iou: where the class would
    change. inertia: the weight of a track's direction beside IoU.
    """

    def __init__(
        self,
        *,
        min_score: float = 0.6,
        lost_s: float = 1.0,
        min_hits: int = 3,
        min_iou: float = 0.3,
        another_class_iou: float = 0.7,
        inertia: float = 0.2,
    ) -> None:
        self.min_score, self.lost_s, self.min_hits = min_score, lost_s, min_hits
        self.min_iou, self.another_class_iou, self.inertia = min_iou, another_class_iou, inertia
        self._motion, self._steps = AreaMotion(), FrameSteps()
        self._observed = self._motion.state  # the same as each track was when last detected
        self._tracks = np.zeros(0, _TRACK)
        self._now = 0  # the frame's number, those that were dropped counted too
        self._frames, self._last_id = 0, 0

    def __len__(self) -> int:
        """How many tracks are remembered, lost ones included."""
        return len(self._tracks)

    def update(self, detections: Detections, time_s: float) -> Detections:
        """Those detections whose track is shown, boxes as detected, with their track_ids."""
        detections = above(detections, self.min_score)
        self._frames += 1
        before = self._advance(time_s)
        centres = (detections.boxes[:, :2] + detections.boxes[:, 2:]) / 2
        owners = self._associate(detections, centres)
        self._correct(detections, centres, owners, before, time_s)
        new = (owners < 0).nonzero()[0]
        if len(new):
            owners[new] = np.arange(len(self), len(self) + len(new))
            self._start(detections[new], centres[new], time_s)
        return tracked(detections, self._ids(owners))

    def _advance(self, time_s: float) -> int:
        """Predict every track to this frame, free those lost too long; returns the number of the frame before."""
        seen_s = self._tracks["seen_s"]
        np.minimum(seen_s, time_s, out=seen_s)  # a clock set back must not keep lost tracks alive
        self._keep(time_s - seen_s <= self.lost_s)
        before, steps = self._now, self._steps.since_last(time_s)
        self._now += steps
        just_seen = self._tracks["seen"] == before
        everyone = np.count_nonzero(just_seen) == len(just_seen)
        self._observed = self._motion.state if everyone else np.where(just_seen, self._motion.state, self._observed)
        for _ in range(steps):
            self._motion.predict()
        return before

    def _associate(self, detections: Detections, centres: np.ndarray) -> np.ndarray:
        """(N,) index of the track each detection continues, or -1: where it is expected, else where it was last seen."""
        owners = np.full(len(detections), -1)
        rows, columns, iou = self._pairs(self._motion.boxes.astype(np.float32), detections)
        worth = iou
        if contested(rows, columns):
            worth = iou + self.inertia * self._agreement(rows, centres[columns], detections.scores[columns])
        chosen = pair(rows, columns, worth)
        owners[columns[chosen]] = rows[chosen]
        if len(chosen) < min(len(self), len(owners)):
            tracks = np.ones(len(self), bool)
            tracks[rows[chosen]] = False
            rows, columns, iou = self._pairs(self._tracks["box"], detections)
            possible = (tracks[rows] & (owners[columns] < 0)).nonzero()[0]
            chosen = possible[pair(rows[possible], columns[possible], iou[possible])]
            owners[columns[chosen]] = rows[chosen]
        return owners

    def _pairs(self, boxes: np.ndarray, detections: Detections) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tracks, objects and IoU, each (P,), of the pairs that overlap enough; boxes: (T, 4) of the tracks."""
        rows, columns, iou = overlapping(boxes, detections.boxes)
        same = self._tracks["label"][rows] == detections.labels[columns]
        possible = ((iou >= self.min_iou) & (same | (iou >= self.another_class_iou))).nonzero()[0]
        return rows[possible], columns[possible], iou[possible]

    def _agreement(self, tracks: np.ndarray, centres: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """(P,) in [-0.5, 0.5]: how well the way to each centre (P, 2) agrees with its track's, times the score (equation 7)."""
        way, heading = _unit(centres - self._tracks["centres"][tracks, 0]), self._tracks["heading"][tracks]
        cosine = way[:, 0] * heading[:, 0] + way[:, 1] * heading[:, 1]
        return (0.5 - np.arccos(np.minimum(np.maximum(cosine, -1), 1)) / np.pi) * scores

    def _correct(self, detections: Detections, centres: np.ndarray, owners: np.ndarray, before: int, time_s: float) -> None:
        """Take what was seen into the tracks that own it, after the gap of those found again."""
        objects = (owners >= 0).nonzero()[0]
        tracks, boxes = owners[objects], detections.boxes[objects]
        seen = self._tracks[tracks]
        again = (seen["seen"] < before).nonzero()[0]
        if len(again):
            self._relive(tracks[again], boxes[again])
        self._motion.correct(tracks, boxes)
        seen["streak"] += 1
        seen["heading"] = _unit(centres[objects] - seen["centres"][:, 0])
        seen["centres"][:, :-1] = seen["centres"][:, 1:]
        seen["centres"][:, -1] = centres[objects]
        seen["box"], seen["seen"], seen["seen_s"], seen["label"] = boxes, self._now, time_s, detections.labels[objects]
        self._tracks["streak"] = 0
        self._tracks[tracks] = seen

    def _relive(self, tracks: np.ndarray, boxes: np.ndarray) -> None:
        """Observation-centric re-update: filter the gap anew, along a straight line from the last box to the one now.

        Tracks lost at the same time are filtered together, frame by frame; the
        frame now is only predicted, since what is seen in it follows.
        """
        lost = self._tracks["seen"][tracks]
        for start in np.unique(lost).tolist():
            group, to = tracks[lost == start], boxes[lost == start]
            motion, everything = AreaMotion(), np.arange(len(group))
            motion.state = self._observed[:, :, group]
            box = self._tracks["box"][group]
            for number in range(start + 1, self._now):
                motion.predict()
                motion.correct(everything, box + (number - start) / (self._now - start) * (to - box))
            motion.predict()
            self._motion.state[:, :, group] = motion.state

    def _start(self, found: Detections, centres: np.ndarray, time_s: float) -> None:
        """Begin a track for each object."""
        self._motion.append(found.boxes)
        self._observed = np.concatenate([self._observed, self._motion.state[:, :, -len(found) :]], axis=2)
        started = np.zeros(len(found), _TRACK)
        started["label"], started["box"], started["seen"], started["seen_s"] = found.labels, found.boxes, self._now, time_s
        started["centres"] = centres[:, None]
        self._tracks = np.concatenate([self._tracks, started])

    def _ids(self, tracks: np.ndarray) -> np.ndarray:
        """(N,) ids of the tracks that are shown, zero of the others; a track shown for the first time gets one."""
        table = self._tracks
        ids = table["id"][tracks]
        if np.count_nonzero(ids) == len(ids):  # all are shown
            return ids
        proven = (table["streak"][tracks] >= self.min_hits) | (self._frames <= self.min_hits)
        first = tracks[proven & (ids == _NOT_SHOWN)]
        table["id"][first] = np.arange(self._last_id + 1, self._last_id + 1 + len(first))
        self._last_id += len(first)
        return table["id"][tracks]

    def _keep(self, mask: np.ndarray) -> None:
        """Forget the tracks where the (T,) mask is False."""
        if np.count_nonzero(mask) < len(mask):
            self._motion.keep(mask)
            self._observed = self._observed[:, :, mask]
            self._tracks = self._tracks[mask]


def _unit(vectors: np.ndarray) -> np.ndarray:
    """(N, 2) vectors of length one, zero where there is no direction."""
    return vectors / np.maximum(np.hypot(vectors[:, 0], vectors[:, 1]), 1e-6)[:, None]
