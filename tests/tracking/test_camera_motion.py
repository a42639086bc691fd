"""The camera's motion, told from pictures that were moved on purpose."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from edgedet.tracking.camera_motion import STILL, CameraMotion


def scene(seed=0, size_hw=(480, 640)):
    """A picture with structure at several scales, (H, W, 3) uint8."""
    random, (height, width) = np.random.default_rng(seed), size_hw
    layers = [cv2.resize(random.uniform(0, 255, (height // k, width // k)), (width, height)) for k in (8, 20, 60)]
    return cv2.cvtColor(np.mean(layers, axis=0).clip(0, 255).astype(np.uint8), cv2.COLOR_GRAY2BGR)


def affine(*, degrees=0.0, zoom=1.0, shift=(0.0, 0.0)):
    """(2, 3): a turn and a zoom about the middle of the picture, then a shift, pixels."""
    matrix = cv2.getRotationMatrix2D((320, 240), degrees, zoom)
    matrix[:, 2] += shift
    return matrix


@pytest.mark.parametrize(
    "true",
    [
        affine(),
        affine(shift=(13, -7)),
        affine(degrees=2),
        affine(zoom=1.04),
        affine(degrees=-1.5, zoom=0.97, shift=(-20, 9)),
    ],
)
def test_a_moved_picture_is_told_to_within_a_pixel_at_every_corner(true):
    before = scene()
    camera = CameraMotion()
    camera.since_last(before)
    found = camera.since_last(cv2.warpAffine(before, true, (640, 480), borderMode=cv2.BORDER_REFLECT))
    corners = np.array([[0, 0, 1], [640, 0, 1], [0, 480, 1], [640, 480, 1]]).T
    np.testing.assert_allclose(found @ corners, true @ corners, atol=1.0)  # half a pixel of the picture looked at


def test_what_walks_through_a_still_picture_is_not_the_camera():
    background, walker = scene(0), scene(1, (200, 120))
    camera = CameraMotion()
    for i in range(5):
        picture = background.copy()
        picture[200:400, 100 + 12 * i : 220 + 12 * i] = walker
        found = camera.since_last(picture)
    np.testing.assert_allclose(found, STILL, atol=0.1)


def test_nothing_is_made_up_where_the_motion_cannot_be_told():
    camera = CameraMotion()
    grey = np.full((480, 640, 3), 90, np.uint8)
    pictures = [scene(), grey, grey, scene(), scene(size_hw=(240, 320)), scene(5, (240, 320)), scene()]
    for picture in pictures:  # first of all, without corners, of another size, of another place
        np.testing.assert_array_equal(camera.since_last(picture), STILL)
