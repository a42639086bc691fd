"""The pipeline: order, overlap, losslessness, errors from every thread, and a clean end."""

import os
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import cv2
import numpy as np
import pytest

import edgedet
from edgedet.detections import Detections
from edgedet.errors import OutputError, SourceError, UsageError
from edgedet.streaming.frame import Frame
from edgedet.streaming.pipeline import stream
from edgedet.streaming.sinks.base import Sink
from edgedet.tracking.bytetrack import ByteTrack


class Given:
    """A source of black frames that say their number; it can be slow, live, or break."""

    name, fps, frame_count = "given", 25.0, None

    def __init__(self, count, *, live=False, every_s=0.0, error=None):
        self.count, self.live, self.every_s, self.error, self.closed, self.read = count, live, every_s, error, False, 0

    def __iter__(self):
        for index in range(self.count):
            time.sleep(self.every_s)
            self.read += 1
            yield Frame(np.full((4, 4, 3), index % 256, np.uint8), index, index / 25, self.name)
        if self.error is not None:
            raise self.error

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.closed = True


class Kept(Sink):
    """A sink that remembers what it took and how it was closed."""

    def __init__(self, *, every_s=0.0, error_at=None):
        self.every_s, self.error_at, self.indices, self.closed_by, self.closed = every_s, error_at, [], None, False

    def write(self, frame, detections):
        time.sleep(self.every_s)
        if frame.index == self.error_at:
            raise OutputError("the disk is full")
        self.indices.append(frame.index)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.closed_by, self.closed = kind, True


def number_as_box(image):
    """One box whose left edge is the frame's number."""
    x = float(image[0, 0, 0])
    return Detections(np.float32([[x, 0, x + 9, 9]]), np.float32([0.5]), np.zeros(1, np.int32))


class SeveralAtOnce:
    """A detector with four slots, whose requests end out of order."""

    slots = 4

    def __init__(self):
        self._pool, self._lock, self.busy, self.most = ThreadPoolExecutor(4), threading.Lock(), 0, 0

    def __call__(self, image):
        return number_as_box(image)

    def submit(self, image) -> Future:
        return self._pool.submit(self._work, image)

    def _work(self, image):
        with self._lock:
            self.busy += 1
            self.most = max(self.most, self.busy)
        time.sleep(0.012 if image[0, 0, 0] % 2 else 0.004)
        with self._lock:
            self.busy -= 1
        return number_as_box(image)


def test_every_frame_of_a_file_comes_once_in_order_with_its_own_objects():
    source, sink = Given(100), Kept()
    found = list(stream(source, number_as_box, sinks=[sink]))
    assert [frame.index for frame, _ in found] == list(range(100))
    assert [objects.boxes[0, 0] for _, objects in found] == list(range(100))
    assert sink.indices == list(range(100))
    assert source.closed
    assert sink.closed
    assert sink.closed_by is None


def test_order_holds_with_several_requests_in_flight():
    detector = SeveralAtOnce()
    found = list(stream(Given(60), detector))
    assert [objects.boxes[0, 0] for _, objects in found] == list(range(60))
    assert detector.most >= 3


def test_reading_detecting_and_writing_overlap():
    def detect(image):
        time.sleep(0.01)
        return number_as_box(image)

    started = time.perf_counter()
    list(stream(Given(60, every_s=0.01), detect, sinks=[Kept(every_s=0.01)]))
    # One after another would take 1.8 s, side by side 0.6 s; the tolerance is for a busy machine.
    assert time.perf_counter() - started < 1.3


def test_reading_ahead_is_bounded():
    source = Given(1000)
    with_objects = stream(source, number_as_box)
    next(with_objects)
    time.sleep(0.1)
    assert source.read < 20
    with_objects.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such a policy")
@pytest.mark.parametrize(("live", "policy"), [(False, "SCHED_BATCH"), (True, "SCHED_OTHER")])
def test_the_threads_of_a_file_push_none_of_the_engines_off_its_core_and_the_callers_stays_as_it_was(live, policy):
    seen = set()

    class Telling(Given):
        def __iter__(self):
            seen.add(os.sched_getscheduler(0))
            yield from super().__iter__()

    class Noting(Kept):
        def write(self, frame, detections):
            seen.add(os.sched_getscheduler(0))

    def detect(image):
        seen.add(os.sched_getscheduler(0))
        return number_as_box(image)

    for _ in stream(Telling(5, live=live, every_s=0.01), detect, sinks=[Noting()]):
        assert os.sched_getscheduler(0) == os.SCHED_OTHER
    assert seen == {getattr(os, policy)}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such a policy")
@pytest.mark.parametrize("forbidden", ["sched_getscheduler", "sched_setscheduler"])
def test_a_system_that_forbids_the_policy_streams_without_it(forbidden, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, forbidden, refuse)
    assert len(list(stream(Given(5), number_as_box))) == 5


def test_opencv_leaves_the_cores_alone_while_any_file_runs_and_has_its_threads_back_afterwards(request):
    request.addfinalizer(lambda usual=cv2.getNumThreads(): cv2.setNumThreads(usual))
    cv2.setNumThreads(2)
    first, second = stream(Given(50), number_as_box), stream(Given(50), number_as_box)
    next(first)
    next(second)
    assert cv2.getNumThreads() == 1
    first.close()
    assert cv2.getNumThreads() == 1
    second.close()
    assert cv2.getNumThreads() == 2
    next(live := stream(Given(50, live=True), number_as_box))
    assert cv2.getNumThreads() == 2
    live.close()


def test_a_live_source_is_not_queued_behind_a_slow_detector():
    def detect(image):
        time.sleep(0.05)
        return number_as_box(image)

    source = Given(100, live=True, every_s=0.005)
    found = [frame.index for frame, _ in stream(source, detect)]
    assert source.read == 100
    assert 5 <= len(found) <= 40  # about 500 ms of frames, one result every 50 ms
    assert found == sorted(found)
    assert found[-1] >= 98  # the newest, not what waited


def test_stopping_early_ends_every_thread_and_keeps_what_was_written():
    source, sink = Given(1000), Kept()
    for frame, _ in stream(source, number_as_box, sinks=[sink]):
        if frame.index == 10:
            break
    assert threading.active_count() == 1 or not any(t.name.startswith("edgedet") for t in threading.enumerate())
    assert sink.indices == list(range(11))
    assert sink.closed_by is GeneratorExit
    assert source.closed


def test_a_stream_that_is_never_iterated_starts_nothing():
    before = threading.active_count()
    stream(Given(10), number_as_box)
    assert threading.active_count() == before


def test_an_error_of_the_source_comes_after_the_frames_before_it():
    found = stream(Given(7, error=SourceError("check its cable")), number_as_box)
    assert [next(found)[0].index for _ in range(7)] == list(range(7))
    with pytest.raises(SourceError, match="cable"):
        next(found)


@pytest.mark.parametrize("detector", ["a plain function", "one with requests"])
def test_an_error_of_the_detector_is_raised_to_the_caller_and_drops_the_output(detector):
    def detect(image):
        if image[0, 0, 0] == 5:
            raise ZeroDivisionError("a defect")
        return number_as_box(image)

    chosen = detect
    if detector == "one with requests":
        chosen = SeveralAtOnce()
        chosen._work = detect
    sink = Kept()
    with pytest.raises(ZeroDivisionError, match="a defect"):
        list(stream(Given(50), chosen, sinks=[sink]))
    assert sink.closed_by is ZeroDivisionError


def test_an_error_of_a_sink_is_raised_to_the_caller():
    source, sink = Given(100), Kept(error_at=3)
    with pytest.raises(OutputError, match="the disk is full"):
        list(stream(source, number_as_box, sinks=[sink]))
    assert source.closed
    assert sink.closed_by is OutputError


def test_an_error_of_a_sink_on_the_last_frame_is_not_lost():
    with pytest.raises(OutputError):
        list(stream(Given(10), number_as_box, sinks=[Kept(error_at=9)]))


def test_low_scores_are_dropped_without_a_tracker_and_left_to_a_tracker():
    assert all(len(objects) == 0 for _, objects in stream(Given(3), number_as_box, min_score=0.6))
    tracked = [objects.track_ids.tolist() for _, objects in stream(Given(3), number_as_box, min_score=0.5, tracker="bytetrack")]
    assert tracked == [[1], [1], [1]]
    with pytest.raises(UsageError, match="set the threshold on the tracker itself"):
        stream(Given(3), number_as_box, min_score=0.5, tracker=ByteTrack())


def test_classes_are_chosen_by_name(finds_white, write_clip):
    clip = write_clip(frames=3)
    assert [len(objects) for _, objects in edgedet.stream(clip, finds_white, classes=["square"])] == [1, 1, 1]
    assert [len(objects) for _, objects in edgedet.stream(clip, finds_white, classes=["circle"])] == [0, 0, 0]
    with pytest.raises(UsageError, match="no class 'sqare'; did you mean: square"):
        edgedet.stream(clip, finds_white, classes=["sqare"])
    with pytest.raises(UsageError, match="a detector that names them"):
        edgedet.stream(clip, number_as_box, classes=["square"])


def test_a_tracked_clip_has_one_identity_from_its_first_frame_to_its_last(finds_white, write_clip):
    clip = write_clip(frames=25)
    ids = [objects.track_ids.tolist() for _, objects in edgedet.stream(clip, finds_white, tracker="bytetrack")]
    assert ids == [[1]] * 25
