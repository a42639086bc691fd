"""The inbox: bounded, fair, and never held up by a stream that gives nothing."""

import threading
import time

import numpy as np
import pytest

from edgedet.errors import UsageError
from edgedet.streaming.frame import Frame
from edgedet.streaming.inbox import Inbox
from edgedet.streaming.policy import Policy, parse_policy

IMAGE = np.zeros((2, 2, 3), np.uint8)


def frame(index: int) -> Frame:
    return Frame(IMAGE, index, float(index), "cam")


def test_streams_take_turns_whatever_they_give():
    inbox = Inbox(["busy", "quiet"])
    for index in range(6):
        inbox.put("busy", frame(index), room=9, wait=False)
    inbox.put("quiet", frame(0), room=9, wait=False)
    assert [inbox.take()[0][0] for _ in range(4)] == ["busy", "quiet", "busy", "busy"]


def test_the_oldest_makes_way_and_is_counted():
    inbox = Inbox(["cam"])
    assert [inbox.put("cam", frame(index), room=2, wait=False) for index in range(4)] == [0, 0, 1, 1]
    assert [inbox.take()[0][1].index for _ in range(2)] == [2, 3]


def test_a_put_that_waits_loses_nothing():
    inbox = Inbox(["file"])

    def feed() -> None:
        for index in range(50):
            assert inbox.put("file", frame(index), room=3, wait=True) == 0
        inbox.end("file")

    thread = threading.Thread(target=feed)
    thread.start()
    found = []
    while taken := inbox.take():
        found += [one.index for _, one in taken]
    thread.join()
    assert found == list(range(50))


def test_a_batch_is_cut_by_its_deadline_not_by_a_dead_stream():
    inbox = Inbox(["alive", "dead"])
    inbox.put("alive", frame(0), room=1, wait=False)
    started_s = time.monotonic()
    assert [name for name, _ in inbox.take(2, wait_s=0.05)] == ["alive"]
    assert 0.04 < time.monotonic() - started_s < 0.5
    inbox.put("alive", frame(1), room=1, wait=False)
    inbox.put("dead", frame(0), room=1, wait=False)
    started_s = time.monotonic()
    assert len(inbox.take(2, wait_s=10)) == 2
    assert time.monotonic() - started_s < 1


def test_a_cancelled_inbox_frees_whoever_waits():
    inbox = Inbox(["file"])
    inbox.put("file", frame(0), room=1, wait=True)
    told: list[int | None] = []
    thread = threading.Thread(target=lambda: told.append(inbox.put("file", frame(1), room=1, wait=True)))
    thread.start()
    inbox.cancel()
    thread.join(5)
    assert told == [None]
    assert inbox.take() == []


def test_policies_are_read_as_they_are_written():
    assert parse_policy("newest") == Policy()
    assert parse_policy("queue 8") == Policy("queue", 8)
    assert parse_policy("every=3") == Policy("every", 3)
    for text in ("queue", "every 0", "oldest", ""):
        with pytest.raises(UsageError, match="newest, queue N or every K"):
            parse_policy(text)


def test_a_displaced_frame_is_counted_by_what_displaced_it():
    assert [Policy(kind, 3).cause for kind in ("newest", "queue", "every")] == ["newest", "queue", "newest"]
