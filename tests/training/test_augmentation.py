"""Augmentation: boxes follow their pixels, exactly where nothing is turned."""

import numpy as np
import pytest

from edgedet.boxes import iou_matrix
from edgedet.training.augmentation import (
    Augmentation,
    Example,
    compose_mosaic,
    jitter_color,
    mirror,
    mix,
    transform_boxes,
    warp,
)

SIZE, FILL = 96, 114


def example(random: np.random.Generator, *, hw=(72, 96), side=24, label=0) -> Example:
    """A white square on black."""
    image = np.zeros((*hw, 3), np.uint8)
    x, y = (int(v) for v in random.integers(0, (hw[1] - side, hw[0] - side)))
    image[y : y + side, x : x + side] = 255
    return Example(image, np.float32([[x, y, x + side, y + side]]), np.int32([label]))


def bright_box(image: np.ndarray) -> np.ndarray:
    ys, xs = np.nonzero(image.min(axis=2) > 180)
    return np.float32([[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]])


def test_mirror_moves_the_box_with_its_pixels():
    mirrored = mirror(example(np.random.default_rng(0)))
    assert np.array_equal(mirrored.boxes, bright_box(mirrored.image))


def test_mirroring_twice_gives_the_same_example():
    one = example(np.random.default_rng(1))
    two = mirror(mirror(one))
    assert np.array_equal(one.image, two.image)
    assert np.array_equal(one.boxes, two.boxes)


@pytest.mark.parametrize("seed", range(20))
def test_boxes_follow_zoom_shift_and_flip_to_a_pixel(seed):
    random = np.random.default_rng(seed)
    moved = warp(example(random), SIZE, FILL, Augmentation(degrees=0), random)
    if len(moved.boxes):
        assert np.abs(moved.boxes - bright_box(moved.image)).max() <= 1.0


@pytest.mark.parametrize("seed", range(20))
def test_boxes_of_turned_squares_still_overlap_their_pixels(seed):
    random = np.random.default_rng(seed)
    moved = warp(example(random), SIZE, FILL, Augmentation(degrees=5, translate=0, scale=(1, 1)), random)
    assert iou_matrix(moved.boxes, bright_box(moved.image))[0, 0] > 0.78


def test_a_turned_box_bounds_the_ellipse_inside_it():
    angle = np.pi / 4
    matrix = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0]])
    turned = transform_boxes(np.float32([[-10, -10, 10, 10]]), matrix)  # a circle stays a circle
    np.testing.assert_allclose(turned, [[-10, -10, 10, 10]], atol=1e-5)
    turned = transform_boxes(np.float32([[-10, 0, 10, 0]]), matrix)  # a line's ends at 10·cos 45°
    np.testing.assert_allclose(turned, np.array([[-1, -1, 1, 1]]) * 10 * np.cos(angle), atol=1e-5)


@pytest.mark.parametrize("seed", range(10))
def test_a_mosaic_holds_four_images_around_a_crossing_and_their_boxes(seed):
    random = np.random.default_rng(seed)
    parts = [example(random, label=i) for i in range(4)]
    mosaic = compose_mosaic(parts, SIZE, FILL, random)
    assert mosaic.image.shape == (2 * SIZE, 2 * SIZE, 3)
    assert mosaic.labels.tolist() == [0, 1, 2, 3]
    for x1, y1, x2, y2 in np.clip(mosaic.boxes, 0, 2 * SIZE).astype(int):
        assert (mosaic.image[y1:y2, x1:x2] == 255).all()


def test_boxes_that_leave_the_picture_are_dropped_and_the_others_clipped():
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    boxes = np.float32([[-90, 10, 5, 20], [-10, 10, 30, 20], [40, 40, 41, 41]])  # hardly visible, mostly visible, tiny
    kept = warp(
        Example(image, boxes, np.int32([0, 1, 2])), SIZE, FILL,
        Augmentation(scale=(1, 1), translate=0, degrees=0, flip=0), np.random.default_rng(0),
    )  # fmt: skip
    assert kept.labels.tolist() == [1]
    np.testing.assert_allclose(kept.boxes, [[0, 10, 30, 20]], atol=1e-4)


def test_colours_change_but_never_leave_their_range_nor_touch_grey_hue():
    random = np.random.default_rng(0)
    grey = np.full((8, 8, 3), 100, np.uint8)
    changed = jitter_color(grey, Augmentation(), random)
    assert changed.dtype == np.uint8
    assert np.ptp(changed) <= 1  # grey stays grey: only its value moved
    assert 59 <= changed.mean() <= 141


def test_mixup_keeps_the_boxes_of_both():
    random = np.random.default_rng(0)
    mixed = mix(example(random, label=0), example(random, label=1))
    assert mixed.labels.tolist() == [0, 1]
    assert mixed.image.max() == 255 or mixed.image.max() == 128
