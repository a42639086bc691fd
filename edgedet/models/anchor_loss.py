"""The losses of YOLOv3 (arXiv:1804.02767, section 2) and YOLOv4 (arXiv:2004.10934, section 3.4) on a grid of anchors.

An object belongs to the cell that its centre lies in and, of the anchors there, to the one whose shape overlaps it most,
whichever map that is of; YOLOv4 adds every anchor whose shape overlaps it by enough. A prediction that answers for no object
is to be empty, unless its box overlaps one too well to blame it. Two objects of the same cell and anchor: the later one counts.

K predictions an image, P of all images that answer for an object, N objects; boxes are xyxy in input pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot

from edgedet.models.anchor_grid import Grid, boxes_of
from edgedet.models.base import Target
from edgedet.models.losses import pairwise_iou

IGNORED_ABOVE = 0.7
SMALLEST = 1e-3
"""Pixels: an object without width has no logarithm."""


class Matches(NamedTuple):
    """The P predictions that answer for an object.

    values: (P, 5 + C) raw. places: of their anchors, P for K. boxes: (P, 4) and labels: (P,) of the objects.
    """

    values: Tensor
    places: Grid
    boxes: Tensor
    labels: Tensor

    @property
    def divisor(self) -> int:
        """P, or 1 where there is none: what losses are divided by."""
        return max(len(self.labels), 1)


def match(found: Tensor, places: Grid, targets: Sequence[Target], *, enough: float) -> tuple[Matches, Tensor]:
    """The predictions that answer for objects, and the loss of objectness of all predictions: BCE, its sum over P.

    found: (B, K, 5 + C) raw. enough: overlap of shapes from which further anchors answer for an object.
    """
    images, slots, boxes, labels, blamed = [], [], [], [], []
    for image, target in enumerate(targets):
        owners = assign(target.boxes, places, enough=enough)
        mine = (owners >= 0).nonzero().squeeze(1)
        images.append(torch.full_like(mine, image))
        slots.append(mine)
        boxes.append(target.boxes[owners[mine]])
        labels.append(target.labels[owners[mine]])
        blamed.append((owners >= 0) | ~_overlaps_well(found[image].detach(), places, target.boxes))
    at = torch.cat(images), torch.cat(slots)
    matches = Matches(found[at], Grid(*(part[at[1]] for part in places)), torch.cat(boxes), torch.cat(labels))
    wanted = torch.zeros_like(found[..., 4])
    wanted[at] = 1
    loss = binary_cross_entropy_with_logits(found[..., 4], wanted, torch.stack(blamed).to(wanted), reduction="sum")
    return matches, loss / matches.divisor


def assign(boxes: Tensor, places: Grid, *, enough: float) -> Tensor:
    """(K,) int64: the object that each prediction answers for, or −1.

    boxes: (N, 4). A shape is a width and a height; the overlap of shapes is the IoU of boxes with the same centre.
    """
    owners = torch.full((len(places.corners),), -1, dtype=torch.int64, device=boxes.device)
    if len(boxes):
        centres, sizes = (boxes[:, None, :2] + boxes[:, None, 2:]) / 2, (boxes[:, None, 2:] - boxes[:, None, :2])
        here = ((centres >= places.corners) & (centres < places.corners + places.strides)).all(-1)  # (N, K)
        common = torch.minimum(sizes, places.anchors).prod(-1)
        overlaps = common / (sizes.prod(-1) + places.anchors.prod(-1) - common).clamp(min=1e-9)
        overlaps = torch.where(here, overlaps, -1.0)
        best = torch.zeros_like(here).scatter_(1, overlaps.argmax(1, keepdim=True), True)
        answers = here & (best | (overlaps > enough))
        order = torch.arange(1, len(boxes) + 1, device=boxes.device)[:, None]
        owners = (answers * order).amax(0) - 1
    return owners


def _overlaps_well(found: Tensor, places: Grid, boxes: Tensor) -> Tensor:
    """(K,) bool: the predicted box overlaps an object by more than can be blamed."""
    if not len(boxes):
        return torch.zeros(len(found), dtype=torch.bool, device=found.device)
    return pairwise_iou(boxes_of(found[:, :4], places), boxes).amax(1) > IGNORED_ABOVE


def class_loss(matches: Matches, *, smoothing: float = 0.0) -> Tensor:
    """Binary cross-entropy of every class, a sum over P. smoothing: ε of (1 − ε)·truth + ε/C (Szegedy et al. 2016)."""
    classes = matches.values[:, 5:]
    truth = one_hot(matches.labels, classes.shape[1]) * (1 - smoothing) + smoothing / classes.shape[1]
    return binary_cross_entropy_with_logits(classes, truth.to(classes), reduction="sum") / matches.divisor


def offset_loss(matches: Matches, size_hw: tuple[int, int]) -> Tensor:
    """YOLOv3's box loss, a sum over P, each weighted by 2 − its object's part of the picture's area, so that small ones count.

    Binary cross-entropy of the centre within its cell, half the squared error of log(size / anchor).
    """
    places, offsets = matches.places, matches.values[:, :4]
    centres, sizes = (matches.boxes[:, :2] + matches.boxes[:, 2:]) / 2, matches.boxes[:, 2:] - matches.boxes[:, :2]
    within = ((centres - places.corners) / places.strides + (places.scales - 1) / 2) / places.scales
    growth = (sizes.clamp(min=SMALLEST) / places.anchors).log()
    centre = binary_cross_entropy_with_logits(offsets[:, :2], within, reduction="none")
    size = (offsets[:, 2:] - growth).square() / 2
    weight = 2 - sizes.prod(1) / (size_hw[0] * size_hw[1])
    return (weight * (centre + size).sum(1)).sum() / matches.divisor
