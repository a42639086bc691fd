"""Non-maximum suppression as operators that run in eager PyTorch and export; one meaning, whichever mode spells it.

    candidates (B, K) ─ cut ─▶ the N best (B, N), descending ─ keep ─▶ (B, N) bool ─ best ─▶ the D best (B, D)

A candidate is kept when its score is above `min_score` and no kept candidate of
its class with a higher score overlaps it by an IoU above `iou_threshold`.

`onnx` is ONNX NonMaxSuppression. `matrix` is plain arithmetic, which compiles
everywhere: it repeats "kept is who is overlapped by no kept one" until that
settles. `efficientnms` is TensorRT's plugin EfficientNMS_TRT. `none` does none
of this: the graph ends at the candidates.

Operators get the candidates' ranks for scores. Ranks are never equal, so that no
runtime decides by chance which of two equal scores goes first, and an operator's
output tells which candidates it chose.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgedet.errors import ExportError
from edgedet.export import onnx_file
from edgedet.models.base import Candidates
from edgedet.models.selection import MOST, rows, top
from edgedet.spec import Suppression

MATRIX_ROUNDS = 20
"""Rounds of the matrix mode. One round settles one more link of a chain in which each box suppresses the next;
on photos 9 was the longest, whether of 512 or of 1000 candidates."""
PART = 1024
"""How many candidates eager PyTorch suppresses at first: the pairs of 3840 are thirty times as much work."""
PLUGIN = f"{onnx_file.PLUGIN_DOMAIN}::EfficientNMS_TRT"
MOST_INTO_PLUGIN = MOST
"""The plugin would look at 4096."""


def check_mode(suppression: Suppression) -> None:
    """Raise ExportError where the mode cannot be written."""
    if suppression.mode == "efficientnms" and suppression.candidates > MOST_INTO_PLUGIN:
        raise ExportError(
            f"nms mode 'efficientnms' takes at most {MOST_INTO_PLUGIN} candidates but the spec has "
            f"{suppression.candidates}; lower suppression.candidates"
        )


def suppress(candidates: Candidates, suppression: Suppression, *, num_classes: int) -> Candidates:
    """The best detections (B, D), scores descending; unused rows are zero with label −1.

    D is `max_detections`, or K where there are fewer candidates.
    """
    candidates = cut(candidates, suppression.candidates)
    keep = candidates.scores > suppression.min_score
    if suppression.needed and suppression.iou_threshold < 1:  # no overlap is above 1
        limit = min(suppression.max_detections, candidates.scores.shape[1])
        keep = keep & _survives(candidates, keep, suppression, num_classes=num_classes, limit=limit)
    return best(candidates, keep, suppression.max_detections)


def cut(candidates: Candidates, count: int) -> Candidates:
    """The `count` candidates of highest score, descending: (B, min(K, count))."""
    scores, order = top(candidates.scores, min(count, candidates.scores.shape[1]))
    return Candidates(rows(candidates.boxes, order), scores, candidates.labels.gather(1, order))


def best(candidates: Candidates, keep: Tensor, count: int) -> Candidates:
    """The `count` best of the kept ones; keep: (B, N) bool. Unused rows are zero with label −1."""
    masked = Candidates(candidates.boxes, torch.where(keep, candidates.scores, -1.0), candidates.labels)
    boxes, scores, labels = cut(masked, count)
    used = scores > 0
    # Runtimes order ties differently, so nothing of an unused row may show.
    return Candidates(torch.where(used.unsqueeze(-1), boxes, 0.0), scores.clamp(min=0.0), torch.where(used, labels, -1))


def _survives(candidates: Candidates, keep: Tensor, suppression: Suppression, *, num_classes: int, limit: int) -> Tensor:
    """(B, N) bool: no kept candidate of the class and of higher score overlaps it too much. Scores must descend.

    keep: (B, N) bool, those that take part. Of these the best `limit` are right; later ones may be missing.
    """
    boxes, _, labels = candidates
    if suppression.mode == "matrix":
        blocks = _blocks(boxes, labels, suppression.iou_threshold)
        if torch.compiler.is_exporting():
            # TensorRT-RTX has no float32 product for Turing. 0, 1 and sums to 2048 are exact in float16; greater ones stay so.
            blocks = blocks.half()
        kept = torch.ones_like(blocks[:, 0])
        for _ in range(MATRIX_ROUNDS):
            kept = _round(kept, blocks)
        return kept > 0.5
    count = keep.shape[1]
    ranks = torch.where(keep, torch.arange(count, 0, -1, dtype=torch.float32, device=keep.device), -1.0)
    if suppression.mode == "efficientnms" and torch.compiler.is_exporting():
        return _kept_by_plugin(boxes, ranks, labels, suppression.iou_threshold, num_classes, limit)
    return keep_greedily(boxes, ranks, labels, suppression.iou_threshold, num_classes, limit) > 0.5


def _blocks(boxes: Tensor, labels: Tensor, iou_threshold: float) -> Tensor:
    """(B, N, N) float: 1 where row i, if kept, removes column j; boxes (B, N, 4) and labels (B, N) by descending score."""
    left, top, right, bottom = boxes.unbind(-1)  # (B, N) each
    width = torch.minimum(right.unsqueeze(2), right.unsqueeze(1)) - torch.maximum(left.unsqueeze(2), left.unsqueeze(1))
    height = torch.minimum(bottom.unsqueeze(2), bottom.unsqueeze(1)) - torch.maximum(top.unsqueeze(2), top.unsqueeze(1))
    intersection = width.clamp(min=0) * height.clamp(min=0)
    area = (right - left) * (bottom - top)
    union = area.unsqueeze(2) + area.unsqueeze(1) - intersection
    same_class = labels.unsqueeze(2) == labels.unsqueeze(1)
    return ((intersection > iou_threshold * union) & same_class).float().triu(diagonal=1)


def _round(kept: Tensor, blocks: Tensor) -> Tensor:
    """(B, N): 1 for whom none of the `kept` blocks, in the blocks' type."""
    return (torch.matmul(kept.unsqueeze(1), blocks).squeeze(1) < 0.5).to(blocks.dtype)


def _kept_by_plugin(boxes: Tensor, ranks: Tensor, labels: Tensor, iou_threshold: float, num_classes: int, limit: int) -> Tensor:
    """(B, N) bool: those that EfficientNMS_TRT gives, which in PyTorch is a symbol only.

    A column a class, (B, N, C), keeps classes apart exactly (docs/decisions/0008). Behind the number of detections the
    outputs are unspecified.
    """
    batch = boxes.shape[0]
    table = torch.where(labels.unsqueeze(2) == torch.arange(num_classes, dtype=torch.int32), ranks.unsqueeze(2), 0.0)
    number, _, picked, _ = torch.onnx.ops.symbolic_multi_out(
        PLUGIN,
        (boxes, table),
        {
            "score_threshold": 0.5,  # whole numbers from 1 take part
            "iou_threshold": _next_above(iou_threshold),
            "max_output_boxes": limit,
            "background_class": -1,
            "score_activation": 0,
            "class_agnostic": 0,
            "box_coding": 0,
            "plugin_version": "1",
        },
        dtypes=(torch.int32, torch.float32, torch.float32, torch.int32),
        shapes=((batch, 1), (batch, limit, 4), (batch, limit), (batch, limit)),
        version=1,
    )
    picked = torch.where(torch.arange(limit, dtype=torch.int32) < number, picked, 0.0)
    same = picked.unsqueeze(2) == ranks.unsqueeze(1)  # (B, D, N)
    return same.float().amax(1) > 0.5


def _next_above(iou_threshold: float) -> float:
    """The next float32: OpenVINO and TensorRT's plugin drop at the threshold itself, others only above it."""
    return float(max(np.nextafter(np.float32(iou_threshold), np.float32(1)), np.finfo(np.float32).tiny))


@torch.library.custom_op("edgedet::keep_greedily", mutates_args=())
def keep_greedily(boxes: Tensor, ranks: Tensor, labels: Tensor, iou_threshold: float, num_classes: int, limit: int) -> Tensor:
    """(B, N) float: 1 for whom greedy suppression keeps, at least for the first `limit` of each image, else 0.

    boxes: (B, N, 4) float32 xyxy. ranks: (B, N) float32, descending but for the −1 of those that take no part.
    labels: (B, N) int32 in [0, num_classes). Exported, it is ONNX NonMaxSuppression.
    """
    count, part = ranks.shape[1], PART
    while True:
        # Who is kept depends on better ones only, so that the best part is suppressed alone while it gives enough.
        kept = _keep(boxes[:, :part], ranks[:, :part], labels[:, :part], iou_threshold)
        if bool((kept.sum(1) >= limit).all()) or not bool((ranks[:, part:] > 0).any()):
            return torch.nn.functional.pad(kept, (0, count - kept.shape[1]))
        part *= 2


def _keep(boxes: Tensor, ranks: Tensor, labels: Tensor, iou_threshold: float) -> Tensor:
    """(B, N) float: 1 for whom greedy suppression of all N keeps, else 0."""
    takes_part = (ranks > 0).float()
    blocks = _blocks(boxes, labels, iou_threshold) * takes_part.unsqueeze(2)
    kept = takes_part
    while not torch.equal(settled := _round(kept, blocks) * takes_part, kept):
        kept = settled
    return kept


@keep_greedily.register_fake
def _(boxes: Tensor, ranks: Tensor, labels: Tensor, iou_threshold: float, num_classes: int, limit: int) -> Tensor:
    return torch.empty_like(ranks)


def translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """What `torch.onnx.export` needs to spell `keep_greedily` in standard ONNX."""
    return {torch.ops.edgedet.keep_greedily.default: _to_non_max_suppression}


def _to_non_max_suppression(boxes: Any, ranks: Any, labels: Any, iou_threshold: float, num_classes: int, limit: int) -> Any:
    """The keep mask from NonMaxSuppression's (batch, class, box) triples.

    Classes stay apart by rows of the (B, C, N) table of ranks, not by offset boxes,
    which would round coordinates. −1 keeps an absent class below the threshold
    of 0 whether a runtime reads it as > or ≥.
    """
    import numpy as np
    from onnx import numpy_helper
    from onnxscript import opset19 as op

    def constant(value: Any, dtype: type) -> Any:
        return op.Constant(value=numpy_helper.from_array(np.array(value, dtype)))

    classes = constant(np.arange(num_classes).reshape(1, -1, 1), np.int32)
    axis = constant([1], np.int64)
    of_class = op.Equal(op.Unsqueeze(labels, axis), classes)
    table = op.Where(of_class, op.Unsqueeze(ranks, axis), constant(-1, np.float32))
    overlap = constant([_next_above(iou_threshold)], np.float32)
    selected = op.NonMaxSuppression(boxes, table, constant([limit], np.int64), overlap, constant([0], np.float32))
    batch_and_box = op.Gather(selected, constant([0, 2], np.int64), axis=1)
    ones = op.Expand(constant(1, np.float32), op.Shape(selected, start=0, end=1))
    return op.ScatterND(op.Sub(ranks, ranks), batch_and_box, ones)
