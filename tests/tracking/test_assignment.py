"""The pairing of tracks and detections."""

from itertools import permutations

import numpy as np

from edgedet.tracking.assignment import assign


def best_total(similarity, minimum):
    """The greatest total similarity over every possible pairing, by trying them all."""
    worth = np.where(similarity >= minimum, similarity, 0)
    if worth.shape[0] > worth.shape[1]:
        worth = worth.T
    rows = range(worth.shape[0])
    return max(sum(worth[r, c] for r, c in zip(rows, order)) for order in permutations(range(worth.shape[1]), len(rows)))


def test_total_similarity_equals_exhaustive_search():
    random = np.random.default_rng(1)
    for _ in range(200):
        shape = random.integers(1, 6, 2)
        similarity = random.random(shape) * (random.random(shape) < 0.5)
        rows, columns = assign(similarity, 0.2)
        assert len(set(rows)) == len(rows)
        assert len(set(columns)) == len(columns)
        assert (similarity[rows, columns] >= 0.2).all()
        np.testing.assert_allclose(similarity[rows, columns].sum(), best_total(similarity, 0.2), atol=1e-12)


def test_a_good_pair_is_not_given_up_for_two_bad_ones():
    rows, columns = assign(np.array([[0.9, 0.25], [0.25, 0.0]]), 0.2)
    assert (rows.tolist(), columns.tolist()) == ([0], [0])


def test_nothing_to_pair_gives_nothing():
    for shape in ((0, 0), (0, 3), (3, 0)):
        rows, columns = assign(np.zeros(shape), 0.2)
        assert len(rows) == len(columns) == 0
