"""How far detections differ as one number, against hand-made cases."""

from __future__ import annotations

import numpy as np
import pytest

from edgedet.detections import Detections
from edgedet.runtimes.matching import disagreement


def found(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    """Rows of x1, y1, x2, y2, score, label."""
    values = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(values[:, :4], values[:, 4], values[:, 5].astype(np.int32))


CAR, DOG = (0, 0, 10, 10, 0.8, 0), (50, 50, 70, 70, 0.4, 1)


def test_equal_detections_do_not_differ_in_whatever_order():
    assert disagreement([found(CAR, DOG)] * 2, [found(CAR, DOG), found(DOG, CAR)]) == 0


def test_a_score_counts_by_its_change():
    assert disagreement([found(CAR, DOG)], [found((0, 0, 10, 10, 0.5, 0), DOG)]) == pytest.approx(0.3 / 1.2)


def test_a_box_counts_by_what_it_lost_of_the_overlap_times_its_score():
    """Half the height: IoU 0.5."""
    assert disagreement([found(CAR)], [found((0, 0, 10, 5, 0.8, 0))]) == pytest.approx(0.5)


def test_a_detection_without_a_partner_counts_whole_on_either_side():
    assert disagreement([found(CAR, DOG)], [found(CAR)]) == pytest.approx(0.4 / 1.2)
    assert disagreement([found(CAR)], [found(CAR, DOG)]) == pytest.approx(0.4 / 0.8)
    assert disagreement([found(CAR)], [found((*CAR[:5], 1))]) == pytest.approx(2)


def test_a_box_cut_to_nothing_at_the_edge_is_its_likes_partner_and_nobody_elses():
    line, moved = (0, 20, 0, 80, 0.8, 0), (0, 20.001, 0, 80, 0.8, 0)
    assert disagreement([found(line)], [found(moved)]) == pytest.approx(0, abs=1e-4)
    assert disagreement([found(line)], [found((30, 20, 30, 80, 0.8, 0))]) == pytest.approx(2)


def test_images_are_summed_by_their_scores():
    assert disagreement([found(CAR), found(DOG)], [found(CAR), found()]) == pytest.approx(0.4 / 1.2)


def test_what_is_below_the_least_score_on_both_sides_does_not_count():
    faint = (90, 90, 95, 95, 0.04, 0)
    assert disagreement([found(CAR, faint)], [found(CAR)]) == 0
    assert disagreement([found(CAR)], [found(CAR, faint)]) == 0


def test_where_the_reference_finds_nothing_what_the_other_finds_still_counts():
    assert disagreement([found()], [found()]) == 0
    assert disagreement([found()], [found(DOG)]) == pytest.approx(0.4)


def test_image_sets_of_unlike_length_are_a_defect():
    with pytest.raises(ValueError, match="zip"):
        disagreement([found()], [])
