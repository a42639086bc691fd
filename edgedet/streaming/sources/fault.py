"""Faults put into another source on purpose: `fault:freeze@50=8,drop@200:rtsp://camera/stream`.

    drop@N          the connection is lost before frame N
    freeze@N=S      frame N comes S seconds late, as from a camera that hangs
    corrupt@N       frame N is no picture
    resize@N        from frame N on frames have half the size
    jump@N=S        from frame N on the camera's clock is S seconds ahead (behind, where negative)

N counts from 0 in each connection, so a fault comes again after a reconnect.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from types import TracebackType
from typing import NamedTuple

import cv2
import numpy as np

from edgedet.errors import SourceError
from edgedet.streaming.frame import Frame
from edgedet.streaming.sources.base import Source, Timeouts, kind_of, open_source, public_name

LIVE = True
_FAULT = re.compile(r"(drop|freeze|corrupt|resize|jump)@(\d+)(?:=(-?\d+(?:\.\d+)?))?")


class Fault(NamedTuple):
    """What happens at which frame; value: seconds."""

    kind: str
    frame: int
    value: float


def accepts(address: str) -> bool:
    """Whether the address begins with fault:."""
    if not address.startswith("fault:"):
        return False
    kind_of(_parse(address)[1])
    return True


def open(address: str, timeouts: Timeouts) -> FaultySource:
    """The inner source with its faults."""
    faults, inner = _parse(address)
    return FaultySource(public_name(address), faults, open_source(inner, timeouts))


def _parse(address: str) -> tuple[list[Fault], str]:
    """The faults, and the address they are put into."""
    _, plan, inner = (*address.split(":", 2), "", "")[:3]
    if not inner:
        raise SourceError(f"{public_name(address)}: write faults as fault:freeze@50=8,drop@200:ADDRESS")
    return [_fault(text, public_name(address)) for text in plan.split(",")], inner


def _fault(text: str, name: str) -> Fault:
    matched = _FAULT.fullmatch(text)
    if matched is None or (matched[1] in ("freeze", "jump")) != bool(matched[3]):
        raise SourceError(f"{name}: {text!r} is no fault; there are drop@N, freeze@N=S, corrupt@N, resize@N, jump@N=S")
    if matched[1] == "freeze" and matched[3].startswith("-"):
        raise SourceError(f"{name}: {text!r}: a frame cannot come earlier; freeze takes seconds from 0 on")
    return Fault(matched[1], int(matched[2]), float(matched[3] or 0))


class FaultySource:
    """Another source's frames, spoilt as planned; live, whatever the other is, so that it is reopened.

    What is not live becomes so: a clip plays at its own pace, and its times are
    seconds since 1970.
    """

    live = True

    def __init__(self, name: str, faults: list[Fault], inner: Source) -> None:
        self.name, self._faults, self._inner = name, faults, inner
        self.fps, self.frame_count = inner.fps, None

    def __iter__(self) -> Iterator[Frame]:
        epoch_s, start_s = time.time(), time.monotonic()
        for frame in self._inner:
            if not self._inner.live:
                time.sleep(max(start_s + frame.time_s - time.monotonic(), 0.0))
                frame = replace(frame, time_s=epoch_s + frame.time_s, read_s=time.monotonic())
            yield self._spoil(frame)

    def _spoil(self, frame: Frame) -> Frame:
        for kind, at, value in self._faults:
            if kind == "drop" and frame.index == at:
                raise SourceError(f"{self.name}: the connection was dropped on purpose at frame {at}")
            if kind == "freeze" and frame.index == at:
                time.sleep(value)
                frame = replace(frame, read_s=time.monotonic())
            if kind == "corrupt" and frame.index == at:
                frame = replace(frame, image=np.empty((0, 0, 3), np.uint8))
            if kind == "resize" and frame.index >= at and frame.image.size:
                frame = replace(frame, image=cv2.resize(frame.image, None, fx=0.5, fy=0.5))
            if kind == "jump" and frame.index >= at:
                frame = replace(frame, time_s=frame.time_s + value)
        return frame

    def __enter__(self) -> FaultySource:
        self._inner.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._inner.__exit__(kind, error, trace)
