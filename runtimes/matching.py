"""How far the answers of two detectors lie apart: candidates by their index, detections by overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgedet.boxes import iou_matrix
from edgedet.detections import Detections
from edgedet.runtimes.session import Outputs
from edgedet.spec import CANDIDATES, CandidateOrder

FLOOR_MARGIN = 0.01  # a detection this near to the floor of the other file may be missing there by noise alone


@dataclass(frozen=True)
class Spread:
    """How differences are spread: their number and signed mean; median, 99th percentile and maximum of their magnitudes."""

    count: int
    mean: float
    p50: float
    p99: float
    max: float

    @classmethod
    def of(cls, parts: Sequence[np.ndarray]) -> Spread | None:
        """The spread of all values in the parts, None where there are none."""
        values = np.concatenate(parts) if parts else np.zeros(0)
        if not len(values):
            return None
        p50, p99, largest = np.percentile(np.abs(values), [50, 99, 100])
        return cls(len(values), float(values.mean()), float(p50), float(p99), float(largest))


@dataclass(frozen=True)
class CandidateDifferences:
    """How the M candidates that count differ, other minus reference.

    boxes: (M,) float32, the largest of four coordinate errors, input pixels.
    scores: (M,) float32. labels_changed: how many of the M have another class.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels_changed: int


def compare_candidates(
    reference: Outputs, other: Outputs, *, min_score: float, order: CandidateOrder = "anchors"
) -> CandidateDifferences:
    """The differences of the candidates that score at least min_score; both sides have the same K.

    order: as in ModelSpec. With `anchors` they are compared by their index and count where either side scores enough. With
    `scores` each of the reference's is compared with the nearest of its class in box and score, for near equals swap places.
    """
    (boxes, scores, labels), (other_boxes, other_scores, other_labels) = (
        [side[name] for name in CANDIDATES] for side in (reference, other)
    )
    if order == "scores":
        counts = scores >= min_score
        boxes, scores, labels = boxes[counts], scores[counts], labels[counts]
        nearest = _nearest((boxes, scores, labels), (other_boxes, other_scores, other_labels))
        other_boxes, other_scores, other_labels = other_boxes[nearest], other_scores[nearest], other_labels[nearest]
    counts = np.maximum(scores, other_scores) >= min_score
    box_errors = np.abs(other_boxes[counts] - boxes[counts]).max(axis=-1, initial=0)
    changed = int((labels[counts] != other_labels[counts]).sum())
    return CandidateDifferences(box_errors, other_scores[counts] - scores[counts], changed)


def _nearest(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> np.ndarray:
    """(M,) int64 index of their candidate that is nearest to each of ours: of its class where there is one.

    Each side is boxes, scores and labels. A hundredth of score weighs as much as a pixel.
    """
    (boxes, scores, labels), (other_boxes, other_scores, other_labels) = ours, theirs
    found = np.zeros(len(boxes), np.int64)
    for row in range(len(boxes)):
        distance = np.abs(other_boxes - boxes[row]).max(axis=1) + 100 * np.abs(other_scores - scores[row])
        found[row] = np.argmin(np.where(other_labels == labels[row], distance, distance + 1e6))
    return found


@dataclass(frozen=True)
class Matches:
    """Which detections of one image are the same object on both sides, and how far apart they are.

    reference, other: (P,) int64, row numbers of the P pairs. box_errors: (P,)
    float32, the largest of four coordinate errors, original-image pixels.
    score_drifts: (P,) float32, other minus reference. only_reference,
    only_other: row numbers of detections without a partner.
    """

    reference: np.ndarray
    other: np.ndarray
    box_errors: np.ndarray
    score_drifts: np.ndarray
    only_reference: np.ndarray
    only_other: np.ndarray


def match(reference: Detections, other: Detections, *, min_score: float, min_iou: float = 0.5) -> Matches:
    """Pair detections of the same class that overlap by min_iou, the closest in box and score first, each at most once.

    Only pairs and lone detections count that reach min_score on either side,
    but a partner may score less: noise about the threshold separates nobody.
    """
    overlap = _overlap(reference.boxes, other.boxes)
    overlap[reference.labels[:, None] != other.labels[None]] = 0
    ours, theirs = _closest_first(overlap, reference.scores[:, None] - other.scores[None], min_iou)
    lone = np.setdiff1d(np.flatnonzero(reference.scores >= min_score), ours)
    strangers = np.setdiff1d(np.flatnonzero(other.scores >= min_score), theirs)
    counts = np.maximum(reference.scores[ours], other.scores[theirs]) >= min_score
    ours, theirs = ours[counts], theirs[counts]
    box_errors = np.abs(other.boxes[theirs] - reference.boxes[ours]).max(axis=1, initial=0)
    return Matches(ours, theirs, box_errors, other.scores[theirs] - reference.scores[ours], lone, strangers)


def _overlap(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """IoU (N, M), each box at least a pixel wide and high: what a detector cut to nothing at the edge overlaps its like."""
    at_least = [np.concatenate([b[:, :2], np.maximum(b[:, 2:], b[:, :2] + 1)], axis=1) for b in (first, second)]
    return iou_matrix(*at_least)


def _closest_first(overlap: np.ndarray, drift: np.ndarray, min_iou: float) -> tuple[np.ndarray, np.ndarray]:
    """Row and column numbers of the pairs taken by descending closeness: (N, M) overlap less score difference.

    By overlap alone a faint box that happens to lie better would take the place of the true partner.
    """
    rows, columns = np.nonzero(overlap >= min_iou)
    closeness = overlap[rows, columns] - np.abs(drift[rows, columns])
    order = np.argsort(-closeness, kind="stable")
    pairs: dict[int, int] = {}
    taken: set[int] = set()
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if row not in pairs and column not in taken:
            pairs[row] = column
            taken.add(column)
    return np.fromiter(pairs.keys(), np.int64, len(pairs)), np.fromiter(pairs.values(), np.int64, len(pairs))


def disagreement(references: Sequence[Detections], others: Sequence[Detections], *, min_score: float = 0.05) -> float:
    """How far the detections of the same images differ, as a share of the references' scores; 0 where they are equal.

    A pair adds its score's change and its score times 1 − IoU, a detection
    without a partner its score. Smooth where AP jumps, so that it ranks small faults.
    """
    total = difference = 0.0
    for reference, other in zip(references, others, strict=True):
        found = match(reference, other, min_score=min_score)
        total += float(reference.scores[reference.scores >= min_score].sum())
        overlap = _overlap(reference.boxes[found.reference], other.boxes[found.other]).diagonal()
        difference += float(np.abs(found.score_drifts).sum() + (reference.scores[found.reference] * (1 - overlap)).sum())
        difference += float(reference.scores[found.only_reference].sum() + other.scores[found.only_other].sum())
    return difference / total if total else difference
