"""Anchors (priors): which object each answers for, and boxes as offsets from them (Ren et al. 2015, arXiv:1506.01497).

A anchors, N objects; boxes and anchors are xyxy in input pixels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

BACKGROUND, IGNORED = -1, -2
LARGEST_GROWTH = math.log(1000 / 16)
"""An exponent beyond it would make a box a thousand times its anchor's sixteenth: torchvision's limit."""


def encode(boxes: Tensor, anchors: Tensor, weights: tuple[float, float, float, float] = (1, 1, 1, 1)) -> Tensor:
    """Offsets (…, 4) of boxes from their anchors, both (…, 4): w·(Δx/w_a, Δy/h_a, log(w/w_a), log(h/h_a))."""
    centre, size = _centres(boxes)
    anchor_centre, anchor_size = _centres(anchors)
    offsets = torch.cat([(centre - anchor_centre) / anchor_size, (size / anchor_size).log()], dim=-1)
    return offsets * offsets.new_tensor(weights)


def decode(offsets: Tensor, anchors: Tensor, weights: tuple[float, float, float, float] = (1, 1, 1, 1)) -> Tensor:
    """Boxes (…, 4) of offsets (…, 4) from anchors that broadcast to them: the inverse of `encode`, its exponents limited."""
    offsets = offsets / offsets.new_tensor(weights)
    anchor_centre, anchor_size = _centres(anchors)
    centre = offsets[..., :2] * anchor_size + anchor_centre
    half = offsets[..., 2:].clamp(max=LARGEST_GROWTH).exp() * anchor_size / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def clip(boxes: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """The boxes (…, 4) cut at the input's edges."""
    height, width = size_hw
    return torch.minimum(boxes.clamp(min=0), boxes.new_tensor([width, height, width, height]))


def assign(overlaps: Tensor, *, below: float, above: float, best_too: bool) -> Tensor:
    """(A,) int64: the object that each anchor answers for, BACKGROUND, or IGNORED between the two thresholds.

    overlaps: (N, A) IoU. An anchor takes the object it overlaps most where that
    is at least `above`, none where it is under `below`. best_too: every
    object's best anchors, equals included, take the object they overlap most,
    however little that is.
    """
    if overlaps.shape[0] == 0:
        return overlaps.new_full((overlaps.shape[1],), BACKGROUND, dtype=torch.int64)
    most, nearest = overlaps.max(dim=0)  # (A,) each
    assigned = torch.where(most < below, BACKGROUND, torch.where(most < above, IGNORED, nearest))
    if best_too:
        best = ((overlaps == overlaps.amax(dim=1, keepdim=True)) & (overlaps > 0)).any(dim=0)
        assigned = torch.where(best, nearest, assigned)
    return assigned


def _centres(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Centre (…, 2) and size (…, 2) of boxes."""
    size = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + size / 2, size
