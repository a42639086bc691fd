"""Leaving the cores to the engine where every one of them is busy."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import cv2

_CHANGING = threading.Lock()
_users, _usual_threads = 0, 0


@contextmanager
def waiting_their_turn() -> Iterator[None]:
    """Threads started in here, and by them, do not push another off its core when they wake: they wait for their turn.

    They get as much of the cores as before, in fewer and longer pieces. Linux alone has such a policy (SCHED_BATCH);
    elsewhere, where it is forbidden, and where somebody has chosen another policy than the usual, nothing changes. The
    thread that calls has its own back at the end.
    """
    changed = _change_policy("SCHED_OTHER", "SCHED_BATCH")
    try:
        yield
    finally:
        if changed:
            _change_policy("SCHED_BATCH", "SCHED_OTHER")


def _change_policy(usual: str, wanted: str) -> bool:
    """Give the calling thread another policy, by its name in `os`, where it has the usual one; whether it has it now."""
    if sys.platform != "linux":
        return False
    try:
        if os.sched_getscheduler(0) != getattr(os, usual):
            return False
        os.sched_setscheduler(0, getattr(os, wanted), os.sched_getparam(0))
    except OSError:
        return False
    return True


@contextmanager
def opencv_in_one_thread() -> Iterator[None]:
    """OpenCV works in the thread that calls it, for as long as anybody is in here; then as before.

    Its own threads go on looking for work when they have none. Beside an engine on both of two cores that kept one of
    them from the engine for 1 to 2 % of the time.
    """
    global _users, _usual_threads
    with _CHANGING:
        if not _users:
            _usual_threads = cv2.getNumThreads()
            cv2.setNumThreads(1)
        _users += 1
    try:
        yield
    finally:
        with _CHANGING:
            _users -= 1
            if not _users:
                cv2.setNumThreads(_usual_threads)
