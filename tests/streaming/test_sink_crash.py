"""Killed with SIGKILL, a stream leaves a video that plays and the lines written so far, at a place its user finds."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgedet.detections import Detections
from edgedet.errors import OutputError
from edgedet.streaming.frame import Event, Frame
from edgedet.streaming.sinks import fragments
from edgedet.streaming.sinks.base import open_sink
from edgedet.streaming.sinks.video import VideoSink

FPS = 25
STREAM = """
import sys
import numpy as np
from edgedet.detections import Detections
from edgedet.streaming.frame import Event, Frame
from edgedet.streaming.sinks.base import open_sink

folder, live, changing = sys.argv[1], sys.argv[2] != "file", sys.argv[2] == "changing"
sinks = [open_sink(kind, f"{folder}/out.{end}", classes=["a"], fps=25, live=live)
         for kind, end in (("video", "mp4"), ("jsonl", "jsonl"), ("csv", "csv"), ("mot", "txt"))]
box = Detections(np.float32([[1, 2, 3, 4]]), np.float32([0.5]), np.int32([0]))
for index in range(100_000):
    size = (240, 320) if changing and index % 80 >= 40 else (120, 160)
    frame = Frame(np.full((*size, 3), 40 + index % 160, np.uint8), index, index / 25, "test")
    for sink in sinks:
        sink.write(frame, box)
    if changing and index % 60 == 59:
        sinks[0].notice(Event("offline", "test", index / 25, {"reason": "cable"}))
    print(index, flush=True)
"""


def frames_of(path: Path, *, fps: float | None = FPS) -> tuple[list[int], list[float]]:
    """The grey at the middle of every frame that FFmpeg decodes, and when it is shown, in seconds."""
    capture, greys, times_s = cv2.VideoCapture(str(path)), [], []
    while (read := capture.read())[0]:
        greys.append(int(read[1][60, 80, 0]))
        times_s.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
    if fps is not None:  # constant
        assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == len(greys)
        assert capture.get(cv2.CAP_PROP_FPS) == fps
    return greys, times_s


@pytest.mark.parametrize(("mode", "name"), [("live", "out"), ("file", "out.part"), ("changing", "out")])
def test_all_but_the_last_second_of_video_and_every_line_survive_kill_9(tmp_path_factory, tmp_path: Path, mode: str, name: str):
    surroundings = os.environ | {"TMPDIR": str(tmp_path_factory.mktemp("scratch"))}
    command = [sys.executable, "-c", STREAM, str(tmp_path), mode]
    process = subprocess.Popen(command, env=surroundings, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    written = 0
    while written < 120:
        written = int(process.stdout.readline()) + 1
    process.send_signal(signal.SIGKILL)
    written += len(process.stdout.read().split())
    process.wait()
    process.stdout.close()

    greys, times_s = frames_of(tmp_path / f"{name}.mp4")
    assert written - FPS - 1 <= len(greys) <= written + 1
    np.testing.assert_allclose(greys, 40 + np.arange(len(greys)) % 160, atol=6)  # MPEG-4's loss; frames are 1 apart
    np.testing.assert_allclose(times_s, np.arange(len(greys)) / FPS, atol=1e-3)
    if ffmpeg := shutil.which("ffmpeg"):
        play = [ffmpeg, "-v", "warning", "-i", str(tmp_path / f"{name}.mp4"), "-f", "null", "-"]
        assert subprocess.run(play, capture_output=True, text=True, check=True).stderr == ""
    lines = (tmp_path / f"{name}.jsonl").read_text().splitlines()[:written]
    assert [json.loads(line)["frame"] for line in lines] == list(range(written))
    assert len((tmp_path / f"{name}.csv").read_text().splitlines()) >= 1 + written
    assert len((tmp_path / f"{name}.txt").read_text().splitlines()) >= written
    assert len(list(tmp_path.iterdir())) == 4


def record(sink: VideoSink, count: int) -> VideoSink:
    for index in range(count):
        image = np.full((120, 160, 3), 40 + index % 160, np.uint8)
        sink.write(Frame(image, index, index / FPS, "test"), Detections.empty())
    return sink


def test_a_lost_camera_puts_everything_so_far_on_the_disk(tmp_path: Path):
    sink = record(VideoSink(tmp_path / "out.mp4", classes=[], fps=FPS, live=True), 10)
    assert (tmp_path / "out.mp4").stat().st_size == 0
    sink.notice(Event("offline", "camera", 0.4, {"reason": "killed"}))
    assert len(frames_of(tmp_path / "out.mp4")[0]) == 10
    sink.notice(Event("offline", "camera", 0.4))  # nothing new: nothing written
    sink.__exit__(None, None, None)
    assert len(frames_of(tmp_path / "out.mp4")[0]) == 10


@pytest.mark.parametrize("codec", ["mpeg4", "libx264"])
def test_frames_stored_in_another_order_than_shown_keep_their_times(tmp_path: Path, codec: str):
    """Encoders of other OpenCV builds make B frames, here ffmpeg's: two clips of a second, one behind the other."""
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is None:
        pytest.skip("ffmpeg is not installed: apt-get install ffmpeg")
    pictures = np.concatenate([np.full((120, 160, 3), 40 + index, np.uint8) for index in range(FPS)]).tobytes()
    raw = ["-f", "rawvideo", "-pix_fmt", "bgr24", "-s", "160x120", "-r", str(FPS), "-i", "-"]
    options = ["-bf", "2", "-c:v", codec, "-pix_fmt", "yuv420p", str(tmp_path / "clip.mp4")]
    encoded = subprocess.run([ffmpeg, "-loglevel", "error", *raw, *options], input=pictures, stderr=subprocess.PIPE)
    if b"Unknown encoder" in encoded.stderr:
        pytest.skip(f"this ffmpeg has no encoder {codec}")
    clip = fragments.take_apart((tmp_path / "clip.mp4").read_bytes())
    assert np.ptp(clip.samples[:, 3].astype("<u4").view("<i4")) > 0  # stored in another order than shown
    frame = clip.units_per_s // FPS
    uneven = frame * np.cumsum([FPS, *([1, 3] * FPS)[:FPS]])  # the second one's frames at other times
    second = fragments.fragment(fragments.retimed(clip, uneven), number=2, start=int(uneven[0]))
    first = fragments.fragment(clip, number=1, start=0)
    (tmp_path / "out.mp4").write_bytes(fragments.header(clip) + first + second)
    greys, times_s = frames_of(tmp_path / "out.mp4", fps=None)
    np.testing.assert_allclose(greys, 40 + np.arange(2 * FPS) % FPS, atol=6)
    assert np.diff(greys[:FPS]).min() >= 0
    np.testing.assert_allclose(times_s, [*np.arange(FPS) / FPS, *uneven[:-1] / frame / FPS], atol=1e-3)


def test_a_fragment_holds_the_very_bytes_that_were_encoded(tmp_path: Path):
    """Reference: OpenCV's raw packets (FORMAT -1), read from the plain file and from the one in fragments."""

    def packets(path: Path) -> list[tuple[bytes, bool]]:
        """Content of each packet and whether it is a key frame."""
        capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_FORMAT, -1])
        found = []
        while (read := capture.read())[0]:
            found.append((read[1].tobytes(), capture.get(cv2.CAP_PROP_LRF_HAS_KEY_FRAME) == 1))
        return found

    plain, cut = tmp_path / "plain.mp4", tmp_path / "cut.mp4"
    writer = cv2.VideoWriter(str(plain), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), FPS, (160, 120))
    for index in range(30):
        writer.write(np.full((120, 160, 3), 100 + index, np.uint8))
    writer.release()
    clip = fragments.take_apart(plain.read_bytes())
    cut.write_bytes(fragments.header(clip) + fragments.fragment(clip, number=1, start=0))
    assert len(packets(plain)) == 30
    assert {is_key for _, is_key in packets(plain)} == {True, False}
    assert packets(cut) == packets(plain)


@pytest.mark.parametrize("keep", [0, 7, 100, 600])
def test_a_clip_that_is_not_whole_is_refused(tmp_path: Path, keep: int):
    with VideoSink(tmp_path / "out.mp4", classes=[], fps=FPS) as sink:
        record(sink, 5)
    with pytest.raises(ValueError):
        fragments.take_apart((tmp_path / "out.mp4").read_bytes()[:keep])


def test_a_clip_that_the_encoder_lost_is_an_error_that_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    sink = open_sink("video", str(tmp_path / "out.mp4"), classes=[], fps=FPS)
    monkeypatch.setattr(cv2.VideoWriter, "write", lambda *_: None)
    with pytest.raises(OutputError, match=r"out\.mp4: "), sink:
        record(sink, 5)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
