"""The window on a real screen, a virtual one: what is on it, and that a key closes it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time

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


@pytest.mark.timeout(60)
def test_frames_are_seen_on_the_screen_until_q_is_pressed(tmp_path):
    for program in ("Xvfb", "xdotool", "ffmpeg"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is absent: apt-get install xvfb xdotool ffmpeg")
    screen = subprocess.Popen(["Xvfb", "-displayfd", "1", "-screen", "0", "1024x768x24"], stdout=subprocess.PIPE, text=True)
    try:
        display = {"DISPLAY": f":{screen.stdout.readline().strip()}"}
        with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True, env=display) as program:
            assert program.stdout.readline() == "shown\n"
            picture = _look(display, str(tmp_path / "screen.png"))
            subprocess.run(["xdotool", "search", "--name", "edgedet", "windowfocus", "key", "q"], env=display, check=True)
            assert program.wait(10) == 0
    finally:
        screen.kill()
        screen.communicate()
    window = picture[:360, :640].astype(int)
    assert _share(window[105:195, 405:495], (0, 200, 255)) > 0.98  # the square, where it is in the frame
    assert _share(window[220:330, 420:620], (40, 40, 40)) > 0.98  # the background
    assert np.abs(window[150, 95:105] - 40).max() > 60  # the left side of the object's box


def _share(pixels: np.ndarray, colour: tuple[int, int, int]) -> float:
    """How much of the picture has this colour, nearly."""
    return float((np.abs(pixels - colour) < 8).all(-1).mean())


def _look(display: dict[str, str], path: str) -> np.ndarray:
    """What is on the screen, once the window is."""
    for _ in range(20):
        grab = [
            "ffmpeg",
            "-y",
            "-loglevel",
            "error",
            "-f",
            "x11grab",
            "-draw_mouse",
            "0",
            "-video_size",
            "1024x768",
            "-i",
            display["DISPLAY"],
        ]
        subprocess.run([*grab, "-frames:v", "1", path], check=True, stdin=subprocess.DEVNULL)
        picture = cv2.imread(path)
        if picture.any():
            return picture
        time.sleep(0.2)
    raise AssertionError("the screen stays black")
