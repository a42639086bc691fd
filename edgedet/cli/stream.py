"""`edgedet stream`: a detector on videos, folders of images and cameras."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from edgedet import console
from edgedet.errors import EdgedetError, UsageError

if TYPE_CHECKING:
    from edgedet.cli.plans import Engine, Job
    from edgedet.runtimes.detector import LoadedDetector
    from edgedet.streaming.frame import Event
    from edgedet.streaming.pipeline import Found, Stream
    from edgedet.streaming.sinks.window import WindowSink
    from edgedet.streaming.status import StreamStatus
    from edgedet.streaming.web.server import WebServer


def command(
    sources: list[str] = typer.Argument(
        None, help="Video files, images, folders, camera indices, rtsp:// and other addresses, GStreamer pipelines, test:."
    ),
    model: Path | None = typer.Option(None, "--model", "-m", help="The model file."),
    config: Path | None = typer.Option(
        None, help="Streams, sinks and zones from a TOML file, instead of SOURCES; the options fill in what it does not say."
    ),
    tracker: str | None = typer.Option(None, help="Give objects ids that last: sort, bytetrack, ocsort, botsort."),
    save: Path | None = typer.Option(None, help="Write an annotated .mp4 here."),
    jsonl: Path | None = typer.Option(None, help="Write one JSON object a frame here."),
    contact_sheet: Path | None = typer.Option(None, help="Write a .png of twelve annotated frames here."),
    csv: Path | None = typer.Option(None, help="Write a line an object here."),
    mot: Path | None = typer.Option(None, help="Write tracks in MOTChallenge's text here."),
    crops: Path | None = typer.Option(None, help="Write pictures of objects into this folder."),
    mqtt: str | None = typer.Option(None, help="Publish to mqtt://[user:password@]host[:port]/topic, or mqtts://."),
    webhook: str | None = typer.Option(None, help="Post to this http(s):// address."),
    show: bool = typer.Option(False, "--show", help="Show a window; q or Esc ends."),
    serve: int | None = typer.Option(None, min=0, max=65535, help="Serve a live page on this port (0: a free one)."),
    host: str | None = typer.Option(
        None, help="Address that --serve listens on (127.0.0.1); another than loopback needs --token."
    ),
    token: str | None = typer.Option(None, envvar="EDGEDET_TOKEN", help="What viewers of --serve must know."),
    min_score: float | None = typer.Option(
        None,
        min=0,
        max=1,
        help="Drop objects below (0.3). With a tracker: what starts a track; fainter ones may keep it up.",
    ),
    classes: str | None = typer.Option(None, help="Keep these classes only, as in person,car."),
    policy: str = typer.Option("newest", help="Live frames that come too fast: newest, 'queue N' or 'every K'."),
    open_timeout: float = typer.Option(10.0, min=0.1, help="Seconds a camera may take to open."),
    read_timeout: float = typer.Option(5.0, min=0.1, help="Seconds without a frame after which a camera is opened again."),
    max_reconnects: int | None = typer.Option(None, min=0, help="Give a camera up after so many attempts. Default: never."),
    stride: int = typer.Option(1, min=1, help="Look at one frame in so many."),
    size: str | None = typer.Option(None, metavar="WxH", help="Resize frames first, as in 1280x720."),
    max_wait_ms: float | None = typer.Option(
        None, min=0, help="How long a frame waits for others where the model takes several (10)."
    ),
    runtime: str | None = typer.Option(None, help="Which runtime serves the model; by default its suffix says."),
    device: str | None = typer.Option(None, help="auto, cpu, gpu, or a runtime's own name (auto)."),
    inference_precision: Literal["f32", "bf16", "f16"] = typer.Option("f32", help="What float arithmetic runs in."),
    max_frames: int | None = typer.Option(None, min=1, help="Stop after this many frames."),
    json: bool = typer.Option(False, "--json", help="Print the summary as JSON."),
) -> None:
    """Run a detector on videos, folders of images and cameras, many at once.

    A camera that is lost is opened again; the others never wait for it. Ctrl-C ends the stream and keeps what was written.

    Example: `edgedet stream street.mp4 --model yolox-nano.onnx --tracker bytetrack --save out.mp4 --jsonl out.jsonl`
    """
    from edgedet.cli import plans
    from edgedet.streaming.config_values import parse_size
    from edgedet.streaming.feed import FeedOptions
    from edgedet.streaming.policy import parse_policy
    from edgedet.streaming.sources.base import Timeouts

    named = {"video": save, "jsonl": jsonl, "contact_sheet": contact_sheet, "csv": csv, "mot": mot, "crops": crops}
    targets = {kind: str(target) for kind, target in {**named, "mqtt": mqtt, "webhook": webhook}.items() if target is not None}
    feed = FeedOptions(
        policy=parse_policy(policy),
        timeouts=Timeouts(open_timeout, read_timeout),
        max_reconnects=max_reconnects,
        stride=stride,
        size_hw=None if size is None else parse_size(size),
    )
    wanted = None if classes is None else tuple(name.strip() for name in classes.split(","))
    common = plans.Wanted(tracker, min_score, wanted, feed)
    jobs, engine = plans.jobs(sources or [], config, targets, common, plans.Engine(model, runtime, device, max_wait_ms))
    view = View(show=show, serve=serve, host=host, token=token)
    run(jobs, engine, view, inference_precision=inference_precision, max_frames=max_frames, json=json)


@dataclass(frozen=True)
class View:
    """How people see the streams: in a window, and on which port, address and with which token a page is served."""

    show: bool = False
    serve: int | None = None
    host: str | None = None
    token: str | None = None


def run(
    jobs: Sequence[Job],
    engine: Engine,
    view: View,
    *,
    inference_precision: Literal["f32", "bf16", "f16"] = "f32",
    max_frames: int | None = None,
    json: bool = False,
) -> None:
    """Run streams to their end, or until somebody interrupts them, and print what they gave."""
    from edgedet.cli import plans
    from edgedet.streaming.pipeline import MAX_WAIT_MS, stream
    from edgedet.streaming.watchdog import watched

    _check(jobs, view)
    path, tally = engine.path(), _Tally(jobs)
    try:
        with ExitStack() as stack:
            # Before the model, which may take a minute: the sources that are files, the port, the sinks.
            opened = [stack.enter_context(plans.opened(job)) for job in jobs]
            server = None if view.serve is None else stack.enter_context(_server(lambda: tally.status(), view, view.serve))
            if server is not None:
                console.say(f"live page: {server.url}")
            wanted_streams = [
                plans.plan(job, source, tally.classes, server, stack) for job, source in zip(jobs, opened, strict=True)
            ]
            window = stack.enter_context(_window(tally.source, tally.classes)) if view.show else None
            detector = stack.enter_context(_detector(path, engine, jobs, inference_precision))
            tally.classes += detector.spec.classes
            wait_ms = MAX_WAIT_MS if engine.max_wait_ms is None else engine.max_wait_ms
            found = stack.enter_context(stream(wanted_streams, detector, max_wait_ms=wait_ms, on_event=_say))
            tally.status = found.status
            stack.enter_context(_signals(found, tally))
            stack.enter_context(watched(found.status, rest_s=max(job.rest_s for job in jobs)))
            counts = [source.frame_count for source in opened if source is not None]
            frame_count = counts[0] if len(jobs) == len(counts) == 1 else None
            _watch(found, frame_count, window, tally, max_frames)
    except KeyboardInterrupt:
        _show(tally, json)
        raise
    except EdgedetError as error:
        if not tally.frames:
            raise
        _show(tally, json)  # what there was until then, of the other streams too
        if not tally.interrupted:
            raise
        console.say(str(error))
        raise KeyboardInterrupt from error
    _show(tally, json)
    if tally.interrupted:  # how a camera's stream ends
        raise KeyboardInterrupt


def _detector(
    path: Path, engine: Engine, jobs: Sequence[Job], inference_precision: Literal["f32", "bf16", "f16"]
) -> LoadedDetector:
    """The model, open, to be waited for by a camera or kept busy by files."""
    import edgedet

    tracked = any(job.wanted.tracker for job in jobs)
    return edgedet.load(
        path,
        runtime=engine.runtime,
        device=engine.device or "auto",
        # A tracker uses faint objects, so it gets all that the file gives.
        min_score=None if tracked else min(job.wanted.least_score for job in jobs),
        performance="latency" if any(job.live for job in jobs) else "throughput",
        inference_precision=inference_precision,
    )


def _check(jobs: Sequence[Job], view: View) -> None:
    """Refuse options that do not go together."""
    if view.host is not None and view.serve is None:
        raise UsageError(f"--host {view.host} is where --serve listens; add --serve 8080")
    if view.show and len(jobs) > 1:
        raise UsageError(f"--show is a window for one stream, and there are {len(jobs)}; --serve 8080 shows them all")


def _server(status: Callable[[], Sequence[StreamStatus]], view: View, port: int) -> WebServer:
    from edgedet.streaming.web.server import WebServer

    return WebServer(status, host="127.0.0.1" if view.host is None else view.host, port=port, token=view.token)


def _window(title: str, names: Sequence[str]) -> WindowSink:
    from edgedet.streaming.sinks.window import WindowSink

    return WindowSink(title, classes=names)


def _say(event: Event) -> None:
    """Tell people what a stream does."""
    if event.kind == "offline":
        console.say(f"{event.stream}: offline: {event.detail['reason']}; trying again")
    elif event.kind == "ended":
        console.say(f"{event.stream}: ended: {event.detail['reason']}")
    elif event.kind in ("online", "resized"):
        height, width = event.detail["size_hw"]
        console.say(f"{event.stream}: {'online, ' if event.kind == 'online' else ''}frames are {width}x{height}")


@contextmanager
def _signals(found: Stream, tally: _Tally) -> Iterator[None]:
    """SIGINT and SIGTERM end the stream after the frame in hand, a second one at once; SIGUSR1 shows how it fares."""

    def end(number: int, frame: object) -> None:
        if tally.interrupted:
            raise KeyboardInterrupt
        tally.interrupted = True
        found.stop()

    handlers: dict[int, Any] = {signal.SIGINT: end, signal.SIGTERM: end}
    if hasattr(signal, "SIGUSR1"):
        handlers[signal.SIGUSR1] = lambda number, frame: console.say(_as_lines(found.status()))
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _watch(
    found: Iterator[Found], frame_count: int | None, window: WindowSink | None, tally: _Tally, max_frames: int | None
) -> None:
    """Count what is found until the stream ends, max_frames are done or the window is closed."""
    limits = [limit for limit in (frame_count, max_frames) if limit is not None]
    total = min(limits, default=None)
    for frame, objects in console.track(tally.counting(islice(found, max_frames)), tally.source, total=total, rate_unit="fps"):
        if window is not None:
            window.write(frame, objects)
            if window.closed:
                return
    if frame_count is not None and total is not None and tally.frames < total and not tally.interrupted:
        console.say(f"{tally.source}: {tally.frames} of {total} frames could be decoded; is the file whole?")


class _Tally:
    """What the streams have given so far."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        from edgedet.streaming.status import StreamStatus

        self.source = jobs[0].name if len(jobs) == 1 else f"{len(jobs)} streams"
        self.classes: list[str] = []  # the model's, known once it is open
        self.frames, self.seconds = 0, 0.0
        self.interrupted = False
        opening = [StreamStatus(job.name, "connecting") for job in jobs]
        self.status: Callable[[], Sequence[StreamStatus]] = lambda: opening
        self._objects: Counter[int] = Counter()

    def counting(self, found: Iterator[Found]) -> Iterator[Found]:
        """The same frames and objects, counted and timed as they pass."""
        started_s = time.monotonic()
        for frame, objects in found:
            self.frames += 1
            self._objects.update(objects.labels.tolist())
            self.seconds = time.monotonic() - started_s
            yield frame, objects

    def summary(self) -> dict[str, Any]:
        """The figures as plain values; an object counts in every frame it is seen in. tracks: None without a tracker."""
        from edgedet.streaming.overlay import class_name

        streams = self.status()
        tracks = [status.tracks for status in streams if status.tracks is not None]
        return {
            "source": self.source,
            "frames": self.frames,
            "seconds": round(self.seconds, 3),
            "fps": round(self.frames / self.seconds, 2) if self.seconds else None,
            "objects": {class_name(self.classes, label): count for label, count in self._objects.most_common()},
            "tracks": sum(tracks) if tracks else None,
            "streams": [asdict(status) for status in streams],
        }


def _show(tally: _Tally, json: bool) -> None:
    """Print the summary as tables or as JSON."""
    figures = tally.summary()
    if json:
        console.print_json(figures)
        return
    title = f"{tally.source}: {tally.frames} frames in {tally.seconds:.1f} s"
    title += f", {figures['fps']:.1f} fps" if figures["fps"] else ""
    title += "" if figures["tracks"] is None else f", {figures['tracks']} tracks"
    rows = [(name, str(count), f"{count / tally.frames:.2f}") for name, count in figures["objects"].items()]
    print(title)
    if rows:
        console.print_table(("class", "seen", "a frame"), rows)
    if tally.frames:
        print(_as_lines(tally.status()))


def _as_lines(statuses: Sequence[StreamStatus]) -> str:
    """How each stream fares, a line or two a stream."""
    lines = []
    for status in statuses:
        dropped = ", ".join(f"{count} {cause}" for cause, count in {**status.dropped, **status.sink_dropped}.items()) or "none"
        words = f"{status.name}: {status.state}, {status.frames} frames, dropped: {dropped}, reconnects: {status.reconnects}"
        lines.append(words + (f" ({status.reason})" if status.reason else ""))
        stages = {"age": status.age_ms, **status.stages_ms}
        parts = [f"{name} {one.p50:.1f} / {one.p95:.1f} / {one.p99:.1f}" for name, one in stages.items() if one]
        if parts:
            lines.append(f"  ms p50 / p95 / p99: {', '.join(parts)}")
    return "\n".join(lines)
