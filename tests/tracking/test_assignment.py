"""The pairing of tracks and detections."""

from itertools import permutations

import numpy as np

from edgedet.boxes import iou_matrix
from edgedet.tracking.assignment import overlapping, pair


def best_total(worth):
    """The greatest total worth over every possible pairing, by trying them all."""
    if worth.shape[0] > worth.shape[1]:
        worth = worth.T
    rows = range(worth.shape[0])
    return max(sum(worth[r, c] for r, c in zip(rows, order)) for order in permutations(range(worth.shape[1]), len(rows)))


def test_total_worth_equals_exhaustive_search():
    random = np.random.default_rng(1)
    for _ in range(300):
        shape = random.integers(1, 6, 2)
        worth = random.random(shape) * (random.random(shape) < random.uniform(0.2, 1))
        rows, columns = np.nonzero(worth)
        chosen = pair(rows, columns, worth[rows, columns])
        assert len(set(rows[chosen])) == len(set(columns[chosen])) == len(chosen)
        np.testing.assert_allclose(worth[rows, columns][chosen].sum(), best_total(worth), atol=1e-12)


def test_a_good_pair_is_not_given_up_for_two_that_are_not_listed():
    chosen = pair(np.array([0, 0, 1]), np.array([0, 1, 0]), np.array([0.9, 0.25, 0.25]))
    assert chosen.tolist() == [0]


def test_nothing_to_pair_gives_nothing():
    nothing = np.zeros(0, np.intp)
    assert len(pair(nothing, nothing, np.zeros(0))) == 0


def test_overlapping_pairs_are_those_of_the_full_matrix():
    random = np.random.default_rng(0)
    for shape in ((0, 0), (0, 3), (3, 0), (40, 30)):
        first, second = (np.repeat(random.uniform(0, 300, (count, 2)), 2, axis=0).reshape(-1, 4) for count in shape)
        first[:, 2:] += random.uniform(0, 80, (shape[0], 2))
        second[:, 2:] += random.uniform(0, 80, (shape[1], 2))
        full = iou_matrix(first, second)
        rows, columns, iou = overlapping(first, second)
        found = np.zeros(shape)
        found[rows, columns] = iou
        np.testing.assert_allclose(found, full, atol=1e-12)
        assert len(rows) == np.count_nonzero(full)


def test_boxes_that_touch_or_are_empty_do_not_overlap():
    first = np.array([[0, 0, 10, 10], [5, 5, 5, 5]], float)
    second = np.array([[10, 0, 20, 10], [0, 10, 10, 20]], float)
    assert len(overlapping(first, second)[0]) == 0
