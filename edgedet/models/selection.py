"""The best of all (box, class) pairs, in operators that run in eager PyTorch and export; static shapes throughout.

Detectors with a score for every class at every anchor give far more pairs than suppression can take. No k of a TopK is above
the count asked for, which TensorRT limits to 3840.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgedet.models.base import Candidates

MOST = 3840
"""TensorRT's TopK gives no more."""


def top(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` highest of the last axis, descending, and where they stood; of equals the lower index first."""
    if torch.compiler.is_exporting():
        return scores.topk(count)
    # torch's own topk leaves equals in any order; ONNX's TopK is defined as here.
    ordered, order = scores.sort(dim=-1, descending=True, stable=True)
    return ordered[..., :count], order[..., :count]


def rows(boxes: Tensor, order: Tensor) -> Tensor:
    """(B, N, 4) of boxes (B, K, 4) in the given order (B, N)."""
    return boxes.gather(1, order.unsqueeze(-1).expand(-1, -1, boxes.shape[-1]))


def best_pairs(boxes: Tensor, scores: Tensor, count: int) -> Candidates:
    """The `count` best pairs of a box and a class, descending, or all where there are fewer.

    boxes: (B, A, 4) float32 xyxy, input pixels. scores: (B, A, C) float32.
    A pair among the best `count` is of an anchor among the `count` with the best
    classes, so that the second TopK looks at count·C values instead of A·C.
    """
    count_of_classes = scores.shape[2]
    _, anchors = top(scores.amax(2), min(count, scores.shape[1]))  # (B, N)
    boxes, scores = rows(boxes, anchors), rows(scores, anchors)  # (B, N, 4), (B, N, C)
    best, pairs = top(scores.flatten(1), min(count, scores.shape[1] * count_of_classes))
    return Candidates(rows(boxes, pairs // count_of_classes), best, (pairs % count_of_classes).int())


def best_of_each_class(boxes: Tensor, scores: Tensor, of_class: int, count: int) -> Candidates:
    """The `count` best of the pairs that are among the `of_class` best of their class, descending; otherwise `best_pairs`."""
    of_class = min(of_class, scores.shape[1])
    best, anchors = top(scores.transpose(1, 2), of_class)  # (B, C, of_class) each
    best, pairs = top(best.flatten(1), min(count, best.shape[1] * of_class))
    anchors = anchors.flatten(1).gather(1, pairs)
    return Candidates(rows(boxes, anchors), best, (pairs // of_class).int())
