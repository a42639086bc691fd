"""A GStreamer pipeline, run for real in Debian's OpenCV (4.6, NumPy 1.24), because that of the wheel has none: slow."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest
from live import SYSTEM_PYTHON
from places import ROOT

PROGRAM = """
import json, sys, time
import edgedet
from edgedet.detections import Detections
from edgedet.streaming.feed import FeedOptions
from edgedet.streaming.sources.base import Timeouts

def say(kind, detail):
    print(json.dumps([kind, time.monotonic(), detail]), flush=True)

options = FeedOptions(timeouts=Timeouts(open_s=5.0, read_s=2.0))
tell = lambda event: say(event.kind, event.detail)
with edgedet.stream(sys.argv[1], lambda image: Detections.empty(), feed=options, on_event=tell) as found:
    for number, (frame, _) in enumerate(found):
        say("frame", [number, list(frame.image.shape), float(frame.image.mean())])
"""


@pytest.mark.slow
def test_a_pipeline_reads_a_camera_that_is_killed_and_hangs(camera, tmp_path):
    has = "import cv2, sys; sys.exit('GStreamer:                   YES' not in cv2.getBuildInformation())"
    if subprocess.run([SYSTEM_PYTHON, "-c", has], capture_output=True).returncode:
        pytest.skip("Debian's python3-opencv, whose OpenCV has GStreamer, is absent")
    pipeline = f'gst: rtspsrc location="{camera.address}" protocols=tcp latency=100 ! rtph264depay ! h264parse ! avdec_h264'
    pipeline += " ! videoconvert ! video/x-raw,format=BGR ! appsink drop=true max-buffers=1 sync=false"
    command = [str(SYSTEM_PYTHON), "-c", PROGRAM, pipeline]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": str(_package(tmp_path))}) as process:
        try:
            _, _, (_, shape, mean) = [_next(process, "frame") for _ in range(10)][-1]
            assert shape == [432, 768, 3]
            assert mean == pytest.approx(137, abs=3)  # as FFmpeg decodes the clip's first frames
            camera.kill()
            killed_s = time.monotonic()
            _, offline_s, _ = _next(process, "offline")
            assert offline_s - killed_s < 2.0 + 0.5  # mostly at once; by the limit where rtspsrc tells nothing
            back_s = camera.restart()
            _, frame_s, _ = _next(process, "frame")
            assert frame_s - back_s < 1.5
            camera.send(signal.SIGSTOP)
            hung_s = time.monotonic()
            _, offline_s, detail = _next(process, "offline")
            assert offline_s - hung_s < 2.0 + 0.5
            assert "hangs" in detail["reason"]
        finally:
            process.kill()


def _package(folder: Path) -> Path:
    """A folder that another Python imports edgedet from, laid out as it is installed."""
    package = folder / "edgedet"
    package.mkdir()
    for part in [*(ROOT / "edgedet").iterdir(), *(ROOT / name for name in ("export", "runtimes", "calibration"))]:
        (package / part.name).symlink_to(part)
    return folder


def _next(process: subprocess.Popen, kind: str) -> list:
    """The next line of this kind."""
    for line in process.stdout:
        said = json.loads(line)
        if said[0] == kind:
            return said
    raise AssertionError(f"the program ended with {process.wait()}")
