"""A moving test picture: `test:`, or `test:1280x720@30,frames=100`; `@0` is as fast as it is taken, and not live."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType

import cv2
import numpy as np

from edgedet.errors import SourceError
from edgedet.streaming.frame import Frame
from edgedet.streaming.sources.base import Timeouts

LIVE = True
_ADDRESS = re.compile(r"test:(?:(\d{2,4})x(\d{2,4}))?(?:@(\d{1,3}))?(?:,?frames=([1-9]\d*))?")
_FREE_FPS = 30.0  # what times are stated of frames that come as fast as they are taken


def accepts(address: str) -> bool:
    """Whether the address begins with test:."""
    if not address.startswith("test:"):
        return False
    _parse(address)
    return True


def open(address: str, timeouts: Timeouts) -> Pattern:
    """The pattern of an address."""
    width, height, fps, frames = (None if text is None else int(text) for text in _parse(address).groups())
    return Pattern(address, (height or 480, width or 640), 30 if fps is None else fps, frames)


def _parse(address: str) -> re.Match[str]:
    matched = _ADDRESS.fullmatch(address)
    if matched is None:
        raise SourceError(f"{address}: write a test picture as test:, or as test:640x480@30,frames=100")
    return matched


@dataclass(frozen=True)
class Pattern:
    """A grey scale with a bright disc that goes round once in four seconds, and the frame's number.

    size_hw: pixels. rate: frames a second; 0 gives them without waiting, then
    the source is not live. frame_count: None for no end.
    """

    name: str
    size_hw: tuple[int, int]
    rate: int
    frame_count: int | None

    @property
    def live(self) -> bool:
        """Whether frames come at their own pace."""
        return self.rate > 0

    @property
    def fps(self) -> float | None:
        """Frames a second, as stated by their times."""
        return float(self.rate) or _FREE_FPS

    def __iter__(self) -> Iterator[Frame]:
        start_s, index, rate = time.monotonic(), 0, self.rate or _FREE_FPS
        epoch_s = time.time() - start_s
        while self.frame_count is None or index < self.frame_count:
            if self.live:
                time.sleep(max(start_s + index / rate - time.monotonic(), 0.0))
            image = self._draw(index, index / rate)
            yield Frame(image, index, epoch_s + time.monotonic() if self.live else index / rate, self.name)
            index += 1

    def _draw(self, index: int, time_s: float) -> np.ndarray:
        height, width = self.size_hw
        image = np.empty((height, width, 3), np.uint8)
        image[:] = np.linspace(30, 200, width, dtype=np.uint8)[None, :, None]
        angle, radius = time_s * np.pi / 2, min(height, width) // 8
        centre = width / 2 + np.cos(angle) * width / 4, height / 2 + np.sin(angle) * height / 4
        cv2.circle(image, (round(centre[0]), round(centre[1])), radius, (40, 200, 255), cv2.FILLED, cv2.LINE_AA)
        cv2.putText(image, str(index), (8, 32), cv2.FONT_HERSHEY_SIMPLEX, 1, (255, 255, 255), 2, cv2.LINE_AA)
        return image

    def __enter__(self) -> Pattern:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass
