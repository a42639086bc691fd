"""Boxes: overlap agrees with COCO's, conversions invert each other, suppression agrees with OpenCV's."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgedet import boxes as box_arithmetic
from edgedet.boxes import area, cxcywh_to_xyxy, iou_matrix, suppress, xywh_to_xyxy, xyxy_to_xywh

coordinates = arrays(np.float32, (7, 4), elements=st.floats(0, 2048, width=32))


def random_boxes(count: int, seed: int) -> np.ndarray:
    """(count, 4) float32 xyxy within 300 pixels, many overlapping."""
    random = np.random.default_rng(seed)
    corner, sides = random.uniform(0, 200, (count, 2)), random.uniform(1, 100, (count, 2))
    return np.concatenate([corner, corner + sides], axis=1).astype(np.float32)


def test_overlap_agrees_with_coco():
    mask = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    first, second = random_boxes(40, 0), random_boxes(30, 1)
    reference = mask.iou(xyxy_to_xywh(first).astype(float), xyxy_to_xywh(second).astype(float), [0] * 30)
    np.testing.assert_allclose(iou_matrix(first, second), reference, atol=1e-5)  # float32 against float64


def test_overlap_by_hand():
    first = np.float32([[0, 0, 2, 2]])
    second = np.float32([[0, 0, 2, 2], [1, 1, 3, 3], [2, 0, 4, 2], [0, 0, 1, 4]])
    np.testing.assert_allclose(iou_matrix(first, second), [[1, 1 / 7, 0, 2 / 6]], atol=1e-7)


def test_boxes_without_area_overlap_nothing():
    odd = np.float32([[5, 5, 5, 5], [9, 9, 3, 3]])
    np.testing.assert_array_equal(area(odd), [0, 0])
    np.testing.assert_array_equal(iou_matrix(odd, np.float32([[0, 0, 10, 10], [5, 5, 5, 5]])), np.zeros((2, 2)))
    assert iou_matrix(np.zeros((0, 4), np.float32), odd).shape == (0, 2)


@given(coordinates, coordinates)
@settings(deadline=None)
def test_overlap_is_symmetric_and_between_0_and_1(first, second):
    overlap = iou_matrix(first, second)
    np.testing.assert_allclose(overlap, iou_matrix(second, first).T, atol=1e-6)
    assert ((overlap >= 0) & (overlap <= 1 + 1e-6)).all()


@given(coordinates)
@settings(deadline=None)
def test_conversions_invert_each_other(xywh):
    xyxy = xywh_to_xyxy(xywh)
    np.testing.assert_allclose(xyxy_to_xywh(xyxy), xywh, atol=5e-4)  # float32 at 4096
    middle = np.concatenate([xywh[:, :2] + xywh[:, 2:] / 2, xywh[:, 2:]], axis=1)
    np.testing.assert_allclose(cxcywh_to_xyxy(middle), xyxy, atol=1e-3)
    assert xyxy.dtype == np.float32


def test_suppression_agrees_with_opencv():
    for seed in range(5):
        boxes, random = random_boxes(120, seed), np.random.default_rng(seed)
        scores, labels = random.random(120).astype(np.float32), random.integers(0, 3, 120)
        reference = cv2.dnn.NMSBoxesBatched(xyxy_to_xywh(boxes).tolist(), scores.tolist(), labels.tolist(), 0.0, 0.5)
        kept = suppress(boxes, scores, labels, 0.5)
        assert kept.tolist() == sorted(reference, key=lambda index: -scores[index])
        assert len(kept) < 120


def test_overlapping_boxes_of_different_classes_both_survive():
    boxes = np.float32([[0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 9]])
    assert suppress(boxes, np.float32([0.5, 0.9, 0.8]), np.int32([0, 1, 1]), 0.5).tolist() == [1, 0]


def test_of_equal_scores_the_first_survives():
    boxes = np.float32([[0, 0, 10, 10]] * 3)
    assert suppress(boxes, np.float32([0.5] * 3), np.int32([0] * 3), 0.5).tolist() == [0]


def test_a_suppressed_box_suppresses_nothing():
    boxes = np.float32([[0, 0, 10, 10], [3, 0, 13, 10], [6, 0, 16, 10]])  # each overlaps its neighbour by 7 / 13
    assert suppress(boxes, np.float32([0.9, 0.8, 0.7]), np.int32([0] * 3), 0.5).tolist() == [0, 2]


def test_nothing_to_suppress_is_no_error():
    empty = np.zeros((0, 4), np.float32)
    assert len(suppress(empty, np.zeros(0), np.zeros(0), 0.5)) == 0
    assert box_arithmetic.area(empty).shape == (0,)
