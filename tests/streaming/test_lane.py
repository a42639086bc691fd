"""A lane: thresholds by class, without a tracker and with one."""

from types import SimpleNamespace

import numpy as np
import pytest

import edgedet
from edgedet.detections import Detections
from edgedet.errors import UsageError
from edgedet.streaming.feed import FeedOptions
from edgedet.streaming.frame import Frame
from edgedet.streaming.lane import MIN_SCORE, StreamPlan
from edgedet.streaming.policy import Policy
from edgedet.tracking.zones import Zone, Zones

SCORES = {"person": 0.4, "car": 0.6}


class Still:
    """A detector of one object of each class that stand still, all with one score."""

    spec = SimpleNamespace(classes=("person", "car", "dog"))

    def __init__(self, *scores):
        self.scores = iter(scores)

    def __call__(self, image):
        boxes = np.float32([[0, 0, 20, 40], [50, 0, 90, 40], [100, 50, 120, 60]])
        return Detections(boxes, np.full(3, next(self.scores), np.float32), np.arange(3, dtype=np.int32))


class Frames:
    """Black frames, as many as asked for, of a file."""

    name, live, fps, frame_count = "given", False, 25.0, None

    def __init__(self, count):
        self.count = count

    def __iter__(self):
        for index in range(self.count):
            yield Frame(np.zeros((64, 128, 3), np.uint8), index, index / 25, self.name)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        pass


def labels(scores, **options):
    """The labels found in each frame, where each frame's objects have the next of the scores."""
    plan = StreamPlan(Frames(len(scores)), min_score=SCORES, **options)
    return [sorted(objects.labels.tolist()) for _, objects in edgedet.stream([plan], Still(*scores))]


def test_each_class_has_its_own_threshold_and_those_left_out_the_usual_one():
    assert MIN_SCORE == 0.3
    assert labels([0.29, 0.31, 0.39, 0.41, 0.59, 0.61]) == [[], [2], [2], [0, 2], [0, 2], [0, 1, 2]]


@pytest.mark.parametrize("tracker", ["bytetrack", "ocsort", "botsort"])
def test_with_a_tracker_a_class_starts_tracks_at_its_threshold_and_keeps_them_below(tracker):
    pytest.importorskip("scipy", reason="scipy is not installed: pip install 'edgedet[tracking]'")
    faint, sure = [0.55] * 4, [0.65] * 4
    before = labels(faint, tracker=tracker)[-1]
    assert before == [0, 2]  # a car never starts a track below its threshold
    assert labels(sure, tracker=tracker)[-1] == [0, 1, 2]
    if tracker != "ocsort":  # which ignores faint objects
        assert labels([*sure, 0.55], tracker=tracker)[-1] == [0, 1, 2]


def test_tracked_objects_keep_the_scores_they_were_found_with():
    pytest.importorskip("scipy", reason="scipy is not installed: pip install 'edgedet[tracking]'")
    plan = StreamPlan(Frames(4), min_score=SCORES, tracker="bytetrack")
    *_, (_, objects) = edgedet.stream([plan], Still(0.7, 0.7, 0.7, 0.7))
    np.testing.assert_allclose(objects.scores, 0.7, atol=1e-6)


def test_a_class_that_the_model_does_not_know_is_refused():
    with pytest.raises(UsageError, match="the model has no class 'persn'; did you mean: person"):
        edgedet.stream([StreamPlan(Frames(1), min_score={"persn": 0.5})], Still(0.5))


def test_a_zone_outside_the_frame_is_refused_with_the_stream_it_belongs_to():
    pytest.importorskip("scipy", reason="scipy is not installed: pip install 'edgedet[tracking]'")
    zones = Zones([Zone("yard", [(0, 0), (640, 0), (640, 480)])])
    plan = StreamPlan(Frames(2), name="gate", tracker="bytetrack", zones=zones)
    message = (
        r"gate: zone 'yard' has the point \(640, 0\) outside the frame, which is 128x64; draw it on a picture of that size"
    )
    with pytest.raises(UsageError, match=message):
        list(edgedet.stream([plan], Still(0.5, 0.5)))


def test_a_camera_with_a_zone_outside_its_frames_ends_alone_once_it_is_there():
    pytest.importorskip("scipy", reason="scipy is not installed: pip install 'edgedet[tracking]'")
    far = Zones([Zone("yard", [(0, 0), (640, 0), (640, 480)])])
    plans = [
        StreamPlan("test:128x64@50,frames=30", name="wrong", tracker="bytetrack", zones=far),
        StreamPlan("test:128x64@50,frames=30", name="well", feed=FeedOptions(policy=Policy("queue", 50))),
    ]
    seen = []
    with edgedet.stream(plans, lambda image: Detections.empty()) as found:
        with pytest.raises(UsageError, match=r"wrong: zone 'yard' has the point \(640, 0\) outside the frame, which is 128x64"):
            seen.extend(frame.stream for frame, _ in found)
        wrong, well = found.status()
    assert seen == ["well"] * 30
    assert (wrong.state, well.state, well.reason) == ("ended", "ended", None)
    assert "zone 'yard'" in wrong.reason
    assert wrong.reconnects == 0


def test_a_lone_camera_with_a_zone_outside_its_frames_is_refused_at_once():
    pytest.importorskip("scipy", reason="scipy is not installed: pip install 'edgedet[tracking]'")
    far = Zones([Zone("yard", [(0, 0), (640, 0), (640, 480)])])
    plan = StreamPlan("test:128x64@50", name="wrong", tracker="bytetrack", zones=far)
    with pytest.raises(UsageError, match="wrong: zone 'yard'"):
        list(edgedet.stream([plan], lambda image: Detections.empty()))
