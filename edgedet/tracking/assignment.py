"""Which detection continues which track: the pairing of the greatest total worth, over the few pairs that are possible."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgedet.errors import RuntimeUnavailable

_SIGNS, _OPPOSITE = np.array([[1], [1], [-1], [-1]], np.float32), np.array([2, 3, 0, 1])


def overlapping(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, columns and IoU, each (P,), of the pairs of boxes that overlap at all, in row order.

    first, second: (T, 4) and (N, 4) xyxy. Most pairs lie apart, so only those that do not are measured.
    """
    # Left, top, -right, -bottom of the one against right, bottom, -left, -top of the other: all four less, one comparison.
    close = (first.T * _SIGNS)[:, :, None] < (second.T[_OPPOSITE] * _SIGNS)[:, None]
    both = np.logical_and.reduce(close).ravel().nonzero()[0]
    rows, columns = np.divmod(both, max(len(second), 1))
    return rows, columns, _iou(first.T[:, rows], second.T[:, columns])


def _iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(P,) intersection over union of each box (4, P) xyxy with the other at its place; each two do overlap."""
    width, height = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])
    (width_1, height_1), (width_2, height_2) = first[2:] - first[:2], second[2:] - second[:2]
    intersection = width * height
    return intersection / (width_1 * height_1 + width_2 * height_2 - intersection)


def pair(rows: np.ndarray, columns: np.ndarray, worth: np.ndarray) -> np.ndarray:
    """Indices, in no order, of the pairs to choose among these P, so that their total worth is the greatest possible.

    rows, columns: (P,) track and detection of each possible pair; none is
    chosen twice. worth: (P,), above zero. A pair that is not listed is
    impossible, so a good one is never given up for two that are no match.
    """
    if not contested(rows, columns):
        return np.arange(len(rows))
    # Where every track's best object, or every object's best track, is another one, no pairing can be worth more.
    order = np.argsort(worth, kind="stable")
    for ours, theirs in ((rows, columns), (columns, rows)):
        best = _last_of_each(ours, order)
        if _most(theirs[best]) == 1:
            return best
    # A pair of which neither side has another choice is settled; the solver gets the rest.
    alone = (np.bincount(rows)[rows] == 1) & (np.bincount(columns)[columns] == 1)
    rest = np.flatnonzero(~alone)
    best = rest[_solve(rows[rest], columns[rest], worth[rest])]
    return np.concatenate([np.flatnonzero(alone), best])


def contested(rows: np.ndarray, columns: np.ndarray) -> bool:
    """Whether any track or detection stands in more than one of these P pairs, so that there is something to choose."""
    return len(rows) > 1 and (_most(rows) > 1 or _most(columns) > 1)


def _most(numbers: np.ndarray) -> int:
    """How often the most frequent of these numbers (P,) occurs."""
    return int(np.maximum.reduce(np.bincount(numbers), initial=0))


def _last_of_each(numbers: np.ndarray, order: np.ndarray) -> np.ndarray:
    """For each number that occurs, where it stands last in this order."""
    last = np.full(numbers.max() + 1, -1)
    last[numbers[order]] = order
    return last[last >= 0]


def _solve(rows: np.ndarray, columns: np.ndarray, worth: np.ndarray) -> np.ndarray:
    """Indices of the best pairing, by the Hungarian method on the matrix of those concerned."""
    row, column = _renumber(rows), _renumber(columns)
    matrix = np.zeros((row.max() + 1, column.max() + 1))
    place = np.empty(matrix.shape, np.intp)
    matrix[row, column], place[row, column] = worth, np.arange(len(rows))
    best = solver()(matrix, maximize=True)
    return place[best][matrix[best] > 0]


def _renumber(numbers: np.ndarray) -> np.ndarray:
    """The numbers counted from 0 without gaps, in their order."""
    present = np.zeros(numbers.max() + 1, bool)
    present[numbers] = True
    return (np.cumsum(present) - 1)[numbers]


def solver() -> Callable[..., Any]:
    """SciPy's linear_sum_assignment; a RuntimeUnavailable where it is not installed."""
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise RuntimeUnavailable("tracking needs SciPy, which is not installed; pip install 'edgedet[tracking]'") from error
    return linear_sum_assignment
