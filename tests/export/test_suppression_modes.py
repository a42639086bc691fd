"""Every NMS mode gives what the definition gives, to the last bit: boxes are whole pixels, so no rounding can decide.

Each mode is executed as its users execute it; TensorRT's plugin, which nothing
here has, by the evaluator of its documented behaviour. The reference is greedy
suppression written down from its definition in whole numbers. Of equal scores
the lower index goes first, but for OpenVINO, whose TopK sorts equals as it
likes: there what comes out must be right for some order of the equals.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import ArrayLike

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

import suppression_graph  # noqa: E402

from edgedet.export import suppression as modes  # noqa: E402
from edgedet.models.base import Candidates  # noqa: E402
from edgedet.runtimes import efficient_nms  # noqa: E402
from edgedet.runtimes.detector import suppress_candidates  # noqa: E402
from edgedet.spec import Suppression  # noqa: E402

RULE = Suppression(iou_threshold=0.5, min_score=0.25, candidates=160, max_detections=60)
COUNT, CLASSES = 300, 4
SPELLINGS = ("onnx", "matrix", "efficientnms")


class Scene(NamedTuple):
    """Candidates of one image: boxes (N, 4) whole numbers, scores (N,), labels (N,)."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


def crowd(seed: int, *, objects: int = 20, distinct_scores: int = COUNT) -> Scene:
    """Hundreds of boxes about a few objects of several classes; few distinct scores make ties, some boxes have no area."""
    random = np.random.default_rng(seed)
    centres = random.integers(60, 600, (objects, 2))[random.integers(objects, size=COUNT)]
    centres = centres + random.normal(0, 9, (COUNT, 2)).astype(int)
    half = random.integers(0, 50, (COUNT, 2))
    boxes = np.concatenate([centres - half, centres + half], axis=1)
    scores = np.resize(np.linspace(0, 1, distinct_scores), COUNT)
    return scene(boxes, random.permutation(scores), random.integers(CLASSES, size=COUNT))


def scene(boxes: ArrayLike, scores: ArrayLike, labels: ArrayLike) -> Scene:
    """A scene of COUNT candidates, filled up with boxes that score nothing."""
    filled = Scene(np.zeros((COUNT, 4), np.float32), np.zeros(COUNT, np.float32), np.zeros(COUNT, np.int32))
    count = len(boxes)
    filled.boxes[:count], filled.scores[:count], filled.labels[:count] = boxes, scores, labels
    return filled


def row(width: int, step: int) -> np.ndarray:
    """Boxes of 16 pixels' height, one every `step` pixels, which end at the edge of the scene."""
    left = np.arange(0, 600, step)
    return np.stack([left, left * 0, left + width, left * 0 + 16], axis=1)


SCENES = {
    **{f"crowd {seed}": crowd(seed) for seed in range(12)},
    **{f"ties {seed}": crowd(seed, distinct_scores=6) for seed in range(12)},
    "few objects": crowd(0, objects=2),
    "all score alike": crowd(1)._replace(scores=np.full(COUNT, 0.75, np.float32)),
    "one box many times": scene(np.tile([10, 20, 90, 80], (COUNT, 1)), np.linspace(1, 0, COUNT), 1),
    "one box, all classes": scene(np.tile([10, 20, 90, 80], (COUNT, 1)), np.linspace(1, 0, COUNT), np.arange(COUNT) % CLASSES),
    "the last candidate stands alone": scene(
        [[10, 20, 90, 80]] * 159 + [[200, 20, 290, 80]], np.linspace(1, 0.5, RULE.candidates), 1
    ),
    "touching": scene(row(16, 16), np.linspace(0.9, 0.5, 38), 0),
    "at the threshold": scene(np.int64([[0, 0, 20, 40], [0, 0, 40, 40], [0, 0, 40, 41]]), np.float32([0.9, 0.8, 0.7]), 2),
    "nothing": scene(np.zeros((0, 4)), np.zeros(0), 0),
    "nothing above the floor": crowd(3)._replace(scores=np.full(COUNT, 0.25, np.float32)),
    "more than there is room for": scene(np.concatenate([row(4, 4), row(4, 4) + 30]), np.linspace(1, 0.5, 300), 0),
}


@functools.cache
def answers() -> list[tuple[np.ndarray, ...]]:
    """What each of the scenes should give."""
    return [expected(scene) for scene in SCENES.values()]


def overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two boxes share more than half of their union."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return 2 * shared > sum(areas) - shared


def by_definition(scene: Scene) -> list[int]:
    """Rows of the detections: best first, each unless a kept one of its class overlaps it."""
    boxes, scores, labels = (part.tolist() for part in scene)
    kept: list[int] = []
    for i in sorted(range(COUNT), key=lambda i: -scores[i])[: RULE.candidates]:
        rivals = [j for j in kept if labels[j] == labels[i]]
        if scores[i] > RULE.min_score and not any(overlap(boxes[i], boxes[j]) for j in rivals):
            kept.append(i)
    return kept[: RULE.max_detections]


def assert_as_defined(found: Sequence[np.ndarray], scene: Scene, answer: Sequence[np.ndarray], name: str) -> None:
    """Every number is the definition's."""
    for part, wanted in zip(found, answer, strict=True):
        np.testing.assert_array_equal(part, wanted, err_msg=name)


def assert_defensible(found: Sequence[np.ndarray], scene: Scene, answer: Sequence[np.ndarray], name: str) -> None:
    """What came out is the definition's for some order of equal scores; where no two are equal, it is the definition's."""
    if len(set(scene.scores[scene.scores > RULE.min_score].tolist())) == (scene.scores > RULE.min_score).sum():
        assert_as_defined(found, scene, answer, name)
        return
    candidates = [(tuple(box), score, label) for box, score, label in zip(*(part.tolist() for part in scene), strict=True)]
    kept = [(tuple(box), score, label) for box, score, label in zip(*(part.tolist() for part in found)) if label >= 0]
    assert set(kept) <= set(candidates), name
    assert [score for _, score, _ in kept] == sorted((score for _, score, _ in kept), reverse=True), name
    for place, (box, _, label) in enumerate(kept):
        assert not any(label == rival and overlap(box, other) for other, _, rival in kept[:place]), name
    lowest = kept[-1][1] if len(kept) == RULE.max_detections else RULE.min_score
    edge = sorted(scene.scores, reverse=True)[RULE.candidates - 1]
    for box, score, label in candidates:
        if score > max(lowest, edge):
            rivals = [other for other, better, rival in kept if rival == label and better >= score]
            assert (box, score, label) in kept or any(overlap(box, other) for other in rivals), name


def expected(scene: Scene) -> tuple[np.ndarray, ...]:
    """The final contract: unused rows are zero with label −1."""
    kept = by_definition(scene)
    outputs = np.zeros((RULE.max_detections, 4)), np.zeros(RULE.max_detections), np.full(RULE.max_detections, -1)
    for output, part in zip(outputs, scene, strict=True):
        output[: len(kept)] = part[kept]
    return outputs


def in_torch(mode: str) -> Callable[[list[Scene]], list[np.ndarray]]:
    def run(scenes: list[Scene]) -> list[np.ndarray]:
        candidates = Candidates(*(torch.from_numpy(np.stack(part)) for part in zip(*scenes, strict=True)))
        return [part.numpy() for part in modes.suppress(candidates, replace(RULE, mode=mode), num_classes=CLASSES)]

    return run


def on_the_host(scenes: list[Scene]) -> list[np.ndarray]:
    """Mode `none`: the file gives candidates and edgedet suppresses."""
    found = []
    for scene in scenes:
        outputs = np.zeros((RULE.max_detections, 4)), np.zeros(RULE.max_detections), np.full(RULE.max_detections, -1)
        for output, part in zip(outputs, suppress_candidates(*scene, RULE), strict=True):
            output[: len(part)] = part
        found.append(outputs)
    return [np.stack(part) for part in zip(*found, strict=True)]


@functools.cache
def exported(mode: str):
    """The suppression alone as an ONNX model of any batch."""
    example = Candidates(*(torch.from_numpy(np.stack(part)) for part in zip(crowd(0), crowd(1), strict=True)))
    return suppression_graph.exported(replace(RULE, mode=mode), example, classes=CLASSES)


def named(scenes: list[Scene]) -> dict[str, np.ndarray]:
    return dict(zip(("boxes", "scores", "labels"), (np.stack(part) for part in zip(*scenes, strict=True)), strict=True))


def in_onnxruntime(mode: str) -> Callable[[list[Scene]], list[np.ndarray]]:
    model = exported(mode)
    session = (
        efficient_nms.PluginSession(model, ort.InferenceSession)
        if mode == "efficientnms"
        else ort.InferenceSession(model.SerializeToString())
    )
    return lambda scenes: session.run(["b", "s", "l"], named(scenes))


def in_openvino(mode: str) -> Callable[[list[Scene]], list[np.ndarray]]:
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    model = core.compile_model(core.read_model(exported(mode).SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(scenes: list[Scene]) -> list[np.ndarray]:
        found = model(named(scenes))
        return [found[name] for name in ("b", "s", "l")]

    return run


WAYS = {
    "PyTorch, onnx": lambda: in_torch("onnx"),
    "PyTorch, matrix": lambda: in_torch("matrix"),
    "PyTorch, efficientnms": lambda: in_torch("efficientnms"),
    "the host, none": lambda: on_the_host,
    "ONNX Runtime, onnx": lambda: in_onnxruntime("onnx"),
    "ONNX Runtime, matrix": lambda: in_onnxruntime("matrix"),
    "the plugin evaluated, efficientnms": lambda: in_onnxruntime("efficientnms"),
    "OpenVINO, onnx": lambda: in_openvino("onnx"),
    "OpenVINO, matrix": lambda: in_openvino("matrix"),
}


class Way(NamedTuple):
    """One mode in one runtime. run: scenes → boxes (B, D, 4), scores (B, D), labels (B, D). check: what these must be."""

    run: Callable[[list[Scene]], Sequence[np.ndarray]]
    check: Callable[[Sequence[np.ndarray], Scene, Sequence[np.ndarray], str], None]


@pytest.fixture(scope="module", params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    return Way(WAYS[request.param](), assert_defensible if "OpenVINO" in request.param else assert_as_defined)


def test_crowded_scenes_come_out_as_defined(way: Way):
    found = way.run(list(SCENES.values()))
    for image, (name, answer) in enumerate(zip(SCENES, answers(), strict=True)):
        way.check([part[image] for part in found], SCENES[name], answer, name)


def test_the_scenes_hold_what_they_are_named_for():
    kept = {name: by_definition(scene) for name, scene in SCENES.items()}
    assert all(len(kept[f"crowd {seed}"]) > 20 for seed in range(12))
    assert len(set(SCENES["ties 0"].scores.tolist())) == 6
    assert len(kept["one box many times"]) == 1
    assert len(kept["one box, all classes"]) == CLASSES
    assert kept["the last candidate stands alone"] == [0, RULE.candidates - 1]
    assert len(kept["touching"]) == 38
    assert kept["at the threshold"] == [0, 1]
    assert kept["nothing"] == kept["nothing above the floor"] == []
    assert len(kept["more than there is room for"]) == RULE.max_detections


@settings(deadline=None, max_examples=40)
@given(
    corners=arrays(np.int16, (50, 2), elements=st.integers(0, 20)),
    sides=arrays(np.int16, (50, 2), elements=st.integers(0, 12)),
    scores=arrays(np.float32, 50, elements=st.sampled_from([0.0, 0.25, 0.5, 0.625, 1.0])),
    labels=arrays(np.int32, 50, elements=st.integers(0, CLASSES - 1)),
)
def test_any_scene_comes_out_as_defined(way: Way, corners, sides, scores, labels):
    one = scene(np.concatenate([corners, corners + sides], axis=1), scores, labels)
    way.check([part[0] for part in way.run([one])], one, expected(one), "")


@pytest.mark.parametrize("change", ["order", "label", "one more", "one less"])
def test_the_check_for_ties_refuses_what_no_order_gives(change: str):
    """Otherwise it would prove nothing."""
    one = scene(*(part[:60] for part in crowd(0, objects=3, distinct_scores=6)))
    answer = expected(one)
    boxes, scores, labels = (part.copy() for part in answer)
    used = int((labels >= 0).sum())
    assert 10 < used < RULE.max_detections
    assert_defensible((boxes, scores, labels), one, answer, "")
    if change == "order":
        scores[[0, used - 1]] = scores[[used - 1, 0]]
    elif change == "label":
        labels[0] = (labels[0] + 1) % CLASSES
    elif change == "one more":
        boxes[used], scores[used], labels[used] = boxes[used - 1], scores[used - 1], labels[used - 1]
    else:
        boxes[3:-1], scores[3:-1], labels[3:-1] = boxes[4:], scores[4:], labels[4:]
    with pytest.raises(AssertionError):
        assert_defensible((boxes, scores, labels), one, answer, "")
