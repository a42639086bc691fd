"""The service manager, told that frames are made, so that a process which hangs is restarted: sd_notify(3) of systemd.

A datagram to the socket that $NOTIFY_SOCKET names; nothing where no service manager asked.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from edgedet.streaming.status import StreamStatus

_PINGS = 4  # in the time after which a silent process is killed: one that is late harms nothing


def notify(message: str) -> bool:
    """Send lines such as `READY=1` to the service manager; whether there is one."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.connect(f"\0{address[1:]}" if address[0] == "@" else address)
        channel.send(message.encode())
        return True
    return False


def patience_s() -> float | None:
    """Seconds without a sign of life after which the service manager kills this process; None where it never does."""
    microseconds, process = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", str(os.getpid()))
    return int(microseconds) / 1e6 if microseconds.isdecimal() and int(microseconds) and process == str(os.getpid()) else None


class Pulse:
    """Whether frames are made, or rightly none: asked again and again, it remembers when it last saw a new result.

    quiet_s: how long a stream that is online may give no result.
    """

    def __init__(self, *, quiet_s: float) -> None:
        self._quiet_s = quiet_s
        self._frames, self._seen_s = -1, time.monotonic()

    def beats(self, statuses: Sequence[StreamStatus]) -> bool:
        """False where a camera is online, or nothing is left to wait for, and no result came for too long.

        A camera that is offline gives none, and is tried again; when all are, that is honest work.
        """
        frames = sum(status.frames for status in statuses)
        waiting = any(s.state in ("connecting", "offline") for s in statuses) and all(s.state != "online" for s in statuses)
        if frames != self._frames or waiting:
            self._frames, self._seen_s = frames, time.monotonic()
        return time.monotonic() - self._seen_s <= self._quiet_s


@contextmanager
def watched(status: Callable[[], Sequence[StreamStatus]], *, rest_s: float) -> Iterator[None]:
    """Tell the service manager that the streams run, and as long as they do; at the end that they stop.

    rest_s: the longest time for which a camera that is online may rightly give
    no result. Beyond it the process has half the manager's patience, then the pings stop.
    """
    notify(f"READY=1\nSTATUS={_words(status())}")
    over = threading.Event()
    thread = threading.Thread(target=_ping, args=(status, rest_s, over), name="edgedet-watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        notify("STOPPING=1")


def _ping(status: Callable[[], Sequence[StreamStatus]], rest_s: float, over: threading.Event) -> None:
    """Thread: signs of life while there are any."""
    within_s = patience_s()
    if within_s is None:
        return
    pulse = Pulse(quiet_s=rest_s + within_s / 2)
    while not over.wait(within_s / _PINGS):
        statuses = status()
        if pulse.beats(statuses):
            notify(f"WATCHDOG=1\nSTATUS={_words(statuses)}")


def _words(statuses: Sequence[StreamStatus]) -> str:
    """One line for `systemctl status`."""
    return "; ".join(f"{one.name} {one.state}, {one.frames} frames" for one in statuses)
