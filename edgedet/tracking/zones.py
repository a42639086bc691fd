"""Zones and lines: who is where and for how long, and who crossed which way.

An object stands where the middle of its box's lower edge is: there a person or
a vehicle touches the ground. Coordinates are pixels of the frame.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from edgedet.detections import Detections
from edgedet.errors import UsageError

Point = tuple[float, float]
FORGET_S = 1.0  # after which a track that is not seen any more has left; trackers remember it no longer


@dataclass(frozen=True)
class Zone:
    """A polygon by its corners in order, pixels; it closes itself."""

    name: str
    points: Sequence[Point]

    def __post_init__(self) -> None:
        points = _points(f"zone {self.name!r}", self.points)
        if len(points) < 3:
            raise UsageError(f"zone {self.name!r} has {len(points)} points; a zone takes 3 at least")
        ends = np.roll(points, -1, axis=0)
        for i in range(len(points)):
            if (points[i] == ends[i]).all():
                raise UsageError(f"zone {self.name!r} has the point {_text(points[i])} twice in a row; leave one out")
            for j in range(i + 1, len(points)):
                neighbours = j == i + 1 or (i == 0 and j == len(points) - 1)
                if _meet(points[i], ends[i], points[j], ends[j]) if not neighbours else _fold(points, i, j):
                    raise UsageError(
                        f"zone {self.name!r} crosses itself: the edge from {_text(points[i])} to {_text(ends[i])} meets "
                        f"that from {_text(points[j])} to {_text(ends[j])}; give the corners in order around it"
                    )

    def holds(self, points: np.ndarray) -> np.ndarray:
        """(N,) whether each of the points (N, 2) lies inside; zones that share an edge share no point."""
        (x, y), corners = points.T[:, :, None], np.asarray(self.points, float)
        ends = np.roll(corners, -1, axis=0)
        falls = (corners[:, 1] < ends[:, 1])[:, None]  # from its upper end to its lower, so that neighbours judge an edge alike
        (left, top), (right, bottom) = np.where(falls, corners, ends).T, np.where(falls, ends, corners).T
        # A ray to the right of the point crosses the edge: (N, E). An edge holds its upper end and not its lower one.
        crossed = (top <= y) & (y < bottom) & ((x - left) * (bottom - top) < (y - top) * (right - left))
        return np.count_nonzero(crossed, axis=1) % 2 == 1


@dataclass(frozen=True)
class Line:
    """A line from start to end, pixels. Who crosses it goes `right` or `left`, as seen looking from start to end."""

    name: str
    start: Point
    end: Point

    def __post_init__(self) -> None:
        start, end = _points(f"line {self.name!r}", [self.start, self.end])
        if (start == end).all():
            raise UsageError(f"line {self.name!r} starts and ends at {_text(start)}; give two different points")

    def sides(self, points: np.ndarray) -> np.ndarray:
        """(N,) how far to the right of the line each of the points (N, 2) lies, in units of its length times pixels."""
        start, along = np.asarray(self.start, float), np.subtract(self.end, self.start)
        return along[0] * (points[:, 1] - start[1]) - along[1] * (points[:, 0] - start[0])

    def crossed(self, before: np.ndarray, now: np.ndarray) -> np.ndarray:
        """(N,) 1 where the way from `before` (N, 2) to `now` (N, 2) crosses to the right, -1 to the left, else 0.

        A point on the line counts as right of it, and the end is no part of
        the line, so that who touches it or crosses a corner of two is counted once.
        """
        along, first, second = np.subtract(self.end, self.start), self.sides(before), self.sides(now)
        way = (second >= 0).astype(int) - (first >= 0)
        # Where they meet, in shares of the line: place / whole. Not divided, so that whole pixels are exact.
        place = (first - second) * ((before - self.start) @ along) + first * ((now - before) @ along)
        whole = (first - second) * (along @ along)
        within = np.where(whole > 0, (place >= 0) & (place < whole), (place <= 0) & (place > whole))
        return np.where(within, way, 0)


def require_within(shape: Zone | Line, size_hw: tuple[int, int]) -> None:
    """Refuse a zone or line that does not lie within frames of this size, pixels; their edges are within."""
    what, points = ("zone", shape.points) if isinstance(shape, Zone) else ("line", (shape.start, shape.end))
    height, width = size_hw
    for x, y in points:
        if not (0 <= x <= width and 0 <= y <= height):
            raise UsageError(
                f"{what} {shape.name!r} has the point {_text((x, y))} outside the frame, which is {width}x{height}; "
                "draw it on a picture of that size, or give the stream the size it was drawn on"
            )


class Happening(NamedTuple):
    """Something a track did.

    kind: `enter`, `leave` or `cross`. detail: track_id and class; zone, and
    dwell_s on leaving; line, and direction `left` or `right`. Plain values, as JSON has them.
    """

    kind: str
    detail: dict[str, Any]


@dataclass
class _Seen:
    """A track: where it stood last and when, its class, and since when it is in each zone."""

    track_id: int
    point: np.ndarray
    time_s: float
    name: str
    since_s: dict[str, float] = field(default_factory=dict)


class Zones:
    """The zones and lines of one stream, and who is in them.

    classes: the names of the labels, in order. size_hw: of the frames, pixels,
    where it is known by now; else `fit` when it is. forget_s: how long a track
    may be out of sight before it counts as gone.
    """

    def __init__(
        self,
        zones: Sequence[Zone] = (),
        lines: Sequence[Line] = (),
        *,
        classes: Sequence[str] = (),
        size_hw: tuple[int, int] | None = None,
        forget_s: float = FORGET_S,
    ) -> None:
        _refuse_twice("zone", [zone.name for zone in zones])
        _refuse_twice("line", [line.name for line in lines])
        self._zones, self._lines, self._classes, self._forget_s = zones, lines, classes, forget_s
        self._seen: dict[int, _Seen] = {}
        self._crossings: dict[str, dict[str, Counter[str]]] = {
            line.name: {"left": Counter(), "right": Counter()} for line in lines
        }
        self._last_xy = np.full(2, np.inf)  # the middle of the frame's last pixel
        if size_hw is not None:
            self.fit(size_hw)

    def __len__(self) -> int:
        """How many tracks are remembered."""
        return len(self._seen)

    def fit(self, size_hw: tuple[int, int]) -> None:
        """Refuse the zones and lines that do not lie within frames of this size, pixels."""
        self._last_xy = np.array(size_hw[::-1]) - 0.5
        shapes: list[Zone | Line] = [*self._zones, *self._lines]
        for shape in shapes:
            require_within(shape, size_hw)

    def update(self, detections: Detections, time_s: float) -> list[Happening]:
        """What the tracks have done since the frame before; who first shows inside a zone enters it there.

        The detections need track_ids.
        """
        if detections.track_ids is None:
            raise UsageError("zones and lines need tracks; choose a tracker")
        gone = self._forget(detections.track_ids.tolist(), time_s)
        left, _, right, bottom = detections.boxes.T.astype(float)
        # Whose box is cut off by the frame stands in its last row, within a zone that ends there.
        points = np.minimum(np.stack([(left + right) / 2, bottom], axis=1), self._last_xy)
        objects = zip(detections.track_ids.tolist(), detections.labels.tolist(), points)
        tracks = [self._recall(track_id, label, point, time_s) for track_id, label, point in objects]
        happened = [*self._cross(tracks, points), *self._enter_and_leave(tracks, points, time_s)]
        for track, point in zip(tracks, points):
            track.point, track.time_s = point, time_s
        return gone + happened

    def _recall(self, track_id: int, label: int, point: np.ndarray, time_s: float) -> _Seen:
        """The track as it was before, of the class it has now; a new one has been here all the while."""
        track = self._seen.get(track_id)
        if track is None:
            track = self._seen[track_id] = _Seen(track_id, point, time_s, "")
        track.name = self._name(label)
        return track

    def occupancy(self) -> dict[str, int]:
        """How many tracks are in each zone."""
        return {zone.name: sum(zone.name in track.since_s for track in self._seen.values()) for zone in self._zones}

    def counts(self) -> dict[str, dict[str, dict[str, int]]]:
        """How often each line was crossed so far, by direction, `left` and `right`, and class."""
        return {line: {way: dict(found) for way, found in ways.items()} for line, ways in self._crossings.items()}

    def close(self) -> list[Happening]:
        """Everybody leaves: the stream has ended."""
        return [leaving for track_id in list(self._seen) for leaving in self._vanish(track_id)]

    def _cross(self, tracks: list[_Seen], points: np.ndarray) -> list[Happening]:
        """Crossings of the lines by the tracks, each at its point (N, 2)."""
        happened = []
        before = np.array([track.point for track in tracks]).reshape(-1, 2)
        for line in self._lines:
            ways = line.crossed(before, points)
            for i in np.flatnonzero(ways).tolist():
                direction = "right" if ways[i] > 0 else "left"
                self._crossings[line.name][direction][tracks[i].name] += 1
                happened.append(_happening("cross", tracks[i], line=line.name, direction=direction))
        return happened

    def _enter_and_leave(self, tracks: list[_Seen], points: np.ndarray, time_s: float) -> list[Happening]:
        """Entries into the zones and departures from them by the tracks, each at its point (N, 2)."""
        happened = []
        for zone in self._zones:
            for i, inside in enumerate(zone.holds(points).tolist()):
                since_s = tracks[i].since_s
                if inside and zone.name not in since_s:
                    since_s[zone.name] = time_s
                    happened.append(_happening("enter", tracks[i], zone=zone.name))
                elif not inside and zone.name in since_s:
                    dwell_s = _dwell_s(since_s.pop(zone.name), time_s)
                    happened.append(_happening("leave", tracks[i], zone=zone.name, dwell_s=dwell_s))
        return happened

    def _forget(self, present: list[int], time_s: float) -> list[Happening]:
        """Free the tracks out of sight too long; where they were in a zone, they left it when last seen."""
        happened = []
        here = set(present)
        for track_id in [track_id for track_id in self._seen if track_id not in here]:
            track = self._seen[track_id]
            track.time_s = min(track.time_s, time_s)  # a clock set back must not keep it
            if time_s - track.time_s > self._forget_s:
                happened += self._vanish(track_id)
        return happened

    def _vanish(self, track_id: int) -> list[Happening]:
        """Free a track; it leaves its zones."""
        track = self._seen.pop(track_id)
        return [
            _happening("leave", track, zone=zone, dwell_s=_dwell_s(since_s, track.time_s))
            for zone, since_s in track.since_s.items()
        ]

    def _name(self, label: int) -> str:
        """The class's name; its number where there are fewer."""
        return self._classes[label] if 0 <= label < len(self._classes) else f"class {label}"


def _refuse_twice(kind: str, names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"there are two {kind}s named {name!r}; rename one")


def _happening(kind: str, track: _Seen, **detail: Any) -> Happening:
    return Happening(kind, {**detail, "track_id": track.track_id, "class": track.name})


def _dwell_s(since_s: float, until_s: float) -> float:
    """Seconds between, none where the clock was set back."""
    return round(max(until_s - since_s, 0.0), 3)


def _points(what: str, points: Sequence[Point]) -> np.ndarray:
    """(P, 2) float64, refused where they are no finite pairs."""
    try:
        found = np.array(points, float)
    except (TypeError, ValueError):
        found = np.zeros(0)
    if found.ndim != 2 or found.shape[1] != 2 or not np.isfinite(found).all():
        raise UsageError(f"{what}: {list(points)!r} are no points; give pairs of pixels such as [[0, 0], [640, 0], [640, 480]]")
    return found


def _meet(start: np.ndarray, end: np.ndarray, start_2: np.ndarray, end_2: np.ndarray) -> bool:
    """Whether two edges share a point."""
    turns = [_turn(start, end, start_2), _turn(start, end, end_2), _turn(start_2, end_2, start), _turn(start_2, end_2, end)]
    if not any(turns):  # on one line
        low, high = np.minimum(start, end), np.maximum(start, end)
        low_2, high_2 = np.minimum(start_2, end_2), np.maximum(start_2, end_2)
        return bool((low <= high_2).all() and (low_2 <= high).all())
    return turns[0] * turns[1] <= 0 and turns[2] * turns[3] <= 0


def _fold(points: np.ndarray, i: int, j: int) -> bool:
    """Whether edge j, which begins or ends where edge i does, runs back along it."""
    corner = j if j == i + 1 else i
    before, here, after = points[corner - 1], points[corner], points[(corner + 1) % len(points)]
    return _turn(before, here, after) == 0 and float((here - before) @ (after - here)) < 0


def _turn(start: np.ndarray, end: np.ndarray, point: np.ndarray) -> int:
    """1 where the point lies to the right of the way from start to end on the screen, -1 to the left, 0 on it."""
    along, to = end - start, point - start
    return int(np.sign(along[0] * to[1] - along[1] * to[0]))


def _text(point: Sequence[float] | np.ndarray) -> str:
    return f"({point[0]:g}, {point[1]:g})"
