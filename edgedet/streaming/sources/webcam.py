"""A camera of this machine, by its index."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from types import TracebackType

from edgedet.errors import SourceError
from edgedet.streaming.frame import Frame
from edgedet.streaming.sources.base import nominal_fps, open_capture

_ADDRESS = re.compile(r"(?:/dev/video)?(\d+)")


def accepts(address: str) -> bool:
    """Whether the address is an index such as 0, or /dev/video0."""
    return _ADDRESS.fullmatch(address) is not None


def open(address: str) -> Webcam:
    """The camera, its first frame taken."""
    matched = _ADDRESS.fullmatch(address)
    if matched is None:
        raise SourceError(f"{address}: no camera index; give a number such as 0")
    return Webcam(int(matched[1]))


class Webcam:
    """The frames of a camera; time_s is seconds since 1970, on a clock that never jumps."""

    live = True
    frame_count = None

    def __init__(self, index: int) -> None:
        self.name = f"camera {index}"
        self._capture = open_capture(index)
        if not self._capture.isOpened():
            raise SourceError(f"camera {index}: there is none with this index; try 0, or list them with `ls /dev/video*`")
        there, self._first = self._capture.read()
        if not there:
            self._capture.release()
            raise SourceError(f"camera {index}: opens but gives no frame; is another program using it?")
        self.fps = nominal_fps(self._capture)
        self._epoch_s = time.time() - time.monotonic()

    def __iter__(self) -> Iterator[Frame]:
        there, image, index = True, self._first, 0
        while there:
            yield Frame(image, index, self._epoch_s + time.monotonic(), self.name)
            there, image = self._capture.read()
            index += 1
        raise SourceError(f"{self.name}: stopped giving frames after {index}; check its cable and start again")

    def __enter__(self) -> Webcam:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._capture.release()
