"""What is counted: every frame that is not looked at, with its cause."""

import time

import pytest
from live import NONE, Kept, nothing, options, run

from edgedet.streaming.lane import StreamPlan
from edgedet.streaming.pipeline import stream
from edgedet.streaming.policy import Policy
from edgedet.streaming.statistics import Statistics


def test_every_policy_drops_what_it_says():
    frames, _, status = run("test:64x48@100", 4, feed=options(policy=Policy("every", 5)))
    assert all(frame.index % 5 == 0 for frame in frames)
    assert status.dropped["every"] >= 12


@pytest.mark.parametrize(
    ("policy", "cause"), [(Policy(), "newest"), (Policy("queue", 3), "queue"), (Policy("every", 2), "newest")]
)
def test_every_frame_that_was_read_is_either_given_or_counted(policy, cause):
    def slow(image):
        time.sleep(0.03)
        return NONE

    feed = options(policy=policy, stride=2)
    with stream("test:64x48@200,frames=120", slow, feed=feed) as found:
        given = [frame.index for frame, _ in found]
        (status,) = found.status()
    assert len(given) + sum(status.dropped.values()) == 120
    assert status.dropped["stride"] == 60
    assert status.dropped[cause] >= 5  # 10 to 40, by how the two are scheduled
    if policy.kind == "every":  # of the frames that the stride leaves
        assert {index % 4 for index in given} == {0}
        assert status.dropped["every"] == 30
    else:
        assert set(status.dropped) == {"stride", cause}


def test_two_sinks_of_one_kind_count_together():
    plan = StreamPlan("test:64x48@200", sinks=[Kept(every_s=0.2), Kept(every_s=0.2)], feed=options())
    with stream([plan], nothing) as found:
        for _ in range(60):
            next(found)
        (status,) = found.status()
    assert status.sink_dropped == {"live": sum(status.sink_dropped.values())}
    assert status.sink_dropped["live"] > 60  # each lost most of them


def test_percentiles_are_of_the_latest_thousand_frames():
    statistics = Statistics("cam")
    for age_ms in [1e6] * 50 + list(range(1000)):
        statistics.result(NONE, age_ms / 1000, {"detect": 0.001})
    age = statistics.status().age_ms
    assert (age.p50, age.p95) == (pytest.approx(499.5), pytest.approx(949.05))
