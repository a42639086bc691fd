"""Letterbox and its undoing are each other's inverse, and pixels lie where boxes say."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedet.errors import ImageError
from edgedet.letterbox import Letterbox

ANCHORS = ("top-left", "center")
sizes = st.tuples(st.integers(1, 4096), st.integers(1, 4096))


@given(frame_hw=sizes, anchor=st.sampled_from(ANCHORS), corners=st.lists(st.floats(0, 1), min_size=4, max_size=4))
@settings(deadline=None)
def test_boxes_come_back_from_the_input(frame_hw, anchor, corners):
    placement = Letterbox((384, 640), anchor).place(frame_hw)
    height, width = frame_hw
    box = np.float32([corners]) * np.float32([width, height, width, height])
    back = placement.boxes_to_frame(placement.boxes_to_input(box))
    assert back.dtype == np.float32
    # float32 steps of the input's 640 pixels, seen at the frame's scale, and of the frame's own.
    np.testing.assert_allclose(back, box, atol=3e-7 * (640 / placement._scale.min() + max(frame_hw)))


@given(frame_hw=sizes, anchor=st.sampled_from(ANCHORS))
@settings(deadline=None)
def test_the_frame_fits_and_touches_two_sides(frame_hw, anchor):
    letterbox = Letterbox((384, 640), anchor)
    placement = letterbox.place(frame_hw)
    (inner_h, inner_w), (x, y) = placement.inner_hw, placement.offset_xy
    assert (inner_h == 384) or (inner_w == 640)
    assert y + inner_h <= 384
    assert x + inner_w <= 640
    whole = placement.boxes_to_input(np.float32([[0, 0, frame_hw[1], frame_hw[0]]]))
    np.testing.assert_allclose(whole, [[x, y, x + inner_w, y + inner_h]], atol=1e-3)


@pytest.mark.parametrize("anchor", ANCHORS)
@pytest.mark.parametrize("frame_hw", [(480, 640), (640, 480), (416, 416), (100, 37), (1, 1), (1, 900)])
def test_the_input_is_the_resized_frame_with_a_border(frame_hw, anchor):
    frame = np.random.default_rng(0).integers(0, 256, (*frame_hw, 3), dtype=np.uint8)
    image, placement = Letterbox((416, 416), anchor).apply(frame)
    (inner_h, inner_w), (x, y) = placement.inner_hw, placement.offset_xy
    border = (y, 416 - y - inner_h, x, 416 - x - inner_w)
    reference = cv2.copyMakeBorder(cv2.resize(frame, (inner_w, inner_h)), *border, cv2.BORDER_CONSTANT, value=(114,) * 3)
    np.testing.assert_array_equal(image, reference)
    assert image.shape == (416, 416, 3)


def test_known_placements():
    assert Letterbox((416, 416)).place((480, 640)).inner_hw == (312, 416)
    assert Letterbox((416, 416)).place((480, 640)).offset_xy == (0, 0)
    assert Letterbox((416, 416), "center").place((480, 640)).offset_xy == (0, 52)
    assert Letterbox((384, 640), "center").place((384, 384)).offset_xy == (128, 0)


@pytest.mark.parametrize("anchor", ANCHORS)
def test_pixels_lie_where_boxes_say(anchor):
    frame = np.zeros((500, 900, 3), np.uint8)
    frame[100:300, 200:650] = 255
    image, placement = Letterbox((416, 416), anchor, fill=0).apply(frame)
    rows, columns = np.nonzero(image[..., 0] > 127)
    seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    np.testing.assert_allclose(seen, placement.boxes_to_input(np.float32([[200, 100, 650, 300]]))[0], atol=0.6)


def test_boxes_outside_the_frame_are_clipped_to_it():
    placement = Letterbox((416, 416)).place((480, 640))
    mapped = placement.boxes_to_frame(np.float32([[-50, -50, 900, 900], [0, 400, 10, 410]]))
    np.testing.assert_array_equal(mapped[0], [0, 0, 640, 480])
    assert mapped[1, 1] == mapped[1, 3] == 480  # in the padding: no height is left


def test_no_boxes_map_to_no_boxes():
    placement = Letterbox((416, 416)).place((480, 640))
    assert placement.boxes_to_frame(np.zeros((0, 4), np.float32)).shape == (0, 4)
    assert placement.boxes_to_input(np.zeros((0, 4), np.float32)).shape == (0, 4)


def test_a_row_of_a_batch_is_written_in_place():
    batch = np.zeros((2, 64, 64, 3), np.uint8)
    frame = np.full((32, 64, 3), 200, np.uint8)
    image, _ = Letterbox((64, 64)).apply(frame, out=batch[1])
    assert np.shares_memory(image, batch)
    np.testing.assert_array_equal(batch[1], Letterbox((64, 64)).apply(frame)[0])
    assert not batch[0].any()


@pytest.mark.parametrize(
    "frame",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)],
)
def test_what_is_no_bgr_frame_is_refused_with_its_shape(frame):
    with pytest.raises(ImageError, match=r"must be \(height, width, 3\) uint8 BGR, got \(\d"):
        Letterbox((64, 64)).apply(frame)
