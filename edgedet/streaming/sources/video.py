"""A video file: every frame once, at its own time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import cv2

from edgedet import images
from edgedet.errors import SourceError
from edgedet.streaming.frame import Frame
from edgedet.streaming.sources.base import Timeouts, nominal_fps, open_capture

LIVE = False
_FALLBACK_FPS = 25.0  # for files that state neither times nor a rate


def accepts(address: str) -> bool:
    """Whether the address is a file that is no image."""
    path = Path(address)
    return path.is_file() and path.suffix.lower() not in images.SUFFIXES


def open(address: str, timeouts: Timeouts) -> VideoFile:
    """The video file, its first frame decoded."""
    return VideoFile(Path(address))


class VideoFile:
    """The frames of a video file; time_s is stream time, 0 at the first frame of most files."""

    live = False

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        if path.stat().st_size == 0:
            raise SourceError(f"{path}: is empty (0 bytes); copy it again")
        self._capture = open_capture(str(path))
        # FFmpeg draws the letters of a text file and calls that a video of the codec `ansi`.
        if not self._capture.isOpened() or int(self._capture.get(cv2.CAP_PROP_FOURCC)) == cv2.VideoWriter.fourcc(*"ansi"):
            raise SourceError(
                f"{path}: not a video OpenCV can open ({path.stat().st_size} bytes); is it truncated or no video?"
            )
        self.fps = nominal_fps(self._capture)
        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.frame_count = count if count > 0 else None
        there, self._first = self._capture.read()
        if not there:
            self._capture.release()
            raise SourceError(f"{path}: holds no frame that can be decoded; it is truncated, or its codec is not supported")

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

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._capture.release()
