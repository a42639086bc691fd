"""Where every stream's frames wait for the one engine: bounded, fair, and never held up by a stream that gives none."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable

from edgedet.streaming.frame import Frame


class Inbox:
    """Frames of several streams, by the stream's name; each stream's own thread puts, one thread takes."""

    def __init__(self, streams: Iterable[str]) -> None:
        self._waiting: dict[str, deque[Frame]] = {name: deque() for name in streams}
        self._turns = deque(self._waiting)  # whose turn it is, first
        lock = threading.Lock()
        self._changed, self._taken = threading.Condition(lock), threading.Condition(lock)
        self._open = set(self._waiting)
        self._cancelled = False

    def put(self, stream: str, frame: Frame, *, room: int, wait: bool) -> int | None:
        """How many older frames made way for this one; None where no more are wanted.

        room: most frames of the stream waiting. wait: when they are that many until half are taken, so that none is
        lost, and one change of thread serves several.
        """
        with self._changed:
            waiting, dropped = self._waiting[stream], 0
            if wait and len(waiting) >= room:
                self._taken.wait_for(lambda: self._cancelled or len(waiting) <= room // 2)
            if self._cancelled:
                return None
            while len(waiting) >= room:
                waiting.popleft()
                dropped += 1
            waiting.append(frame)
            self._changed.notify_all()
            return dropped

    def end(self, stream: str) -> None:
        """The stream gives no more."""
        with self._changed:
            self._open.discard(stream)
            self._changed.notify_all()

    def take(self, most: int = 1, *, wait_s: float = 0.0) -> list[tuple[str, Frame]]:
        """Up to `most` frames, the streams in turn: waits for the first, then `wait_s` at most for more; none at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._cancelled or self._count() or not self._open)
            if most > 1 and wait_s > 0 and not self._cancelled:
                deadline_s = time.monotonic() + wait_s
                self._changed.wait_for(
                    lambda: self._cancelled or self._count() >= most or not self._open, deadline_s - time.monotonic()
                )
            taken = [] if self._cancelled else [self._next() for _ in range(min(most, self._count()))]
            self._taken.notify_all()
            return taken

    def cancel(self) -> None:
        """Refuse every put from now on, and end."""
        with self._changed:
            self._cancelled = True
            for waiting in self._waiting.values():
                waiting.clear()
            self._changed.notify_all()
            self._taken.notify_all()

    def _count(self) -> int:
        return sum(map(len, self._waiting.values()))

    def _next(self) -> tuple[str, Frame]:
        """The next frame of the stream whose turn it is, among those that have one."""
        while not self._waiting[self._turns[0]]:
            self._turns.rotate(-1)
        name = self._turns[0]
        self._turns.rotate(-1)
        return name, self._waiting[name].popleft()
