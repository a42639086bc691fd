"""SORT: simple online and realtime tracking (Bewley et al., ICIP 2016, arXiv:1602.00763).

Frame by frame as published, noise and all, so that it gives the published
figures. Departures, none of which shows on a complete sequence of one class:
where frames were dropped, motion goes on by as many frames as are missing;
objects of different classes are never paired; ids are counted when a track is
first shown.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from edgedet.detections import Detections
from edgedet.tracking.assignment import overlapping, pair
from edgedet.tracking.base import above
from edgedet.tracking.kalman import Motion

_NOT_SHOWN = 0  # in place of an id
# streak: detected frames in a row, without the first one; missed: frames since the last detected one.
_TRACK = np.dtype([("id", np.int64), ("label", np.int32), ("streak", np.int64), ("missed", np.int64)])
MAX_STEPS = 30  # frames; after a longer gap nothing is known of an object


def create(*, min_score: float | None = None) -> Sort:
    """A SORT with the published settings, of all objects, whatever their scores mean, or of those from min_score on."""
    return Sort() if min_score is None else Sort(min_score=min_score)


class Sort:
    """Tracks of one stream.

    min_score: objects below are ignored. max_age: how many frames in a row a
    track may go undetected. min_hits: a track is shown from that many detected
    frames in a row after its first one on; while the stream is no older than
    that, at once. min_iou: of a pair.
    """

    def __init__(self, *, min_score: float = -np.inf, max_age: int = 1, min_hits: int = 3, min_iou: float = 0.3) -> None:
        self.min_score, self.max_age, self.min_hits, self.min_iou = min_score, max_age, min_hits, min_iou
        self._motion, self._steps = AreaMotion(), FrameSteps()
        self._tracks = np.zeros(0, _TRACK)
        self._frames, self._last_id = 0, 0

    def __len__(self) -> int:
        """How many tracks are remembered."""
        return len(self._tracks)

    def update(self, detections: Detections, time_s: float) -> Detections:
        """The objects whose track is shown, with its id and the box that the filter estimates."""
        detections = above(detections, self.min_score)
        self._frames += 1
        self._predict(self._steps.since_last(time_s))
        tracks, objects = self._associate(detections)
        self._correct(tracks, detections.boxes[objects])
        seen = np.full(len(self), -1)  # (T,) the object that each track continues with
        seen[tracks] = objects
        if len(objects) < len(detections):
            strange = np.ones(len(detections), bool)
            strange[objects] = False
            new = strange.nonzero()[0]
            self._start(detections[new])
            seen = np.concatenate([seen, new])
        found = self._shown(detections, seen)
        self._keep(self._tracks["missed"] <= self.max_age)
        return found

    def _predict(self, steps: int) -> None:
        """Move every track to this frame; drop those that have shrunk to nothing."""
        for _ in range(steps):
            self._motion.predict()
        self._tracks["streak"] *= self._tracks["missed"] == 0
        self._tracks["missed"] += 1
        self._keep(np.logical_and.reduce(self._motion.state[0, 2:] > 0))

    def _associate(self, detections: Detections) -> tuple[np.ndarray, np.ndarray]:
        """(M,) tracks and (M,) objects of the pairing of the greatest total IoU; those below the minimum are then rejected."""
        rows, columns, iou = overlapping(self._motion.boxes, detections.boxes)
        possible = (self._tracks["label"][rows] == detections.labels[columns]).nonzero()[0]
        chosen = possible[pair(rows[possible], columns[possible], iou[possible])]
        chosen = chosen[iou[chosen] >= self.min_iou]
        return rows[chosen], columns[chosen]

    def _correct(self, tracks: np.ndarray, boxes: np.ndarray) -> None:
        """Take what was seen, (M, 4) boxes, into their (M,) tracks."""
        self._motion.correct(tracks, boxes)
        self._tracks["streak"][tracks] += 1
        self._tracks["missed"][tracks] = 0

    def _start(self, found: Detections) -> None:
        """Begin a track for each object."""
        self._motion.append(found.boxes)
        started = np.zeros(len(found), _TRACK)
        started["label"] = found.labels
        self._tracks = np.concatenate([self._tracks, started])

    def _shown(self, detections: Detections, seen: np.ndarray) -> Detections:
        """The objects of the tracks detected now and often enough, in the objects' order."""
        tracks = self._tracks
        proven = ((seen >= 0) & ((tracks["streak"] >= self.min_hits) | (self._frames <= self.min_hits))).nonzero()[0]
        proven = proven[seen[proven].argsort()]
        first = proven[tracks["id"][proven] == _NOT_SHOWN]
        if len(first):
            tracks["id"][first] = np.arange(self._last_id + 1, self._last_id + 1 + len(first))
            self._last_id += len(first)
        objects, boxes = seen[proven], self._motion.boxes[proven].astype(np.float32)
        masks = None if detections.masks is None else detections.masks[objects]
        return Detections(boxes, detections.scores[objects], detections.labels[objects], tracks["id"][proven], masks)

    def _keep(self, mask: np.ndarray) -> None:
        if np.count_nonzero(mask) < len(mask):
            self._motion.keep(mask)
            self._tracks = self._tracks[mask]


class AreaMotion(Motion):
    """SORT's filter: centre x, centre y, area, width / height; the last has no velocity. Time is in frames."""

    measured_var = np.array([[1.0], [1.0], [10.0], [10.0]])
    start_var, start_velocity_var = np.full((4, 1), 10.0), np.array([[1e4], [1e4], [1e4], [0.0]])
    noise = np.array([[1.0] * 4, [0.0] * 4, [1e-2, 1e-2, 1e-4, 0.0]])[:, :, None]

    @property
    def boxes(self) -> np.ndarray:
        """(T, 4) float64 xyxy, pixels."""
        x, y, area, ratio = self.state[0]
        half_width = np.sqrt(area * ratio) / 2
        half_height = area / (4 * half_width)
        boxes = np.empty((4, len(self)))
        boxes[0], boxes[1], boxes[2], boxes[3] = x - half_width, y - half_height, x + half_width, y + half_height
        return boxes.T

    def predict(self) -> None:
        """Move every track on by one frame; an area stops before it shrinks to nothing."""
        area, area_velocity = self.state[0, 2], self.state[1, 2]
        area_velocity *= area + area_velocity > 0
        self.move(1.0, self.noise)

    def correct(self, index: np.ndarray, boxes: np.ndarray) -> None:
        """Pull the tracks at `index` (M,) towards the detected boxes: (M, 4) xyxy, pixels."""
        self.pull(index, _measured(boxes), self.measured_var)

    def append(self, boxes: np.ndarray) -> None:
        """Add tracks at rest on the boxes (M, 4) xyxy, of unknown speed."""
        self.add(_measured(boxes), self.start_var, self.start_velocity_var)


class FrameSteps:
    """How many frames have passed, told from the frames' times: one, and more where some were dropped."""

    def __init__(self) -> None:
        self._time_s: float | None = None
        self._intervals_s: deque[float] = deque(maxlen=30)

    def since_last(self, time_s: float) -> int:
        """Frames since the last call, by what the interval usually is; one where the clock stood still or was set back."""
        elapsed_s = 0.0 if self._time_s is None else time_s - self._time_s
        self._time_s = time_s
        if not elapsed_s > 0:
            return 1
        self._intervals_s.append(elapsed_s)
        usual_s = sorted(self._intervals_s)[(len(self._intervals_s) - 1) // 2]
        return int(min(max(round(elapsed_s / usual_s), 1), MAX_STEPS))


def _measured(boxes: np.ndarray) -> np.ndarray:
    """(M, 4) xyxy to (4, M) float64 centre x, centre y, area, width / height; an empty box counts as a pixel wide."""
    corners = boxes.T.astype(np.float64)
    sides = corners[2:] - corners[:2]
    sides[sides <= 0] = 1.0
    measured = np.empty_like(corners)
    measured[:2] = corners[:2] + sides / 2
    measured[2], measured[3] = sides[0] * sides[1], sides[0] / sides[1]
    return measured
