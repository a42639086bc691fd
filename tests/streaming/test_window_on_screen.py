"""The window on a real screen, a virtual one: what is on it, and that a key closes it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from contextlib import ExitStack

import cv2
import numpy as np
import pytest

PROGRAM = """
import numpy as np
from edgedet.detections import Detections
from edgedet.streaming.frame import Frame
from edgedet.streaming.sinks.window import WindowSink

image = np.full((360, 640, 3), 40, np.uint8)
image[100:200, 400:500] = (0, 200, 255)
objects = Detections(np.float32([[100, 80, 300, 300]]), np.float32([0.9]), np.zeros(1, np.int32))
with WindowSink("edgedet", classes=["person"]) as window:
    shown = 0
    while not window.closed:
        window.write(Frame(image, shown, shown / 30, "camera"), objects)
        shown += 1
        if shown == 30:
            print("shown", flush=True)
"""


SQUARE, BACKGROUND = (slice(105, 195), slice(405, 495)), (slice(220, 330), slice(420, 620))
PATIENCE_S = 60.0  # on a machine that is busy with other tests


@pytest.mark.timeout(180)
def test_frames_are_seen_on_the_screen_until_q_is_pressed(tmp_path):
    for name in ("Xvfb", "xdotool", "ffmpeg"):
        if shutil.which(name) is None:
            pytest.skip(f"{name} is absent: apt-get install xvfb xdotool ffmpeg")
    with ExitStack() as stack:
        screen = _start(stack, ["Xvfb", "-displayfd", "1", "-screen", "0", "1024x768x24"])
        display = {"DISPLAY": f":{screen.stdout.readline().strip()}"}
        viewer = _start(stack, [sys.executable, "-c", PROGRAM], display)
        assert viewer.stdout.readline() == "shown\n"
        picture = _look(display, str(tmp_path / "screen.png"))
        assert _press_until_it_ends(viewer, display) == 0
    assert _share(picture[SQUARE], (0, 200, 255)) > 0.98  # the square, where it is in the frame
    assert _share(picture[BACKGROUND], (40, 40, 40)) > 0.98
    assert np.abs(picture[150, 95:105] - 40).max() > 60  # the left side of the object's box


def _start(stack: ExitStack, command: list[str], environment: dict[str, str] | None = None) -> subprocess.Popen:
    """A process that ends with the test, however that ends."""
    process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment))
    stack.callback(process.kill)
    return process


def _press_until_it_ends(viewer: subprocess.Popen, display: dict[str, str]) -> int:
    """How the viewer ends on `q`, pressed again and again: without a window manager a window may not take a key at first."""
    press = ["xdotool", "search", "--name", "edgedet", "windowfocus", "key", "q"]
    deadline_s = time.monotonic() + PATIENCE_S
    while viewer.poll() is None and time.monotonic() < deadline_s:
        subprocess.run(press, env=display, capture_output=True, timeout=PATIENCE_S)
        time.sleep(0.5)
    return viewer.wait(1)


def _share(pixels: np.ndarray, colour: tuple[int, int, int]) -> float:
    """How much of the picture has this colour, nearly."""
    return float((np.abs(pixels - colour) < 8).all(-1).mean())


def _look(display: dict[str, str], path: str) -> np.ndarray:
    """(H, W, 3) int what is on the screen, once the window is in its corner and drawn."""
    grab = ["ffmpeg", "-y", "-loglevel", "error", "-f", "x11grab", "-draw_mouse", "0", "-video_size", "1024x768"]
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        command = [*grab, "-i", display["DISPLAY"], "-frames:v", "1", path]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, timeout=PATIENCE_S)
        picture = cv2.imread(path).astype(int)
        if picture[BACKGROUND].all() or time.monotonic() > deadline_s:
            return picture
        time.sleep(0.2)
