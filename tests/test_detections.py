"""Detections hold arrays of one length and are chosen from together."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from places import ROOT

from edgedet.detections import Detections
from edgedet.errors import RuntimeUnavailable, UsageError


def three(**optional: np.ndarray) -> Detections:
    boxes = np.arange(12, dtype=np.float32).reshape(3, 4)
    return Detections(boxes, np.float32([0.9, 0.5, 0.1]), np.int32([0, 1, 0]), **optional)


def test_empty_has_the_contracts_shapes_and_types():
    empty = Detections.empty()
    assert len(empty) == 0
    assert (empty.boxes.shape, empty.boxes.dtype) == ((0, 4), np.float32)
    assert (empty.scores.dtype, empty.labels.dtype) == (np.float32, np.int32)


@pytest.mark.parametrize(
    ("index", "scores"),
    [
        (np.array([True, False, True]), [0.9, 0.1]),
        (np.array([2, 0]), [0.1, 0.9]),
        (slice(1, None), [0.5, 0.1]),
        (slice(0, 0), []),
    ],
)
def test_choosing_objects_keeps_all_that_belongs_to_them(index, scores):
    chosen = three(track_ids=np.array([7, 8, 9]), masks=np.zeros((3, 5, 5), np.uint8))[index]
    np.testing.assert_array_equal(chosen.scores, np.float32(scores))
    assert len(chosen.boxes) == len(chosen.labels) == len(chosen.track_ids) == len(chosen.masks) == len(scores)


def test_what_a_family_does_not_have_stays_absent():
    assert three()[:1].track_ids is None


def test_arrays_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match=r"boxes must be \(N, 4\), got \(2, 3\)"):
        Detections(np.zeros((2, 3)), np.zeros(2), np.zeros(2))
    with pytest.raises(ValueError, match="2 boxes but 1 scores"):
        Detections(np.zeros((2, 4)), np.zeros(1), np.zeros(2))
    with pytest.raises(ValueError, match="3 boxes but 2 track_ids"):
        three(track_ids=np.array([1, 2]))


# Not in the `dev` extra: its dependency PyAV comes with GPL libraries. It imports without PyAV.
SUPERVISION = ("supervision==0.31.2", "pydeprecate", "requests", "urllib3", "certifi", "charset-normalizer", "tqdm")
ABSENT = "supervision is not installed: pip install supervision; `make test-all` brings its own"


@pytest.mark.slow
def test_the_real_supervision_understands_us(tmp_path: Path):
    """The tests below that need it, with it in a folder of its own."""
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path), *SUPERVISION]
    if subprocess.run(install, capture_output=True).returncode:
        pytest.skip("supervision cannot be installed here: no package index answers")
    command = [sys.executable, "-m", "pytest", "-k", "supervision and not real", "-rs", __file__]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "9 passed" in done.stdout, done.stdout
    assert "skipped" not in done.stdout


def all_of_it() -> Detections:
    masks = (np.arange(3 * 4 * 5).reshape(3, 4, 5) % 2).astype(np.uint8)
    return three(track_ids=np.array([7, 8, 9]), masks=masks)


def same(first: Detections, second: Detections) -> bool:
    """Every array equal in values and in type."""
    for name in ("boxes", "scores", "labels", "track_ids", "masks"):
        ours, theirs = getattr(first, name), getattr(second, name)
        if (ours is None) != (theirs is None) or (
            ours is not None and (ours.dtype != theirs.dtype or not np.array_equal(ours, theirs))
        ):
            return False
    return True


@pytest.mark.parametrize("objects", [three(), all_of_it(), all_of_it()[:0], Detections.empty()])
def test_to_supervision_and_back_gives_the_same(objects: Detections):
    pytest.importorskip("supervision", reason=ABSENT)
    assert same(Detections.from_supervision(objects.to_supervision()), objects)


def test_supervision_reads_each_value_where_it_expects_it():
    """Its own reading: iteration, areas, choosing by class, and the captions of its annotator."""
    supervision = pytest.importorskip("supervision", reason=ABSENT)
    objects = all_of_it().to_supervision(["person", "car"])
    box, mask, confidence, class_id, tracker_id, data = next(iter(objects))
    assert box.tolist() == [0, 1, 2, 3]
    assert mask.dtype == bool
    assert (confidence, class_id, tracker_id, data["class_name"]) == (np.float32(0.9), 0, 7, "person")
    assert objects.box_area.tolist() == [4, 4, 4]
    assert objects[objects.class_id == 1].tracker_id.tolist() == [8]
    picture = supervision.BoxAnnotator().annotate(np.zeros((20, 20, 3), np.uint8), objects)
    assert picture.any()


def test_what_supervision_makes_comes_in_with_our_types():
    supervision = pytest.importorskip("supervision", reason=ABSENT)
    made = supervision.Detections(
        xyxy=np.array([[1.0, 2, 3, 4]]),
        confidence=np.array([0.5]),
        class_id=np.array([3]),
        data={"class_name": np.array(["x"])},
    )
    expected = Detections(np.float32([[1, 2, 3, 4]]), np.float32([0.5]), np.int32([3]))
    assert same(Detections.from_supervision(made), expected)


@pytest.mark.parametrize("name", ["confidence", "class_id"])
def test_objects_of_supervisions_without_score_or_class_are_refused(name: str):
    supervision = pytest.importorskip("supervision", reason=ABSENT)
    made = supervision.Detections(xyxy=np.zeros((2, 4)), confidence=np.zeros(2), class_id=np.zeros(2, int))
    setattr(made, name, None)
    with pytest.raises(UsageError, match=f"2 objects have no {name}; set `detections.{name}`"):
        Detections.from_supervision(made)


def test_without_supervision_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(RuntimeUnavailable, match="needs supervision, which is not installed; pip install supervision"):
        three().to_supervision()
