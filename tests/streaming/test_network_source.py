"""Cameras on the network, against a real RTSP server that is killed, stopped and started again, and a real web server."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest
from places import SHARED

from edgedet.detections import Detections
from edgedet.errors import SourceError
from edgedet.streaming.feed import FeedOptions
from edgedet.streaming.pipeline import stream
from edgedet.streaming.sources import gstreamer, network
from edgedet.streaming.sources.base import Timeouts, open_source

SERVER = SHARED / "tools/serve_rtsp.py"
SYSTEM_PYTHON = Path("/usr/bin/python3")
OPTIONS = FeedOptions(timeouts=Timeouts(open_s=5.0, read_s=2.0))


def nothing(image):
    return Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32))


class Camera:
    """The real server, with ways to fail."""

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

    def restart(self) -> float:
        self._start(self._port)
        return time.monotonic()

    def send(self, number: int) -> None:
        self._process.send_signal(number)


@pytest.fixture
def camera(people_mp4: Path):
    if not SYSTEM_PYTHON.exists() or not SERVER.exists():
        pytest.skip("the RTSP server of ../shared/tools or Debian's python3 is absent")
    one = Camera(people_mp4)
    yield one
    one.send(signal.SIGCONT)
    one.kill()


def until(found, condition, timeout_s=20.0):
    """The first frame for which the condition holds; every next() gives one."""
    deadline_s = time.monotonic() + timeout_s
    for frame, _ in found:
        if condition():
            return frame
        assert time.monotonic() < deadline_s, found.status()
    raise AssertionError("the stream ended")


def test_a_killed_server_is_noticed_at_once_and_back_within_a_second_and_a_half(camera):
    events = []
    with stream(
        camera.address, nothing, feed=OPTIONS, on_event=lambda event: events.append((time.monotonic(), event))
    ) as found:
        for _ in range(8):
            next(found)
        camera.kill()
        killed_s = time.monotonic()
        back = []
        threading.Timer(1.5, lambda: back.append(camera.restart())).start()
        frame = until(found, lambda: [event.kind for _, event in events].count("online") == 2)
        first_s = next(at_s for at_s, event in reversed(events) if event.kind == "online")
    offline_s = next(at_s for at_s, event in events if event.kind == "offline")
    assert offline_s - killed_s < 0.5
    assert first_s - back[0] <= 1.5
    assert frame.image.shape == (432, 768, 3)
    assert abs(frame.time_s - time.time()) < 5


def test_a_hung_server_is_noticed_within_the_read_timeout_though_opencv_blocks_longer(camera):
    events = []
    with stream(
        camera.address, nothing, feed=OPTIONS, on_event=lambda event: events.append((time.monotonic(), event))
    ) as found:
        for _ in range(8):
            latest_s = next(found)[0].read_s
        camera.send(signal.SIGSTOP)
        threading.Timer(5.0, lambda: camera.send(signal.SIGCONT)).start()
        times_s = [latest_s]
        until(found, lambda: times_s.append(time.monotonic()) or [event.kind for _, event in events].count("online") == 2)
    offline_s, offline = next((at_s, event) for at_s, event in events if event.kind == "offline")
    before_s = max(at_s for at_s in times_s if at_s < offline_s)
    assert offline_s - before_s == pytest.approx(OPTIONS.timeouts.read_s, abs=0.3)
    assert "hangs" in offline.detail["reason"]


def test_rtsp_goes_over_tcp_unless_the_environment_says_otherwise(camera, monkeypatch):
    with open_source(camera.address, OPTIONS.timeouts):
        assert "rtsp_transport;tcp" in os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("rtsp://127.0.0.1:9/live", "takes no connection"),
        ("rtsp://no-such-host.invalid/live", "there is no host 'no-such-host.invalid'"),
        ("rtsp:///live", "no host"),
        ("rtsp://127.0.0.1:99999/live", "no port from 1 to 65535|or no port"),
        ("srt://127.0.0.1/live", "srt:// is no scheme read here"),
    ],
)
def test_an_address_that_cannot_be_opened_says_why(address, message):
    with pytest.raises(SourceError, match=message):
        open_source(address, Timeouts(2, 2))


def test_a_path_the_server_does_not_have_says_so(camera):
    with pytest.raises(SourceError, match="answers 404; check the path '/nowhere'"):
        open_source(camera.address.replace("/live", "/nowhere"), OPTIONS.timeouts)


def _answering(answer: bytes):
    """The port of a server that gives every caller the same answer."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                caller, _ = listening.accept()
            except OSError:
                return
            with caller:
                caller.settimeout(5)
                try:
                    while caller.recv(2048):
                        caller.sendall(answer)
                except OSError:
                    pass

    threading.Thread(target=serve, daemon=True).start()
    return listening, listening.getsockname()[1]


@pytest.mark.parametrize(("login", "message"), [("", "wants a login"), ("user:secret@", "the login was refused")])
def test_a_refused_login_says_so_and_never_shows_the_password(login, message):
    answer = b'RTSP/1.0 401 Unauthorized\r\nCSeq: 1\r\nWWW-Authenticate: Basic realm="camera"\r\n\r\n'
    listening, port = _answering(answer)
    try:
        with pytest.raises(SourceError, match=message) as caught:
            open_source(f"rtsp://{login}127.0.0.1:{port}/live", Timeouts(2, 2))
    finally:
        listening.close()
    assert "secret" not in str(caught.value)


def test_a_clip_on_a_web_server_ends_like_a_file(people_mp4, write_clip):
    clip = write_clip(frames=12)
    server = HTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(clip.parent)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        found = list(stream(f"http://127.0.0.1:{server.server_port}/{clip.name}", nothing, feed=OPTIONS))
    finally:
        server.shutdown()
        server.server_close()
    assert [frame.index for frame, _ in found] == list(range(12))


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def test_gstreamer_templates_say_what_nvidia_documents_and_are_refused_where_opencv_lacks_it():
    csi = gstreamer.pipeline_of("csi:1@1920x1080x60")
    assert "nvarguscamerasrc sensor-id=1" in csi
    assert "width=1920,height=1080,framerate=60/1" in csi
    decoded = gstreamer.pipeline_of("nvdec:h265:rtsp://user:secret@camera/1")
    assert 'location="rtsp://user:secret@camera/1"' in decoded
    assert "rtph265depay ! h265parse ! nvv4l2decoder" in decoded
    assert csi.endswith("appsink drop=true max-buffers=1 sync=false")
    for address in ("csi:x", "nvdec:http://camera", "gst: videotestsrc"):
        with pytest.raises(SourceError):
            gstreamer.pipeline_of(address)
    if gstreamer.missing():
        with pytest.raises(SourceError, match="built without GStreamer") as caught:
            open_source("nvdec:rtsp://user:secret@camera/1")
        assert "secret" not in str(caught.value)


def test_names_hide_passwords():
    assert network.public_name("rtsp://user:p%40ss@camera:554/1?x=y") == "rtsp://camera:554/1?x=y"
    assert network.public_name("clip.mp4") == "clip.mp4"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts descriptors in /proc")
def test_a_hundred_restarts_leave_no_thread_and_no_descriptor(camera):
    def held() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))  # noqa: PTH208

    counts = []
    with stream(camera.address, nothing, feed=OPTIONS) as found:
        for cycle in range(100):
            next(found)
            if cycle in (4, 99):
                counts.append(held())
            reconnects = found.status()[0].reconnects
            camera.kill()
            camera.restart()
            until(found, lambda before=reconnects: found.status()[0].reconnects > before)
    assert found.status()[0].reconnects >= 100
    (files, tasks), (files_after, tasks_after) = counts
    assert files_after <= files + 2
    assert tasks_after <= tasks + 2
