"""TensorRT's builder at work: its progress, and an end to it when the user wants one.

It works in a thread of its own. Signals reach Python's main thread alone; were that in the builder, KeyboardInterrupt would
rise in one of the builder's callbacks and end the process, because it may not pass through C++.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

Progress = Callable[[str, int, int], None]
"""Told what the builder is at, how many of its steps are done and how many there are."""
Result = TypeVar("Result")


def interruptible(work: Callable[[], Result], stop: threading.Event) -> Result:
    """What `work` gives; an interruption sets `stop`, and rises when the work has ended."""
    done = threading.Event()
    outcome: list[Result] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(work())
        except BaseException as error:
            failure.append(error)
        finally:
            done.set()

    threading.Thread(target=run, name="tensorrt-builder").start()
    try:
        done.wait()  # not Thread.join: interrupted, it takes the thread for ended
    except BaseException:
        stop.set()
        while not done.is_set():  # whatever the user presses meanwhile: without the builder's end there is no way out
            with suppress(KeyboardInterrupt):
                done.wait()
        raise
    if failure:
        raise failure[0]
    return outcome[0]


def monitor(trt: Any, stop: threading.Event, progress: Progress | None) -> Any:
    """A progress monitor of the outermost phase, which also hands the builder the wish to stop."""

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._outermost, self._steps = "", 0

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self._outermost, self._steps = phase_name, num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            if progress is not None and phase_name == self._outermost:
                progress(phase_name, step + 1, self._steps)
            return not stop.is_set()

        def phase_finish(self, phase_name: str) -> None:
            if progress is not None and phase_name == self._outermost:
                progress(phase_name, self._steps, self._steps)

    return Monitor()
