"""An annotated MP4, playable up to its last second even after kill -9."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from edgedet import artifact
from edgedet.detections import Detections
from edgedet.errors import OutputError
from edgedet.letterbox import Letterbox
from edgedet.streaming.frame import Event, Frame
from edgedet.streaming.overlay import Annotator
from edgedet.streaming.quiet import quiet_opencv
from edgedet.streaming.sinks import fragments
from edgedet.streaming.sinks.base import Sink
from edgedet.streaming.sinks.output import OutputFile, require_suffix

_CLIP_S = 1.0  # what a crash may cost, and the longest a frame is shown
_SHORTEST_S = 0.001  # a frame is shown, also where a clock stands still or jumps back
_CODECS = ("avc1", "mp4v")  # H.264, which browsers play, where this OpenCV can encode it


def check(target: str) -> None:
    """Refuse a file name of another kind."""
    require_suffix(target, ".mp4", "video is")


def open(target: str, *, classes: Sequence[str], fps: float | None, live: bool = False) -> VideoSink:
    """A sink that writes the video `target`."""
    return VideoSink(Path(target), classes=classes, fps=fps, live=live)


class VideoSink(Sink):
    """Writes frames with their objects drawn, each shown at its own time.

    fps: nominal, None for 25; how long the last frame is shown. A gap, as when
    a camera is lost, is cut to a second. Frames of another size than the first
    are fitted into its size.
    """

    def __init__(self, path: Path, *, classes: Sequence[str], fps: float | None, live: bool = False) -> None:
        check(str(path))
        self._annotate = Annotator(classes)
        self._recording = _Recording(path, fps=fps or 25.0, live=live)
        self._fit: Letterbox | None = None

    def write(self, frame: Frame, detections: Detections) -> None:
        """Draw the frame and encode it."""
        image = self._annotate(frame.image, detections)
        if self._fit is None:  # sides made even: chroma has half the resolution
            self._fit = Letterbox((max(image.shape[0] // 2 * 2, 2), max(image.shape[1] // 2 * 2, 2)), "center", 0)
        if image.shape[:2] != self._fit.size_hw:
            image, _ = self._fit.apply(image)
        self._recording.write(image, frame.time_s)

    def notice(self, event: Event) -> None:
        """Put what there is on the disk when the camera is lost: nobody knows what comes next."""
        if event.kind in ("offline", "ended"):
            self._recording.cut()

    def __enter__(self) -> VideoSink:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._recording.finish(error)


class _Recording:
    """Frames of one size as an MP4 that grows by a fragment a second.

    OpenCV encodes each second to a clip of its own in a scratch folder, at a
    constant rate; the frames' own times are given to it afterwards.
    """

    def __init__(self, path: Path, *, fps: float, live: bool) -> None:
        self._output = OutputFile(path, live=live)
        self._fps = fps
        self._codecs: tuple[str, ...] = _CODECS
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._writer: cv2.VideoWriter | None = None
        self._shown_s: list[float] = []  # of the frames in this clip, from the recording's start
        self._end_s, self._time_s, self._clips = 0.0, 0.0, 0
        self._finished = False

    def write(self, image: np.ndarray, time_s: float) -> None:
        """Encode one frame, (H, W, 3) uint8 BGR with even sides."""
        if self._shown_s:
            self._end_s = self._shown_s[-1] + float(np.clip(time_s - self._time_s, _SHORTEST_S, _CLIP_S))
            if self._end_s - self._shown_s[0] >= _CLIP_S:
                self._write_clip()
        if self._writer is None:
            self._writer = self._encoder(image.shape[:2])
        self._writer.write(image)
        self._shown_s.append(self._end_s)
        self._time_s = time_s

    def cut(self) -> None:
        """Write what is encoded so far to the file, although no frame says how long the last one is shown."""
        if self._shown_s:
            self._end_s = self._shown_s[-1] + 1 / self._fps
            self._write_clip()

    def _write_clip(self) -> None:
        if self._writer is not None:
            self._writer.release()
        shown_s, self._writer, self._shown_s = [*self._shown_s, self._end_s], None, []
        clip = self._encoded(len(shown_s) - 1)
        times = np.round(np.array(shown_s) * clip.units_per_s).astype(np.int64)
        data = fragments.fragment(fragments.retimed(clip, times), number=self._clips + 1, start=int(times[0]))
        self._output.write(data if self._clips else fragments.header(clip) + data)
        self._clips += 1

    def _encoded(self, count: int) -> fragments.Clip:
        """The clip just encoded; the encoder itself never says that a write failed."""
        path = self._clip_path()
        try:
            clip = fragments.take_apart(path.read_bytes())
        except (OSError, ValueError) as error:
            raise OutputError(f"{self._output.target}: encoding failed ({path}: {error}); is the disk full?") from error
        if len(clip.samples) != count:
            raise OutputError(f"{self._output.target}: only {len(clip.samples)} of {count} frames could be encoded")
        return clip

    def _clip_path(self) -> Path:
        """Where OpenCV writes the clip of this second."""
        if self._scratch is None:
            with artifact.output_errors(self._output.target):
                self._scratch = tempfile.TemporaryDirectory(prefix="edgedet-")
        return Path(self._scratch.name) / "clip.mp4"

    def _encoder(self, size_hw: tuple[int, int]) -> cv2.VideoWriter:
        height, width = size_hw
        with quiet_opencv():
            for codec in self._codecs:
                fourcc = cv2.VideoWriter.fourcc(*codec)
                writer = cv2.VideoWriter(str(self._clip_path()), cv2.CAP_FFMPEG, fourcc, self._fps, (width, height))
                if writer.isOpened():
                    self._codecs = (codec,)
                    return writer
        raise OutputError(
            f"{self._output.target}: this OpenCV encodes neither {' nor '.join(_CODECS)}; pip install opencv-python"
        )

    def finish(self, error: BaseException | None) -> None:
        """Write the last fragment and close the file."""
        if self._finished:
            return
        self._finished = True
        failed: Exception | None = None
        try:
            self.cut()
        except OutputError as missing:
            failed = missing
        if self._scratch is not None:
            self._scratch.cleanup()
        self._output.finish(error or failed)
        if failed and not isinstance(error, Exception):
            raise failed
