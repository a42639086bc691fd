"""Streams through one detector, each with its own tracker and sinks, all at work at the same time.

    feeds ──frames──▶ inbox ──▶ submit ──futures──▶ the caller's loop (track, yield) ──▶ outlets ──▶ sinks

Every connection, the submitting and every sink have a thread; OpenCV and the
runtimes release the GIL. A stream's order is kept, every queue is bounded, and
whatever goes wrong in a thread is raised in the caller's loop.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Container, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol, cast

import numpy as np

from edgedet.detections import Detections
from edgedet.errors import EdgedetError, SourceError, UsageError
from edgedet.streaming.channel import Channel
from edgedet.streaming.cores import opencv_in_one_thread, waiting_their_turn
from edgedet.streaming.feed import Feed, FeedOptions
from edgedet.streaming.frame import Event, Frame
from edgedet.streaming.inbox import Inbox
from edgedet.streaming.lane import Lane, StreamPlan
from edgedet.streaming.sinks.base import Sink
from edgedet.streaming.sources.base import Source, open_source
from edgedet.streaming.status import StreamStatus
from edgedet.tracking.base import Tracker

MAX_WAIT_MS = 10.0
_MOST_TOGETHER = 8  # frames in flight of a file of dynamic batch
_BURST, _BURST_S = 8, 0.1  # frames of files that are finished together: as many as come in .1 s, eight at most
_LEFT_BEHIND_S = 0.5  # how long the end waits for threads that hang in a dead camera's read

Found = tuple[Frame, Detections]
Detect = Callable[[np.ndarray], Detections]


class ManyDetector(Protocol):
    """A detector with several requests in flight: what `edgedet.load` gives."""

    slots: int

    def submit(self, image: np.ndarray) -> Future[Detections]: ...


class BatchDetector(Protocol):
    """A detector that takes several images in one request."""

    def submit_batch(self, images: Sequence[np.ndarray]) -> list[Future[Detections]]: ...


class _InFlight(NamedTuple):
    """A frame and the objects it will have; last: of its request."""

    stream: str
    frame: Frame
    submitted_s: float
    future: Future[Detections]
    last: bool


def stream(
    source: str | Path | int | Source | Sequence[str | Path | int | StreamPlan],
    detector: Detect,
    *,
    tracker: str | Tracker | None = None,
    min_score: float | Mapping[str, float] | None = None,
    classes: Sequence[str] | None = None,
    sinks: Sequence[Sink] = (),
    feed: FeedOptions | None = None,
    max_wait_ms: float = MAX_WAIT_MS,
    on_event: Callable[[Event], None] | None = None,
) -> Stream:
    """Frames and the objects in them, as an iterator and a context manager; `frame.stream` says whose they are.

    source: an address for `open_source`, or an open source; for several
    streams a list of addresses, or of plans, each with its own options.
    detector: any function from a frame (H, W, 3) uint8 BGR to Detections; one
    that has `submit` and `slots` gets that many frames at once. tracker: a
    name, or one made before (one stream only); give the detector a low
    threshold then (0.1), trackers use faint objects. min_score, classes, sinks:
    as in `StreamPlan`; with a list of plans they are said there. feed: what
    becomes of frames that come too fast, time-outs, reconnects. max_wait_ms: how
    long a frame may wait for others where the model takes several at once.
    on_event: called as `offline` and the like happen, from another thread.

    A file is lossless; a live source gives its newest frame, drops what came in
    between, and is opened again when it is lost. An address that never opened
    is an error where no other stream runs. Sources and sinks are closed at the
    end. Leaving early keeps what the sinks wrote; an error drops it.
    """
    if isinstance(source, (list, tuple)) and any(isinstance(one, StreamPlan) for one in source):
        if not all(isinstance(one, StreamPlan) for one in source):
            raise UsageError("give either addresses or plans, not both")
        plans = [one for one in source if isinstance(one, StreamPlan)]
    else:
        several = cast("list[str | Path | int]", list(source)) if isinstance(source, (list, tuple)) else [source]
        if len(several) > 1 and (sinks or not isinstance(tracker, (str, type(None)))):
            raise UsageError("a sink or a tracker serves one stream; give each stream a StreamPlan with its own")
        options = feed or FeedOptions()
        plans = [
            StreamPlan(cast("str | Path | int | Source", one), "", tracker, min_score, classes, None, sinks, options)
            for one in several
        ]
    return Stream(plans, detector, max_wait_ms=max_wait_ms, on_event=on_event)


class Stream:
    """An iterator over (frame, objects); `status()` tells at any time how each stream fares."""

    def __init__(
        self, plans: Sequence[StreamPlan], detector: Detect, *, max_wait_ms: float, on_event: Callable[[Event], None] | None
    ) -> None:
        if not plans:
            raise UsageError("no stream is given; name a video, a camera or an address")
        self._lanes = [Lane(plan, detector) for plan in plans]
        names = [lane.name for lane in self._lanes]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise UsageError(f"two streams are called {twice!r}; give each a name of its own")
        own = [
            one for plan in plans for one in (*plan.sinks, plan.tracker, plan.zones) if not isinstance(one, (str, type(None)))
        ]
        if len({id(one) for one in own}) < len(own):
            raise UsageError("a sink, a tracker or zones are given twice; each stream needs its own")
        self._stop = threading.Event()
        self._found = _run(self._lanes, detector, max_wait_ms, on_event, self._stop)

    def status(self) -> list[StreamStatus]:
        """The figures of every stream now."""
        return [lane.statistics.status() for lane in self._lanes]

    def stop(self) -> None:
        """End soon, as if every source had ended; may be called from another thread or a signal's handler."""
        self._stop.set()

    def close(self) -> None:
        """Stop at once; what the sinks wrote is kept."""
        self._found.close()

    def __iter__(self) -> Iterator[Found]:
        return self

    def __next__(self) -> Found:
        return next(self._found)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _run(
    lanes: Sequence[Lane],
    detector: Detect,
    max_wait_ms: float,
    on_event: Callable[[Event], None] | None,
    stop: threading.Event,
) -> Generator[Found, None, None]:
    """The generator behind `Stream`; closing it stops every thread."""
    by_name = {lane.name: lane for lane in lanes}
    live = any(lane.live for lane in lanes)
    with ExitStack() as stack:
        if not live:
            stack.enter_context(opencv_in_one_thread())
        for lane in lanes:
            for sink in lane.plan.sinks:
                stack.enter_context(sink)
        # Woken for every frame, our threads took a core from the engine's five times a frame, which left both with cold
        # caches, 3 % of the time. Live, a frame would have to wait.
        with nullcontext() if live else waiting_their_turn():
            outlets = _Outlets(lanes)
            stack.push(outlets.close)
            engine = stack.enter_context(_Engine(lanes, detector, max_wait_ms, on_event, stop))
        count, begun_s, together = 0, time.monotonic(), 1
        while burst := engine.in_flight.take(together):
            burst[-1].future.exception()  # waits: with the latest nearly all are there
            detected_s = time.monotonic()
            for _ in filter(lambda waiting: waiting.last, burst):
                engine.room.release()
            for name, frame, submitted_s, future, _ in burst:
                yield frame, by_name[name].finish(frame, future.result(), submitted_s, detected_s)
            count += len(burst)
            together = min(max(int(_BURST_S * count / max(detected_s - begun_s, 1e-6)), 1), engine.burst)
        if errors := engine.ended_badly():
            outlets.close_all_but(errors)
            raise next(iter(errors.values()))


class _Outlets:
    """The threads of all sinks, ended together."""

    def __init__(self, lanes: Sequence[Lane]) -> None:
        self._lanes = lanes
        for lane in lanes:
            lane.open()

    def close(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Let what was found be written, unless an error ended it; raises what a lossless sink failed with."""
        _close(self._lanes, error)

    def close_all_but(self, names: Container[str]) -> None:
        """Close those of the streams that ended well: what another one died of drops nothing of theirs."""
        _close([lane for lane in self._lanes if lane.name not in names], None)


def _close(lanes: Sequence[Lane], error: BaseException | None) -> None:
    with ExitStack() as stack:
        for outlet in (outlet for lane in lanes for outlet in lane.outlets):
            stack.callback(outlet.close, error)
        for lane in lanes:
            lane.end()


class _Engine:
    """The feeds, and the thread that hands their frames to the detector."""

    def __init__(
        self,
        lanes: Sequence[Lane],
        detector: Detect,
        max_wait_ms: float,
        on_event: Callable[[Event], None] | None,
        stop: threading.Event,
    ) -> None:
        self._stop = stop
        self._detector, slots = detector, 1
        self._pool: ThreadPoolExecutor | None = None
        if hasattr(detector, "submit"):
            slots = cast(ManyDetector, detector).slots
        else:
            self._pool = ThreadPoolExecutor(1, "edgedet-detect")
        # Files are worked through in bursts: beside a busy engine every change of thread finds cold caches, which cost a
        # tracked frame .4 ms. While one burst is finished, the next keeps the engine busy. Live, it would only grow old.
        live = any(lane.live for lane in lanes)
        self.burst = 1 if live or slots == 1 else _BURST
        self.room = threading.Semaphore(slots if live else slots + self.burst)
        self._together = _micro_batch(detector, len(lanes), slots)
        self._max_wait_s = max_wait_ms / 1000
        self.in_flight: Channel[_InFlight] = Channel()
        self._inbox = Inbox(lane.name for lane in lanes)
        self._on_event = on_event
        self._failed: dict[str, Exception] = {}
        self._feeds = [self._feed(lane, len(lanes)) for lane in lanes]
        self._stopped = False
        self._thread = threading.Thread(target=self._submit_frames, name="edgedet-submit", daemon=True)

    def _feed(self, lane: Lane, streams: int) -> Feed:
        def notify(event: Event) -> None:
            if event.kind == "online":
                lane.meet(tuple(event.detail["size_hw"]))
            lane.notice(event)
            if self._on_event is not None:
                self._on_event(event)

        def tried(error: Exception | None) -> bool:
            """Whether to go on: where no stream could be opened at all, nothing is worth waiting for."""
            if isinstance(error, EdgedetError):
                self._failed[lane.name] = error
                if len(self._failed) == streams:
                    self._inbox.cancel()
                    return False
            else:
                self._failed.pop(lane.name, None)
            return True

        plan = lane.plan
        return Feed(
            lane.name,
            _opener(plan),
            self._inbox,
            lane.statistics,
            options=plan.feed,
            stopped=self._stop,
            notify=notify,
            tried=tried,
            reopens=lane.live and isinstance(plan.source, (str, Path, int)),
        )

    def _submit(self, images: list[np.ndarray]) -> list[Future[Detections]]:
        """A future for each image, of one request where the detector takes several at once."""
        if self._pool is not None:
            return [self._pool.submit(self._detector, image) for image in images]
        if self._together > 1:
            return cast(BatchDetector, self._detector).submit_batch(images)
        return [cast(ManyDetector, self._detector).submit(image) for image in images]

    def _submit_frames(self) -> None:
        """Thread: inbox → requests in flight. Room first, then the frame: a live one is then the newest."""
        try:
            while self.room.acquire() and not self._stopped:
                taken = self._inbox.take(self._together, wait_s=self._max_wait_s)
                if not taken:
                    break
                submitted_s = time.monotonic()
                futures = self._submit([frame.image for _, frame in taken])
                for number, ((name, frame), future) in enumerate(zip(taken, futures, strict=True), 1):
                    last = number == len(taken)
                    if not self.in_flight.put(_InFlight(name, frame, submitted_s, future, last)):
                        return
        except BaseException as error:  # raised again in the caller's loop
            self.in_flight.close(error)
        else:
            self.in_flight.close()

    def ended_badly(self) -> dict[str, BaseException]:
        """Why the streams ended that did not end of themselves, by their names."""
        if len(self._failed) == len(self._feeds):
            return dict(self._failed)
        for feed in self._feeds:
            feed.join(time.monotonic())
        return {feed.name: feed.error for feed in self._feeds if feed.error is not None}

    def __enter__(self) -> _Engine:
        self._thread.start()
        for feed in self._feeds:
            feed.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop reading and wait for every thread."""
        self._stopped = True
        self._stop.set()
        self._inbox.cancel()
        self.room.release()
        self._thread.join()
        deadline_s = time.monotonic() + _LEFT_BEHIND_S
        for feed in self._feeds:
            feed.join(deadline_s)
        wait([waiting.future for waiting in self.in_flight.cancel() if not waiting.future.cancel()])
        if self._pool is not None:
            self._pool.shutdown()


def _micro_batch(detector: Detect, streams: int, slots: int) -> int:
    """Frames in one request: what the file takes, or of a dynamic one as many as there are streams.

    Fewer where the engine takes several requests at once: frames in flight beyond what keeps it busy only grow old.
    """
    if not hasattr(detector, "submit_batch"):
        return 1
    batch = cast(Any, detector).spec.batch
    return int(batch) if batch else max(min(streams, _MOST_TOGETHER) // slots, 1)


def _opener(plan: StreamPlan) -> Callable[[], Source]:
    """What opens the stream's source, again and again; one that was given open is given once."""
    source = plan.source
    if isinstance(source, (str, Path, int)):
        return lambda: open_source(source, plan.feed.timeouts)
    given = [source]

    def once() -> Source:
        if not given:
            raise SourceError(f"{plan.title}: was given open, so it cannot be opened again")
        return given.pop()

    return once
