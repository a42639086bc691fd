"""Letterbox: frame → network input, boxes → frame. One implementation serves training, export checks and every runtime."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import cv2
import numpy as np

from edgedet.errors import ImageError

Anchor = Literal["top-left", "center", "stretch"]


@dataclass(frozen=True)
class Placement:
    """Where one frame lies in its input: resized to inner_hw, its corner at offset_xy."""

    inner_hw: tuple[int, int]
    offset_xy: tuple[int, int]
    frame_hw: tuple[int, int]

    @cached_property
    def _scale(self) -> np.ndarray:
        """(4,) float32 input pixels per frame pixel, for x, y, x, y; exact after the rounding of inner_hw."""
        return np.array([self.inner_hw[1] / self.frame_hw[1], self.inner_hw[0] / self.frame_hw[0]] * 2, np.float32)

    @cached_property
    def _offset(self) -> np.ndarray:
        """(4,) float32 input pixels, for x, y, x, y."""
        return np.array(self.offset_xy * 2, np.float32)

    @cached_property
    def _far_corner(self) -> np.ndarray:
        """(4,) float32 the frame's width and height, twice."""
        return np.array(self.frame_hw[::-1] * 2, np.float32)

    def boxes_to_frame(self, boxes: np.ndarray) -> np.ndarray:
        """Map boxes from the letterboxed input back to the original image.

        boxes: (N, 4) float32 xyxy, input pixels. Returns the same shape in
        original-image pixels, clipped to the image.
        """
        mapped = (boxes - self._offset) / self._scale
        return np.minimum(np.maximum(mapped, 0), self._far_corner)

    def boxes_to_input(self, boxes: np.ndarray) -> np.ndarray:
        """Map (N, 4) xyxy boxes from original-image pixels to input pixels."""
        return (boxes * self._scale + self._offset).astype(np.float32)


@lru_cache(maxsize=64)
def _place(size_hw: tuple[int, int], anchor: Anchor, frame_hw: tuple[int, int]) -> Placement:
    """Where a frame lies: the same for every frame of a stream."""
    (height, width), (frame_h, frame_w) = size_hw, frame_hw
    if anchor == "stretch":
        return Placement(size_hw, (0, 0), frame_hw)
    scale = min(height / frame_h, width / frame_w)
    inner_h, inner_w = max(round(frame_h * scale), 1), max(round(frame_w * scale), 1)
    offset = (0, 0) if anchor == "top-left" else ((width - inner_w) // 2, (height - inner_h) // 2)
    return Placement((inner_h, inner_w), offset, frame_hw)


@dataclass(frozen=True)
class Letterbox:
    """Resize to fit, keep the aspect ratio, fill the rest; or, as SSD and YOLOv1 want it, stretch over the whole input.

    size_hw: the network's input. anchor: where the picture lies, or `stretch`.
    fill: the grey of the padding, 0–255.
    """

    size_hw: tuple[int, int]
    anchor: Anchor = "top-left"
    fill: int = 114

    def place(self, frame_hw: tuple[int, int]) -> Placement:
        """Where a frame of this size lies in the input."""
        return _place(self.size_hw, self.anchor, frame_hw)

    def apply(self, frame: np.ndarray, out: np.ndarray | None = None) -> tuple[np.ndarray, Placement]:
        """The letterboxed input (H, W, 3) uint8 of a BGR frame, and where the frame lies in it.

        frame: (h, w, 3) uint8 BGR. out: an array of the input's shape to write into, such as one row of a batch.
        """
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or 0 in frame.shape:
            raise ImageError(f"a frame must be (height, width, 3) uint8 BGR, got {frame.shape} {frame.dtype}")
        placement = self.place((frame.shape[0], frame.shape[1]))
        inner_h, inner_w = placement.inner_hw
        if out is None:
            out = np.empty((*self.size_hw, 3), np.uint8)
        x, y = placement.offset_xy
        out[:y], out[y + inner_h :] = self.fill, self.fill
        out[y : y + inner_h, :x], out[y : y + inner_h, x + inner_w :] = self.fill, self.fill
        inner = out[y : y + inner_h, x : x + inner_w]
        resized = cv2.resize(frame, (inner_w, inner_h), dst=inner, interpolation=cv2.INTER_LINEAR)
        if not np.may_share_memory(resized, inner):  # OpenCV writes into `inner` where its rows lie as it likes them
            inner[...] = resized
        return out, placement
