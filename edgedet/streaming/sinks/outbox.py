"""Messages on their way to a server that may be slow, dead or back again."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from edgedet import console
from edgedet.errors import OutputError

SIZE = 1000  # messages kept while the server does not answer
GRACE_S = 3.0  # for what waits when the stream ends
LEFT_BEHIND_S = 10.0  # after which a thread that hangs in a name server is left to the process's end
_BACK_OFF_S = (0.25, 8.0)  # the first wait after a failure, doubled up to the last

Message = TypeVar("Message")


class Outbox(Generic[Message]):
    """A bounded buffer with a thread that delivers from it, in order, and tries again until the server answers.

    name: for what is told on stderr: that the server fails, once, and that it
    is back. deliver: sends one message; an OSError means that it is tried
    again, an OutputError that the server will never take it. Full, the buffer
    gives up the oldest message. dropped: how many were given up.
    """

    def __init__(self, name: str, deliver: Callable[[Message], None], *, size: int = SIZE) -> None:
        self._name, self._deliver = name, deliver
        self._waiting: deque[Message] = deque()
        self._size, self.dropped = size, 0
        self._changed = threading.Condition()
        self._deadline_s: float | None = None  # on time.monotonic, once closing
        self._failing = self._refused = self._hurried = False
        self._thread = threading.Thread(target=self._run, name="edgedet-outbox", daemon=True)
        self._thread.start()

    def put(self, message: Message) -> None:
        """Send the message soon; never waits."""
        with self._changed:
            if len(self._waiting) >= self._size:
                self._waiting.popleft()
                self.dropped += 1
            self._waiting.append(message)
            self._changed.notify_all()

    def retry_now(self) -> None:
        """Do not wait for the next attempt: the server is known to be back."""
        with self._changed:
            self._hurried = True
            self._changed.notify_all()

    def close(self) -> None:
        """Deliver what waits, for three seconds at most, then give up the rest."""
        with self._changed:
            if self._deadline_s is None:
                self._deadline_s = time.monotonic() + GRACE_S
            self._changed.notify_all()
        self._thread.join(LEFT_BEHIND_S)

    def _run(self) -> None:
        """Thread: the buffer → the server."""
        pause_s = _BACK_OFF_S[0]
        while (message := self._next()) is not None:
            try:
                self._deliver(message)
            except OSError as error:
                self._put_back(message, error)
                self._pause(pause_s)
                pause_s = min(2 * pause_s, _BACK_OFF_S[1])
            except OutputError as error:
                self._give_up(error)
            else:
                pause_s = _BACK_OFF_S[0]
                self._answered()

    def _next(self) -> Message | None:
        """The oldest message, waiting for one; None when closed and either empty or out of time."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._deadline_s is not None)
            if self._deadline_s is not None and time.monotonic() > self._deadline_s:
                self.dropped += len(self._waiting)
                self._waiting.clear()
            return self._waiting.popleft() if self._waiting else None

    def _put_back(self, message: Message, error: OSError) -> None:
        with self._changed:
            if len(self._waiting) < self._size:
                self._waiting.appendleft(message)
            else:  # it is the oldest
                self.dropped += 1
        if not self._failing:
            self._failing = True
            console.say(f"{self._name}: {error}; trying again, the newest {self._size} messages are kept")

    def _give_up(self, error: OutputError) -> None:
        with self._changed:
            self.dropped += 1
        if not self._refused:
            self._refused = True
            console.say(f"{self._name}: {error}")

    def _answered(self) -> None:
        if self._failing:
            console.say(f"{self._name}: answers again, {self.dropped} messages were given up so far")
        self._failing = self._refused = False

    def _pause(self, seconds: float) -> None:
        """Wait before the next attempt, not past the deadline."""
        until_s = time.monotonic() + seconds
        with self._changed:
            while not self._hurried and (left_s := min(until_s, self._deadline_s or until_s) - time.monotonic()) > 0:
                self._changed.wait(left_s)
            self._hurried = False
