"""What tests of live streams share: a detector that finds nothing, sources and sinks that misbehave, a real RTSP server."""

from __future__ import annotations

import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from places import SHARED

from edgedet.detections import Detections
from edgedet.streaming.feed import FeedOptions
from edgedet.streaming.frame import Event, Frame
from edgedet.streaming.pipeline import stream
from edgedet.streaming.sinks.base import Sink
from edgedet.streaming.sources.base import Timeouts

SERVER = SHARED / "tools/serve_rtsp.py"
SYSTEM_PYTHON = Path("/usr/bin/python3")
NONE = Detections.empty()
BOX = Detections(np.float32([[2, 2, 12, 12]]), np.float32([0.9]), np.zeros(1, np.int32))


def nothing(image: np.ndarray) -> Detections:
    return NONE


def options(**changes) -> FeedOptions:
    return FeedOptions(**{"timeouts": Timeouts(open_s=1.0, read_s=0.4), **changes})


def until_no_thread_is_left(timeout_s: float = 8.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while any(thread.name.startswith("edgedet") for thread in threading.enumerate()):
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def run(address: str, frames: int, *, feed: FeedOptions | None = None):
    """Frames until there are so many, the events, and the status then."""
    events: list[Event] = []
    with stream(address, nothing, feed=feed or options(), on_event=events.append) as found:
        taken = [frame for frame, _ in (next(found) for _ in range(frames))]
        return taken, events, found.status()[0]


def until(found, condition, timeout_s=20.0):
    """The first frame for which the condition holds; every next() gives one."""
    deadline_s = time.monotonic() + timeout_s
    for frame, _ in found:
        if condition():
            return frame
        assert time.monotonic() < deadline_s, found.status()
    raise AssertionError("the stream ended")


class Scripted:
    """A live source of the images that it is given, ten milliseconds apart."""

    name, live, fps, frame_count = "scripted", True, 100.0, None

    def __init__(self, images) -> None:
        self._images = images

    def __iter__(self):
        for index, image in enumerate(self._images):
            time.sleep(0.01)
            yield Frame(image, index, time.time(), self.name)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        pass


class Kept(Sink):
    """A sink that remembers events and frames."""

    def __init__(self, *, every_s: float = 0.0) -> None:
        self.events, self.frames, self.every_s = [], [], every_s

    def write(self, frame, detections):
        time.sleep(self.every_s)
        self.frames.append((frame, detections))

    def notice(self, event):
        self.events.append(event)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        pass


class RtspCamera:
    """The real RTSP server, with ways to fail."""

    def __init__(self, clip: Path, port: str = "0") -> None:
        self._clip = clip
        self._start(port)

    def _start(self, port: str) -> None:
        command = [str(SYSTEM_PYTHON), str(SERVER), str(self._clip), port, "/live"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        ready = self._process.stdout.readline().split()
        if not ready:
            pytest.skip(f"the RTSP server does not start: {self._process.stderr.read().strip().splitlines()[-1]}")
        self.address = ready[1]
        self._port = self.address.split(":")[2].split("/")[0]

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()

    def restart(self, clip: Path | None = None) -> float:
        self._clip = clip or self._clip
        self._start(self._port)
        return time.monotonic()

    def send(self, number: int) -> None:
        self._process.send_signal(number)
