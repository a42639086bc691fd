"""Every NMS mode is the same function: that of the independent NumPy suppression, on crowded scenes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import suppression_graph
import torch

from edgedet.boxes import iou_matrix, suppress
from edgedet.errors import ExportError
from edgedet.export import suppression as modes
from edgedet.models.base import Candidates
from edgedet.spec import Suppression

RULE = Suppression(iou_threshold=0.5, min_score=0.2, candidates=80, max_detections=30)
CLASSES = 3


def crowd(seed: int, count: int = 120) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes (N, 4), scores (N,) without ties and labels (N,) of objects in heaps, some of them without area."""
    random = np.random.default_rng(seed)
    heaps = random.uniform(50, 350, (6, 2))
    centres = heaps[random.integers(6, size=count)] + random.normal(0, 15, (count, 2))
    half = random.uniform(5, 60, (count, 2)) * (random.random((count, 1)) > 0.05)
    boxes = np.concatenate([centres - half, centres + half], axis=1).astype(np.float32)
    scores = random.permutation(np.linspace(0.01, 0.99, count, dtype=np.float32))
    return boxes, scores, random.integers(CLASSES, size=count).astype(np.int32)


def in_numpy(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, rule: Suppression) -> np.ndarray:
    """Row numbers of the detections, best first, by `edgedet.boxes.suppress`."""
    best = np.argsort(-scores, kind="stable")[: rule.candidates]
    best = best[scores[best] > rule.min_score]
    return best[suppress(boxes[best], scores[best], labels[best], rule.iou_threshold)][: rule.max_detections]


def batch(seeds: range) -> Candidates:
    scenes = [crowd(seed) for seed in seeds]
    return Candidates(*(torch.from_numpy(np.stack(part)) for part in zip(*scenes, strict=True)))


def assert_same(found: tuple[np.ndarray, ...], seeds: range, rule: Suppression = RULE) -> None:
    for row, seed in enumerate(seeds):
        boxes, scores, labels = crowd(seed)
        keep = in_numpy(boxes, scores, labels, rule)
        count = len(keep)
        np.testing.assert_array_equal(found[2][row], np.r_[labels[keep], np.full(rule.max_detections - count, -1)])
        np.testing.assert_array_equal(found[1][row][:count], scores[keep])
        np.testing.assert_array_equal(found[0][row][:count], boxes[keep])
        assert not found[0][row][count:].any()
        assert not found[1][row][count:].any()


@pytest.mark.parametrize("mode", ["onnx", "matrix"])
def test_two_hundred_crowds_are_suppressed_as_in_numpy(mode: str):
    seeds = range(200)
    found = modes.suppress(batch(seeds), replace(RULE, mode=mode), num_classes=CLASSES)
    assert_same(tuple(part.numpy() for part in found), seeds)


def test_suppressing_the_best_part_first_gives_the_same(monkeypatch):
    monkeypatch.setattr(modes, "PART", 7)
    seeds = range(60)
    for rule in (RULE, replace(RULE, max_detections=3), replace(RULE, min_score=0.98)):
        found = modes.suppress(batch(seeds), rule, num_classes=CLASSES)
        assert_same(tuple(part.numpy() for part in found), seeds, rule)


@pytest.fixture(scope="module", params=["onnx", "matrix"])
def exported(request: pytest.FixtureRequest) -> bytes:
    """The suppression alone as ONNX, any batch."""
    return suppression_graph.exported(replace(RULE, mode=request.param), batch(range(2)), classes=CLASSES).SerializeToString()


@pytest.mark.parametrize("optimization", ["off", "default"])
def test_onnx_runtime_suppresses_as_numpy_does(exported: bytes, optimization: str):
    ort = pytest.importorskip("onnxruntime")
    options = ort.SessionOptions()
    if optimization == "off":
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(exported, options)
    for seeds in (range(60), range(1)):
        inputs = {name: part.numpy() for name, part in zip(("boxes", "scores", "labels"), batch(seeds), strict=True)}
        assert_same(tuple(session.run(None, inputs)), seeds)


def test_openvino_suppresses_as_numpy_does(exported: bytes):
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    model = core.compile_model(core.read_model(exported), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    seeds = range(60)
    found = model({name: part.numpy() for name, part in zip(("boxes", "scores", "labels"), batch(seeds), strict=True)})
    assert_same(tuple(found[name] for name in ("b", "s", "l")), seeds)


@pytest.mark.parametrize("mode", ["onnx", "matrix"])
def test_overlapping_boxes_of_different_classes_both_survive(mode: str):
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10]]])
    found = modes.suppress(
        Candidates(boxes, torch.tensor([[0.9, 0.8, 0.7]]), torch.tensor([[0, 1, 0]], dtype=torch.int32)),
        replace(RULE, mode=mode, max_detections=3),
        num_classes=2,
    )
    assert found.labels.tolist() == [[0, 1, -1]]


@pytest.mark.parametrize("mode", ["onnx", "matrix"])
def test_a_score_at_the_floor_is_dropped_and_one_above_it_kept(mode: str):
    boxes = torch.tensor([[[0.0, 0, 10, 10], [50, 50, 60, 60]]])
    scores = torch.tensor([[0.25, 0.2500001]])
    candidates = Candidates(boxes, scores, torch.zeros(1, 2, dtype=torch.int32))
    found = modes.suppress(candidates, replace(RULE, mode=mode, min_score=0.25, max_detections=2), num_classes=1)
    assert found.boxes[0, 0].tolist() == [50, 50, 60, 60]
    assert found.labels.tolist() == [[0, -1]]


@pytest.mark.parametrize("mode", ["onnx", "matrix"])
def test_a_set_predictor_keeps_what_overlaps(mode: str):
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 10]]])
    candidates = Candidates(boxes, torch.tensor([[0.5, 0.9]]), torch.zeros(1, 2, dtype=torch.int32))
    found = modes.suppress(candidates, replace(RULE, mode=mode, needed=False, max_detections=2), num_classes=1)
    assert found.labels.tolist() == [[0, 0]]
    torch.testing.assert_close(found.scores, torch.tensor([[0.9, 0.5]]))


def test_a_chain_of_boxes_that_each_suppress_the_next_settles_within_the_rounds():
    """The longest chain on photos has 9 links; here are 18, of which every second survives."""
    left = torch.arange(18.0) * 3
    boxes = torch.stack([left, left * 0, left + 10, left * 0 + 10], dim=1)[None]
    scores = torch.linspace(0.9, 0.5, 18)[None]
    overlap = iou_matrix(boxes[0].numpy(), boxes[0].numpy())
    assert overlap[0, 1] > 0.5 > overlap[0, 2]
    rule = replace(RULE, mode="matrix", max_detections=18)
    found = modes.suppress(Candidates(boxes, scores, torch.zeros(1, 18, dtype=torch.int32)), rule, num_classes=1)
    np.testing.assert_array_equal(found.scores[0, :9], scores[0, ::2])
    assert (found.labels[0, 9:] == -1).all()


def test_more_candidates_than_tensorrt_sorts_are_refused_for_its_plugin():
    with pytest.raises(ExportError, match="at most 3840 candidates but the spec has 4000"):
        modes.check_mode(replace(RULE, mode="efficientnms", candidates=4000))


@pytest.mark.parametrize("mode", ["onnx", "matrix", "efficientnms"])
def test_at_a_threshold_of_one_nothing_is_suppressed(mode: str):
    candidates = Candidates(torch.ones(1, 2, 4), torch.tensor([[0.9, 0.8]]), torch.zeros(1, 2, dtype=torch.int32))
    found = modes.suppress(candidates, replace(RULE, mode=mode, iou_threshold=1.0, max_detections=2), num_classes=1)
    assert found.labels.tolist() == [[0, 0]]


@pytest.mark.parametrize("mode", ["onnx", "matrix"])
def test_of_equal_scores_the_lower_index_wins(mode: str):
    """As in ONNX's TopK, so that the reference and the runtimes agree on saturated scores."""
    boxes, _, labels = crowd(0)
    scores = np.full(len(boxes), 0.75, np.float32)
    found = modes.suppress(
        Candidates(*(torch.from_numpy(part)[None] for part in (boxes, scores, labels))),
        replace(RULE, mode=mode),
        num_classes=CLASSES,
    )
    keep = in_numpy(boxes, scores, labels, RULE)
    np.testing.assert_array_equal(found.boxes[0, : len(keep)], boxes[keep])
