"""Augmentation: one training image made of several, moved, flipped and recoloured; boxes follow.

Every function takes its own random generator, so that an image depends on
nothing but the seed, the epoch and its place in it. Images are (H, W, 3) uint8
BGR; boxes are xyxy in that image's pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from edgedet.boxes import area


class Example(NamedTuple):
    """An image and its truth. image: (H, W, 3) uint8 BGR. boxes: (N, 4) float32 xyxy pixels. labels: (N,) int32."""

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Augmentation:
    """How strongly images are changed.

    mosaic, flip, mixup: probabilities. scale: the least and greatest zoom.
    translate: the greatest shift, as a part of the side. degrees: the greatest
    turn. hue, saturation, value: the greatest change, as a part of the value;
    so hue 0, red, keeps its hue, and blue moves furthest.
    min_visible: the part of a box that must stay in the picture, min_side_px
    the side it must keep, or else it is dropped.
    """

    mosaic: float = 1.0
    mixup: float = 0.0
    flip: float = 0.5
    scale: tuple[float, float] = (0.5, 1.5)
    translate: float = 0.1
    degrees: float = 5.0
    hue: float = 0.015
    saturation: float = 0.5
    value: float = 0.4
    min_visible: float = 0.2
    min_side_px: float = 2.0


def compose_mosaic(parts: Sequence[Example], size: int, fill: int, random: np.random.Generator) -> Example:
    """Four examples around a random crossing on a canvas of twice the size, each at its own scale (YOLOv4, YOLOX)."""
    canvas = np.full((2 * size, 2 * size, 3), fill, np.uint8)
    cross_x, cross_y = (int(v) for v in random.uniform(0.5 * size, 1.5 * size, 2))
    boxes, labels = [], []
    for index, part in enumerate(parts):
        height, width = part.image.shape[:2]
        left = cross_x - width if index % 2 == 0 else cross_x
        top = cross_y - height if index < 2 else cross_y
        x1, y1, x2, y2 = max(left, 0), max(top, 0), min(left + width, 2 * size), min(top + height, 2 * size)
        canvas[y1:y2, x1:x2] = part.image[y1 - top : y2 - top, x1 - left : x2 - left]
        boxes.append(part.boxes + np.array([left, top, left, top], np.float32))
        labels.append(part.labels)
    return Example(canvas, np.concatenate(boxes), np.concatenate(labels))


def warp(example: Example, size: int, fill: int, config: Augmentation, random: np.random.Generator) -> Example:
    """The example zoomed, turned, shifted and flipped into a size×size picture around its own centre."""
    matrix = _random_affine(example.image.shape[:2], size, config, random)
    image = cv2.warpAffine(example.image, _for_pixels(matrix), (size, size), flags=cv2.INTER_LINEAR, borderValue=(fill,) * 3)
    moved = transform_boxes(example.boxes, matrix)
    inside = np.clip(moved, 0, size)
    visible = area(inside) >= config.min_visible * area(moved)
    large = (inside[:, 2:] - inside[:, :2] >= config.min_side_px).all(axis=1)
    keep = visible & large
    return Example(image, inside[keep], example.labels[keep])


def _random_affine(frame_hw: tuple[int, int], size: int, config: Augmentation, random: np.random.Generator) -> np.ndarray:
    """(2, 3) float64 matrix from source to target pixels."""
    zoom = random.uniform(*config.scale)
    angle = np.deg2rad(random.uniform(-config.degrees, config.degrees))
    shift = random.uniform(-config.translate, config.translate, 2) * size
    mirror = -1.0 if random.random() < config.flip else 1.0
    cosine, sine = zoom * np.cos(angle), zoom * np.sin(angle)
    linear = np.array([[cosine * mirror, -sine], [sine * mirror, cosine]])
    center = np.array([frame_hw[1], frame_hw[0]]) / 2
    return np.column_stack([linear, size / 2 + shift - linear @ center])


def _for_pixels(matrix: np.ndarray) -> np.ndarray:
    """The same map for OpenCV, which counts from the centre of the first pixel; boxes count from its corner."""
    return np.column_stack([matrix[:, :2], matrix[:, 2] + matrix[:, :2].sum(axis=1) / 2 - 0.5])


def transform_boxes(boxes: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """(N, 4) float32 boxes after a (2, 3) affine map: each bounds the turned ellipse inside the box.

    The corners of a box rarely belong to the object, so bounding the turned
    corners would give boxes that are too large. Without a turn both agree.
    """
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2 @ matrix[:, :2].T + matrix[:, 2]
    half = (boxes[:, 2:] - boxes[:, :2]) / 2
    reach = np.sqrt(half**2 @ (matrix[:, :2] ** 2).T)
    return np.concatenate([centers - reach, centers + reach], axis=1).astype(np.float32)


def mirror(example: Example) -> Example:
    """The example seen in a mirror: left and right exchanged."""
    width = example.image.shape[1]
    boxes = example.boxes[:, [2, 1, 0, 3]] * np.array([-1, 1, -1, 1], np.float32) + np.array([width, 0, width, 0], np.float32)
    return Example(cv2.flip(example.image, 1), boxes, example.labels)


def jitter_color(image: np.ndarray, config: Augmentation, random: np.random.Generator) -> np.ndarray:
    """The image with hue, saturation and value changed by random factors; (H, W, 3) uint8 BGR."""
    hue, saturation, value = 1 + random.uniform(-1, 1, 3) * (config.hue, config.saturation, config.value)
    levels = np.arange(256)
    tables = (
        (levels * hue) % 180,
        np.clip(levels * saturation, 0, 255),
        np.clip(levels * value, 0, 255),
    )
    planes = cv2.split(cv2.cvtColor(image, cv2.COLOR_BGR2HSV))
    changed = [cv2.LUT(plane, table.astype(np.uint8)) for plane, table in zip(planes, tables, strict=True)]
    return cv2.cvtColor(cv2.merge(changed), cv2.COLOR_HSV2BGR)


def mix(first: Example, second: Example) -> Example:
    """Both pictures at half strength with the boxes of both (mixup)."""
    image = cv2.addWeighted(first.image, 0.5, second.image, 0.5, 0)
    return Example(image, np.concatenate([first.boxes, second.boxes]), np.concatenate([first.labels, second.labels]))
