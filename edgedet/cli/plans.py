"""What `edgedet stream` is asked for, by its options or by a file, as plans of streams."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgedet.errors import UsageError

if TYPE_CHECKING:
    from edgedet.streaming.config import StreamSettings
    from edgedet.streaming.feed import FeedOptions
    from edgedet.streaming.lane import StreamPlan
    from edgedet.streaming.sinks.base import Sink
    from edgedet.streaming.sources.base import Source
    from edgedet.streaming.web.server import WebServer
    from edgedet.tracking.zones import Zones


@dataclass(frozen=True)
class Wanted:
    """What is wanted of a stream's objects and frames; min_score: of all classes, or by class."""

    tracker: str | None
    min_score: float | Mapping[str, float] | None
    classes: tuple[str, ...] | None
    feed: FeedOptions

    @property
    def score(self) -> float | Mapping[str, float]:
        """The score below which objects are dropped, or from which a track starts, of all classes or by class."""
        from edgedet.streaming.lane import MIN_SCORE

        return MIN_SCORE if self.min_score is None else self.min_score

    @property
    def least_score(self) -> float:
        """The lowest score that is of use without a tracker."""
        from edgedet.streaming.lane import MIN_SCORE

        return min(*self.score.values(), MIN_SCORE) if isinstance(self.score, Mapping) else self.score


@dataclass(frozen=True)
class Engine:
    """What runs the model, for all streams; None: not said."""

    model: Path | None
    runtime: str | None
    device: str | None
    max_wait_ms: float | None

    def path(self) -> Path:
        """The model's file, refused where it is absent or no runtime here takes it; nothing is opened yet."""
        from edgedet import assets
        from edgedet.runtimes.detector import choose_runtime

        if self.model is None:
            raise UsageError("--model is missing: the file to detect with, as `edgedet export` writes it")
        path = assets.named(self.model)
        choose_runtime(path, runtime=self.runtime)
        return path


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

    @property
    def rest_s(self) -> float:
        """The longest time for which it may be online and rightly give no result: a frame comes within the time-out."""
        feed = self.wanted.feed
        return feed.timeouts.read_s * feed.stride * (feed.policy.count if feed.policy.kind == "every" else 1)


def jobs(
    sources: Sequence[str], config: Path | None, targets: Mapping[str, str], common: Wanted, engine: Engine
) -> tuple[list[Job], Engine]:
    """The streams asked for, on the command line or in a file, and what runs the model.

    What is said of the engine on the command line goes before what the file
    says; what is said of streams there holds for those of which the file says nothing.
    """
    from edgedet.streaming.sources.base import public_name

    if (config is None) == (not sources):
        raise UsageError("name what to look at, or --config FILE, and not both: edgedet stream clip.mp4 --model model.onnx")
    if config is not None:
        if targets:
            raise UsageError("with --config the sinks stand in the file, as [[stream.sink]] kind and target")
        return _jobs_of(config, common, engine)
    if len(sources) > 1 and targets:
        raise UsageError("several streams cannot share an output; give each its own in a file: --config streams.toml")
    _check_outputs(sources, {kind: target for kind, target in targets.items() if "://" not in target})
    names = [public_name(source) for source in sources]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"{twice} is named twice; give each stream a name of its own in a file: --config streams.toml")
    return [Job(source, name, common, tuple(targets.items())) for source, name in zip(sources, names, strict=True)], engine


def _jobs_of(config: Path, common: Wanted, engine: Engine) -> tuple[list[Job], Engine]:
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
    return jobs, Engine(
        engine.model or Path(settings.model),
        engine.runtime or settings.runtime,
        engine.device or settings.device,
        settings.max_wait_ms if engine.max_wait_ms is None else engine.max_wait_ms,
    )


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


def plan(job: Job, source: Source | None, classes: Sequence[str], server: WebServer | None, stack: ExitStack) -> StreamPlan:
    """The stream with its sinks open; all that can be refused before the model is open is refused here.

    classes: the model's, a list that may be filled later, before the first frame.
    """
    from edgedet.streaming.lane import StreamPlan
    from edgedet.streaming.sinks.base import open_sink
    from edgedet.tracking.base import create

    wanted, fps = job.wanted, None if source is None else source.fps
    if wanted.tracker is not None:
        create(wanted.tracker)  # there is one of this name, and what it needs is installed
    zones = _zones(job, source, classes)
    sinks: list[Sink] = [
        stack.enter_context(open_sink(kind, target, classes=classes, fps=fps, live=source is None))
        for kind, target in job.sinks
    ]
    if server is not None:
        sinks.append(server.sink(job.name, classes=classes))
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


def _zones(job: Job, source: Source | None, classes: Sequence[str]) -> Zones | None:
    """The stream's zones and lines; where the size of its frames is known by now, they lie within."""
    from edgedet.tracking.zones import Zones

    settings = job.settings
    if settings is None or not (settings.zones or settings.lines):
        return None
    size_hw = job.wanted.feed.size_hw or getattr(source, "size_hw", None)
    try:
        return Zones(settings.zones, settings.lines, classes=classes, size_hw=size_hw)
    except UsageError as error:
        raise UsageError(f"{job.name}: {error}") from error
