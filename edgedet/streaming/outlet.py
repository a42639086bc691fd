"""A sink behind a queue and a thread of its own, so that a slow or dead one never slows detection."""

from __future__ import annotations

import threading
import time

from edgedet import console
from edgedet.detections import Detections
from edgedet.errors import EdgedetError
from edgedet.streaming.channel import Channel
from edgedet.streaming.frame import Event, Frame
from edgedet.streaming.sinks.base import Sink

WAITING = 8  # frames before a sink: a quarter of a second at 30 fps, and as many pictures in memory
QUIET_S = 3.0  # without an error before a sink counts as recovered: a video only fails once a second
CLOSE_S = 10.0  # how long a live sink may take for what waits at the end; one that hangs is then left behind


class Outlet:
    """Feeds one sink.

    lossless: `put` waits while the sink is behind, and the sink's error is
    raised by the next `put`, or by `close`. Otherwise `put` never waits: the
    oldest of what waits is dropped, an error of the sink (EdgedetError,
    OSError) is told once and counted, and the next write is tried again.
    Whatever else a sink raises is a defect, and raised in both cases. name: for
    what is told on stderr. failed: writes that ended in an error.
    """

    def __init__(self, sink: Sink, *, lossless: bool, name: str) -> None:
        self._sink, self._lossless, self.name = sink, lossless, name
        self._waiting: Channel[tuple[Frame, Detections] | Event] = Channel(
            WAITING, when_full="wait" if lossless else "drop-oldest"
        )
        self.failed = self._abandoned = 0
        self._failing, self._failed_at_s = 0, 0.0  # errors since it last did well, time.monotonic of the latest
        self._error: BaseException | None = None
        self._closed, self._ended_s = False, 0.0
        self._thread = threading.Thread(target=self._run, name=f"edgedet-sink-{name}", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """What the sink never got, and what it gave up itself."""
        return self._waiting.dropped + self._abandoned + getattr(self._sink, "dropped", 0)

    def put(self, frame: Frame, detections: Detections) -> None:
        """Hand a frame and its objects to the sink."""
        self._send((frame, detections))

    def notice(self, event: Event) -> None:
        """Hand an event to the sink."""
        self._send(event)

    def end(self) -> None:
        """Nothing more comes: the sink's thread writes what waits, while others are closed."""
        self._waiting.close()
        self._ended_s = self._ended_s or time.monotonic()

    def close(self, error: BaseException | None = None) -> None:
        """Let what waits be written, then leave the sink's context.

        error: what ended the stream, for the sink to know. A lossless sink
        writes no more when it is an Exception: what it wrote is dropped anyway.
        """
        if self._closed:
            return
        self._closed = True
        if self._lossless and isinstance(error, Exception):
            self._waiting.cancel()
        self.end()
        self._thread.join(None if self._lossless else max(self._ended_s + CLOSE_S - time.monotonic(), 0.0))
        if self._thread.is_alive():
            self._abandoned = len(self._waiting.cancel()) + 1
            console.say(f"{self.name}: hangs; {self._abandoned} frames were not written")
            return
        own = None if isinstance(error, Exception) else self._error
        self._leave(own or error)
        if own is not None:
            raise own

    def _leave(self, error: BaseException | None) -> None:
        """Leave the sink's context."""
        try:
            self._sink.__exit__(type(error) if error else None, error, None)
        except (EdgedetError, OSError) as failure:
            self.failed += 1
            if self._lossless:
                raise
            console.say(f"{self.name}: {failure}")

    def _send(self, item: tuple[Frame, Detections] | Event) -> None:
        if not self._waiting.put(item) and self._error is not None:
            raise self._error

    def _run(self) -> None:
        """Thread: what waits → the sink."""
        for item in self._waiting:
            try:
                if isinstance(item, Event):
                    self._sink.notice(item)
                else:
                    self._sink.write(*item)
            except BaseException as error:
                self.failed += 1
                if self._lossless or not isinstance(error, (EdgedetError, OSError)):
                    self._error = error
                    self._waiting.cancel()
                    return
                self._tell_failure(error)
            else:
                self._tell_recovery()

    def _tell_failure(self, error: BaseException) -> None:
        if not self._failing:
            console.say(f"{self.name}: {error} (the stream goes on, each frame is tried)")
        self._failing += 1
        self._failed_at_s = time.monotonic()

    def _tell_recovery(self) -> None:
        if self._failing and time.monotonic() - self._failed_at_s >= QUIET_S:
            console.say(f"{self.name}: writes again, after {self._failing} errors")
            self._failing = 0
