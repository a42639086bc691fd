"""What Darknet makes of a cfg and a `.weights` file, and files of random weights.

Nothing here is edgedet's: the text is parsed, the file's numbers are taken in its order, and boxes are computed, anew.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

Options = dict[str, str]


class Detected(NamedTuple):
    """boxes: (N, 4) xyxy input pixels. scores, labels: (N,); by descending score."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


def sections(text: str) -> Iterator[tuple[str, Options]]:
    """Kind and options of every section behind [net]."""
    for block in text.split("[")[2:]:
        kind, *lines = block.splitlines()
        pairs = (line.split("=") for line in lines if "=" in line)
        yield kind.rstrip("]"), {key.strip(): value.strip() for key, value in pairs}


Convolve = Callable[[Options, Tensor], Tensor]  # a section's options, its input → its output before the activation


def run(text: str, images: Tensor, convolve: Convolve) -> list[tuple[Options, Tensor]]:
    """Options and input of every [yolo] section of (B, 3, H, W) images."""
    outputs: list[Tensor] = []
    found = []
    x = images
    for number, (kind, options) in enumerate(sections(text)):
        if kind == "convolutional":
            x = _activated(convolve(options, x), options["activation"])
        elif kind == "maxpool":
            size, stride = int(options["size"]), int(options["stride"])
            before, rest = (size - 1) // 2, size - 1 - (size - 1) // 2
            pad = (before, rest, before, rest) if stride == 1 else (0, 0, 0, 0)
            x = functional.max_pool2d(functional.pad(x, pad, value=-math.inf), size, stride)
        elif kind == "upsample":
            x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        elif kind == "shortcut":
            x = x + outputs[number + int(options["from"])]
        elif kind == "route":
            numbers = [int(i) for i in options["layers"].split(",")]
            maps = [outputs[i + number if i < 0 else i] for i in numbers]
            groups, group = int(options.get("groups", 1)), int(options.get("group_id", 0))
            x = torch.cat([m[:, m.shape[1] // groups * group : m.shape[1] // groups * (group + 1)] for m in maps], 1)
        else:
            found.append((options, x))
        outputs.append(x)
    return found


def _activated(x: Tensor, name: str) -> Tensor:
    if name == "mish":
        return x * torch.tanh(torch.log1p(torch.exp(-x.abs())) + x.clamp(min=0))
    return torch.where(x > 0, x, 0.1 * x) if name == "leaky" else x


def reading(numbers: np.ndarray) -> Convolve:
    """Convolutions with the numbers of a file, one section behind the other."""
    place = 0

    def take(count: int) -> Tensor:
        nonlocal place
        place += count
        return torch.from_numpy(numbers[place - count : place])

    def convolve(options: Options, x: Tensor) -> Tensor:
        filters, size = int(options["filters"]), int(options["size"])
        bias = take(filters)
        scale, mean, variance = (take(filters) for _ in range(3)) if "batch_normalize" in options else (None,) * 3
        kernel = take(filters * x.shape[1] * size * size).view(filters, -1, size, size)
        x = functional.conv2d(x, kernel, stride=int(options["stride"]), padding=size // 2)
        if scale is not None and mean is not None and variance is not None:
            x = (x - mean.view(-1, 1, 1)) / torch.sqrt(variance.view(-1, 1, 1) + 1e-5) * scale.view(-1, 1, 1)
        return x + bias.view(-1, 1, 1)

    return convolve


def making(seed: int, *, objectness: float) -> tuple[Convolve, list[np.ndarray]]:
    """Convolutions that make their numbers up, norms with the statistics of what they see, and these numbers in file order.

    objectness: the mean of its logit; raw maps are spread by about 1.
    """
    random = np.random.default_rng(seed)
    made: list[np.ndarray] = []

    def convolve(options: Options, x: Tensor) -> Tensor:
        filters, size = int(options["filters"]), int(options["size"])
        kernel = random.standard_normal((filters, x.shape[1], size, size), np.float32) / math.sqrt(x.shape[1] * size * size)
        out = functional.conv2d(x, torch.from_numpy(kernel), stride=int(options["stride"]), padding=size // 2)
        if "batch_normalize" not in options:
            spread, shift = out.std((0, 2, 3)), out.mean((0, 2, 3))
            bias = random.normal(0, 0.5, (3, filters // 3)).astype(np.float32)
            bias[:, 4] += objectness
            made.extend([bias.ravel() - (shift / spread).numpy(), (kernel / spread.numpy()[:, None, None, None]).ravel()])
            return (out - shift.view(-1, 1, 1)) / spread.view(-1, 1, 1) + torch.from_numpy(bias.ravel()).view(-1, 1, 1)
        mean, variance = out.mean((0, 2, 3)).numpy(), out.var((0, 2, 3)).numpy() + 1e-3
        mean += random.normal(0, 0.1, filters).astype(np.float32) * np.sqrt(variance)
        variance *= random.uniform(0.8, 1.25, filters).astype(np.float32)
        # Mostly positive: each fold at zero makes rounding grow, and a hundred layers of it are chaos.
        bias, scale = random.normal(1, 0.2, filters), random.uniform(0.4, 0.8, filters)
        values = [v.astype(np.float32) for v in (bias, scale, mean, variance)]
        made.extend([*values, kernel.ravel()])
        shift, gain, *_ = (torch.from_numpy(v).view(-1, 1, 1) for v in values)
        return (out - torch.from_numpy(mean).view(-1, 1, 1)) / torch.from_numpy(np.sqrt(variance)).view(-1, 1, 1) * gain + shift

    return convolve, made


def random_numbers(text: str, images: Tensor, *, seed: int = 0, objectness: float = 0.0) -> np.ndarray:
    """Numbers for every layer of the network, in the order of the file, sane for such images."""
    convolve, made = making(seed, objectness=objectness)
    with torch.no_grad():
        run(text, images, convolve)
    return np.concatenate(made)


def write(path: Path, numbers: np.ndarray, *, text: str | None = None, version: tuple[int, int] = (0, 2)) -> Path:
    """A `.weights` file with these numbers, and the cfg beside it where its text is given."""
    seen = struct.pack("<q" if version >= (0, 2) else "<i", 32013312)
    path.write_bytes(struct.pack("<3i", *version, 5) + seen + numbers.astype("<f4").tobytes())
    if text:
        path.with_suffix(".cfg").write_text(text)
    return path


def detect(maps: list[tuple[Options, Tensor]], side: int, *, above: float = 0.005, overlap: float = 0.45) -> Detected:
    """What Darknet finds in one image: boxes above a score for each class, greedily suppressed by class."""
    boxes, scores = [], []
    for options, level in maps:
        sizes = np.array(options["anchors"].split(","), float).reshape(-1, 2)[[int(i) for i in options["mask"].split(",")]]
        scale = float(options.get("scale_x_y", 1))
        height, width = level.shape[2:]
        values = level[0].double().numpy().reshape(len(sizes), -1, height, width)
        for anchor, (anchor_width, anchor_height) in enumerate(sizes):
            within = _sigmoid(values[anchor, :2]) * scale - 0.5 * (scale - 1)
            x = (np.arange(width)[None, :] + within[0]) / width * side
            y = (np.arange(height)[:, None] + within[1]) / height * side
            w, h = np.exp(values[anchor, 2]) * anchor_width, np.exp(values[anchor, 3]) * anchor_height
            boxes.append(np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], -1).reshape(-1, 4))
            scores.append((_sigmoid(values[anchor, 4]) * _sigmoid(values[anchor, 5:])).reshape(values.shape[1] - 5, -1).T)
    return _suppressed(np.concatenate(boxes), np.concatenate(scores), above, overlap)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _suppressed(boxes: np.ndarray, scores: np.ndarray, above: float, overlap: float) -> Detected:
    found = []
    for label in range(scores.shape[1]):
        left = np.argsort(-scores[:, label], kind="stable")
        left = left[scores[left, label] > above]
        while len(left):
            best, left = left[0], left[1:]
            found.append((boxes[best], scores[best, label], label))
            left = left[_overlaps(boxes[best], boxes[left]) <= overlap]
    found.sort(key=lambda item: -item[1])
    return Detected(*(np.array(column) for column in zip(*found, strict=True)))


def _overlaps(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(N,) IoU of a box (4,) with each of (N, 4)."""
    sides = np.minimum(one[2:], others[:, 2:]) - np.maximum(one[:2], others[:, :2])
    common = np.prod(np.clip(sides, 0, None), axis=1)
    return common / (np.prod(one[2:] - one[:2]) + np.prod(others[:, 2:] - others[:, :2], axis=1) - common)
