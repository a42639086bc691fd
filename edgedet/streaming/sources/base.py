"""What a source of frames is, and how one is chosen by looking at its address."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, cast

import cv2

from edgedet import plugins
from edgedet.errors import SourceError
from edgedet.streaming.frame import Frame
from edgedet.streaming.quiet import quiet_opencv


class Source(Protocol):
    """An open source: iterate it once for its frames; it is a context manager that closes it.

    Opening has already proven that there is a first frame. live: frames come
    whether they are taken or not. fps: nominal, None where unknown.
    frame_count: how many there are, as far as the file knows; None when live.
    """

    name: str
    live: bool
    fps: float | None
    frame_count: int | None

    def __iter__(self) -> Iterator[Frame]: ...
    def __enter__(self) -> Source: ...
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


@dataclass(frozen=True)
class Timeouts:
    """How long a network source may take: to open, and for each frame, seconds."""

    open_s: float = 10.0
    read_s: float = 5.0


class Kind(Protocol):
    """What every file of this folder is. LIVE: it may vanish and come back, so it is opened late, and again."""

    LIVE: bool

    def accepts(self, address: str) -> bool:
        """Whether the address is of this kind."""
        ...

    def open(self, address: str, timeouts: Timeouts) -> Source:
        """The open source."""
        ...


def kind_of(address: str) -> Kind:
    """The kind of source an address stands for; a SourceError where it is of none."""
    for name in plugins.names("edgedet.streaming.sources"):
        if name != "base":
            module = cast(Kind, plugins.find("edgedet.streaming.sources", name))
            if module.accepts(address):
                return module
    scheme = re.match(r"(\w[\w+.-]*)://", address)
    if scheme:
        raise SourceError(f"{address}: {scheme[1]}:// is no scheme read here; there are rtsp, rtsps, rtmp, http and https")
    raise SourceError(
        f"{address}: no such file or folder; give a video file, an image, a folder of images, a camera index such as 0, "
        "an address such as rtsp://camera/stream, a GStreamer pipeline, or test:"
    )


def open_source(address: str | Path | int, timeouts: Timeouts | None = None) -> Source:
    """The open source that the address stands for.

    Every file of this folder is a kind of source: its `accepts(address)` says
    whether an address is its own, `open(address, timeouts)` opens it.
    """
    return kind_of(str(address)).open(str(address), timeouts or Timeouts())


def open_capture(address: str | int) -> cv2.VideoCapture:
    """OpenCV's capture, open or not, without the warnings it prints by itself: the caller raises the one error."""
    with quiet_opencv():
        return cv2.VideoCapture(address)


class Camera:
    """The frames of an open OpenCV capture; time_s is seconds since 1970 when each came, on a clock that never jumps.

    no_frame: what to say where the capture gives not even one.
    """

    live: bool = True
    frame_count: int | None = None

    def __init__(self, name: str, capture: cv2.VideoCapture, *, no_frame: str) -> None:
        self.name, self._capture = name, capture
        there, self._first = capture.read()
        if not there:
            capture.release()
            raise SourceError(f"{name}: {no_frame}")
        self.fps = nominal_fps(capture)
        self._epoch_s = time.time() - time.monotonic()

    def __iter__(self) -> Iterator[Frame]:
        there, image, index = True, self._first, 0
        while there:
            time_s = self._epoch_s + time.monotonic() if self.live else index / (self.fps or 25.0)
            yield Frame(image, index, time_s, self.name)
            there, image = self._capture.read()
            index += 1
        if self.live:
            raise SourceError(f"{self.name}: stopped giving frames after {index}")

    def __enter__(self) -> Camera:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._capture.release()


def nominal_fps(capture: cv2.VideoCapture) -> float | None:
    """The frame rate the capture claims, None where the claim is absurd."""
    fps = capture.get(cv2.CAP_PROP_FPS)
    return fps if 0 < fps <= 1000 else None
