"""An annotated MP4."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from edgedet.detections import Detections
from edgedet.errors import OutputError, UsageError
from edgedet.letterbox import Letterbox
from edgedet.streaming.frame import Frame
from edgedet.streaming.overlay import Annotator
from edgedet.streaming.quiet import quiet_opencv
from edgedet.streaming.sinks.base import PendingFile, Sink
from edgedet.streaming.sources.base import open_capture

_CODECS = ("avc1", "mp4v")  # H.264, which browsers play, where this OpenCV can encode it


class VideoSink(Sink):
    """Writes frames with their objects drawn, at a constant rate.

    fps: of the file, None for 25. Where frames come slower than that, the last
    one is repeated (for a second at most), so that the clip shows true time.
    Frames of another size than the first are fitted into its size.
    """

    def __init__(self, path: Path, *, classes: Sequence[str], fps: float | None) -> None:
        if path.suffix.lower() != ".mp4":
            raise UsageError(f"{path}: video is written as .mp4; name the file so")
        self._annotate = Annotator(classes)
        self._fps = fps or 25.0
        self._pending = PendingFile(path)
        self._writer: cv2.VideoWriter | None = None
        self._fit = Letterbox((1, 1))
        self._written, self._start_s, self._closed = 0, 0.0, False

    def write(self, frame: Frame, detections: Detections) -> None:
        """Draw the frame and encode it."""
        image = self._annotate(frame.image, detections)
        if self._writer is None:
            self._writer = self._open(image.shape[:2])
            self._start_s = frame.time_s
        if image.shape[:2] != self._fit.size_hw:
            image, _ = self._fit.apply(image)
        due = round((frame.time_s - self._start_s) * self._fps) + 1
        for _ in range(int(np.clip(due - self._written, 1, max(self._fps, 1)))):
            self._writer.write(image)
            self._written += 1

    def _open(self, size_hw: tuple[int, int]) -> cv2.VideoWriter:
        """An encoder for pictures of this size, made even: chroma has half the resolution."""
        height, width = (max(side - side % 2, 2) for side in size_hw)
        self._fit = Letterbox((height, width), "center", 0)
        with quiet_opencv():
            for codec in _CODECS:
                fourcc = cv2.VideoWriter.fourcc(*codec)
                writer = cv2.VideoWriter(str(self._pending.path), fourcc, self._fps, (width, height))
                if writer.isOpened():
                    return writer
        raise OutputError(
            f"{self._pending.target}: this OpenCV encodes neither {' nor '.join(_CODECS)}; pip install opencv-python"
        )

    def __enter__(self) -> VideoSink:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._closed:
            return
        self._closed = True
        if self._writer is not None:
            self._writer.release()
        incomplete = None if isinstance(error, Exception) or not self._written else self._missing()
        self._pending.finish(error or incomplete)
        if incomplete:
            raise incomplete

    def _missing(self) -> OutputError | None:
        """The error to raise when the file lacks frames: the encoder itself never says that a write failed."""
        capture = open_capture(str(self._pending.path))
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
        capture.release()
        if count == self._written:
            return None
        return OutputError(
            f"{self._pending.target}: only {count} of {self._written} frames could be written; is the disk full?"
        )
