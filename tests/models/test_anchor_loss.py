"""The losses of YOLOv3 and v4 against loops over single predictions, written from Darknet's description; terms to 1e-5."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch

from edgedet.models import yolov3, yolov4
from edgedet.models.anchor_grid import AnchorGridDetector
from edgedet.models.base import Target

CLASSES = 3
SIZE = 96  # of the input, pixels


class Prediction(NamedTuple):
    """One anchor of one cell: its image and anchor's shape, the corner and side of its cell, its raw numbers."""

    image: int
    shape: tuple[float, float]
    corner: tuple[float, float]
    stride: int
    scale: float
    values: list[float]

    def box(self) -> list[float]:
        x, y = (
            corner + self.stride * (self.scale * sigmoid(value) - (self.scale - 1) / 2)
            for corner, value in zip(self.corner, self.values, strict=False)
        )
        width, height = (anchor * math.exp(value) for anchor, value in zip(self.shape, self.values[2:4], strict=True))
        return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def entropy(logit: float, truth: float) -> float:
    return -truth * math.log(sigmoid(logit)) - (1 - truth) * math.log(1 - sigmoid(logit))


def overlap(one: list[float], other: list[float]) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    common = max(width, 0) * max(height, 0)
    return common / (area(one) + area(other) - common)


def area(box: list[float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def ciou(one: list[float], other: list[float]) -> float:
    iou = overlap(one, other)
    hull = [min(one[0], other[0]), min(one[1], other[1]), max(one[2], other[2]), max(one[3], other[3])]
    diagonal = (hull[2] - hull[0]) ** 2 + (hull[3] - hull[1]) ** 2
    apart = sum(((one[i] + one[i + 2] - other[i] - other[i + 2]) / 2) ** 2 for i in (0, 1))
    angles = [math.atan((box[2] - box[0]) / (box[3] - box[1])) for box in (one, other)]
    shape = 4 / math.pi**2 * (angles[0] - angles[1]) ** 2
    return 1 - iou + apart / diagonal + shape**2 / (1 - iou + shape)


def all_predictions(detector: AnchorGridDetector, raw: list[torch.Tensor]) -> list[Prediction]:
    found = []
    for maps, head, stride in zip(raw, detector.heads, detector.strides, strict=True):
        for image, level in enumerate(maps):
            for anchor, shape in enumerate(head.anchors.tolist()):
                rows = level[anchor * (5 + CLASSES) : (anchor + 1) * (5 + CLASSES)]
                for row in range(level.shape[1]):
                    for column in range(level.shape[2]):
                        corner = (column * stride, row * stride)
                        values = rows[:, row, column].tolist()
                        found.append(Prediction(image, tuple(shape), corner, stride, head.scale.item(), values))
    return found


def answering(predictions: list[Prediction], target: Target, enough: float) -> dict[int, int]:
    """Which object each prediction of the image answers for."""
    owners = {}
    for number, (x1, y1, x2, y2) in enumerate(target.boxes.tolist()):
        x, y = (x1 + x2) / 2, (y1 + y2) / 2
        overlaps = {}
        for i, p in enumerate(predictions):
            if p.corner[0] <= x < p.corner[0] + p.stride and p.corner[1] <= y < p.corner[1] + p.stride:
                overlaps[i] = overlap([0, 0, x2 - x1, y2 - y1], [0, 0, *p.shape])
        best = max(overlaps, key=lambda i: overlaps[i])
        owners |= {i: number for i, value in overlaps.items() if i == best or value > enough}
    return owners


def terms(detector: AnchorGridDetector, raw: list[torch.Tensor], targets: list[Target], *, v4: bool) -> dict[str, float]:
    """The three terms, each divided by the number of predictions that answer for an object."""
    box = objectness = classes = 0.0
    count = 0
    for image, target in enumerate(targets):
        predictions = [p for p in all_predictions(detector, raw) if p.image == image]
        owners = answering(predictions, target, 0.213 if v4 else 1.0)
        truths = target.boxes.tolist()
        count += len(owners)
        for i, p in enumerate(predictions):
            if i not in owners:
                if all(overlap(p.box(), truth) <= 0.7 for truth in truths):
                    objectness += entropy(p.values[4], 0)
                continue
            truth, label = truths[owners[i]], int(target.labels[owners[i]])
            objectness += entropy(p.values[4], 1)
            for c in range(CLASSES):
                wanted = float(c == label) * 0.9 + 0.1 / CLASSES if v4 else float(c == label)
                classes += entropy(p.values[5 + c], wanted)
            box += 5 * ciou(p.box(), truth) if v4 else _offsets(p, truth)
    return {"box": box / max(count, 1), "objectness": objectness / max(count, 1), "classes": classes / max(count, 1)}


def _offsets(p: Prediction, truth: list[float]) -> float:
    loss = 0.0
    for axis in (0, 1):
        centre, size = (truth[axis] + truth[axis + 2]) / 2, truth[axis + 2] - truth[axis]
        loss += entropy(p.values[axis], (centre - p.corner[axis]) / p.stride)
        loss += (p.values[2 + axis] - math.log(size / p.shape[axis])) ** 2 / 2
    return loss * (2 - area(truth) / SIZE**2)


def random_maps(detector: AnchorGridDetector, images: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    rows = 3 * (5 + CLASSES)
    return [torch.randn(images, rows, SIZE // s, SIZE // s, generator=generator) * 0.7 for s in detector.strides]


TARGETS = [
    Target(torch.tensor([[10.0, 12, 60, 70], [20, 30, 44, 56], [50, 60, 72, 90]]), torch.tensor([1, 0, 2])),
    Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)),
    # Two objects of one cell and shape, and one that a prediction overlaps well without answering for it.
    Target(torch.tensor([[30.0, 30, 54, 58], [31, 31, 55, 57], [0, 0, 81, 82]]), torch.tensor([0, 2, 1])),
]


@pytest.mark.parametrize(("module", "variant"), [(m, v) for m in (yolov3, yolov4) for v in ("tiny", "")])
def test_every_term_is_the_sum_over_single_predictions(module, variant):
    with torch.device("meta"):
        detector = module.build(variant, CLASSES)
    published = [layer for layer in module.published_cfg(variant, CLASSES).layers if hasattr(layer, "anchors")]
    for head, layer in zip(detector.heads, published, strict=True):  # all that a loss needs of the detector
        head.anchors, head.scale = torch.tensor(layer.anchors).view(-1, 2), torch.tensor(layer.scale_x_y)
    raw = random_maps(detector, len(TARGETS))
    wanted = terms(detector, raw, TARGETS, v4=module is yolov4)
    found = detector.loss(raw, TARGETS)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name].item() == pytest.approx(value, rel=1e-5), name


@pytest.mark.parametrize("module", [yolov3, yolov4])
def test_a_picture_without_objects_only_teaches_emptiness(module):
    detector = module.build("tiny", CLASSES)
    raw = [maps.requires_grad_() for maps in random_maps(detector, 1)]
    losses = detector.loss(raw, TARGETS[1:2])
    logits = torch.cat([maps.view(3, 5 + CLASSES, -1)[:, 4].flatten() for maps in raw])
    assert losses["box"].item() == losses["classes"].item() == 0
    assert losses["objectness"].item() == pytest.approx(torch.nn.functional.softplus(logits).sum().item(), rel=1e-5)
    sum(losses.values()).backward()
    assert all(torch.isfinite(maps.grad).all() for maps in raw)


def test_yolov4_lets_every_similar_anchor_answer_and_yolov3_the_best_alone():
    """A square of 100 pixels overlaps YOLOv4's 142×110 by .64, 72×146 by .54, 76×55 by .42, 36×75 by .27, 192×243 by .214."""
    target = Target(torch.tensor([[100.0, 100, 200, 200]]), torch.tensor([0]))
    for module, count in ((yolov4, 5), (yolov3, 1)):
        detector = module.build("", 1)
        raw = [torch.zeros(1, 18, 416 // s, 416 // s) for s in detector.strides]
        raw = [maps.requires_grad_() for maps in raw]
        detector.loss(raw, [target])["classes"].backward()
        taught = sum(int((maps.grad.view(3, 6, -1)[:, 5] != 0).sum()) for maps in raw)
        assert taught == count


@pytest.mark.parametrize("module", [yolov3, yolov4])
def test_steps_down_the_gradient_lower_the_loss(module):
    torch.manual_seed(0)
    detector = module.build("tiny", CLASSES).train()
    images = torch.rand(2, 3, 64, 64)
    targets = [Target(torch.tensor([[10.0, 10, 50, 60]]), torch.tensor([1])), TARGETS[1]]
    optimizer = torch.optim.AdamW(detector.parameters(), lr=1e-3)
    losses = []
    for _ in range(8):
        loss = sum(detector.loss(detector(images), targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
