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
    begun_s = time.monotonic()  # each client is served from the clip's beginning
    with open_source(camera.address, Timeouts()) as source:
        ours_s = [frame.read_s for frame, _ in zip(source, range(21), strict=False)][20] - begun_s
    begun_s = time.monotonic()
    capture = cv2.VideoCapture(camera.address, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 8])
    assert all(capture.read()[0] for _ in range(21))
    theirs_s = time.monotonic() - begun_s
    capture.release()
    assert theirs_s - ours_s > 0.35  # seven frames at 10 a second are .7 s, less half of it for a busy machine


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
