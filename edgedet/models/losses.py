"""Losses and overlaps of boxes as tensors; every box is xyxy."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

EPSILON = 1e-7


def pairwise_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union (N, M) of (N, 4) and (M, 4) boxes, in [0, 1]."""
    return _iou(first[:, None], second[None])


def paired_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union (N,) of (N, 4) boxes with their counterparts (N, 4), in [0, 1]."""
    return _iou(first, second)


def _iou(first: Tensor, second: Tensor) -> Tensor:
    intersection, union = _intersection_and_union(first, second)
    return intersection / union.clamp(min=1e-9)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


def iou_loss(predicted: Tensor, truth: Tensor) -> Tensor:
    """1 − IoU² (N,) of (N, 4) predicted boxes with their truths: YOLOX's default box loss."""
    return 1 - paired_iou(predicted, truth).square()


def giou_loss(predicted: Tensor, truth: Tensor) -> Tensor:
    """1 − GIoU (N,) of (N, 4) predicted boxes with their truths (Rezatofighi et al. 2019, arXiv:1902.09630)."""
    overlap, union = _intersection_and_union(predicted, truth)
    hull = _hull(predicted, truth).prod(-1)
    return 1 - overlap / (union + EPSILON) + (hull - union) / (hull + EPSILON)


def ciou_loss(predicted: Tensor, truth: Tensor) -> Tensor:
    """1 − CIoU (N,) of (N, 4) predicted boxes with their truths (Zheng et al. 2020, arXiv:1911.08287, equations 7 to 11).

    1 − IoU + ρ²/c² + αv: the centres' distance over the hull's diagonal, and how far the aspect ratios differ,
    v = 4/π² (arctan w/h − arctan w′/h′)², α = v / (1 − IoU + v), which takes no gradient.
    """
    overlap, union = _intersection_and_union(predicted, truth)
    iou = overlap / (union + EPSILON)
    diagonal = _hull(predicted, truth).square().sum(-1)
    apart = ((predicted[..., :2] + predicted[..., 2:] - truth[..., :2] - truth[..., 2:]) / 2).square().sum(-1)
    shape = (_aspect(truth) - _aspect(predicted)).square() * (4 / math.pi**2)
    with torch.no_grad():
        weight = shape / (1 - iou + shape + EPSILON)
    return 1 - iou + apart / (diagonal + EPSILON) + weight * shape


def focal_loss(logits: Tensor, truth: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """FL(p_t) = −α_t (1 − p_t)^γ log p_t, of each logit and its truth in [0, 1], same shape (arXiv:1708.02002, eq. 5)."""
    cross_entropy = binary_cross_entropy_with_logits(logits, truth, reduction="none")
    probability = logits.sigmoid()
    right = probability * truth + (1 - probability) * (1 - truth)
    return (alpha * truth + (1 - alpha) * (1 - truth)) * (1 - right).pow(gamma) * cross_entropy


def _intersection_and_union(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    top_left = torch.maximum(first[..., :2], second[..., :2])
    bottom_right = torch.minimum(first[..., 2:], second[..., 2:])
    intersection = (bottom_right - top_left).clamp(min=0).prod(-1)
    return intersection, _area(first) + _area(second) - intersection


def _hull(first: Tensor, second: Tensor) -> Tensor:
    """Width and height (…, 2) of the smallest box around both."""
    return torch.maximum(first[..., 2:], second[..., 2:]) - torch.minimum(first[..., :2], second[..., :2])


def _aspect(boxes: Tensor) -> Tensor:
    """arctan(width / height) of boxes (…, 4)."""
    size = boxes[..., 2:] - boxes[..., :2]
    return torch.atan(size[..., 0] / size[..., 1].clamp(min=EPSILON))
