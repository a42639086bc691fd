"""Which detection continues which track: the pairing of the greatest total similarity."""

from __future__ import annotations

import numpy as np

from edgedet.errors import RuntimeUnavailable


def assign(similarity: np.ndarray, minimum: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns, each (M,), of the pairs whose total similarity is greatest; none is below the minimum.

    similarity: (T, N) in [0, 1], tracks by detections. A pair below the
    minimum counts as no pair, so a good match is never given up for two bad ones.
    """
    possible = similarity >= minimum
    by_row, by_column = np.count_nonzero(possible, axis=1), np.count_nonzero(possible, axis=0)
    # A pair of which neither side has another choice is settled without a solver; in most scenes that is nearly all.
    rows, columns = np.nonzero(possible)
    alone = (by_row[rows] == 1) & (by_column[columns] == 1)
    open_rows, open_columns = np.unique(rows[~alone]), np.unique(columns[~alone])
    rows, columns = rows[alone], columns[alone]
    if not len(open_rows):
        return rows, columns
    rest = np.ix_(open_rows, open_columns)
    more_rows, more_columns = _solve(np.where(possible[rest], similarity[rest], 0))
    return np.concatenate([rows, open_rows[more_rows]]), np.concatenate([columns, open_columns[more_columns]])


def _solve(worth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the best pairing, without the pairs that are worth nothing."""
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise RuntimeUnavailable("tracking needs SciPy, which is not installed; pip install 'edgedet[tracking]'") from error
    rows, columns = linear_sum_assignment(worth, maximize=True)
    real = worth[rows, columns] > 0
    return rows[real], columns[real]
