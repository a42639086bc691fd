"""What a stream gives: frames, each with the time it was taken, and between them events."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Frame:
    """One picture of a stream.

    image: (H, W, 3) uint8 BGR. index: counts from 0 what the source gave, so a
    gap is a dropped frame. time_s: when it was captured, in seconds: from the
    start of a file, or since 1970 for a live source, on a clock that never goes
    back, nor ahead by more than a second. source: the file, image or camera it came from. read_s: when it was
    read here, on `time.monotonic`. stream: the name of the stream that it is
    part of, empty before it is in one.
    """

    image: np.ndarray
    index: int
    time_s: float
    source: str
    read_s: float = field(default_factory=time.monotonic, compare=False)
    stream: str = ""


@dataclass(frozen=True)
class Event:
    """Something that happened on a stream beside its frames.

    kind: `online`, `offline` (detail: reason), `resized` (detail: size_hw),
    `ended` (a live stream, by an error; detail: reason), `enter` and `leave` (a
    zone), `cross` (a line). time_s: on the clock of the stream's frames.
    detail: plain values, as JSON has them.
    """

    kind: str
    stream: str
    time_s: float
    detail: Mapping[str, Any] = field(default_factory=dict)
