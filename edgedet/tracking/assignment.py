"""Which detection continues which track: the pairing of the greatest total worth, over the few pairs that are possible."""

from __future__ import annotations

import numpy as np

from edgedet import boxes
from edgedet.errors import RuntimeUnavailable


def overlapping(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, columns and IoU, each (P,), of the pairs of boxes that overlap at all, in row order.

    first, second: (T, 4) and (N, 4) xyxy. Most pairs lie apart, so only those that do not are measured.
    """
    (left, top, right, bottom), (left_2, top_2, right_2, bottom_2) = first.T[:, :, None], second.T[:, None]
    apart = left >= right_2
    for behind, before in ((left_2, right), (top, bottom_2), (top_2, bottom)):
        apart |= behind >= before
    rows, columns = np.divmod(np.flatnonzero(~apart), max(len(second), 1))
    return rows, columns, pair_iou(first[rows], second[columns])


def pair_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(P,) intersection over union of each box (P, 4) xyxy with the other at its place, in [0, 1]; 0 where both are empty."""
    (left, top, right, bottom), (left_2, top_2, right_2, bottom_2) = first.T, second.T
    width = np.maximum(np.minimum(right, right_2) - np.maximum(left, left_2), 0)
    height = np.maximum(np.minimum(bottom, bottom_2) - np.maximum(top, top_2), 0)
    intersection = width * height
    union = boxes.area(first) + boxes.area(second) - intersection
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)


def pair(rows: np.ndarray, columns: np.ndarray, worth: np.ndarray) -> np.ndarray:
    """Indices, in no order, of the pairs to choose among these P, so that their total worth is the greatest possible.

    rows, columns: (P,) track and detection of each possible pair; none is
    chosen twice. worth: (P,), above zero. A pair that is not listed is
    impossible, so a good one is never given up for two that are no match.
    """
    if not len(rows):
        return np.zeros(0, np.intp)
    # A pair of which neither side has another choice is settled without a solver; in most scenes that is nearly all.
    alone = (np.bincount(rows)[rows] == 1) & (np.bincount(columns)[columns] == 1)
    if alone.all():
        return np.arange(len(rows))
    contested = np.flatnonzero(~alone)
    best = contested[_solve(rows[contested], columns[contested], worth[contested])]
    return np.concatenate([np.flatnonzero(alone), best])


def _solve(rows: np.ndarray, columns: np.ndarray, worth: np.ndarray) -> np.ndarray:
    """Indices of the best pairing, by the Hungarian method on the matrix of those concerned."""
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise RuntimeUnavailable("tracking needs SciPy, which is not installed; pip install 'edgedet[tracking]'") from error
    place, row, column = np.arange(len(rows)), _renumber(rows), _renumber(columns)
    matrix = np.zeros((row.max() + 1, column.max() + 1))
    where = np.full(matrix.shape, -1)
    matrix[row, column], where[row, column] = worth, place
    chosen = where[linear_sum_assignment(matrix, maximize=True)]
    return chosen[chosen >= 0]


def _renumber(numbers: np.ndarray) -> np.ndarray:
    """The numbers counted from 0 without gaps, in their order."""
    present = np.zeros(numbers.max() + 1, bool)
    present[numbers] = True
    return (np.cumsum(present) - 1)[numbers]
