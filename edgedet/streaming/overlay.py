"""Objects drawn on a frame: boxes, labels, ids and lines of status."""

from __future__ import annotations

import colorsys
import time
from collections import deque
from collections.abc import Sequence

import cv2
import numpy as np

from edgedet.detections import Detections

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_DARK, _LIGHT = (16, 16, 16), (255, 255, 255)
Colour = tuple[int, int, int]  # BGR, 0-255


def draw(image: np.ndarray, detections: Detections, classes: Sequence[str], *, lines: Sequence[str] = ()) -> np.ndarray:
    """A copy of the image with its objects drawn on it.

    image: (H, W, 3) uint8 BGR. classes: names, in label order. lines: status
    texts for the bottom left corner, where labels seldom are. A tracked object has the colour of its id,
    another that of its class.
    """
    canvas = image.copy()
    text_height = max(min(image.shape[:2]) // 40, 8)
    keys = detections.labels if detections.track_ids is None else detections.track_ids
    order = np.argsort(detections.scores, kind="stable")  # the surest lie on top, and every label on every box
    corners = np.clip(np.round(detections.boxes), -32768, 32767).astype(int)
    for i in order:
        _draw_box(canvas, corners[i], colour_of(int(keys[i])), max(text_height // 6, 1))
    for i in order:
        place = (corners[i, 0], corners[i, 1] - _line_height(text_height))
        _draw_text(canvas, _label(detections, i, classes), place, colour_of(int(keys[i])), text_height)
    for row, line in enumerate(reversed(lines), 1):
        _draw_text(canvas, line, (0, canvas.shape[0] - row * _line_height(text_height)), _DARK, text_height)
    return canvas


class Annotator:
    """Draws frame after frame, with the rate at which it does in the corner."""

    def __init__(self, classes: Sequence[str]) -> None:
        self._classes = classes
        self._times_s: deque[float] = deque(maxlen=31)

    def __call__(self, image: np.ndarray, detections: Detections) -> np.ndarray:
        """A copy of the image (H, W, 3) uint8 BGR with its objects and the frames a second."""
        self._times_s.append(time.monotonic())
        elapsed_s = self._times_s[-1] - self._times_s[0]
        lines = [f"{(len(self._times_s) - 1) / elapsed_s:.0f} fps"] if elapsed_s > 0 else []
        return draw(image, detections, self._classes, lines=lines)


def colour_of(key: int) -> Colour:
    """A vivid colour for a number; neighbouring numbers lie far apart on the colour circle (golden ratio)."""
    red, green, blue = colorsys.hsv_to_rgb((0.08 + key * 0.618034) % 1, 0.85, 1.0 - 0.25 * (key // 8 % 2))
    return round(blue * 255), round(green * 255), round(red * 255)


def class_name(classes: Sequence[str], label: int) -> str:
    """The class's name; its number where the model names fewer."""
    return classes[label] if 0 <= label < len(classes) else f"class {label}"


def _label(detections: Detections, i: int, classes: Sequence[str]) -> str:
    """Name, id and score, as in `person #3 0.87`."""
    identity = "" if detections.track_ids is None else f" #{detections.track_ids[i]}"
    return f"{class_name(classes, int(detections.labels[i]))}{identity} {detections.scores[i]:.2f}"


def _draw_box(canvas: np.ndarray, corners: np.ndarray, colour: Colour, width: int) -> None:
    """Draw one box (4,) xyxy integers on a dark rim, which keeps it visible on its own colour."""
    left, top, right, bottom = corners.tolist()
    cv2.rectangle(canvas, (left, top), (right, bottom), _DARK, width + 2)
    cv2.rectangle(canvas, (left, top), (right, bottom), colour, width)


def _draw_text(canvas: np.ndarray, text: str, corner_xy: tuple[int, int], ground: Colour, text_height: int) -> None:
    """Draw a line of text on a plate of the ground colour, moved inside the image."""
    thickness = max(text_height // 9, 1)
    scale = cv2.getFontScaleFromHeight(_FONT, text_height, thickness)
    (text_width, _), _ = cv2.getTextSize(text, _FONT, scale, thickness)
    pad, line_height = text_height // 3, _line_height(text_height)
    x = max(min(corner_xy[0], canvas.shape[1] - text_width - 2 * pad), 0)
    y = max(min(corner_xy[1], canvas.shape[0] - line_height), 0)
    blue, green, red = ground
    ink = _DARK if 0.114 * blue + 0.587 * green + 0.299 * red > 128 else _LIGHT
    cv2.rectangle(canvas, (x, y), (x + text_width + 2 * pad, y + line_height), ground, cv2.FILLED)
    cv2.putText(canvas, text, (x + pad, y + text_height + pad), _FONT, scale, ink, thickness, cv2.LINE_AA)


def _line_height(text_height: int) -> int:
    return text_height + 2 * (text_height // 3) + text_height // 4
