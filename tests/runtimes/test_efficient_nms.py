"""The evaluator of TensorRT's plugin: what its documentation says, row by row. tests/export runs whole scenes through it."""

from __future__ import annotations

import numpy as np
import pytest

from edgedet.errors import ArtifactError
from edgedet.runtimes.efficient_nms import PluginSession, efficient_nms

SCORES = {"score_threshold": 0.5, "iou_threshold": 0.6, "max_output_boxes": 4}


def one_image(boxes: list[list[float]], scores: list[list[float]], **changes: float) -> list[np.ndarray]:
    found = efficient_nms(np.float32([boxes]), np.float32([scores]), **{**SCORES, **changes})
    return [part[0] for part in found]


def test_a_box_is_dropped_for_one_of_its_class_alone():
    boxes = [[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 8]]
    number, kept, scores, classes = one_image(boxes, [[0.9, 0], [0.8, 0], [0, 0.7]])
    assert number.tolist() == [2]
    assert kept[:2].tolist() == [[0, 0, 10, 10], [0, 0, 10, 8]]
    np.testing.assert_array_equal(scores[:2], np.float32([0.9, 0.7]))
    assert classes[:2].tolist() == [0, 1]


def test_a_box_may_be_given_once_for_each_class():
    number, kept, _, classes = one_image([[0, 0, 10, 10]], [[0.6, 0.9]])
    assert number.tolist() == [2]
    assert classes[:2].tolist() == [1, 0]
    assert kept[:2].tolist() == [[0, 0, 10, 10]] * 2


def test_a_score_at_its_threshold_takes_part_and_an_overlap_at_its_threshold_drops():
    boxes = [[0, 0, 10, 10], [0, 0, 10, 6], [20, 0, 30, 10]]
    number, kept, _, _ = one_image(boxes, [[0.9], [0.8], [0.5]])
    assert number.tolist() == [2]
    assert kept[:2].tolist() == [[0, 0, 10, 10], [20, 0, 30, 10]]
    assert one_image(boxes, [[0.9], [0.8], [0.49]], iou_threshold=0.61)[0].tolist() == [2]


def test_behind_the_number_of_detections_stands_what_is_none():
    boxes = [[0, 0, 10, 10], [0, 0, 10, 9]]
    number, kept, scores, classes = one_image(boxes, [[0.9], [0.8]])
    assert number.tolist() == [1]
    assert kept.tolist() == [boxes[0], *[boxes[1]] * 3]
    np.testing.assert_array_equal(scores, np.float32([0.9, 0.8, 0.8, 0.8]))
    assert classes.tolist() == [0] * 4


def test_nothing_above_the_threshold_is_no_detection():
    assert one_image([[0, 0, 10, 10]], [[0.4]])[0].tolist() == [0]


def test_the_best_are_given_where_there_is_no_room_for_all():
    boxes = [[20.0 * i, 0, 20.0 * i + 10, 10] for i in range(9)]
    number, _, scores, _ = one_image(boxes, [[0.5 + i / 20] for i in range(9)])
    assert number.tolist() == [4]
    np.testing.assert_allclose(scores, [0.9, 0.85, 0.8, 0.75], atol=1e-6)


def test_images_of_a_batch_know_nothing_of_each_other():
    boxes = np.float32([[[0, 0, 10, 10]], [[0, 0, 10, 10]], [[0, 0, 9, 9]]])
    number, *_ = efficient_nms(boxes, np.float32([[[0.9]], [[0.2]], [[0.8]]]), **SCORES)
    assert number.tolist() == [[1], [0], [1]]


def test_only_the_best_4096_scores_are_looked_at():
    boxes = np.zeros((1, 5000, 4), np.float32)  # without area nothing overlaps
    scores = np.linspace(1, 0.5, 5000, dtype=np.float32)[None, :, None]
    number, *_ = efficient_nms(boxes, scores, score_threshold=0.1, iou_threshold=0.5, max_output_boxes=5000)
    assert number.tolist() == [[4096]]


@pytest.mark.parametrize(("name", "value"), [("box_coding", 1), ("score_activation", 1), ("class_agnostic", 1)])
def test_what_edgedet_never_writes_is_not_evaluated_as_if_it_were_not_there(name: str, value: int):
    onnx = pytest.importorskip("onnx")
    node = onnx.parser.parse_node(
        "n, b, s, c = TRT.EfficientNMS_TRT <score_threshold: float = 0.5, iou_threshold: float = 0.6, "
        f"max_output_boxes: int = 4, {name}: int = {value}> (boxes, scores)"
    )
    tensor, types = onnx.helper.make_tensor_value_info, onnx.TensorProto
    inputs = [tensor("boxes", types.FLOAT, [1, 9, 4]), tensor("scores", types.FLOAT, [1, 9, 2])]
    graph = onnx.helper.make_graph([node], "plugin", inputs, [tensor("n", types.INT32, [1, 1])])
    opsets = [onnx.helper.make_opsetid("", 19), onnx.helper.make_opsetid("TRT", 1)]
    with pytest.raises(ArtifactError, match=name):
        PluginSession(onnx.helper.make_model(graph, opset_imports=opsets), load=lambda data: None)
