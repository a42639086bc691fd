"""Sources: real clips and folders, and every address that gives no frames."""

import os
from contextlib import ExitStack
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgedet.errors import ImageError, SourceError
from edgedet.streaming.quiet import quiet_opencv
from edgedet.streaming.sources import webcam
from edgedet.streaming.sources.base import kind_of, open_source


def test_a_video_gives_every_frame_once_at_its_own_time(bikes_mp4):
    with open_source(bikes_mp4) as source:
        assert (source.fps, source.frame_count, source.live) == (25.0, 250, False)
        frames = [(frame.index, frame.time_s, frame.image.shape) for frame in source]
    assert [index for index, _, _ in frames] == list(range(250))
    np.testing.assert_allclose([time_s for _, time_s, _ in frames], np.arange(250) / 25, atol=1e-6)
    assert {shape for _, _, shape in frames} == {(272, 640, 3)}


def test_a_videos_own_frame_rate_sets_its_times(people_mp4):
    with open_source(str(people_mp4)) as source:
        times_s = [frame.time_s for frame, _ in zip(source, range(20))]
    np.testing.assert_allclose(times_s, np.arange(20) / 10, atol=1e-6)


def test_frames_are_the_ones_that_opencv_decodes(write_clip):
    path = write_clip(frames=5)
    capture = cv2.VideoCapture(str(path))
    with open_source(path) as source:
        for frame in source:
            np.testing.assert_array_equal(frame.image, capture.read()[1])


def test_a_folder_gives_its_images_in_name_order_whatever_their_sizes(tmp_path):
    for name, side in (("b.png", 20), ("a.jpg", 30), ("c/d.bmp", 10)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / name), np.zeros((side, side, 3), np.uint8))
    (tmp_path / "notes.txt").write_text("no image")
    with open_source(tmp_path) as source:
        assert source.frame_count == 3
        frames = list(source)
    assert [Path(frame.source).name for frame in frames] == ["a.jpg", "b.png", "d.bmp"]
    assert [frame.image.shape[0] for frame in frames] == [30, 20, 10]
    assert [frame.index for frame in frames] == [0, 1, 2]


def test_one_image_is_a_stream_of_one_frame(tmp_path):
    cv2.imwrite(str(tmp_path / "one.png"), np.zeros((8, 9), np.uint8))
    with open_source(tmp_path / "one.png") as source:
        assert [frame.image.shape for frame in source] == [(8, 9, 3)]


def test_a_camera_gives_times_on_the_wall_clock_and_says_when_it_stops(monkeypatch, write_clip):
    clip = cv2.VideoCapture(str(write_clip(frames=3)))  # the fault injected: a camera that ends after three frames
    monkeypatch.setattr(webcam, "open_capture", lambda index: clip)
    with open_source("0") as source:
        assert (source.live, source.name) == (True, "camera 0")
        frames = iter(source)
        times_s = [next(frames).time_s for _ in range(3)]
        with pytest.raises(SourceError, match="camera 0: stopped giving frames after 3"):
            next(frames)
    assert times_s == sorted(times_s)
    assert times_s[0] > 1.7e9


@pytest.mark.skipif(Path("/dev/video97").exists(), reason="this machine has a camera 97")
def test_a_link_to_a_camera_is_followed_each_time_it_is_opened(tmp_path):
    (tmp_path / "by-id").symlink_to("/dev/video97")
    with pytest.raises(SourceError, match="camera 97: there is none"):
        open_source(tmp_path / "by-id")


def test_addresses_longer_than_any_file_name_are_still_told_apart():
    assert kind_of(f"rtsp://camera/1?token={'x' * 5000}").__name__.endswith("network")
    with pytest.raises(SourceError, match="no such file"):
        kind_of("y" * 5000)


@pytest.mark.parametrize(
    "address",
    ["test:huge", "test:frames=0", "fault:drop:test:", "fault:drop@1:nonsense", "rtsp:///1", "rtsp://camera:99999/1", "csi:x"],
)
def test_what_can_never_be_opened_is_refused_before_anything_is(address):
    with pytest.raises(SourceError):
        kind_of(address)


@pytest.mark.parametrize(
    "address",
    [
        "ftp://user:secret@camera/1",
        "rtsp://user:sec/secret@camera/1",
        "rtsp://user:secret@camera:99999/1",
        "fault:melt@1:rtsp://user:secret@camera/1",
        "fault:rtsp://user:secret@camera/1",
        "gst: rtspsrc location=rtsp://user:secret@camera/1 ! fakesink",
        "gst: rtspsrc location=rtsp://camera/1 user-id=me user-pw=secret ! fakesink",
        "nvdec:http://user:secret@camera/1",
        "camera?password=secret",
    ],
)
def test_no_refusal_shows_a_password(address):
    with pytest.raises(SourceError) as caught:
        open_source(address)
    assert "secret" not in str(caught.value)
    assert "camera" in str(caught.value)


def test_opencv_is_as_loud_as_before_when_many_have_opened_at_once():
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_WARNING)
    try:
        with ExitStack() as first, ExitStack() as second:
            first.enter_context(quiet_opencv())
            second.enter_context(quiet_opencv())
            first.close()
            assert cv2.utils.logging.getLogLevel() == cv2.utils.logging.LOG_LEVEL_SILENT
        assert cv2.utils.logging.getLogLevel() == cv2.utils.logging.LOG_LEVEL_WARNING
    finally:
        cv2.utils.logging.setLogLevel(level)


def test_addresses_without_frames_are_refused_with_one_message(tmp_path, write_clip, capfd):
    whole = write_clip("whole.mp4").read_bytes()
    (tmp_path / "zero.mp4").touch()
    (tmp_path / "truncated.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty").mkdir()
    expected = {
        "zero.mp4": r"zero\.mp4: is empty \(0 bytes\)",
        "truncated.mp4": r"truncated\.mp4: not a video OpenCV can open",
        "text.mp4": r"text\.mp4: not a video OpenCV can open",
        "empty": r"empty: no image in this folder; it takes .*\.jpg",
        "absent.mp4": r"absent\.mp4: no such file or folder",
    }
    for name, message in expected.items():
        with pytest.raises(SourceError, match=message):
            open_source(tmp_path / name)
    with pytest.raises(SourceError, match="ftp://camera/1: ftp:// is no scheme read here; there are rtsp"):
        open_source("ftp://camera/1")
    with pytest.raises(SourceError, match="is a pipe or a device"):
        open_source(os.devnull)
    printed = capfd.readouterr()
    assert printed.out + printed.err == ""


def test_a_video_with_a_header_but_no_frames_is_refused(tmp_path, write_clip):
    with pytest.raises(SourceError, match=r"none\.mp4"):
        open_source(write_clip("none.mp4", frames=0))


@pytest.mark.skipif(Path("/dev/video97").exists(), reason="this machine has a camera 97")
def test_a_camera_index_that_is_not_there_is_refused_with_one_message(capfd):
    for address in ("97", 97, "/dev/video97"):
        with pytest.raises(SourceError, match="camera 97: there is none with this index"):
            open_source(address)
    printed = capfd.readouterr()
    assert printed.out + printed.err == ""


def test_an_unreadable_image_in_a_folder_is_named(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 no image")
    with open_source(tmp_path) as source, pytest.raises(ImageError, match=r"broken\.jpg"):
        list(source)
