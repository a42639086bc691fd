"""Sinks: what they write is read back; what cannot be written is refused before any work; nothing half-written stays."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress

import cv2
import numpy as np
import pytest

from edgedet.detections import Detections
from edgedet.errors import OutputError, UsageError
from edgedet.streaming.frame import Frame
from edgedet.streaming.sinks.jsonl import JsonLinesSink
from edgedet.streaming.sinks.video import VideoSink
from edgedet.streaming.sinks.window import WindowSink

ONE = Detections(np.float32([[10.126, 20, 50.5, 60]]), np.float32([0.87654]), np.int32([1]), track_ids=np.array([3]))


def frame(index, *, size=(120, 160), fps=10.0, grey=60):
    return Frame(np.full((*size, 3), grey, np.uint8), index, index / fps, "clip.mp4")


def frames_of(path):
    capture, frames = cv2.VideoCapture(str(path)), []
    while (read := capture.read())[0]:
        frames.append(read[1])
    return frames


def times_of(path):
    """When FFmpeg shows each frame, in seconds."""
    capture, times_s = cv2.VideoCapture(str(path)), []
    while capture.read()[0]:
        times_s.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
    return times_s


def test_a_written_video_plays_with_every_frame_and_its_boxes(tmp_path):
    path = tmp_path / "deep" / "out.mp4"
    with VideoSink(path, classes=["a", "b"], fps=10) as sink:
        for index in range(25):
            sink.write(frame(index), ONE)
        assert not path.exists()  # not before it is whole
    frames = frames_of(path)
    assert len(frames) == 25
    assert frames[0].shape == (120, 160, 3)
    assert np.abs(frames[0].astype(int) - 60).max() > 60  # something is drawn
    assert cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FPS) == 10
    assert os.listdir(path.parent) == ["out.mp4"]  # noqa: PTH208


@pytest.mark.parametrize("fps", [None, 30])  # nominal: what a camera claims
def test_frames_are_shown_when_they_were_taken_whatever_the_nominal_rate(tmp_path, fps):
    slow = [index / 10 for index in range(25)]
    fast = [2.5 + index / 60 for index in range(90)]
    uneven = [4 + 0.037 * index + 0.01 * (index % 3) for index in range(40)]
    with VideoSink(tmp_path / "out.mp4", classes=[], fps=fps) as sink:
        for index, time_s in enumerate([*slow, *fast, *uneven]):
            sink.write(Frame(frame(0).image, index, 1.7e9 + time_s, "camera 0"), Detections.empty())
    np.testing.assert_allclose(times_of(tmp_path / "out.mp4"), [*slow, *fast, *uneven], atol=2e-4)


def test_an_outage_fills_one_second_and_a_clock_that_jumps_back_a_moment(tmp_path):
    with VideoSink(tmp_path / "out.mp4", classes=[], fps=10) as sink:
        for time_s in (0.0, 0.1, 1000.0, 1000.1, 50.0, 50.0, 50.1):
            sink.write(Frame(frame(0).image, 0, time_s, "camera 0"), Detections.empty())
    np.testing.assert_allclose(times_of(tmp_path / "out.mp4"), [0, 0.1, 1.1, 1.2, 1.201, 1.202, 1.302], atol=2e-4)


def test_frames_of_other_sizes_are_fitted_into_the_first(tmp_path):
    with VideoSink(tmp_path / "out.mp4", classes=[], fps=10) as sink:
        for index, size in enumerate([(121, 161), (60, 200), (300, 100)]):
            sink.write(frame(index, size=size, grey=250), Detections.empty())
    frames = frames_of(tmp_path / "out.mp4")
    assert [image.shape for image in frames] == [(120, 160, 3)] * 3  # made even
    assert frames[1][0, 80].max() < 40  # bars above and below the wide one
    assert frames[1][60, 80].min() > 200


@pytest.mark.parametrize("kind", [KeyboardInterrupt, GeneratorExit])
def test_what_was_written_before_ctrl_c_or_an_early_stop_is_kept(tmp_path, kind):
    with (
        suppress(kind),
        VideoSink(tmp_path / "o.mp4", classes=[], fps=10) as video,
        JsonLinesSink(tmp_path / "o.jsonl", classes=[]) as lines,
    ):
        for index in range(5):
            video.write(frame(index), ONE)
            lines.write(frame(index), ONE)
        raise kind
    assert len(frames_of(tmp_path / "o.mp4")) == 5
    assert len((tmp_path / "o.jsonl").read_text().splitlines()) == 5


def test_an_error_leaves_what_stood_there_before_and_nothing_else(tmp_path):
    for name in ("out.mp4", "out.jsonl"):
        (tmp_path / name).write_text("of yesterday")
    for sink in (VideoSink(tmp_path / "out.mp4", classes=[], fps=10), JsonLinesSink(tmp_path / "out.jsonl", classes=[])):
        sink.write(frame(0), ONE)
        sink.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "out.mp4"]
    assert (tmp_path / "out.mp4").read_text() == (tmp_path / "out.jsonl").read_text() == "of yesterday"


def test_a_stream_without_frames_writes_no_video(tmp_path):
    with VideoSink(tmp_path / "out.mp4", classes=[], fps=10):
        pass
    assert list(tmp_path.iterdir()) == []


def test_closing_twice_does_no_harm(tmp_path):
    for sink in (VideoSink(tmp_path / "out.mp4", classes=[], fps=10), JsonLinesSink(tmp_path / "out.jsonl", classes=[])):
        sink.write(frame(0), ONE)
        with sink, sink:
            pass


def test_a_json_line_says_what_was_found(tmp_path):
    with JsonLinesSink(tmp_path / "out.jsonl", classes=["cat", "dog"]) as sink:
        sink.write(frame(7), ONE)
        sink.write(frame(8), Detections(ONE.boxes, ONE.scores, ONE.labels))
        sink.write(frame(9), Detections.empty())
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    box = {"box": [10.13, 20.0, 50.5, 60.0], "score": 0.8765, "label": 1, "class": "dog"}
    assert lines[0] == {
        "stream": "",
        "source": "clip.mp4",
        "frame": 7,
        "time_s": 0.7,
        "size": [160, 120],
        "objects": [{**box, "track_id": 3}],
    }
    assert lines[1]["objects"] == [box]
    assert lines[2]["objects"] == []


@pytest.mark.parametrize(
    "make", [lambda path: VideoSink(path, classes=[], fps=10), lambda path: JsonLinesSink(path, classes=[])]
)
def test_a_place_that_cannot_be_written_is_refused_when_the_sink_is_made(tmp_path, make):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(OutputError, match=r"a part of this path is a file|a file stands where a folder is needed"):
        make(tmp_path / "file" / "out.mp4")
    with pytest.raises(OutputError, match=r"folder\.mp4: is a folder"):
        make(tmp_path / "folder.mp4")


def test_a_video_is_only_written_as_mp4(tmp_path):
    with pytest.raises(UsageError, match=r"out\.gif: video is written as \.mp4"):
        VideoSink(tmp_path / "out.gif", classes=[], fps=10)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = shutil.which("mount")
    done = mount and subprocess.run([mount, "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True)
    if not done or done.returncode:
        pytest.skip("a small tmpfs cannot be mounted here (needs root)")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(sink, image, count):
    with sink:
        for index in range(count):
            sink.write(Frame(image, index, index / 10, "noise"), ONE)


def test_a_full_disk_is_an_error_and_leaves_nothing(small_disk):
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    with pytest.raises(OutputError, match=r"out\.mp4: .*disk is full"):
        fill(VideoSink(small_disk / "out.mp4", classes=["a", "b"], fps=10), noise, 60)
    assert list(small_disk.iterdir()) == []
    with pytest.raises(OutputError, match=r"out\.jsonl: cannot be written: the disk is full"):
        fill(JsonLinesSink(small_disk / "out.jsonl", classes=["a", "b"]), noise, 10_000)
    assert list(small_disk.iterdir()) == []


def test_a_window_without_a_display_is_refused(monkeypatch):
    if not sys.platform.startswith("linux"):
        pytest.skip("other systems always have a display")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(OutputError, match=r"use --serve 8080 or --save"):
        WindowSink("clip", classes=[])
