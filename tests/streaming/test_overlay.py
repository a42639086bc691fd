"""What is drawn, by looking at pixels."""

import numpy as np

from edgedet.detections import Detections
from edgedet.streaming.overlay import Annotator, class_name, colour_of, draw


def found(*boxes, ids=None):
    count = len(boxes)
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    return Detections(boxes, np.full(count, 0.8, np.float32), np.arange(count, dtype=np.int32), track_ids=ids)


def has_colour(image, colour):
    return bool((np.abs(image.astype(int) - colour).max(axis=-1) <= 2).any())


def test_the_original_frame_is_left_alone():
    image = np.full((120, 160, 3), 90, np.uint8)
    drawn = draw(image, found((10, 30, 80, 100)), ["person"], lines=["12 fps"])
    assert (image == 90).all()
    assert drawn.shape == image.shape
    assert not np.array_equal(drawn, image)


def test_a_box_is_drawn_where_it_lies_in_the_colour_of_its_class():
    drawn = draw(np.zeros((200, 300, 3), np.uint8), found((50, 60, 150, 160)), ["person"])
    for y, x in ((110, 50), (110, 150), (160, 100)):  # left, right and bottom edges; the label covers the top's left
        np.testing.assert_array_equal(drawn[y, x], colour_of(0))
    assert (drawn[110, 100] == 0).all()  # nothing inside
    assert (drawn[:, 170:] == 0).all()


def test_a_tracked_object_has_the_colour_of_its_id():
    drawn = draw(np.zeros((200, 300, 3), np.uint8), found((50, 60, 150, 160), ids=np.array([7])), ["person"])
    np.testing.assert_array_equal(drawn[110, 50], colour_of(7))


def test_a_box_stands_out_from_every_background():
    for background in (0, 127, 255, None):
        plain = np.full((200, 300, 3), colour_of(0) if background is None else background, np.uint8)
        row = draw(plain, found((50, 60, 150, 160)), ["person"])[110].astype(int)
        edge = row[46:55]  # the line and its dark rim
        assert np.abs(edge - plain[0, 0]).sum(axis=-1).max() > 150


def test_labels_stay_inside_the_image_and_boxes_may_lie_outside():
    for box in ((0, 0, 40, 40), (280, 190, 300, 200), (-1e9, -50, 1e9, 500)):
        drawn = draw(np.zeros((200, 300, 3), np.uint8), found(box), ["a very long class name"])
        assert has_colour(drawn, colour_of(0))


def test_neighbouring_ids_have_different_colours():
    colours = np.array([colour_of(key) for key in range(20)], int)
    assert np.abs(colours[1:] - colours[:-1]).sum(axis=1).min() > 100


def test_text_grows_with_the_image():
    def plate_height(side):
        drawn = draw(np.full((side, side, 3), 255, np.uint8), Detections.empty(), [], lines=["30 fps"])
        return int((drawn[:, 0] < 128).any(axis=-1).sum())

    assert plate_height(1600) > 2 * plate_height(400)


def test_a_tiny_image_can_be_drawn_on():
    assert draw(np.zeros((1, 1, 3), np.uint8), found((0, 0, 1, 1)), ["person"], lines=["9 fps"]).shape == (1, 1, 3)


def test_the_annotator_shows_a_rate_from_its_second_frame():
    annotate, image = Annotator(["person"]), np.full((100, 100, 3), 200, np.uint8)
    assert np.array_equal(annotate(image, Detections.empty()), image)
    assert not np.array_equal(annotate(image, Detections.empty()), image)


def test_a_label_beyond_the_names_is_shown_by_its_number():
    assert class_name(["person"], 0) == "person"
    assert class_name(["person"], 5) == "class 5"
