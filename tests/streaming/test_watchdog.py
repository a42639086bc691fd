"""What the service manager hears: frames and honest waiting keep a process alive, nothing else does.

The reference is sd_notify(3): datagrams of `NAME=value` lines on the socket that $NOTIFY_SOCKET names.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgedet.streaming import watchdog
from edgedet.streaming.status import State, StreamStatus


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The service manager's end of its socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(tmp_path / "notify"))
        heard.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield heard


def gate(state: State, frames: int = 0) -> StreamStatus:
    return StreamStatus("gate", state, frames=frames)


def test_without_a_service_manager_nothing_is_sent(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not watchdog.notify("READY=1")


def test_a_manager_that_is_gone_harms_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    assert not watchdog.notify("READY=1")


def test_a_message_arrives_as_it_is(manager: socket.socket):
    assert watchdog.notify("READY=1\nSTATUS=gate online")
    assert manager.recv(100) == b"READY=1\nSTATUS=gate online"


def test_an_abstract_socket_is_reached_too(monkeypatch: pytest.MonkeyPatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(f"\0edgedet-test-{os.getpid()}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@edgedet-test-{os.getpid()}")
        assert watchdog.notify("READY=1")
        assert heard.recv(100) == b"READY=1"


@pytest.mark.parametrize(
    ("microseconds", "process", "seconds"),
    [("2500000", "own", 2.5), ("2500000", "", 2.5), ("2500000", "1", None), ("", "own", None), ("0", "own", None)],
)
def test_patience_is_meant_for_the_process_it_names(monkeypatch, microseconds: str, process: str, seconds: float | None):
    monkeypatch.setenv("WATCHDOG_USEC", microseconds)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    if process:
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if process == "own" else process)
    assert watchdog.patience_s() == seconds


def beats(*looks: tuple[float, list[StreamStatus]], monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """What a pulse of ten quiet seconds says at these times of these statuses."""
    now_s = 0.0
    monkeypatch.setattr(watchdog.time, "monotonic", lambda: now_s)
    pulse, found = watchdog.Pulse(quiet_s=10), []
    for at_s, statuses in looks:
        now_s = at_s
        found.append(pulse.beats(statuses))
    return found


def test_frames_are_a_sign_of_life_and_their_absence_is_none(monkeypatch: pytest.MonkeyPatch):
    looks = [(0, [gate("online", 1)]), (20, [gate("online", 2)]), (30, [gate("online", 2)]), (31, [gate("online", 2)])]
    assert beats(*looks, monkeypatch=monkeypatch) == [True, True, True, False]


def test_one_stream_that_gives_frames_is_enough(monkeypatch: pytest.MonkeyPatch):
    looks = [(at, [gate("online", 5), gate("online", at)]) for at in (0, 20, 40)]
    assert beats(*looks, monkeypatch=monkeypatch) == [True, True, True]


@pytest.mark.parametrize("state", ["offline", "connecting"])
def test_waiting_for_a_camera_is_honest_work(monkeypatch: pytest.MonkeyPatch, state: State):
    assert beats((0, [gate(state)]), (1000, [gate(state), gate("ended")]), monkeypatch=monkeypatch) == [True, True]


def test_one_camera_offline_excuses_no_other(monkeypatch: pytest.MonkeyPatch):
    looks = [(at, [gate("offline"), gate("online", 7)]) for at in (0, 11)]
    assert beats(*looks, monkeypatch=monkeypatch) == [True, False]


def test_a_process_whose_streams_ended_is_to_end_too(monkeypatch: pytest.MonkeyPatch):
    assert beats((0, [gate("ended", 9)]), (11, [gate("ended", 9)]), monkeypatch=monkeypatch) == [True, False]


def test_streams_are_told_of_pinged_for_and_ended(manager: socket.socket, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WATCHDOG_USEC", "400000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    frames = 0
    with watchdog.watched(lambda: [gate("online", frames)], rest_s=0):
        assert manager.recv(100) == b"READY=1\nSTATUS=gate online, 0 frames"
        for _ in range(3):
            frames += 1
            assert manager.recv(100).startswith(b"WATCHDOG=1\nSTATUS=gate online, ")
        time.sleep(0.5)  # hung: for .2 s there may still be pings
        while pending(manager):
            manager.recv(100)
        time.sleep(0.3)
        assert not pending(manager)
    assert manager.recv(100) == b"STOPPING=1"


def pending(manager: socket.socket) -> bool:
    """Whether a datagram waits."""
    return bool(select.select([manager], [], [], 0)[0])
