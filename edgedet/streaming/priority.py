"""Which threads the system runs first."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def waiting_their_turn() -> Iterator[None]:
    """Threads started in here, and by them, do not push another off its core when they wake: they wait for their turn.

    They get as much of the cores as before, in fewer and longer pieces. Linux alone has such a policy (SCHED_BATCH);
    elsewhere, where it is forbidden, and where somebody has chosen another policy than the usual, nothing changes. The
    thread that calls has its own back at the end.
    """
    if sys.platform != "linux" or os.sched_getscheduler(0) != os.SCHED_OTHER:
        yield
        return
    usual = os.sched_getparam(0)
    try:
        os.sched_setscheduler(0, os.SCHED_BATCH, usual)
    except OSError:
        yield
        return
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, usual)
