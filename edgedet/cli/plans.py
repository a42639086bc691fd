"""What `edgedet stream` is asked for, by its options or by a file, as plans of streams."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedet.errors import UsageError

if TYPE_CHECKING:
    from edgedet.runtimes.detector import LoadedDetector
    from edgedet.streaming.config import StreamSettings
    from edgedet.streaming.feed import FeedOptions
    from edgedet.streaming.lane import StreamPlan
    from edgedet.streaming.sinks.base import Sink
    from edgedet.streaming.sources.base import Source
    from edgedet.streaming.web.server import WebServer

MIN_SCORE = 0.3


@dataclass(frozen=True)
class Wanted:
    """What is wanted of a stream's objects and frames."""

    tracker: str | None
    min_score: float | None
    classes: tuple[str, ...] | None
    feed: FeedOptions

    @property
    def score(self) -> float:
        """The score below which objects are dropped, or from which a track starts."""
        return MIN_SCORE if self.min_score is None else self.min_score


@dataclass(frozen=True)
class Job:
    """One stream as it was asked for; sinks: (kind, target)."""

    address: str
    name: str
    wanted: Wanted
    sinks: Sequence[tuple[str, str]]
    settings: StreamSettings | None = None

    @property
    def live(self) -> bool:
        """Whether it is a camera, or something that behaves like one."""
        from edgedet.streaming.sources.base import kind_of

        return kind_of(self.address).LIVE


def jobs(
    sources: Sequence[str], config: Path | None, targets: Mapping[str, str], common: Wanted, model: Path | None
) -> tuple[list[Job], Path, dict[str, Any]]:
    """The streams asked for, on the command line or in a file, the model, and the file's other settings."""
    from edgedet.streaming.sources.network import public_name

    if (config is None) == (not sources):
        raise UsageError("name what to look at, or --config FILE, and not both: edgedet stream clip.mp4 --model model.onnx")
    if config is not None:
        if targets:
            raise UsageError("with --config the sinks stand in the file, as [[stream.sink]] kind and target")
        return _jobs_of(config, common, model)
    if model is None:
        raise UsageError("--model is missing: the file to detect with, as `edgedet export` writes it")
    if len(sources) > 1 and targets:
        raise UsageError("several streams cannot share an output; give each its own in a file: --config streams.toml")
    _check_outputs(sources, {kind: target for kind, target in targets.items() if "://" not in target})
    return [Job(source, public_name(source), common, tuple(targets.items())) for source in sources], model, {}


def _jobs_of(config: Path, common: Wanted, model: Path | None) -> tuple[list[Job], Path, dict[str, Any]]:
    from edgedet.streaming.config import read_settings
    from edgedet.streaming.sources.base import Timeouts

    settings = read_settings(config)
    jobs = []
    for one in settings.streams:
        limits = common.feed.timeouts
        feed = replace(
            common.feed,
            policy=one.policy or common.feed.policy,
            timeouts=Timeouts(one.open_timeout_s or limits.open_s, one.read_timeout_s or limits.read_s),
            max_reconnects=common.feed.max_reconnects if one.max_reconnects is None else one.max_reconnects,
            stride=one.stride or common.feed.stride,
            size_hw=one.size_hw or common.feed.size_hw,
        )
        score = common.min_score if one.min_score is None else one.min_score
        wanted = Wanted(one.tracker or common.tracker, score, one.classes or common.classes, feed)
        jobs.append(Job(one.source, one.name, wanted, [(sink.kind, sink.target) for sink in one.sinks], one))
    chosen = {"runtime": settings.runtime, "device": settings.device, "max_wait_ms": settings.max_wait_ms}
    return jobs, model or Path(settings.model), {key: value for key, value in chosen.items() if value is not None}


def _check_outputs(sources: Sequence[str], outputs: Mapping[str, str]) -> None:
    """Refuse an output that would replace a source or another output."""
    taken = {Path(source).resolve(): "the source" for source in sources}
    for kind, target in outputs.items():
        option = {"video": "--save", "contact_sheet": "--contact-sheet"}.get(kind, f"--{kind}")
        if Path(target).resolve() in taken:
            raise UsageError(f"{option} {target} is also {taken[Path(target).resolve()]}; choose another name")
        taken[Path(target).resolve()] = option


@contextmanager
def opened(job: Job) -> Iterator[Source | None]:
    """The open file of a stream, None for a camera, which is opened while it runs."""
    from edgedet.streaming.sources.base import open_source

    if job.live:
        yield None
        return
    with open_source(job.address) as source:
        yield source


def plan(job: Job, source: Source | None, detector: LoadedDetector, server: WebServer | None, stack: ExitStack) -> StreamPlan:
    """The stream with its sinks open."""
    from edgedet.streaming.lane import StreamPlan
    from edgedet.streaming.sinks.base import open_sink
    from edgedet.tracking.zones import Zones

    names, fps = detector.spec.classes, None if source is None else source.fps
    sinks: list[Sink] = [
        stack.enter_context(open_sink(kind, target, classes=names, fps=fps, live=source is None)) for kind, target in job.sinks
    ]
    if server is not None:
        sinks.append(server.sink(job.name, classes=names))
    wanted, settings = job.wanted, job.settings
    zones = Zones(settings.zones, settings.lines, classes=names) if settings and (settings.zones or settings.lines) else None
    return StreamPlan(
        source=job.address if source is None else source,
        name=job.name,
        tracker=wanted.tracker,
        min_score=wanted.score,
        classes=wanted.classes,
        zones=zones,
        sinks=sinks,
        feed=wanted.feed,
    )
