"""Detections hold arrays of one length and are chosen from together."""

from __future__ import annotations

import numpy as np
import pytest

from edgedet.detections import Detections


def three(**optional: np.ndarray) -> Detections:
    boxes = np.arange(12, dtype=np.float32).reshape(3, 4)
    return Detections(boxes, np.float32([0.9, 0.5, 0.1]), np.int32([0, 1, 0]), **optional)


def test_empty_has_the_contracts_shapes_and_types():
    empty = Detections.empty()
    assert len(empty) == 0
    assert (empty.boxes.shape, empty.boxes.dtype) == ((0, 4), np.float32)
    assert (empty.scores.dtype, empty.labels.dtype) == (np.float32, np.int32)


@pytest.mark.parametrize(
    ("index", "scores"),
    [
        (np.array([True, False, True]), [0.9, 0.1]),
        (np.array([2, 0]), [0.1, 0.9]),
        (slice(1, None), [0.5, 0.1]),
        (slice(0, 0), []),
    ],
)
def test_choosing_objects_keeps_all_that_belongs_to_them(index, scores):
    chosen = three(track_ids=np.array([7, 8, 9]), masks=np.zeros((3, 5, 5), np.uint8))[index]
    np.testing.assert_array_equal(chosen.scores, np.float32(scores))
    assert len(chosen.boxes) == len(chosen.labels) == len(chosen.track_ids) == len(chosen.masks) == len(scores)


def test_what_a_family_does_not_have_stays_absent():
    assert three()[:1].track_ids is None


def test_arrays_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match=r"boxes must be \(N, 4\), got \(2, 3\)"):
        Detections(np.zeros((2, 3)), np.zeros(2), np.zeros(2))
    with pytest.raises(ValueError, match="2 boxes but 1 scores"):
        Detections(np.zeros((2, 4)), np.zeros(1), np.zeros(2))
    with pytest.raises(ValueError, match="3 boxes but 2 track_ids"):
        three(track_ids=np.array([1, 2]))
