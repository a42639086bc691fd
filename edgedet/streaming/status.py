"""How a stream fares: counted while it runs, shown at its end, on the web page and to Prometheus."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

State = Literal["connecting", "online", "offline", "ended"]


@dataclass(frozen=True)
class Percentiles:
    """Milliseconds over the latest thousand frames."""

    p50: float
    p95: float
    p99: float


@dataclass(frozen=True)
class StreamStatus:
    """One stream's figures at a moment.

    reason: why it is offline, or ended early. fps: results a second over the last seconds.
    frames: results so far. objects: in the latest result. tracks: ids given so
    far, None without a tracker. reconnects: how often it came back after it was
    lost. dropped: frames by cause: `newest` (a newer one came first), `queue` (it
    was full), `every` and `stride` (not wanted), `corrupt` (no picture), `late`
    (of a connection that hung and was left behind). sink_dropped:
    frames a sink did not take, by the sink's name. age_ms: from a frame's
    capture to its result. stages_ms: by stage, `wait`, `detect`, `track`. zones:
    tracks in each. lines: crossings so far by line, direction and class.
    """

    name: str
    state: State
    reason: str | None = None
    size_hw: tuple[int, int] | None = None
    fps: float = 0.0
    frames: int = 0
    objects: int = 0
    tracks: int | None = None
    reconnects: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    sink_dropped: Mapping[str, int] = field(default_factory=dict)
    age_ms: Percentiles | None = None
    stages_ms: Mapping[str, Percentiles] = field(default_factory=dict)
    zones: Mapping[str, int] = field(default_factory=dict)
    lines: Mapping[str, Mapping[str, Mapping[str, int]]] = field(default_factory=dict)
