"""The latest events of all streams, for any number of readers."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from typing import Any

from edgedet.streaming.frame import Event

KEPT = 200  # a reader who falls farther behind misses the oldest


class Bulletin:
    """Events numbered as they come; any thread posts, readers ask for what came after a number.

    Numbers go on from the milliseconds since 1970 at the start, so that those
    of the run before, which a reader may still hold, are lower.
    """

    def __init__(self) -> None:
        self._entries: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._count = int(time.time() * 1000)
        self._lock = threading.Lock()

    def post(self, event: Event) -> None:
        """Take an event; it gets the next number."""
        with self._lock:
            self._count += 1
            self._entries.append(
                {
                    "id": self._count,
                    "at_s": round(time.time(), 3),
                    "kind": event.kind,
                    "stream": event.stream,
                    "time_s": event.time_s,
                    "detail": dict(event.detail),
                }
            )

    def after(self, number: int) -> list[dict[str, Any]]:
        """The events with a higher number, oldest first: as many as are kept.

        at_s: when it was posted, seconds since 1970. time_s: on the clock of the stream's frames.
        """
        with self._lock:
            return [entry for entry in self._entries if entry["id"] > number]

    @property
    def count(self) -> int:
        """The number of the latest event, or that before the first."""
        return self._count


def as_message(entry: dict[str, Any]) -> bytes:
    """An event as one message of a server-sent event stream (HTML standard, 9.2)."""
    return f"id: {entry['id']}\ndata: {json.dumps(entry)}\n\n".encode()
