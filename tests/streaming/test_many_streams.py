"""Many streams, one engine: none waits for another, nor for another's sinks."""

import threading
import time
from dataclasses import replace

import pytest
from live import NONE, Kept, nothing, options, until_no_thread_is_left

from edgedet.errors import SourceError, UsageError
from edgedet.streaming import outlet
from edgedet.streaming.lane import StreamPlan
from edgedet.streaming.pipeline import stream
from edgedet.tracking.bytetrack import ByteTrack


def test_a_dead_camera_holds_up_no_other():
    plans = [
        StreamPlan("rtsp://127.0.0.1:9/none", "dead", feed=options()),
        StreamPlan("test:64x48@50", "alive", feed=options()),
    ]
    started_s = time.monotonic()
    with stream(plans, nothing) as found:
        for _ in range(25):
            next(found)
        dead, alive = found.status()
    assert time.monotonic() - started_s < 1.5  # 25 frames at 50 a second, and room for a busy machine
    assert (dead.state, alive.state) == ("offline", "online")
    assert "takes no connection" in dead.reason


def test_streams_share_the_engine_fairly():
    def slow(image):
        time.sleep(0.005)
        return NONE

    plans = [StreamPlan("test:64x48@200", name, feed=options()) for name in ("a", "b", "c")]
    with stream(plans, slow) as found:
        for _ in range(150):
            next(found)
        counts = [status.frames for status in found.status()]
    assert min(counts) >= 0.5 * max(counts), counts  # alike, but for when each began; the inbox's own test is exact


def test_frames_say_whose_they_are_by_the_streams_name():
    plans = [StreamPlan("test:64x48@50", name, feed=options()) for name in ("a", "b")]
    with stream(plans, nothing) as found:
        taken = [next(found)[0] for _ in range(10)]
    assert {frame.stream for frame in taken} == {"a", "b"}
    assert {frame.source for frame in taken} == {"test:64x48@50"}


def test_after_the_allowed_attempts_the_stream_ends_with_the_reason_and_the_others_go_on():
    events = []
    plans = [
        StreamPlan("fault:drop@0:test:64x48@50", "lost", feed=options(max_reconnects=2)),
        StreamPlan("test:64x48@50,frames=60", "well", feed=options()),
    ]
    frames = []
    with pytest.raises(SourceError, match=r"dropped on purpose at frame 0; gave up after 2 attempts to reconnect"):
        frames.extend(frame for frame, _ in stream(plans, nothing, on_event=events.append))
    assert len(frames) > 30
    assert {frame.stream for frame in frames} == {"well"}
    assert [event.kind for event in events if event.stream == "lost"] == ["offline", "ended"]
    assert "gave up" in events[-1].detail["reason"]


def test_a_file_that_cannot_be_opened_is_no_camera_to_wait_for(write_clip):
    clip, events = write_clip(), []
    clip.write_bytes(clip.read_bytes()[:2000])
    plans = [StreamPlan(clip, "cut"), StreamPlan("test:64x48@50,frames=25", "well")]
    with pytest.raises(SourceError, match="not a video OpenCV can open"):
        list(stream(plans, nothing, on_event=events.append))
    assert [event.kind for event in events if event.stream == "cut"] == ["ended"]


def test_cameras_that_hang_do_not_add_up_at_the_end():
    plans = [StreamPlan("fault:freeze@1=3:test:64x48@50", name, feed=options()) for name in "abcdef"]
    with stream(plans, nothing) as found:
        for _ in plans:
            next(found)
        time.sleep(0.2)
        started_s = time.monotonic()
    assert time.monotonic() - started_s < 1.2  # half a second for all six
    until_no_thread_is_left()


def test_sinks_that_hang_are_waited_for_together(monkeypatch, capsys):
    monkeypatch.setattr(outlet, "CLOSE_S", 0.5)
    woken = threading.Event()

    class Hangs(Kept):
        def write(self, frame, detections):
            woken.wait(20)

    plans = [StreamPlan("test:64x48@50", name, sinks=[Hangs(), Hangs()], feed=options()) for name in ("a", "b", "c")]
    with stream(plans, nothing) as found:
        while min(status.frames for status in found.status()) < 3:
            next(found)
        started_s = time.monotonic()
    assert time.monotonic() - started_s < 1.5  # not six times .5 s
    woken.set()
    until_no_thread_is_left()
    assert "a, test_many_streams: hangs; " in capsys.readouterr().err


def test_a_slow_sink_never_slows_a_live_stream():
    sink = Kept(every_s=0.2)
    with stream([StreamPlan("test:64x48@50", sinks=[sink], feed=options())], nothing) as found:
        started_s = time.monotonic()
        for _ in range(40):
            next(found)
        elapsed_s = time.monotonic() - started_s
        (status,) = found.status()
    assert elapsed_s < 1.5  # 40 frames at 50 a second, and room for a busy machine
    assert sum(status.sink_dropped.values()) > 10


@pytest.mark.parametrize(
    ("streams", "slots", "together"),
    [
        (2, 1, 2),
        (12, 1, 8),
        (12, 4, 2),  # several requests at once keep the engine busy: more frames in flight would only grow old
    ],
)
def test_a_dynamic_batch_is_filled_from_several_streams(streams, slots, together):
    sizes = []

    class Batching:
        spec = type("Spec", (), {"batch": None})

        def __call__(self, image):
            raise NotImplementedError

        def submit(self, image):
            return self.submit_batch([image])[0]

        def submit_batch(self, images):
            from concurrent.futures import Future

            sizes.append(len(images))
            futures = [Future() for _ in images]
            for future in futures:
                future.set_result(NONE)
            return futures

    plans = [StreamPlan("test:64x48@50", str(number), feed=options()) for number in range(streams)]
    detector = Batching()
    detector.slots = slots
    with stream(plans, detector, max_wait_ms=30) as found:
        for _ in range(100):
            next(found)
    assert max(sizes) == together


def test_wrong_plans_are_refused_before_anything_starts():
    with pytest.raises(UsageError, match="two streams are called 'test:'"):
        stream(["test:", "test:"], nothing)
    shared = [StreamPlan("test:", name, tracker=ByteTrack()) for name in ("a", "b")]
    shared[1] = replace(shared[1], tracker=shared[0].tracker)
    with pytest.raises(UsageError, match="given twice; each stream needs its own"):
        stream(shared, nothing)
    with pytest.raises(UsageError, match="serves one stream"):
        stream(["test:", "test:64x48@1"], nothing, sinks=[Kept()])
    for address in ("fault:drop:test:", "fault:melt@3:test:", "fault:freeze@3:test:", "fault:freeze@3=-1:test:", "fault:"):
        with pytest.raises(SourceError, match=r"write|no fault|cannot come earlier"):
            stream(address, nothing)
