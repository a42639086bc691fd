"""Cameras on the network, against a real RTSP server that is killed, stopped and started again, and a real web server."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
from live import RtspCamera, nothing, until

from edgedet.errors import SourceError
from edgedet.streaming.feed import FeedOptions
from edgedet.streaming.lane import StreamPlan
from edgedet.streaming.pipeline import stream
from edgedet.streaming.sources import gstreamer, network
from edgedet.streaming.sources.base import Timeouts, open_source

OPTIONS = FeedOptions(timeouts=Timeouts(open_s=5.0, read_s=2.0))


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


def test_four_streams_of_one_server_are_all_back_within_a_second_and_a_half(camera):
    online_s = []
    plans = [StreamPlan(camera.address, str(number), feed=OPTIONS) for number in range(4)]
    with stream(plans, nothing, on_event=lambda event: event.kind == "online" and online_s.append(time.monotonic())) as found:
        until(found, lambda: len(online_s) == 4)
        camera.kill()
        time.sleep(1)
        back_s = camera.restart()
        until(found, lambda: len(online_s) == 8)
    assert online_s[-1] - back_s <= 1.5


def recoded(clip: Path, target: Path, *options: str) -> Path:
    """Some seconds of the clip as H.264, changed by FFmpeg's options."""
    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg is absent: apt-get install ffmpeg")
    command = ["ffmpeg", "-v", "error", "-t", "20", "-i", str(clip), *options, "-c:v", "libx264", "-preset", "ultrafast"]
    subprocess.run([*command, str(target)], check=True)
    return target


def test_a_camera_may_come_back_in_another_size_and_at_another_rate(camera, people_mp4, tmp_path):
    other = recoded(people_mp4, tmp_path / "other.mp4", "-vf", "scale=320:180", "-r", "25")
    events = []
    with stream(camera.address, nothing, feed=OPTIONS, on_event=events.append) as found:
        for _ in range(5):
            next(found)
        camera.kill()
        camera.restart(other)
        until(found, lambda: [event.kind for event in events].count("online") == 2)
        frames = [next(found)[0] for _ in range(40)][10:]  # FFmpeg gives at once what came while it opened
        (status,) = found.status()
    assert {frame.image.shape for frame in frames} == {(180, 320, 3)}
    assert status.size_hw == (180, 320)
    assert events[-1].detail == {"size_hw": [180, 320]}
    assert np.mean(np.diff([frame.time_s for frame in frames])) == pytest.approx(1 / 25, rel=0.3)


def test_damaged_video_is_survived(people_mp4, tmp_path):
    clip = recoded(people_mp4, tmp_path / "whole.mp4", "-g", "25")
    bytes_, generator = bytearray(clip.read_bytes()), np.random.default_rng(0)
    start = bytes_.find(b"mdat") + 4096
    for place in generator.integers(start, len(bytes_) - 200_000, 300):  # before the index at the end
        bytes_[place] = generator.integers(256)
    (tmp_path / "damaged.mp4").write_bytes(bytes_)
    found = list(stream(tmp_path / "damaged.mp4", nothing))
    assert len(found) > 100  # of 200
    assert {frame.image.shape for frame, _ in found} == {(432, 768, 3)}
    one = RtspCamera(tmp_path / "damaged.mp4")
    try:
        with stream(one.address, nothing, feed=OPTIONS) as live:
            assert {next(live)[0].image.shape for _ in range(12)} == {(432, 768, 3)}
    finally:
        one.kill()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="lists sockets in /proc")
@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_rtsp_goes_over_tcp_unless_the_environment_says_otherwise(camera, monkeypatch, transport):
    monkeypatch.delenv("OPENCV_FFMPEG_CAPTURE_OPTIONS", raising=False)
    if transport == "udp":
        monkeypatch.setenv("OPENCV_FFMPEG_CAPTURE_OPTIONS", "rtsp_transport;udp")
    with open_source(camera.address, OPTIONS.timeouts):
        assert bool(_udp_sockets()) == (transport == "udp")


def _udp_sockets() -> set[str]:
    """The inodes of this process's UDP sockets."""
    lines = [line.split() for name in ("udp", "udp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    own = {os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()}  # noqa: PTH115
    return {fields[9] for fields in lines if f"socket:[{fields[9]}]" in own}


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("rtsp://127.0.0.1:9/live", "takes no connection"),
        ("rtsp://no-such-host.invalid/live", "there is no host 'no-such-host.invalid'"),
        ("rtsp:///live", "no host"),
        ("rtsp://127.0.0.1:99999/live", "no port from 1 to 65535|or no port"),
        ("srt://127.0.0.1/live", "srt:// is no scheme read here"),
        ("rtsp://camera..local/live", "there is no host 'camera..local'"),
    ],
)
def test_an_address_that_cannot_be_opened_says_why(address, message):
    with pytest.raises(SourceError, match=message):
        open_source(address, Timeouts(2, 2))


def test_a_scheme_may_be_written_in_capitals(camera):
    with open_source(camera.address.replace("rtsp", "RTSP"), OPTIONS.timeouts) as source:
        assert source.live


def test_a_camera_that_sends_jpegs_over_http_is_reopened_when_it_hangs():
    picture, rest = cv2.imencode(".jpg", np.full((48, 64, 3), 90, np.uint8))[1].tobytes(), threading.Event()

    class Jpegs(BaseHTTPRequestHandler):
        """Thirty pictures at 30 a second, then nothing more, as from a camera that hangs."""

        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=next")
            self.end_headers()
            head = f"--next\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n".encode()
            for _ in range(30):
                self.wfile.write(head + picture + b"\r\n")
                time.sleep(1 / 30)
            rest.wait(30)

        def log_message(self, *arguments):
            pass

    server, events = ThreadingHTTPServer(("127.0.0.1", 0), Jpegs), []
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        feed = FeedOptions(timeouts=Timeouts(open_s=2.0, read_s=0.6))
        with stream(f"http://127.0.0.1:{server.server_port}/video", nothing, feed=feed, on_event=events.append) as found:
            frame = until(found, lambda: [event.kind for event in events].count("online") == 2)
    finally:
        rest.set()
        server.shutdown()
        server.server_close()
    assert frame.image.shape == (48, 64, 3)
    assert "no frame for 0.6 s" in events[1].detail["reason"]


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
    np.testing.assert_allclose([frame.time_s for frame, _ in found], np.arange(12) / 20, atol=1e-3)  # the clip's own times


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
    assert (
        network.public_name("http://camera/mjpg?user=me&pwd=secret&channel=1") == "http://camera/mjpg?user=me&pwd=***&channel=1"
    )
    assert network.public_name("rtsp://camera:554/1@2") == "rtsp://camera:554/1@2"


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
