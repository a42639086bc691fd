"""What must not make a camera late: the machine's many cores, and another camera that hangs."""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor

import cv2
import pytest

from edgedet.errors import SourceError
from edgedet.streaming.sources.base import Timeouts, open_source


def test_no_frame_of_a_camera_is_held_back_by_decoding_threads(camera):
    with open_source(camera.address, Timeouts()) as source:  # served from the clip's beginning, as each client is
        ours_s = _frame_20_after_first([frame.read_s for frame, _ in zip(source, range(21), strict=False)])
    capture, read_s = cv2.VideoCapture(camera.address, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 8]), []
    for _ in range(21):
        assert capture.read()[0]
        read_s.append(time.monotonic())
    capture.release()
    # The first frames come at once in both, out of what was looked at while opening; then the eight threads hold seven back.
    assert _frame_20_after_first(read_s) - ours_s > 0.35  # .7 s at 10 a second, less half of it for a busy machine


def _frame_20_after_first(read_s: list[float]) -> float:
    return read_s[20] - read_s[0]


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_a_camera_that_hangs_while_it_is_opened_holds_up_no_other(camera, scheme):
    with socket.create_server(("127.0.0.1", 0)) as hangs, ThreadPoolExecutor() as pool:
        hanging = pool.submit(open_source, f"{scheme}://127.0.0.1:{hangs.getsockname()[1]}/live", Timeouts(open_s=4.0))
        time.sleep(0.3)
        begun_s = time.monotonic()
        with open_source(camera.address, Timeouts()) as source:
            next(iter(source))
        assert time.monotonic() - begun_s < 2.0  # .55 s, and room for a busy machine
        assert isinstance(hanging.exception(), SourceError)
