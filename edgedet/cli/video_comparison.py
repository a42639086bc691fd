"""Models over a clip, each with a tracker of its own, for `edgedet validate --video`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from edgedet import artifact, console
from edgedet.errors import UsageError

if TYPE_CHECKING:
    from edgedet.runtimes.recording import Target
    from edgedet.runtimes.track_parity import Tracked, TrackGates, TrackReport


def require_clip(clip: str, tracker: str) -> None:
    """Refuse a clip that cannot be read twice alike, an unknown tracker and absent libraries, before any long work."""
    import scipy.optimize  # noqa: F401

    from edgedet.streaming.sources.base import open_source
    from edgedet.tracking.base import create

    create(tracker)
    with open_source(clip) as source:
        if source.live:
            raise UsageError(
                f"--video {clip} is live, so no two models would see the same frames; record it first: "
                f"edgedet stream {clip} --model MODEL --save clip.mp4"
            )


@dataclass(frozen=True)
class Watch:
    """How a clip is watched, the same for every model.

    track_score: what a detection must score to start a track. classes: only
    these names are tracked. max_frames: only the first so many.
    """

    clip: str
    tracker: str
    track_score: float
    classes: Sequence[str] | None
    max_frames: int | None


def compare(reference: Target, others: Sequence[Target], watch: Watch, *, gates: TrackGates) -> TrackReport:
    """How the tracks of each of the others differ from the reference's; one model runs at a time."""
    from edgedet.runtimes import parity, track_parity

    reference, labels, _ = parity.comparable(reference, others)
    tracked, times_s = [], []
    for target, label in zip([reference, *others], labels, strict=True):
        found, times_s = _follow(target, label, watch)
        tracked.append(found)
    comparisons = tuple(track_parity.compare(tracked[0], other, times_s, gates) for other in tracked[1:])
    return track_parity.TrackReport(
        Path(watch.clip).name, times_s, watch.tracker, watch.track_score, watch.classes, tracked[0], comparisons
    )


def _follow(target: Target, label: str, watch: Watch) -> tuple[Tracked, list[float]]:
    """What one model tracks in the clip, as `edgedet stream` would, and the time of every frame in seconds."""
    from edgedet.runtimes.track_parity import Tracked
    from edgedet.streaming.pipeline import stream
    from edgedet.streaming.sources.base import open_source

    objects, times_s = [], []
    with target.open() as model, open_source(watch.clip) as source:
        total = min((count for count in (source.frame_count, watch.max_frames) if count is not None), default=None)
        results = stream(source, model, tracker=watch.tracker, min_score=watch.track_score, classes=watch.classes)
        with closing(results):
            for frame, found in console.track(islice(results, watch.max_frames), label, total=total, rate_unit="fps"):
                objects.append(replace(found, masks=None))
                times_s.append(frame.time_s)
        files = {file.name: artifact.sha256(file) for file in artifact.parts(target.path)}
        return Tracked(label, target.runtime_name, model.session.facts, files, objects), times_s
