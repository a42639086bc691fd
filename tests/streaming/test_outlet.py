"""An outlet: a sink's slowness and failures stay with the sink."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from edgedet.detections import Detections
from edgedet.errors import OutputError
from edgedet.streaming import outlet as module
from edgedet.streaming.frame import Event, Frame
from edgedet.streaming.outlet import WAITING, Outlet
from edgedet.streaming.sinks.base import Sink

NOTHING = Detections.empty()


def frame(index: int) -> Frame:
    return Frame(np.zeros((2, 2, 3), np.uint8), index, index / 10, "test")


class Given(Sink):
    """A sink that keeps what it is given; `fault(index)` may sleep or raise before."""

    def __init__(self, fault=lambda index: None) -> None:
        self.fault, self.indices, self.events, self.left_with = fault, [], [], []

    def write(self, frame, detections):
        self.fault(frame.index)
        self.indices.append(frame.index)

    def notice(self, event):
        self.events.append(event.kind)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.left_with.append(error)


def full(index):
    raise OutputError("out.mp4: the disk is full")


def until(condition, seconds=5.0):
    deadline_s = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline_s:
        time.sleep(0.002)
    assert condition()


def test_a_lossless_outlet_writes_everything_in_order_at_the_sinks_own_pace():
    sink = Given(lambda index: time.sleep(0.002))
    outlet = Outlet(sink, lossless=True, name="x")
    for index in range(60):
        outlet.put(frame(index), NOTHING)
        outlet.notice(Event("cross", "x", index / 10))
    outlet.close()
    assert sink.indices == list(range(60))
    assert sink.events == ["cross"] * 60
    assert (outlet.dropped, outlet.failed) == (0, 0)
    assert sink.left_with == [None]


def test_a_slow_sink_never_makes_a_live_stream_wait_and_what_it_missed_is_counted():
    sink = Given(lambda index: time.sleep(0.02))
    outlet = Outlet(sink, lossless=False, name="x")
    started_s = time.perf_counter()
    for index in range(200):
        outlet.put(frame(index), NOTHING)
    assert time.perf_counter() - started_s < 1.0  # the sink alone would take 4 s
    outlet.close()
    assert sink.indices[-WAITING:] == list(range(200 - WAITING, 200))  # the newest
    assert outlet.dropped == 200 - len(sink.indices) > 0
    assert outlet.failed == 0


@pytest.mark.parametrize("kind", [OutputError, OSError])
def test_a_live_sink_that_fails_and_recovers_is_told_of_once_each(capsys, monkeypatch, kind):
    monkeypatch.setattr(module, "QUIET_S", 0.0)

    def fails_for_a_while(index):
        if 10 <= index < 20:
            raise kind("the disk is full")

    sink = Given(fails_for_a_while)
    outlet = Outlet(sink, lossless=False, name="video")
    for index in range(30):
        outlet.put(frame(index), NOTHING)
        until(lambda expected=index: len(sink.indices) + outlet.failed == expected + 1)
    outlet.close()
    assert sink.indices == [*range(10), *range(20, 30)]
    assert outlet.failed == 10
    told = capsys.readouterr().err.splitlines()
    assert told == [
        "video: the disk is full (the stream goes on, each frame is tried)",
        "video: writes again, after 10 errors",
    ]
    assert sink.left_with == [None]


def test_a_live_sink_that_fails_now_and_then_is_told_of_once(capsys):
    sink = Given(lambda index: full(index) if index % 5 == 4 else None)
    outlet = Outlet(sink, lossless=False, name="video")
    for index in range(30):
        outlet.put(frame(index), NOTHING)
        until(lambda expected=index: len(sink.indices) + outlet.failed == expected + 1)
    outlet.close()
    assert outlet.failed == 6
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_live_sink_that_always_fails_stops_nobody(capsys):
    sink = Given(full)
    outlet = Outlet(sink, lossless=False, name="video")
    for index in range(50):
        outlet.put(frame(index), NOTHING)
    outlet.close()
    assert outlet.failed + outlet.dropped == 50
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_lossless_sinks_error_is_raised_by_a_later_put_and_only_there():
    sink = Given(full)
    outlet = Outlet(sink, lossless=True, name="video")
    outlet.put(frame(0), NOTHING)
    until(lambda: outlet.failed)
    with pytest.raises(OutputError, match="the disk is full") as raised:
        outlet.put(frame(1), NOTHING)
    outlet.close(raised.value)  # what the stream ends with
    outlet.close()
    assert sink.left_with == [raised.value]  # so that the sink drops its file


@pytest.mark.parametrize("ended_by", [None, KeyboardInterrupt()])
def test_a_lossless_sinks_error_on_the_last_frame_is_raised_by_close(ended_by):
    sink = Given(full)
    outlet = Outlet(sink, lossless=True, name="video")
    outlet.put(frame(0), NOTHING)
    with pytest.raises(OutputError, match="the disk is full") as raised:
        outlet.close(ended_by)
    assert sink.left_with == [raised.value]


def test_a_defect_in_a_sink_is_raised_live_too():
    def defect(index):
        raise ZeroDivisionError

    outlet = Outlet(Given(defect), lossless=False, name="x")
    outlet.put(frame(0), NOTHING)
    with pytest.raises(ZeroDivisionError):
        outlet.close()


def test_ctrl_c_lets_what_waits_be_written_and_an_error_does_not():
    for error, written in ((KeyboardInterrupt(), WAITING), (ValueError(), 1)):
        gate = threading.Event()
        sink = Given(lambda index, gate=gate: gate.wait(5))
        outlet = Outlet(sink, lossless=True, name="x")
        for index in range(WAITING):
            outlet.put(frame(index), NOTHING)
        until(lambda outlet=outlet: len(outlet._waiting._items) == WAITING - 1)
        closing = threading.Thread(target=outlet.close, args=(error,))
        closing.start()
        until(lambda outlet=outlet: outlet._waiting._closed)
        gate.set()
        closing.join(5)
        assert len(sink.indices) == written
        assert sink.left_with == [error]


def test_a_live_sink_that_hangs_does_not_hang_the_end(capsys, monkeypatch):
    monkeypatch.setattr(module, "CLOSE_S", 0.1)
    gate = threading.Event()
    sink = Given(lambda index: gate.wait(10))
    outlet = Outlet(sink, lossless=False, name="video")
    for index in range(5):
        outlet.put(frame(index), NOTHING)
    until(lambda: len(outlet._waiting._items) == 4)
    started_s = time.perf_counter()
    outlet.close()
    assert time.perf_counter() - started_s < 2
    assert outlet.dropped == 5
    assert capsys.readouterr().err == "video: hangs; 5 frames were not written\n"
    assert sink.left_with == []  # its thread is still inside
    gate.set()
    outlet._thread.join(5)


def test_what_a_sink_gave_up_itself_counts_as_dropped():
    sink = Given()
    sink.dropped = 7  # type: ignore[attr-defined]
    outlet = Outlet(sink, lossless=True, name="webhook")
    assert outlet.dropped == 7
    outlet.close()


def test_closing_fails_live_without_ending_the_program(capsys):
    class Cut(Given):
        def __exit__(self, kind, error, trace):
            raise OutputError("out.mp4: the disk is full")

    outlet = Outlet(Cut(), lossless=False, name="video")
    outlet.close()
    assert outlet.failed == 1
    assert capsys.readouterr().err == "video: out.mp4: the disk is full\n"
    outlet = Outlet(Cut(), lossless=True, name="video")
    with pytest.raises(OutputError):
        outlet.close()
