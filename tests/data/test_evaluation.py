"""Scores agree with pycocotools, with hand calculation, and refuse what cannot be scored."""

from __future__ import annotations

import contextlib
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgedet.data.dataset import Dataset, Sample, open_dataset
from edgedet.data.evaluation import best_threshold, evaluate, score_curve, voc_ap_11
from edgedet.detections import Detections
from edgedet.errors import DataError


def image(boxes, labels=None, crowd=None) -> Sample:
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    labels = np.zeros(len(boxes), np.int32) if labels is None else np.array(labels, np.int32)
    crowd = np.zeros(len(boxes), bool) if crowd is None else np.array(crowd, bool)
    return Sample(Path("absent.jpg"), boxes, labels, crowd, (100, 100), 0)


def found(boxes, scores, labels=None) -> Detections:
    labels = np.zeros(len(scores), np.int32) if labels is None else np.array(labels, np.int32)
    return Detections(np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32), labels)


def dataset_of(*samples: Sample, classes=("a", "b")) -> Dataset:
    return Dataset("made", classes, samples)


def perturbed(dataset: Dataset, seed: int) -> list[Detections]:
    """The truth, moved by about 6 %, some lost, some doubled, some of another class, with random scores."""
    random = np.random.default_rng(seed)
    results = []
    for sample in dataset.samples:
        index = random.permutation(np.repeat(np.arange(len(sample.boxes)), random.integers(0, 3, len(sample.boxes))))
        boxes, labels = sample.boxes[index], sample.labels[index].copy()
        sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
        boxes = boxes + (sides * random.normal(0, 0.06, boxes.shape)).astype(np.float32)
        wrong = random.random(len(labels)) < 0.1
        labels[wrong] = random.integers(0, len(dataset.classes), wrong.sum())
        results.append(Detections(boxes, random.random(len(labels)).astype(np.float32), labels))
    return results


def pycocotools_scores(annotations: Path, dataset: Dataset, detections: list[Detections]) -> np.ndarray:
    """The first six of COCO's summary: AP, AP50, AP75, small, medium, large, from the file as it lies there."""
    coco = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco.COCO(annotations)
        ids = sorted(truth.getCatIds())
        rows = [
            {"image_id": s.image_id, "category_id": ids[label], "score": float(score), "bbox": [x1, y1, x2 - x1, y2 - y1]}
            for s, one in zip(dataset.samples, detections, strict=True)
            for (x1, y1, x2, y2), score, label in zip(one.boxes.tolist(), one.scores, one.labels, strict=True)
        ]
        scoring = COCOeval(truth, truth.loadRes(rows), "bbox")
        scoring.evaluate()
        scoring.accumulate()
        scoring.summarize()
    return scoring.stats[:6]


@pytest.mark.parametrize("seed", [0, 1])
def test_ap_agrees_with_pycocotools_to_a_millionth(coco_val, seed):
    dataset = open_dataset(coco_val)
    detections = perturbed(dataset, seed)
    scores = evaluate(dataset, detections)
    ours = [scores.ap, scores.ap50, scores.ap75, scores.ap_small, scores.ap_medium, scores.ap_large]
    np.testing.assert_allclose(ours, pycocotools_scores(coco_val, dataset, detections), atol=1e-6)
    assert 0.1 < scores.ap < 0.9  # the comparison is of something


def test_perfect_detections_score_one(coco_val):
    dataset = open_dataset(coco_val)
    perfect = [found(s.boxes[~s.crowd], np.ones((~s.crowd).sum()), s.labels[~s.crowd]) for s in dataset.samples]
    scores = evaluate(dataset, perfect)
    # COCO's own recall grid: exactly 1 where every object is found first.
    assert (scores.ap, scores.ap50, scores.ap75) == pytest.approx((1, 1, 1), abs=1e-9)
    assert set(scores.by_class.values()) == {1.0}
    assert max(score_curve(dataset, perfect)["f1"]) == 1


def test_only_classes_with_objects_are_scored():
    dataset = dataset_of(image([[10, 10, 50, 50]], [1]))
    scores = evaluate(dataset, [found([[10, 10, 50, 50]], [0.9], [1])])
    assert scores.by_class == {"b": pytest.approx(1.0)}
    assert scores.ap_medium == pytest.approx(1.0)
    assert scores.ap_small is None
    assert scores.ap_large is None


def test_no_detections_score_zero():
    scores = evaluate(dataset_of(image([[10, 10, 50, 50]])), [Detections.empty()])
    assert (scores.ap, scores.ap50) == (0, 0)


def test_images_with_equal_ids_are_kept_apart():
    dataset = dataset_of(image([[0, 0, 10, 10]]), image([[50, 50, 90, 90]]))
    scores = evaluate(dataset, [found([[0, 0, 10, 10]], [0.9]), found([[50, 50, 90, 90]], [0.8])])
    assert scores.ap == pytest.approx(1.0)


def test_detections_on_a_crowd_count_neither_way():
    dataset = dataset_of(image([[0, 0, 20, 20], [40, 40, 100, 100]], crowd=[False, True]))
    detections = [found([[0, 0, 20, 20], [45, 45, 60, 60], [70, 70, 90, 90]], [0.5, 0.9, 0.8])]
    assert evaluate(dataset, detections).ap == pytest.approx(1.0)
    curve = score_curve(dataset, detections)
    assert curve["precision"][0] == 1
    assert curve["recall"][0] == 1


def test_score_curve_by_hand():
    # Two objects; right at .9, a duplicate at .7, wrong class at .6, right at .3.
    dataset = dataset_of(image([[0, 0, 20, 20], [50, 50, 90, 90]], [0, 1]))
    boxes = [[0, 0, 20, 20], [1, 0, 20, 20], [50, 50, 90, 90], [50, 50, 90, 88]]
    curve = score_curve(dataset, [found(boxes, [0.9, 0.7, 0.6, 0.3], [0, 0, 0, 1])])
    at = {round(t, 2): (p, r, f) for t, p, r, f in zip(*curve.values(), strict=True)}
    assert at[0.2] == pytest.approx((2 / 4, 2 / 2, 4 / 6))
    assert at[0.3] == pytest.approx((2 / 4, 2 / 2, 4 / 6))
    assert at[0.5] == pytest.approx((1 / 3, 1 / 2, 2 / 5))
    assert at[0.8] == pytest.approx((1, 1 / 2, 2 / 3))
    assert at[0.95] == pytest.approx((1, 0, 0))
    assert 0.01 <= best_threshold(curve) <= 0.9


def test_best_threshold_lies_in_the_middle_of_a_plateau():
    curve = score_curve(dataset_of(image([[0, 0, 20, 20]])), [found([[0, 0, 20, 20], [50, 50, 60, 60]], [0.8, 0.4])])
    assert best_threshold(curve) == pytest.approx(0.61)  # .41 … .80 are equally good


def test_voc_ap_of_a_hand_worked_curve():
    # Right, wrong, right over three objects: recall 1/3, 1/3, 2/3; precision 1, 1/2, 2/3.
    # Levels 0 to .3 take 1, .4 to .6 take 2/3, .7 to 1 take 0: (4 + 3 * 2/3) / 11.
    recall, precision = np.array([1, 1, 2]) / 3, np.array([1, 1 / 2, 2 / 3])
    assert voc_ap_11(recall, precision) == pytest.approx(6 / 11)
    assert voc_ap_11(np.array([0.3, 1.0]), np.array([1.0, 1.0])) == 1
    assert voc_ap_11(np.array([]), np.array([])) == 0


def test_what_cannot_be_scored_is_refused():
    plain = replace(dataset_of(image([])), annotated=False)
    with pytest.raises(DataError, match="without annotations"):
        evaluate(plain, [Detections.empty()])
    with pytest.raises(DataError, match="no annotated object"):
        evaluate(dataset_of(image([])), [Detections.empty()])
    with pytest.raises(DataError, match="label 7 but made has 2 classes"):
        evaluate(dataset_of(image([[0, 0, 5, 5]])), [found([[0, 0, 5, 5]], [0.5], [7])])
    with pytest.raises(ValueError, match="1 images but detections of 2"):
        evaluate(dataset_of(image([[0, 0, 5, 5]])), [Detections.empty()] * 2)


def test_a_data_set_labelled_by_detections_is_found_perfectly_by_them(coco_val):
    dataset = open_dataset(coco_val)
    detections = [replace(one, scores=np.ones(len(one), np.float32)) for one in perturbed(dataset, 3)]
    unique = [one[np.unique(one.boxes, axis=0, return_index=True)[1]] for one in detections]
    assert evaluate(dataset.labelled_by(unique), unique).ap == pytest.approx(1, abs=1e-9)
