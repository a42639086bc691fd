"""One stream's frames into the inbox, whatever its camera does: it may die, hang, come back in another size, or lie about time.

OpenCV cannot be interrupted: a read of a camera that hangs returns after three
times its time-out. So each connection is read by a thread of its own, which is
watched from outside and, when nothing comes, left behind: it ends by itself.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from edgedet.errors import EdgedetError, SourceError, UsageError
from edgedet.streaming.frame import Event, Frame
from edgedet.streaming.inbox import Inbox
from edgedet.streaming.policy import Policy
from edgedet.streaming.sources.base import Source, Timeouts
from edgedet.streaming.statistics import Statistics

_LOSSLESS = Policy("queue", 8)  # so many frames of a file are decoded before they are wanted
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 0.6
"""Between attempts to reconnect. It stays this short because an attempt at a camera that is down costs one refused
connection, and its first frame is wanted within 1.5 s, of which opening takes .2, one stream after the other."""
MOST_LEFT_BEHIND = 3  # connections that hang, beyond which none is opened
CLOCK_SLACK_S = 1.0  # a live frame's time may differ so much from what has passed here; beyond, its clock has jumped
_TICK_S = 0.05

Notify = Callable[[Event], None]


@dataclass(frozen=True)
class FeedOptions:
    """What becomes of a source's frames, and of a source that is lost.

    max_reconnects: attempts in a row without a frame, None for no end. stride:
    one frame in so many; the policy sees those only. size_hw: resized to.
    """

    policy: Policy = field(default_factory=Policy)
    timeouts: Timeouts = field(default_factory=Timeouts)
    max_reconnects: int | None = None
    stride: int = 1
    size_hw: tuple[int, int] | None = None


class _Connection:
    """One thread that reads one opened source until it ends, fails, or is left behind.

    frames: pictures so far. beat_s: when the latest came, or when it began to open, on `time.monotonic`.
    spoilt: whether what came since is no picture.
    """

    def __init__(self, open_source: Callable[[], Source], accept: Callable[[_Connection, Frame], bool]) -> None:
        self._open, self._accept = open_source, accept
        self.error: BaseException | None = None
        self.left_behind = self.spoilt = False
        self.live = True
        self.frames, self.beat_s = 0, time.monotonic()
        self._thread = threading.Thread(target=self._read, name="edgedet-read", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)

    def _read(self) -> None:
        try:
            with self._open() as source:
                self.live = source.live
                for frame in source:
                    if not self._accept(self, frame):
                        return
        except BaseException as error:  # judged by the thread that watches
            self.error = error


class Feed:
    """Reads one stream in the background, reconnects where it is live, and tells what happened through `notify`.

    stopped: set by whoever wants the stream to end. tried: told why there is no
    first frame, or None with it; says whether to go on. reopens: whether the
    source can be opened again. error: why the stream ended, None for a clip's end.
    """

    def __init__(
        self,
        name: str,
        open_source: Callable[[], Source],
        inbox: Inbox,
        statistics: Statistics,
        *,
        options: FeedOptions,
        stopped: threading.Event,
        notify: Notify,
        tried: Callable[[Exception | None], bool],
        reopens: bool,
    ) -> None:
        self._reopens = reopens
        self.name, self._open, self._inbox, self._statistics = name, open_source, inbox, statistics
        self._options, self._notify, self._tried = options, notify, tried
        self.error: BaseException | None = None
        self._stopped = stopped
        self._left_behind: list[_Connection] = []
        self._taking = threading.Lock()  # one frame at a time: a connection left behind may wake while the next one gives
        self._next_index, self._live = 0, True
        self._size_hw: tuple[int, ...] = ()
        self._latest: tuple[float, float] | None = None  # time_s and read_s of the latest frame
        self._shift_s = 0.0
        self._thread = threading.Thread(target=self._run, name=f"edgedet-feed-{name}", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def join(self, deadline_s: float) -> None:
        """Wait for every thread of the stream, for those left behind by a hung camera until then only, on `time.monotonic`."""
        self._thread.join()
        for connection in self._left_behind:
            connection.join(max(deadline_s - time.monotonic(), 0.0))

    def _run(self) -> None:
        try:
            self._keep_connected()
        except BaseException as error:
            self.error = error
            if self._live:  # the other streams go on, perhaps for ever, and the caller gets the error only then
                self._notify(Event("ended", self.name, self._time_s(), {"reason": self._why(error)}))
        finally:
            self._statistics.end(None if self.error is None else self._why(self.error))
            self._inbox.end(self.name)

    def _keep_connected(self) -> None:
        attempts = 0  # to reconnect, since the latest frame
        while not self._stopped.is_set():
            connection = _Connection(self._open, self._accept)
            reason = self._watch(connection)
            self._live = connection.live
            if self._stopped.is_set() or reason is None:
                return
            if not (connection.live and self._reopens and isinstance(reason, (EdgedetError, cv2.error))):
                raise reason
            if isinstance(reason, UsageError):  # a zone that lies outside its frames: opening it again mends nothing
                raise reason
            if self._latest is None and not self._tried(reason):
                return
            attempts, most = 0 if connection.frames else attempts, self._options.max_reconnects
            self._go_offline(reason)
            if most is not None and attempts >= most:
                raise SourceError(f"{reason}; gave up after {attempts} attempts to reconnect") from reason
            self._pause(attempts)
            attempts += 1

    def _watch(self, connection: _Connection) -> Exception | None:
        """Why the connection ended: None where the source did, or nobody wants more."""
        limits = self._options.timeouts
        while connection.alive and not self._stopped.is_set():
            connection.join(_TICK_S)
            silent_s = time.monotonic() - connection.beat_s
            limit_s = limits.read_s if connection.frames else limits.open_s + limits.read_s
            if connection.live and connection.alive and silent_s > limit_s:
                self._leave(connection)
                why = "what comes is no picture of 8 bits a colour" if connection.spoilt else "the camera or the net hangs"
                return SourceError(f"{self.name}: no frame for {limit_s:g} s; {why}")
        if connection.alive:  # stopped
            self._leave(connection)
            return None
        error = connection.error
        if error is not None and not isinstance(error, Exception):
            raise error
        return error

    def _leave(self, connection: _Connection) -> None:
        """Take no frame of the connection any more; its thread ends with the next one."""
        with self._taking:
            connection.left_behind = True
        self._left_behind.append(connection)

    def _time_s(self) -> float:
        """Now, on the clock of the stream's frames."""
        return time.time() if self._latest is None else self._latest[0] + time.monotonic() - self._latest[1]

    def _why(self, error: BaseException) -> str:
        """What the error says, without the stream's name, which stands beside it wherever it is shown."""
        return str(error).removeprefix(f"{self.name}: ")

    def _go_offline(self, reason: Exception) -> None:
        why = self._why(reason)
        if self._statistics.go_offline(why):
            self._notify(Event("offline", self.name, self._time_s(), {"reason": why}))

    def _pause(self, attempts: int) -> None:
        """Wait before the next attempt: longer after each that failed, and never in step with other cameras."""
        pause_s = min(FIRST_PAUSE_S * 2.0 ** min(attempts, 10), LONGEST_PAUSE_S) * random.uniform(0.5, 1.0)
        self._stopped.wait(pause_s)
        while not self._stopped.wait(_TICK_S):
            self._left_behind = [connection for connection in self._left_behind if connection.alive]
            if len(self._left_behind) < MOST_LEFT_BEHIND:
                return

    def _accept(self, connection: _Connection, frame: Frame) -> bool:
        """Take one frame of a connection; False when no more of its frames are wanted."""
        with self._taking:
            if self._stopped.is_set():
                return False
            index, self._next_index = self._next_index, self._next_index + 1
            if connection.left_behind:
                self._statistics.drop("late")
                return False
            image = _as_bgr(frame.image)
            connection.spoilt = image is None
            if image is None:
                self._statistics.drop("corrupt")
                return True
            connection.frames, connection.beat_s = connection.frames + 1, time.monotonic()
            time_s = self._stamp(frame, live=connection.live)
            frame = Frame(image, index, time_s, frame.source, frame.read_s, self.name)
            return self._give(frame, live=connection.live)

    def _give(self, frame: Frame, *, live: bool) -> bool:
        """Put the frame into the inbox where it is wanted; False when no more are."""
        options = self._options
        self._tell_of(frame, options.size_hw or frame.image.shape[:2], live=live)
        turn, out_of_turn = divmod(frame.index, options.stride)
        policy, wait = (options.policy, False) if live else (_LOSSLESS, True)
        if out_of_turn or (policy.kind == "every" and turn % policy.count):
            self._statistics.drop("stride" if out_of_turn else "every")
            return True
        if options.size_hw:
            frame = replace(frame, image=cv2.resize(frame.image, options.size_hw[::-1], interpolation=cv2.INTER_AREA))
        dropped = self._inbox.put(self.name, frame, room=policy.room, wait=wait)
        if dropped:
            self._statistics.drop(policy.cause, dropped)
        return dropped is not None

    def _stamp(self, frame: Frame, *, live: bool) -> float:
        """The frame's time on a clock that runs as fast as ours and never backwards: a live camera's may jump."""
        time_s = frame.time_s + self._shift_s
        if live and self._latest is not None:
            due_s = self._latest[0] + frame.read_s - self._latest[1]
            if abs(time_s - due_s) > CLOCK_SLACK_S or time_s <= self._latest[0]:
                self._shift_s += due_s - time_s
                time_s = due_s
        self._latest = (time_s, frame.read_s)
        return time_s

    def _tell_of(self, frame: Frame, size_hw: tuple[int, ...], *, live: bool) -> None:
        """Say that the stream is there, and in which size, where that is news; of a file nobody waits to hear it."""
        before, self._size_hw = self._size_hw, size_hw
        if self._statistics.go_online((size_hw[0], size_hw[1])):
            self._tried(None)
            if live:
                self._notify(Event("online", self.name, frame.time_s, {"size_hw": list(size_hw)}))
        elif live and size_hw != before:
            self._notify(Event("resized", self.name, frame.time_s, {"size_hw": list(size_hw)}))


def _as_bgr(image: object) -> np.ndarray | None:
    """The picture (H, W, 3) uint8, grey and BGRA converted; None where it is none."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim not in (2, 3) or image.size == 0:
        return None
    channels = image.shape[2] if image.ndim == 3 else 1
    if channels == 3:
        return image
    conversion = {1: cv2.COLOR_GRAY2BGR, 4: cv2.COLOR_BGRA2BGR}.get(channels)
    return None if conversion is None else cv2.cvtColor(image, conversion)
