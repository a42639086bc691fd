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
    from edgedet.runtimes.detector import LoadedDetector
    from edgedet.runtimes.recording import Target
    from edgedet.runtimes.track_parity import Tracked, TrackGates, TrackReport
    from edgedet.streaming.pipeline import Stream
    from edgedet.streaming.sources.base import Source


@dataclass(frozen=True)
class ClipOptions:
    """How a clip is watched, the same for every model.

    track_score: what a detection must score to start a track. classes: only
    these names are tracked. max_frames: only the first so many.
    """

    path: str
    tracker: str
    track_score: float
    classes: Sequence[str] | None
    max_frames: int | None


def require_watchable(reference: Target, clip: ClipOptions) -> None:
    """Refuse, before any long work: a clip that cannot be read twice alike, an unknown tracker or class, absent libraries."""
    import scipy.optimize  # noqa: F401

    from edgedet.streaming.sources.base import open_source

    with open_source(clip.path) as source, reference.open() as model:
        if source.live:
            raise UsageError(
                f"--video {source.name} is live, so no two models would see the same frames; record it first: "
                f"edgedet stream {source.name} --model MODEL --save clip.mp4"
            )
        _objects(source, model, clip).close()


def compare(reference: Target, others: Sequence[Target], clip: ClipOptions, *, gates: TrackGates) -> TrackReport:
    """How the tracks of each of the others differ from the reference's; one model runs at a time."""
    from edgedet.runtimes import parity, track_parity

    reference, labels, _ = parity.comparable(reference, others)
    tracked: list[Tracked] = []
    times_s: list[float] = []
    for target, label in zip([reference, *others], labels, strict=True):
        found, times_s = _follow(target, label, clip)
        tracked.append(found)
    comparisons = tuple(track_parity.compare(tracked[0], other, times_s, gates) for other in tracked[1:])
    return track_parity.TrackReport(
        Path(clip.path).name, times_s, clip.tracker, clip.track_score, clip.classes, tracked[0], comparisons
    )


def _follow(target: Target, label: str, clip: ClipOptions) -> tuple[Tracked, list[float]]:
    """What one model tracks in the clip, as `edgedet stream` would, and the time of every frame in seconds."""
    from edgedet.runtimes.track_parity import Tracked
    from edgedet.streaming.sources.base import open_source

    objects, times_s = [], []
    with target.open() as model, open_source(clip.path) as source:
        total = min((count for count in (source.frame_count, clip.max_frames) if count is not None), default=None)
        with closing(_objects(source, model, clip)) as results:
            for frame, found in console.track(islice(results, clip.max_frames), label, total=total, rate_unit="fps"):
                objects.append(replace(found, masks=None))
                times_s.append(frame.time_s)
        files = {file.name: artifact.sha256(file) for file in artifact.parts(target.path)}
        return Tracked(label, target.runtime_name, model.session.facts, files, objects), times_s


def _objects(source: Source, model: LoadedDetector, clip: ClipOptions) -> Stream:
    """The frames and what is tracked in them, once iterated."""
    from edgedet.streaming.pipeline import stream

    return stream(source, model, tracker=clip.tracker, min_score=clip.track_score, classes=clip.classes)
