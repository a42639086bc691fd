"""What a source of frames is, and how one is chosen by looking at its address."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Protocol

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


def open_source(address: str | Path | int) -> Source:
    """The open source that the address stands for: a video file, an image, a folder of images, a camera index.

    Every file of this folder is a kind of source: its `accepts(address)` says
    whether an address is its own, `open(address)` opens it.
    """
    text = str(address)
    for name in plugins.names("edgedet.streaming.sources"):
        module = plugins.find("edgedet.streaming.sources", name)
        if name != "base" and module.accepts(text):
            return module.open(text)
    if "://" in text:
        raise SourceError(f"{text}: network cameras cannot be read yet; record a clip with ffmpeg and give its file")
    raise SourceError(
        f"{text}: no such file or folder; give a video file, an image, a folder of images, or a camera index such as 0"
    )


def open_capture(address: str | int) -> cv2.VideoCapture:
    """OpenCV's capture, open or not, without the warnings it prints by itself: the caller raises the one error."""
    with quiet_opencv():
        return cv2.VideoCapture(address)


def nominal_fps(capture: cv2.VideoCapture) -> float | None:
    """The frame rate the capture claims, None where the claim is absurd."""
    fps = capture.get(cv2.CAP_PROP_FPS)
    return fps if 0 < fps <= 1000 else None
