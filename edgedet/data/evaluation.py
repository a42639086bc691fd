"""How good detections are: COCO average precision, and precision and recall against the score threshold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgedet.boxes import area, iou_matrix, xyxy_to_xywh
from edgedet.data.dataset import Dataset, Sample
from edgedet.detections import Detections
from edgedet.errors import DataError

MAX_DETECTIONS = 100  # COCO's: an image, a class


@dataclass(frozen=True)
class Scores:
    """COCO's average precision, in [0, 1]; None where no object is of that size.

    ap: the mean over IoU .50 to .95 in steps of .05 and over the classes that
    have objects. ap_small, ap_medium, ap_large: objects below 32² square
    pixels, up to 96², and above. by_class: ap of each class that has objects.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None
    by_class: dict[str, float]
    max_detections: int = MAX_DETECTIONS


def evaluate(dataset: Dataset, detections: Sequence[Detections]) -> Scores:
    """COCO's scores of one Detections an image, in the order of the data set's samples; crowds are ignored."""
    _check(dataset, detections)
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise DataError("average precision needs faster-coco-eval; run: pip install 'edgedet[eval]'") from error
    truth = _coco_form(dataset, [_truth_entries(sample) for sample in dataset.samples])
    found = _coco_form(dataset, [_detection_entries(one) for one in detections])
    scoring = COCOeval_faster(COCO(truth), COCO(found), iouType="bbox")
    scoring.evaluate()
    scoring.accumulate()
    return _scores(dataset, scoring.eval["precision"][..., -1])


def score_curve(dataset: Dataset, detections: Sequence[Detections], *, iou: float = 0.5) -> dict[str, np.ndarray]:
    """Precision, recall and F1 at the score thresholds .01, .02, … .99, over all classes together.

    Four (99,) float64 arrays: `thresholds`, `precision` (1 where no detection
    is left), `recall`, `f1`. Detections match objects of their class greedily
    by descending score at IoU ≥ iou; those that lie on crowds count neither way.
    """
    _check(dataset, detections)
    thresholds = np.arange(1, 100) / 100
    scores, correct = zip(*(_judge(sample, found, iou) for sample, found in zip(dataset.samples, detections, strict=True)))
    above = np.concatenate(scores)[None] >= thresholds[:, None] - 1e-9  # (99, N)
    counted, right = above.sum(axis=1), (above & np.concatenate(correct)[None]).sum(axis=1)
    objects = sum(int((~sample.crowd).sum()) for sample in dataset.samples)
    return {
        "thresholds": thresholds,
        "precision": np.where(counted > 0, right / np.maximum(counted, 1), 1.0),
        "recall": right / objects,
        "f1": 2 * right / (counted + objects),
    }


def best_threshold(curve: dict[str, np.ndarray]) -> float:
    """The score threshold of the highest F1; of several, the middle one."""
    best = np.flatnonzero(curve["f1"] >= curve["f1"].max() - 1e-12)
    return float(curve["thresholds"][best[len(best) // 2]])


def voc_ap_11(recall: np.ndarray, precision: np.ndarray) -> float:
    """VOC 2007's average precision: the mean over recalls 0, .1, … 1 of the best precision at that recall or beyond.

    recall, precision: (N,) at each detection by descending score. Everingham
    et al., The Pascal Visual Object Classes Challenge, IJCV 2010, equations 1 and 2.
    """
    levels = np.arange(11) / 10
    return float(np.mean([precision[recall >= level - 1e-9].max(initial=0) for level in levels]))


def _check(dataset: Dataset, detections: Sequence[Detections]) -> None:
    if len(detections) != len(dataset.samples):
        raise ValueError(f"{len(dataset.samples)} images but detections of {len(detections)}")
    if not dataset.annotated:
        raise DataError(f"{dataset.name} is plain images without annotations, so there is nothing to score against")
    if not any((~sample.crowd).any() for sample in dataset.samples):
        raise DataError(
            f"{dataset.name} has no annotated object in {len(dataset.samples)} images; there is nothing to score against"
        )
    labels = max((int(found.labels.max()) for found in detections if len(found)), default=-1)
    if labels >= len(dataset.classes):
        raise DataError(
            f"a detection has label {labels} but {dataset.name} has {len(dataset.classes)} classes; "
            "open the data with the model's classes"
        )


def _coco_form(dataset: Dataset, entries: Sequence[Iterator[dict[str, Any]]]) -> dict[str, Any]:
    """A COCO data set whose image ids are positions, whatever the annotation files call them; ids start at 1."""
    annotations = [{**entry, "image_id": index} for index, image in enumerate(entries, 1) for entry in image]
    for index, annotation in enumerate(annotations, 1):
        annotation["id"] = index
    return {
        "images": [{"id": index} for index in range(1, len(entries) + 1)],
        "categories": [{"id": index, "name": name} for index, name in enumerate(dataset.classes, 1)],
        "annotations": annotations,
    }


def _truth_entries(sample: Sample) -> Iterator[dict[str, Any]]:
    areas = area(sample.boxes) if sample.areas is None else sample.areas
    for box, label, crowd, size in zip(xyxy_to_xywh(sample.boxes), sample.labels, sample.crowd, areas, strict=True):
        yield {"bbox": box.tolist(), "category_id": int(label) + 1, "iscrowd": int(crowd), "area": float(size)}


def _detection_entries(found: Detections) -> Iterator[dict[str, Any]]:
    for box, label, score, size in zip(xyxy_to_xywh(found.boxes), found.labels, found.scores, area(found.boxes), strict=True):
        entry = {"bbox": box.tolist(), "category_id": int(label) + 1, "iscrowd": 0, "area": float(size)}
        yield {**entry, "score": float(score)}


def _scores(dataset: Dataset, precision: np.ndarray) -> Scores:
    """Scores from COCO's table (10 IoUs, 101 recalls, classes, 4 sizes), which holds -1 where there is no object."""
    by_class = {name: _mean(precision[:, :, index, 0]) for index, name in enumerate(dataset.classes)}
    overall = precision[..., 0]
    return Scores(
        ap=_mean(overall) or 0.0,
        ap50=_mean(overall[0]) or 0.0,
        ap75=_mean(overall[5]) or 0.0,
        ap_small=_mean(precision[..., 1]),
        ap_medium=_mean(precision[..., 2]),
        ap_large=_mean(precision[..., 3]),
        by_class={name: ap for name, ap in by_class.items() if ap is not None},
    )


def _mean(precision: np.ndarray) -> float | None:
    known = precision[precision > -1]
    return float(known.mean()) if known.size else None


def _judge(sample: Sample, found: Detections, iou: float) -> tuple[np.ndarray, np.ndarray]:
    """Scores (M,) of the detections that count, and whether each is correct (M,) bool."""
    order = np.argsort(-found.scores, kind="stable")
    found = found[order]
    same_class = found.labels[:, None] == sample.labels[None]
    overlap = iou_matrix(found.boxes, sample.boxes) * same_class  # (M, N)
    correct = np.zeros(len(found), bool)
    free = ~sample.crowd
    for row in range(len(found)):
        candidates = np.where(free, overlap[row], 0)
        if candidates.max(initial=0) >= iou:
            best = int(candidates.argmax())
            correct[row], free[best] = True, False
    on_crowd = (_share_inside(found.boxes, sample.boxes) * (same_class & sample.crowd)).max(axis=1, initial=0) >= iou
    counted = correct | ~on_crowd
    return found.scores[counted], correct[counted]


def _share_inside(boxes: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """Share (M, N) of each box's area that lies in each region: COCO's overlap with a crowd."""
    corner, end = np.maximum(boxes[:, None, :2], regions[None, :, :2]), np.minimum(boxes[:, None, 2:], regions[None, :, 2:])
    inside = np.prod(np.maximum(end - corner, 0), axis=-1)
    return inside / np.maximum(area(boxes)[:, None], 1e-9)
