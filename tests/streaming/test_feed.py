"""Streams whose cameras fail on purpose: `fault:` sources, and through the whole pipeline."""

import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from live import BOX, Kept, Scripted, nothing, options, run, until_no_thread_is_left

from edgedet.detections import Detections
from edgedet.errors import SourceError
from edgedet.streaming.lane import StreamPlan
from edgedet.streaming.pipeline import stream
from edgedet.streaming.policy import Policy
from edgedet.streaming.sources.base import Timeouts


def test_a_lost_connection_is_opened_again_and_frames_are_numbered_on():
    frames, events, status = run("fault:drop@5:test:64x48@50", 13, feed=options(policy=Policy("queue", 20)))
    assert [frame.index for frame in frames] == list(range(13))
    assert [event.kind for event in events][:5] == ["online", "offline", "online", "offline", "online"]
    assert "dropped on purpose at frame 5" in events[1].detail["reason"]
    assert status.reconnects == 2
    assert all(np.diff([frame.time_s for frame in frames]) > 0)


def test_a_camera_that_hangs_is_noticed_within_the_time_out_and_left_behind():
    started_s = time.monotonic()
    frames, events, status = run("fault:freeze@3=3:test:64x48@50", 5, feed=options(policy=Policy("queue", 20)))
    offline = next(event for event in events if event.kind == "offline")
    last = max(frame.time_s for frame in frames if frame.time_s < offline.time_s)
    assert offline.time_s - last == pytest.approx(0.4, abs=0.15)  # the limit, and a twentieth of a second between looks
    assert offline.detail["reason"] == "no frame for 0.4 s; the camera or the net hangs"  # whose, the event says already
    assert time.monotonic() - started_s < 2.5  # not the 3 s that the camera hangs
    assert status.reconnects == 1
    until_no_thread_is_left()  # the one that hangs ends once the camera wakes


def test_a_frame_of_a_connection_that_was_left_behind_is_counted_and_shown_to_nobody():
    with stream("fault:freeze@3=0.8:test:64x48@20", nothing, feed=options(policy=Policy("queue", 20))) as found:
        frames = []
        while "late" not in found.status()[0].dropped:
            frames.append(next(found)[0])
        assert len(frames) < 60
    indices = [frame.index for frame in frames]
    assert indices == sorted(set(indices))
    assert found.status()[0].dropped["late"] == 1
    until_no_thread_is_left()


def test_a_frame_that_is_no_picture_is_dropped_and_counted():
    frames, _, status = run("fault:corrupt@2:test:64x48@50", 4, feed=options(policy=Policy("queue", 20)))
    assert [frame.index for frame in frames] == [0, 1, 3, 4]
    assert status.dropped == {"corrupt": 1}


def test_grey_and_four_channel_pictures_become_bgr():
    grey, four = np.full((4, 6), 9, np.uint8), np.dstack([np.full((4, 6), value, np.uint8) for value in (1, 2, 3, 255)])
    images = [grey, grey[:, :, None], four, np.zeros((4, 6, 2), np.uint8), grey.astype(np.float32), None]
    plan = StreamPlan(Scripted(images), feed=options(policy=Policy("queue", 9)))
    with stream([plan], nothing) as found:
        pixels = [frame.image[0, 0].tolist() for frame, _ in found]
        (status,) = found.status()
    assert pixels == [[9, 9, 9], [9, 9, 9], [1, 2, 3]]
    assert status.dropped == {"corrupt": 3}


def test_a_camera_that_gives_nothing_but_rubbish_is_told_and_not_waited_for():
    events = []
    rubbish = (np.zeros((4, 6, 2), np.uint8) for _ in range(10_000))
    feed = options(timeouts=Timeouts(open_s=0.1, read_s=0.2))
    with pytest.raises(SourceError, match=r"no frame for 0.3 s; what comes is no picture of 8 bits a colour"):
        list(stream([StreamPlan(Scripted(rubbish), feed=feed)], nothing, on_event=events.append))
    assert [event.kind for event in events] == ["ended"]
    until_no_thread_is_left()


@pytest.mark.parametrize("jump", [3600, -3600, -0.5])
def test_a_clock_that_jumps_does_not_move_the_frames(jump):
    frames, _, _ = run(f"fault:jump@3={jump}:test:64x48@50", 8)
    assert all((np.diff([frame.time_s for frame in frames]) > 0) & (np.diff([frame.time_s for frame in frames]) < 1))


def test_a_new_size_is_told_and_keeps_the_tracks():
    def half_or_whole(image):
        scale = image.shape[1] / 64
        return Detections(BOX.boxes * scale, BOX.scores, BOX.labels)

    sink = Kept()
    plan = StreamPlan(
        "fault:resize@4:test:64x48@50", tracker="bytetrack", sinks=[sink], feed=options(policy=Policy("queue", 20))
    )
    with stream([plan], half_or_whole) as found:
        results = [next(found) for _ in range(8)]
    assert {frame.image.shape for frame, _ in results} == {(48, 64, 3), (24, 32, 3)}
    assert {tuple(objects.track_ids) for _, objects in results} == {(1,)}
    np.testing.assert_allclose(results[-1][1].boxes, BOX.boxes / 2)
    assert [event.kind for event in sink.events] == ["online", "resized"]
    assert sink.events[1].detail == {"size_hw": [24, 32]}


def test_a_tracker_that_looks_sees_one_size_whatever_the_camera_gives():
    class Looks:
        def __init__(self):
            self.shapes = set()

        def see(self, image):
            self.shapes.add(image.shape)

        def update(self, detections, time_s):
            return replace(detections, track_ids=np.arange(1, len(detections) + 1))

    tracker = Looks()
    with stream("fault:resize@2:test:64x48@50", lambda image: BOX, tracker=tracker, feed=options()) as found:
        shapes = {next(found)[0].image.shape for _ in range(6)}
    assert shapes == {(48, 64, 3), (24, 32, 3)}
    assert tracker.shapes == {(48, 64, 3)}


def test_no_frame_is_invented_while_a_camera_is_away():
    sink = Kept()
    with stream([StreamPlan("fault:drop@3:test:64x48@50", sinks=[sink], feed=options())], nothing) as found:
        for _ in range(6):
            next(found)
    indices = [frame.index for frame, _ in sink.frames]
    assert indices == sorted(set(indices))
    assert [event.kind for event in sink.events][:3] == ["online", "offline", "online"]


def test_a_camera_that_never_opened_is_an_error_where_nothing_else_runs():
    with pytest.raises(SourceError, match="takes no connection"):
        next(stream("rtsp://127.0.0.1:9/none", nothing, feed=options()))


def test_no_attempt_is_made_where_none_is_allowed():
    feed, given = options(max_reconnects=0, policy=Policy("queue", 9)), []
    found = stream("fault:drop@3:test:64x48@50", nothing, feed=feed)
    with pytest.raises(SourceError, match="gave up after 0 attempts to reconnect"):
        given.extend(frame.index for frame, _ in found)
    assert given == [0, 1, 2]
    assert found.status()[0].reconnects == 0


def test_a_clip_with_faults_plays_at_its_own_pace_as_a_camera_does(write_clip):
    clip, events = write_clip(frames=12, fps=20.0), []
    feed = options(policy=Policy("queue", 20))
    with stream(f"fault:drop@6:{clip}", nothing, feed=feed, on_event=events.append) as found:
        frames = [next(found)[0] for _ in range(12)]
    assert [event.kind for event in events][:3] == ["online", "offline", "online"]
    steps_s = np.diff([frame.time_s for frame in frames])
    np.testing.assert_allclose(steps_s[[0, 1, 2, 3, 4, 7, 8, 9]], 0.05, atol=0.03)  # 20 frames a second
    assert frames[0].time_s == pytest.approx(time.time(), abs=10)
    assert all(0 <= frame.time_s - (time.time() - time.monotonic() + frame.read_s) + 0.2 < 0.4 for frame in frames)


SOAK = """
import os
import numpy as np
from edgedet.detections import Detections
from edgedet.streaming.feed import FeedOptions
from edgedet.streaming.lane import StreamPlan
from edgedet.streaming.pipeline import stream
from edgedet.streaming.policy import Policy

box = Detections(np.float32([[2, 2, 12, 12]]), np.float32([0.9]), np.zeros(1, np.int32))
address = "fault:corrupt@50,resize@100,jump@200=60,drop@300:test:64x48@999"  # 333 reconnects, 33 of them in the first tenth
plan = StreamPlan(address, tracker="bytetrack", feed=FeedOptions(policy=Policy("queue", 4)))
with stream([plan], lambda image: box) as found:
    for count in range(1, 100_001):
        next(found)
        if count in (10_000, 100_000):
            print(int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads resident memory in /proc")
def test_a_hundred_thousand_frames_take_no_more_memory_than_ten_thousand():
    ended = subprocess.run([sys.executable, "-c", SOAK], capture_output=True, text=True, check=True)
    tenth, whole = map(int, ended.stdout.split())
    assert whole <= 1.02 * tenth
