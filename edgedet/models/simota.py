"""SimOTA: which cells answer for which object, and the loss that follows (YOLOX, arXiv:2107.08430; OTA, arXiv:2103.14430).

A raw head is a level list of maps with the fields `box`, `objectness` and
`classes`, as `edgedet.models.yolox.HeadLevel`. N objects, A cells of all levels,
C classes; boxes are xyxy in input pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from edgedet.models.base import Target
from edgedet.models.losses import iou_loss, pairwise_iou

CENTER_RADIUS = 2.5  # strides around an object's centre within which a cell may answer for it
TOP_OVERLAPS = 10  # an object gets as many cells as its best overlaps add up to
IOU_WEIGHT = 3.0
OUTSIDE_COST = 1e5
BOX_WEIGHT = 5.0


class Level(Protocol):
    """One level's raw maps: box (B, 4, h, w), objectness (B, 1, h, w), classes (B, C, h, w)."""

    @property
    def box(self) -> Tensor: ...
    @property
    def objectness(self) -> Tensor: ...
    @property
    def classes(self) -> Tensor: ...


class Cells(NamedTuple):
    """Where the A cells lie. centers: (A, 2) input pixels. strides: (A,) pixels."""

    centers: Tensor
    strides: Tensor


class Predictions(NamedTuple):
    """Flattened heads. offsets, boxes: (B, A, 4); objectness: (B, A) logits; classes: (B, A, C) logits; all float32."""

    offsets: Tensor
    boxes: Tensor
    objectness: Tensor
    classes: Tensor


class Assignment(NamedTuple):
    """The P cells that answer for an object. cells: (P,) index into A; objects: (P,) index into N; overlaps: (P,) IoU."""

    cells: Tensor
    objects: Tensor
    overlaps: Tensor


def simota_loss(raw: Sequence[Level], strides: Sequence[int], targets: list[Target]) -> dict[str, Tensor]:
    """Loss terms `box`, `objectness`, `classes` and `l1`, each a scalar already weighted and divided by the positive cells."""
    cells = _cells(raw, strides)
    heads = _flatten(raw, cells)
    with torch.no_grad():
        assigned = [assign(heads, i, cells, target) for i, target in enumerate(targets)]
    image = torch.cat([torch.full_like(a.cells, i) for i, a in enumerate(assigned)])
    cell = torch.cat([a.cells for a in assigned])
    overlap = torch.cat([a.overlaps for a in assigned])
    boxes = torch.cat([t.boxes[a.objects] for t, a in zip(targets, assigned, strict=True)])
    labels = torch.cat([t.labels[a.objects] for t, a in zip(targets, assigned, strict=True)])
    count = max(len(cell), 1)

    wanted_objectness = torch.zeros_like(heads.objectness)
    wanted_objectness[image, cell] = 1
    wanted_classes = torch.zeros_like(heads.classes[image, cell])
    wanted_classes[torch.arange(len(cell), device=cell.device), labels] = overlap
    wanted_offsets = _encode(boxes, cells.centers[cell], cells.strides[cell])
    bce = binary_cross_entropy_with_logits
    return {
        "box": BOX_WEIGHT * iou_loss(heads.boxes[image, cell], boxes).sum() / count,
        "objectness": bce(heads.objectness, wanted_objectness, reduction="sum") / count,
        "classes": bce(heads.classes[image, cell], wanted_classes, reduction="sum") / count,
        "l1": (heads.offsets[image, cell] - wanted_offsets).abs().sum() / count,
    }


def assign(heads: Predictions, image: int, cells: Cells, target: Target) -> Assignment:
    """The cells of one image that answer for its objects; every object gets at least one that is near it, if any is.

    Cost: BCE(√(class·objectness)) − 3·log IoU + 10⁵ where the cell is not both
    inside the box and near its centre. An object takes as many of its cheapest
    cells as its ten best overlaps add up to; a cell that two objects want goes
    to the one it costs least.
    """
    inside, near = _inside(cells, target.boxes), _near(cells, target.boxes)
    candidates = (inside | near).any(dim=0).nonzero().squeeze(1)  # (K,)
    if not len(candidates):
        empty = candidates.new_zeros(0)
        return Assignment(empty, empty, target.boxes.new_zeros(0))
    overlaps = pairwise_iou(target.boxes, heads.boxes[image, candidates])  # (N, K)
    class_cost = _class_cost(heads.classes[image, candidates], heads.objectness[image, candidates], target.labels)
    cost = class_cost - IOU_WEIGHT * (overlaps + 1e-8).log() + OUTSIDE_COST * ~(inside & near)[:, candidates]
    taken = _cheapest(cost, overlaps)
    cost = torch.where(taken, cost, torch.inf)
    position = taken.any(dim=0).nonzero().squeeze(1)
    objects = cost[:, position].argmin(dim=0)
    return Assignment(candidates[position], objects, overlaps[objects, position])


def _cheapest(cost: Tensor, overlaps: Tensor) -> Tensor:
    """(N, K) bool: for each object its k cheapest cells, k = the sum of its ten best overlaps, at least 1."""
    most = min(TOP_OVERLAPS, cost.shape[1])
    counts = overlaps.topk(most, dim=1).values.sum(1).int().clamp(min=1)
    order = cost.topk(most, dim=1, largest=False).indices  # (N, most)
    wanted = torch.arange(most, device=cost.device) < counts[:, None]
    return torch.zeros_like(cost, dtype=torch.bool).scatter_(1, order, wanted)


def _class_cost(classes: Tensor, objectness: Tensor, labels: Tensor) -> Tensor:
    """(N, K) binary cross-entropy, summed over the classes, of the joint score √(class·objectness) with each object's class.

    The part of wrong classes is one number a cell, so no (N, K, C) array is needed.
    """
    log_score = (logsigmoid(classes) + logsigmoid(objectness)[:, None]) / 2  # (K, C)
    log_other = torch.log1p(-log_score.exp().clamp(max=1 - 1e-6))
    return -log_other.sum(1)[None] + (log_other - log_score).T[labels]


def _inside(cells: Cells, boxes: Tensor) -> Tensor:
    """(N, A) bool: the cell's centre lies in the box."""
    x, y = cells.centers.unbind(1)
    left, top, right, bottom = boxes[:, :, None].unbind(1)
    return (x > left) & (x < right) & (y > top) & (y < bottom)


def _near(cells: Cells, boxes: Tensor) -> Tensor:
    """(N, A) bool: the cell's centre lies within the radius around the box's centre, in strides, along both axes."""
    centers = (boxes[:, None, :2] + boxes[:, None, 2:]) / 2  # (N, 1, 2)
    return ((cells.centers - centers).abs() < CENTER_RADIUS * cells.strides[:, None]).all(dim=-1)


def _cells(raw: Sequence[Level], strides: Sequence[int]) -> Cells:
    centers, sizes = [], []
    for level, stride in zip(raw, strides, strict=True):
        height, width = level.box.shape[-2:]
        grid = torch.cartesian_prod(torch.arange(height), torch.arange(width)).flip(1)  # x, y; rows first
        centers.append((grid + 0.5) * stride)
        sizes.append(torch.full((height * width,), float(stride)))
    device = raw[0].box.device
    return Cells(torch.cat(centers).to(device), torch.cat(sizes).to(device))


def _flatten(raw: Sequence[Level], cells: Cells) -> Predictions:
    def join(name: str) -> Tensor:
        return torch.cat([getattr(level, name).float().flatten(2) for level in raw], dim=2).transpose(1, 2)

    offsets = join("box")
    stride = cells.strides[:, None]
    centers = cells.centers - stride / 2 + offsets[..., :2] * stride  # offsets count from the cell's corner
    half = offsets[..., 2:].exp() * stride / 2
    boxes = torch.cat([centers - half, centers + half], dim=-1)
    return Predictions(offsets, boxes, join("objectness").squeeze(2), join("classes"))


def _encode(boxes: Tensor, centers: Tensor, strides: Tensor) -> Tensor:
    """(P, 4) raw offsets at which a cell would predict its box exactly."""
    stride = strides[:, None]
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    size = boxes[:, 2:] - boxes[:, :2]
    return torch.cat([(middle - centers) / stride + 0.5, (size / stride).clamp(min=1e-8).log()], dim=1)
