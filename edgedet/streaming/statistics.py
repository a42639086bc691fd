"""What is counted of one stream while it runs."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from edgedet.detections import Detections
from edgedet.streaming.status import Percentiles, State, StreamStatus

_KEPT = 1000  # frames that percentiles are taken over
_FPS_OVER_S = 5.0


class Statistics:
    """One stream's counters. Its feed and the runner write, anyone may ask for the `status`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._state: State = "connecting"
        self._reason: str | None = None
        self._size_hw: tuple[int, int] | None = None
        self._dropped: Counter[str] = Counter()
        self._frames = self._objects = 0
        self._tracks: int | None = None
        self.reconnects = 0
        self._recent: deque[tuple[float, float, Mapping[str, float]]] = deque(maxlen=_KEPT)  # when done, age, stages; seconds
        self.zones: Mapping[str, int] = {}
        self.lines: Mapping[str, Mapping[str, Mapping[str, int]]] = {}
        self.sink_dropped: Callable[[], Mapping[str, int]] = dict

    def go_online(self, size_hw: tuple[int, int]) -> bool:
        """Note a frame of this size; whether the stream was not online before."""
        with self._lock:
            before = self._state
            self.reconnects += before == "offline" and self._size_hw is not None
            self._state, self._reason, self._size_hw = "online", None, size_hw
            return before != "online"

    def go_offline(self, reason: str) -> bool:
        """Note that nothing comes; whether that is news."""
        with self._lock:
            before, self._state, self._reason = self._state, "offline", reason
            return before != "offline"

    def end(self, reason: str | None) -> None:
        """Note that the stream is over."""
        with self._lock:
            self._state, self._reason = "ended", reason

    def drop(self, cause: str, count: int = 1) -> None:
        """Count frames that were not looked at."""
        with self._lock:
            self._dropped[cause] += count

    def result(self, objects: Detections, age_s: float, stages_s: Mapping[str, float]) -> None:
        """Count a frame that was looked at."""
        with self._lock:
            self._frames += 1
            self._objects = len(objects)
            if objects.track_ids is not None:  # ids are given in order, so the highest is the number of tracks
                self._tracks = max(self._tracks or 0, int(objects.track_ids.max(initial=0)))
            self._recent.append((time.monotonic(), age_s, stages_s))

    def status(self) -> StreamStatus:
        """The figures now."""
        with self._lock:
            return StreamStatus(
                name=self._name,
                state=self._state,
                reason=self._reason,
                size_hw=self._size_hw,
                fps=self._fps(),
                frames=self._frames,
                objects=self._objects,
                tracks=self._tracks,
                reconnects=self.reconnects,
                dropped=dict(self._dropped),
                sink_dropped=self.sink_dropped(),
                age_ms=_percentiles_ms(age_s for _, age_s, _ in self._recent),
                stages_ms=self._stages(),
                zones=self.zones,
                lines=self.lines,
            )

    def _fps(self) -> float:
        """Results a second over the last seconds; 0 where there was none."""
        since_s = time.monotonic() - _FPS_OVER_S
        recent = [done_s for done_s, _, _ in self._recent if done_s >= since_s]
        if len(recent) < 2:
            return 0.0
        end_s = time.monotonic() if self._state == "online" else recent[-1]
        return (len(recent) - 1) / max(end_s - recent[0], 1e-3)

    def _stages(self) -> dict[str, Percentiles]:
        """The percentiles of each stage."""
        stages = dict.fromkeys(stage for _, _, stages_s in self._recent for stage in stages_s)
        parts = {stage: _percentiles_ms(s[stage] for _, _, s in self._recent if stage in s) for stage in stages}
        return {stage: found for stage, found in parts.items() if found}


def _percentiles_ms(values_s: Iterable[float]) -> Percentiles | None:
    found = 1000 * np.fromiter(values_s, float)
    return Percentiles(*(float(value) for value in np.percentile(found, [50, 95, 99]))) if len(found) else None
