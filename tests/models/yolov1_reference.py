"""YOLOv1 as Darknet has it: published cfgs as text, random numbers for them, and what it makes of both.

Nothing here is edgedet's: layers are followed as the text names them, numbers are taken in the file's order, boxes and
suppression are plain loops.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from edgedet.detections import Detections

Options = dict[str, str]
Numbers = Callable[[str, tuple[int, ...], Tensor], Tensor]  # what they are for, their shape, the layer's input → the next ones
LARGE = "64-7-2 m 192 m 128-1 256 256-1 512 m" + 4 * " 256-1 512" + " 512-1 1024 m" + 2 * " 512-1 1024"
LARGE += " 1024 1024-3-2 1024 1024"
"""filters-size-stride of the convolutions, m for a maximum."""
TRUNKS = {"": LARGE, "local": LARGE, "tiny": "16 m 32 m 64 m 128 m 256 m 512 m 1024 256"}
BETWEEN = {
    "": "[connected]\noutput=4096\nactivation=leaky\n\n[dropout]\nprobability=.5\n",
    "local": "[local]\nsize=3\nstride=1\npad=1\nfilters=256\nactivation=leaky\n\n[dropout]\nprobability=.5\n",
    "tiny": "",
}


def cfg(variant: str, classes: int, *, trunk: str | None = None, side: int = 448, cells: int = 7) -> str:
    """The cfg's text, as published but for the classes; trunk, side, cells: of a smaller network."""
    text = [f"[net]\nbatch=1\nheight={side}\nwidth={side}\nchannels=3\nmomentum=0.9\n"]
    for layer in (trunk or TRUNKS[variant]).split():
        if layer == "m":
            text.append("[maxpool]\nsize=2\nstride=2\n")
            continue
        filters, size, stride = (layer.split("-") + ["3", "1"][layer.count("-") :])[:3]
        text.append(
            f"[convolutional]\nbatch_normalize=1\nfilters={filters}\nsize={size}\nstride={stride}\npad=1\nactivation=leaky\n"
        )
    count = 3 if variant == "local" else 2
    text.append(f"{BETWEEN[variant]}\n[connected]\noutput= {cells**2 * (classes + 5 * count)}\nactivation=linear\n")
    text.append(
        f"[detection]\nclasses={classes}\ncoords=4\nrescore=1\nside={cells}\nnum={count}\nsoftmax=0\nsqrt=1\njitter=.2\n"
    )
    return "\n".join([*text, "object_scale=1\nnoobject_scale=.5\nclass_scale=1\ncoord_scale=5\n"])


def sections(text: str) -> Iterator[tuple[str, Options]]:
    """Kind and options of every section behind [net]."""
    for block in text.split("[")[2:]:
        kind, *lines = block.splitlines()
        pairs = (line.split("=") for line in lines if "=" in line)
        yield kind.rstrip("]"), {key.strip(): value.strip() for key, value in pairs}


def run(text: str, images: Tensor, numbers: Numbers) -> Tensor:
    """The last connected layer's output (B, n) of (B, 3, H, W) RGB images in [0, 1]."""
    x = images
    for kind, options in sections(text):
        if kind == "convolutional":
            x = convolve(options, x, numbers)
        elif kind == "maxpool":
            x = functional.max_pool2d(x, 2, 2)
        elif kind == "local":
            x = convolve_locally(options, x, numbers)
        elif kind == "connected":
            outputs, last = int(options["output"]), "last " if options["activation"] == "linear" else ""
            bias = numbers(f"{last}bias", (outputs,), x)
            x = x.flatten(1) @ numbers(f"{last}kernel", (outputs, x[0].numel()), x).T + bias
        if options.get("activation") == "leaky":
            x = torch.where(x > 0, x, 0.1 * x)
    return x


def convolve(options: Options, x: Tensor, numbers: Numbers) -> Tensor:
    filters, size = int(options["filters"]), int(options["size"])
    bias, scale, mean, variance = (numbers(kind, (filters, 1, 1), x) for kind in ("bias", "scale", "bias", "scale"))
    kernel = numbers("kernel", (filters, x.shape[1], size, size), x)
    x = functional.conv2d(x, kernel, stride=int(options["stride"]), padding=size // 2)
    return (x - mean) / torch.sqrt(variance + 1e-5) * scale + bias


def convolve_locally(options: Options, x: Tensor, numbers: Numbers) -> Tensor:
    """Place after place, each with a kernel of its own."""
    filters, (count, channels, height, width) = int(options["filters"]), x.shape
    bias = numbers("bias", (filters, height, width), x)
    kernels = numbers("kernel", (height * width * filters, channels * 9), x).view(height, width, filters, -1)
    padded, out = functional.pad(x, (1, 1, 1, 1)), torch.zeros(count, filters, height, width)
    for i in range(height):
        for j in range(width):
            out[:, :, i, j] = padded[:, :, i : i + 3, j : j + 3].flatten(1) @ kernels[i, j].T
    return out + bias


def making(seed: int) -> tuple[Numbers, list[np.ndarray]]:
    """Numbers of chance under which activations stay of one size and scores lie around .2; and those given so far."""
    random = np.random.default_rng(seed)
    made: list[np.ndarray] = []

    def numbers(kind: str, shape: tuple[int, ...], x: Tensor) -> Tensor:
        if kind == "scale":
            values = random.uniform(0.7, 1.3, shape).astype(np.float32)
        elif kind.endswith("bias"):
            values = random.normal(*((0.45, 0.07) if kind == "last bias" else (0, 0.15)), shape).astype(np.float32)
        else:
            spread = (0.07 if kind == "last kernel" else 1.0) / math.sqrt(math.prod(shape[1:]) * x.square().mean())
            values = random.standard_normal(shape, np.float32) * np.float32(spread)
        made.append(values.ravel())
        return torch.from_numpy(values)

    return numbers, made


def reading(numbers: np.ndarray) -> Numbers:
    """The numbers of a file, one tensor behind the other."""
    place = 0

    def take(kind: str, shape: tuple[int, ...], x: Tensor) -> Tensor:
        nonlocal place
        place += math.prod(shape)
        return torch.from_numpy(numbers[place - math.prod(shape) : place]).view(shape)

    return take


def random_numbers(text: str, images: Tensor) -> np.ndarray:
    """Numbers for every layer of the network, in the order of the file, sane for such images."""
    numbers, made = making(0)
    with torch.no_grad():
        run(text, images, numbers)
    return np.concatenate(made)


def write(path: Path, numbers: np.ndarray, text: str) -> Path:
    """A `.weights` file with these numbers, and the cfg beside it."""
    path.write_bytes(struct.pack("<3iq", 0, 2, 5, 32013312) + numbers.astype("<f4").tobytes())
    path.with_suffix(".cfg").write_text(text)
    return path


def detect(raw: np.ndarray, text: str, side: int) -> Detections:
    """What Darknet finds, of one image's outputs (n,): a score for every box and class, greedy suppression by class."""
    options = dict(sections(text))["detection"]
    classes, count, cells = (int(options[key]) for key in ("classes", "num", "side"))
    confidences, corners = cells**2 * classes, cells**2 * (classes + count)
    found: dict[int, list[tuple[float, np.ndarray]]] = {label: [] for label in range(classes)}
    for cell in range(cells**2):
        for box in range(cell * count, (cell + 1) * count):
            x, y, w, h = raw[corners + 4 * box : corners + 4 * box + 4].astype(float)
            x, y, w, h = (x + cell % cells) / cells * side, (y + cell // cells) / cells * side, w * w * side, h * h * side
            for label in range(classes):
                score = min(float(raw[confidences + box]) * float(raw[cell * classes + label]), 1.0)
                if score > 0.001:
                    found[label].append((score, np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2])))
    rows = [(score, box, label) for label, pairs in found.items() for score, box in suppressed(pairs)]
    rows = sorted(rows, key=lambda row: -row[0])[:300]
    scores, boxes, labels = zip(*rows, strict=True)
    return Detections(np.array(boxes, np.float32), np.array(scores, np.float32), np.array(labels, np.int32))


def suppressed(pairs: list[tuple[float, np.ndarray]]) -> list[tuple[float, np.ndarray]]:
    """The best first, without those that overlap a better one by more than half."""
    kept: list[tuple[float, np.ndarray]] = []
    for score, box in sorted(pairs, key=lambda pair: -pair[0]):
        if all(overlap(box, other) <= 0.5 for _, other in kept):
            kept.append((score, box))
    return kept


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union."""
    common = math.prod(np.clip(np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2]), 0, None))
    return common / (math.prod(one[2:] - one[:2]) + math.prod(other[2:] - other[:2]) - common)
