"""Frame: one picture of a stream, with the time it was taken."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Frame:
    """One picture of a stream.

    image: (H, W, 3) uint8 BGR. index: counts from 0 what the source gave, so a
    gap is a dropped frame. time_s: when it was captured, in seconds: from the
    start of a file, or since 1970 for a live source, on a clock that never
    jumps. source: the file, image or camera it came from.
    """

    image: np.ndarray
    index: int
    time_s: float
    source: str
