"""What a source of frames is, and how one is chosen by looking at its address."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, cast

import cv2

from edgedet import plugins
from edgedet.errors import SourceError
from edgedet.streaming.frame import Frame
from edgedet.streaming.quiet import quiet_opencv

_FALLBACK_FPS = 25.0  # for files that state neither times nor a rate


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
    """How long a live source may take: to open, and for each frame, seconds."""

    open_s: float = 10.0
    read_s: float = 5.0


class Kind(Protocol):
    """What every file of this folder is. LIVE: it may vanish and come back, so it is opened late, and again."""

    LIVE: bool

    def accepts(self, address: str) -> bool:
        """Whether the address is of this kind; a SourceError where it is, but can never be opened as it is written."""
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
    scheme, name = re.match(r"(\w[\w+.-]*)://", address), public_name(address)
    if scheme:
        raise SourceError(f"{name}: {scheme[1]}:// is no scheme read here; there are rtsp, rtsps, rtmp, http and https")
    why = "is a pipe or a device" if os.path.exists(address) else "no such file or folder"  # noqa: PTH110 see video.accepts
    raise SourceError(
        f"{name}: {why}; give a video file, an image, a folder of images, a camera index such as 0, "
        "an address such as rtsp://camera/stream, a GStreamer pipeline, or test:"
    )


_LOGIN = re.compile(
    r"(?<=://)(?:[^/\s\"]*@"  # rtsp://user:password@
    r"|[^/\s\":@]*:(?!\d+(?:[/\s\"]|$))[^\s\"]*@)"  # a password with a slash in it, which no URL may have
)
_SECRET = re.compile(r"(?i)((?:pass|password|passwd|passphrase|pwd|user-pw|token|secret|api_?key)=)(\"[^\"]*\"|[^&\s\"]+)")


def public_name(address: str) -> str:
    """The address without users and passwords, wherever in it they stand; what `password=` and the like say becomes ***."""
    return _SECRET.sub(r"\1***", _LOGIN.sub("", address))


def open_source(address: str | Path | int, timeouts: Timeouts | None = None) -> Source:
    """The open source that the address stands for.

    Every file of this folder is a kind of source: its `accepts(address)` says
    whether an address is its own, `open(address, timeouts)` opens it.
    """
    return kind_of(str(address)).open(str(address), timeouts or Timeouts())


def open_capture(
    address: str | int, *, backend: int = cv2.CAP_ANY, options: Mapping[int, int] | None = None
) -> cv2.VideoCapture:
    """OpenCV's capture, open or not, without the warnings it prints by itself: the caller raises the one error.

    options: what to open it with, by cv2's CAP_PROP numbers.
    """
    with quiet_opencv():
        return cv2.VideoCapture(address, backend, [number for option in (options or {}).items() for number in option])


def one_thread() -> dict[int, int]:
    """The option that one thread decodes; Debian's OpenCV 4.6 has it not."""
    return {cv2.CAP_PROP_N_THREADS: 1} if hasattr(cv2, "CAP_PROP_N_THREADS") else {}


class Capture(Source):
    """An open OpenCV capture and its first frame, which proves that there is one; no_frame: what to say where there is none."""

    def __init__(self, name: str, capture: cv2.VideoCapture, *, no_frame: str) -> None:
        self.name, self._capture = name, capture
        there, self._first = capture.read()
        if not there:
            capture.release()
            raise SourceError(f"{name}: {no_frame}")
        self.fps, self.size_hw = nominal_fps(capture), self._first.shape[:2]

    def __enter__(self) -> Source:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._capture.release()


class Camera(Capture):
    """The frames of a live capture; time_s is seconds since 1970 when each came, on a clock that never jumps."""

    live, frame_count = True, None

    def __iter__(self) -> Iterator[Frame]:
        there, image, index = True, self._first, 0
        epoch_s = time.time() - time.monotonic()
        while there:
            yield Frame(image, index, epoch_s + time.monotonic(), self.name)
            there, image = self._capture.read()
            index += 1
        raise SourceError(f"{self.name}: stopped giving frames after {index}")


class Clip(Capture):
    """The frames of a capture that ends, every one once; time_s is stream time, 0 at the first frame of most files."""

    live = False

    def __init__(self, name: str, capture: cv2.VideoCapture, *, no_frame: str) -> None:
        super().__init__(name, capture, no_frame=no_frame)
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.frame_count = count if count > 0 else None

    def __iter__(self) -> Iterator[Frame]:
        there, image, index, time_s = True, self._first, 0, self._position_s()
        while there:
            yield Frame(image, index, time_s, self.name)
            there, image = self._capture.read()
            index += 1
            stated_s = self._position_s()
            # Some files state no times, or the same one again: then the frame rate says.
            time_s = stated_s if stated_s > time_s else time_s + 1 / (self.fps or _FALLBACK_FPS)

    def _position_s(self) -> float:
        """When the latest frame is shown, seconds of the stream."""
        return max(self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000, 0.0)


def nominal_fps(capture: cv2.VideoCapture) -> float | None:
    """The frame rate the capture claims, None where the claim is absurd."""
    fps = capture.get(cv2.CAP_PROP_FPS)
    return fps if 0 < fps <= 1000 else None
