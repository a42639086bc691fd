"""Losses and overlaps of boxes as tensors; every box is xyxy."""

from __future__ import annotations

import torch
from torch import Tensor


def pairwise_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union (N, M) of (N, 4) and (M, 4) boxes, in [0, 1]."""
    return _iou(first[:, None], second[None])


def paired_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union (N,) of (N, 4) boxes with their counterparts (N, 4), in [0, 1]."""
    return _iou(first, second)


def _iou(first: Tensor, second: Tensor) -> Tensor:
    top_left = torch.maximum(first[..., :2], second[..., :2])
    bottom_right = torch.minimum(first[..., 2:], second[..., 2:])
    intersection = (bottom_right - top_left).clamp(min=0).prod(-1)
    union = _area(first) + _area(second) - intersection
    return intersection / union.clamp(min=1e-9)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


def iou_loss(predicted: Tensor, truth: Tensor) -> Tensor:
    """1 − IoU² (N,) of (N, 4) predicted boxes with their truths: YOLOX's default box loss."""
    return 1 - paired_iou(predicted, truth).square()
