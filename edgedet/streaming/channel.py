"""A queue between two threads that either end can close."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, Literal, TypeVar

Item = TypeVar("Item")


class Channel(Generic[Item]):
    """A bounded queue: one thread puts, another iterates.

    size: most items waiting; None for no bound. when_full: `wait` loses
    nothing; `drop-oldest` never makes the sender wait. dropped: how many items
    made room for newer ones.
    """

    def __init__(self, size: int | None = None, *, when_full: Literal["wait", "drop-oldest"] = "wait") -> None:
        self._items: deque[Item] = deque(maxlen=size if when_full == "drop-oldest" else None)
        self._size = size if when_full == "wait" else None
        self._changed = threading.Condition()
        self._closed = self._cancelled = False
        self._error: BaseException | None = None
        self.dropped = 0

    def put(self, item: Item) -> bool:
        """Send an item, waiting for room; False when the receiver wants no more."""
        with self._changed:
            self._changed.wait_for(lambda: self._cancelled or self._size is None or len(self._items) < self._size)
            if not self._cancelled:
                self.dropped += len(self._items) == self._items.maxlen
                self._items.append(item)
                self._changed.notify_all()
            return not self._cancelled

    def close(self, error: BaseException | None = None) -> None:
        """The sender's end: the receiver gets what is left, then the end, or the error."""
        with self._changed:
            self._closed, self._error = True, error
            self._changed.notify_all()

    def cancel(self) -> list[Item]:
        """The receiver's end: every put is refused from now on; returns what was still waiting."""
        with self._changed:
            self._cancelled = True
            dropped = list(self._items)
            self._items.clear()
            self._changed.notify_all()
            return dropped

    def take(self, count: int) -> list[Item]:
        """The next `count` items, waiting for all of them; at the end what is left, then none, or the error."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._items) >= count or self._closed or self._cancelled)
            if not self._items and self._error is not None and not self._cancelled:
                raise self._error
            self._changed.notify_all()
            return [self._items.popleft() for _ in range(min(count, len(self._items)))]

    def __iter__(self) -> Channel[Item]:
        return self

    def __next__(self) -> Item:
        for item in self.take(1):
            return item
        raise StopIteration
