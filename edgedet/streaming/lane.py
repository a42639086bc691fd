"""What is one stream's own: which objects count, their tracks, its sinks and its figures."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import cv2
import numpy as np

from edgedet.detections import Detections
from edgedet.errors import UsageError
from edgedet.streaming.feed import FeedOptions
from edgedet.streaming.frame import Event, Frame
from edgedet.streaming.outlet import Outlet
from edgedet.streaming.sinks.base import Sink
from edgedet.streaming.sources.base import Source, kind_of, public_name
from edgedet.streaming.statistics import Statistics
from edgedet.tracking.base import SeeingTracker, Tracker, create

if TYPE_CHECKING:
    from edgedet.tracking.zones import Happening, Zones

MIN_SCORE = 0.3  # of the classes that a table of scores leaves out


@dataclass(frozen=True)
class StreamPlan:
    """One stream: what is read, and what becomes of it.

    source: an address for `open_source`, or an open source, which cannot be
    opened again. name: what it is called, its address by default. tracker: a
    name, or one made before, of this stream alone. min_score: objects below
    are dropped; with a tracker's name it is instead the score that starts a track.
    By class it is a table of names; classes that it leaves out have MIN_SCORE.
    classes: the names to keep. zones: whose events are told to the sinks.
    """

    source: str | Path | int | Source
    name: str = ""
    tracker: str | Tracker | None = None
    min_score: float | Mapping[str, float] | None = None
    classes: Sequence[str] | None = None
    zones: Zones | None = None
    sinks: Sequence[Sink] = ()
    feed: FeedOptions = field(default_factory=FeedOptions)

    @property
    def title(self) -> str:
        """The name, or the source's."""
        source = self.source
        return self.name or (public_name(str(source)) if isinstance(source, (str, Path, int)) else source.name)

    @property
    def live(self) -> bool:
        """Whether frames come whether they are taken or not."""
        source = self.source
        return kind_of(str(source)).LIVE if isinstance(source, (str, Path, int)) else source.live


class Lane:
    """One stream while it runs: takes what the detector found, gives what the user sees."""

    def __init__(self, plan: StreamPlan, detector: object) -> None:
        self.plan, self.name, self.live = plan, plan.title, plan.live
        self.statistics = Statistics(self.name)
        self._labels = None if plan.classes is None else _labels(detector, plan.classes)
        self._min_scores: np.ndarray | None = None  # by label, where each class has its own
        least = plan.min_score
        if isinstance(least, Mapping):
            self._min_scores = _by_label(detector, least)
            least = float(self._min_scores.min())
        self._tracker = create(plan.tracker, min_score=least) if isinstance(plan.tracker, str) else plan.tracker
        if plan.tracker is not None and not isinstance(plan.tracker, str) and plan.min_score is not None:
            raise UsageError("min_score is for a tracker given by name; set the threshold on the tracker itself")
        if plan.zones is not None and plan.tracker is None:
            raise UsageError(f"{self.name}: zones and lines need tracks; choose a tracker, such as bytetrack")
        self._seeing = self._tracker if isinstance(self._tracker, SeeingTracker) else None
        self._size_hw: tuple[int, int] | None = None
        self._time_s = 0.0
        self.outlets: list[Outlet] = []
        self.statistics.sink_dropped = self._sink_dropped

    def open(self) -> None:
        """Start a thread for each sink."""
        for sink in self.plan.sinks:
            self.outlets.append(Outlet(sink, lossless=not self.live, name=f"{self.name}, {_kind(sink)}"))

    def meet(self, size_hw: tuple[int, int]) -> None:
        """Learn the size of the first frame, in whose pixels tracks and zones live; UsageError where a zone lies outside."""
        if self._size_hw is not None:
            return
        if self.plan.zones is not None:
            try:
                self.plan.zones.fit(size_hw)
            except UsageError as error:
                raise UsageError(f"{self.name}: {error}") from error
        self._size_hw = size_hw

    def notice(self, event: Event) -> None:
        """Tell the sinks what happened beside the frames."""
        for outlet in self.outlets:
            outlet.notice(event)

    def finish(self, frame: Frame, found: Detections, submitted_s: float, detected_s: float) -> Detections:
        """The objects the user sees, given to the sinks, counted."""
        objects = self._refine(frame, found)
        tracked_s = time.monotonic()
        stages_s = {"wait": submitted_s - frame.read_s, "detect": detected_s - submitted_s, "track": tracked_s - detected_s}
        self.statistics.result(objects, tracked_s - frame.read_s, stages_s)
        for outlet in self.outlets:
            outlet.put(frame, objects)
        if self.plan.zones is not None:
            scale = self._scale(frame)
            placed = objects if scale is None else replace(objects, boxes=objects.boxes * scale)
            self._tell(self.plan.zones.update(placed, frame.time_s), frame.time_s)
        self._time_s = frame.time_s
        return objects

    def end(self) -> None:
        """Everybody leaves the zones, and the sinks are told that nothing more comes."""
        if self.plan.zones is not None:
            self._tell(self.plan.zones.close(), self._time_s)
        for outlet in self.outlets:
            outlet.end()

    def _sink_dropped(self) -> dict[str, int]:
        """Frames by the kind of the sink that did not take them."""
        dropped = Counter[str]()
        for sink, outlet in zip(self.plan.sinks, self.outlets, strict=False):  # no outlets before `open`
            dropped[_kind(sink)] += outlet.dropped
        return dict(+dropped)

    def _tell(self, happenings: Sequence[Happening], time_s: float) -> None:
        """Tell the sinks what tracks did, and keep who is where for the status."""
        for happening in happenings:
            self.notice(Event(happening.kind, self.name, time_s, happening.detail))
        if self.plan.zones is not None:
            self.statistics.zones, self.statistics.lines = self.plan.zones.occupancy(), self.plan.zones.counts()

    def _refine(self, frame: Frame, objects: Detections) -> Detections:
        if self._labels is not None:
            objects = objects[np.isin(objects.labels, self._labels)]
        if self._tracker is None:
            min_score = self.plan.min_score if self._min_scores is None else self._min_scores[objects.labels]
            return objects if min_score is None else objects[objects.scores >= min_score]
        scale = self._scale(frame)
        if self._seeing is not None:
            height, width = self._size_hw or frame.image.shape[:2]
            same = frame.image.shape[:2] == (height, width)
            self._seeing.see(frame.image if same else cv2.resize(frame.image, (width, height)))
        if scale is not None:
            objects = replace(objects, boxes=objects.boxes * scale)
        tracked = self._levelled(self._tracker.update(self._levelled(objects, -1), frame.time_s), 1)
        return tracked if scale is None else replace(tracked, boxes=tracked.boxes / scale)

    def _levelled(self, objects: Detections, way: int) -> Detections:
        """The objects with scores moved by class: down (-1), so that the least threshold serves all, or up (1) again."""
        if self._min_scores is None:
            return objects
        above_least = self._min_scores - self._min_scores.min()
        return replace(objects, scores=objects.scores + way * above_least[objects.labels])

    def _scale(self, frame: Frame) -> np.ndarray | None:
        """(4,) float32 from this frame's pixels to the first one's, where tracks and zones live; None where equal."""
        height, width = frame.image.shape[:2]
        self.meet((height, width))
        first_height, first_width = self._size_hw or (height, width)
        if (first_height, first_width) == (height, width):
            return None
        across, down = first_width / width, first_height / height
        return np.array([across, down, across, down], np.float32)


def _kind(sink: Sink) -> str:
    """What the sink is called: its module's file name."""
    return type(sink).__module__.rpartition(".")[2]


def _by_label(detector: object, min_score: Mapping[str, float]) -> np.ndarray:
    """(C,) float32 the least score of each of the model's classes."""
    labels = _labels(detector, list(min_score))
    scores = np.full(len(cast(Any, detector).spec.classes), MIN_SCORE, np.float32)
    scores[labels] = list(min_score.values())
    return scores


def _labels(detector: object, classes: Sequence[str]) -> np.ndarray:
    """The labels of these class names."""
    spec = getattr(detector, "spec", None)
    if spec is None:
        raise UsageError("classes can only be chosen with a detector that names them in `detector.spec.classes`")
    for name in classes:
        if name not in spec.classes:
            near = get_close_matches(name, spec.classes, n=3, cutoff=0.5) or spec.classes[:10]
            raise UsageError(f"the model has no class {name!r}; did you mean: {', '.join(near)}?")
    return np.array([spec.classes.index(name) for name in classes], np.int32)
