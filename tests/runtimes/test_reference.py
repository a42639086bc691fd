"""What tells a device that it computes what was computed before."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from edgedet.detections import Detections
from edgedet.errors import ArtifactError, GateFailed, UsageError
from edgedet.letterbox import Letterbox, Placement
from edgedet.runtimes import reference as references
from edgedet.runtimes.detector import LoadedDetector
from edgedet.runtimes.reference import GATES, Figures, Reference

BOXES = np.array([[10, 20, 110, 220], [300, 50, 340, 90], [200, 200, 260, 300]], np.float32)
SCORES, LABELS = np.array([0.9, 0.6, 0.3], np.float32), np.array([0, 2, 0], np.int32)
FRAME = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


LETTERBOX = Letterbox((32, 32))


class Sees:
    """A detector that always sees the same."""

    def __init__(self, boxes: np.ndarray = BOXES, scores: np.ndarray = SCORES, labels: np.ndarray = LABELS) -> None:
        self.found = Detections(boxes, scores, labels)

    def letterbox(self, frames: Sequence[np.ndarray]) -> tuple[np.ndarray, list[Placement]]:
        images, placements = zip(*(LETTERBOX.apply(frame) for frame in frames))
        return np.stack(images), list(placements)

    def detect_batch(self, frames: Sequence[np.ndarray]) -> list[Detections]:
        return [self.found for _ in frames]


def compared(detector: Sees) -> Figures:
    reference = references.record(cast(LoadedDetector, Sees()), [FRAME, FRAME])
    return references.compare(reference, cast(LoadedDetector, detector))


def test_frames_are_kept_as_the_network_sees_them_so_that_no_other_machine_resizes_them_otherwise():
    """Letterboxed a second time they stay as they are, whatever rounding a machine's OpenCV resizes with."""
    (frame,) = references.record(cast(LoadedDetector, Sees()), [FRAME]).frames
    assert np.array_equal(frame, LETTERBOX.apply(FRAME)[0])
    assert np.array_equal(frame, LETTERBOX.apply(frame)[0])


def test_the_same_answers_differ_by_nothing():
    assert compared(Sees()) == Figures(0, 6, 0, 0)


def test_boxes_and_scores_that_move_are_measured_by_their_median():
    moved = compared(Sees(BOXES + np.float32(0.5), SCORES - np.float32(0.01)))
    assert moved.pairs == 6
    assert moved.box_error_px == pytest.approx(0.5)
    assert moved.score_error == pytest.approx(0.01, abs=1e-6)


def test_an_object_that_is_lost_counts_by_its_score():
    lost = compared(Sees(BOXES[:2], SCORES[:2], LABELS[:2]))
    assert lost.disagreement == pytest.approx(0.3 / 1.8, rel=1e-5)


@pytest.mark.parametrize(
    ("figures", "key"),
    [
        (Figures(0.03, 6, 0.0, 0.0), "disagreement is 0.03, limit 0.02"),
        (Figures(0.0, 6, 0.3, 0.0), "box_error_px is 0.3, limit 0.25"),
        (Figures(0.0, 6, 0.0, 0.1), "score_error is 0.1, limit 0.002"),
        (Figures(0.0, 6, float("nan"), 0.0), "box_error_px is nan"),
        (Figures(0.0, 0, None, None), "box_error_px could not be measured"),
    ],
)
def test_each_gate_that_is_missed_is_named_with_its_limit(figures: Figures, key: str):
    with pytest.raises(GateFailed, match="differs from the reference") as missed:
        figures.require(GATES["fp32"], name="a.onnx in openvino")
    assert key in str(missed.value)


def test_faint_objects_serve_where_there_are_few_others():
    faint = Sees(scores=SCORES / np.float32(20))
    reference = references.record(cast(LoadedDetector, faint), [FRAME])
    assert reference.min_score == references.FAINT
    assert references.compare(reference, cast(LoadedDetector, faint)).pairs == 3


def test_frames_without_objects_prove_nothing_and_are_refused():
    with pytest.raises(UsageError, match=r"detects fewer than 3 objects of score 0\.01 or more in 1 frames, too few"):
        references.record(cast(LoadedDetector, Sees(BOXES[:2], SCORES[:2], LABELS[:2])), [FRAME])


def test_a_reference_comes_back_as_it_was_written(tmp_path: Path):
    written = references.record(cast(LoadedDetector, Sees()), [FRAME, FRAME[:20]])
    references.write(tmp_path / "frames.npz", written)
    read = references.read(tmp_path / "frames.npz")
    assert len(read.frames) == 2
    assert all(np.array_equal(a, b) for a, b in zip(written.frames, read.frames, strict=True))
    for ours, theirs in zip(written.detections, read.detections, strict=True):
        assert np.array_equal(ours.boxes, theirs.boxes)
        assert np.array_equal(ours.scores, theirs.scores)
        assert (theirs.labels.tolist(), theirs.labels.dtype) == (ours.labels.tolist(), np.dtype("int32"))


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04broken"])
def test_what_is_no_reference_is_refused_in_one_line(tmp_path: Path, content: bytes):
    (tmp_path / "frames.npz").write_bytes(content)
    with pytest.raises(ArtifactError, match="not a whole file of reference frames"):
        references.read(tmp_path / "frames.npz")


def test_pickles_are_not_opened(tmp_path: Path):
    np.savez(tmp_path / "frames.npz", frame_0=np.array([{"a": 1}], object))
    with pytest.raises(ArtifactError, match="not a whole file of reference frames"):
        references.read(tmp_path / "frames.npz")


def test_frames_of_another_kind_are_refused(tmp_path: Path):
    written = Reference((FRAME.astype(np.float32),), (Detections(BOXES, SCORES, LABELS),))
    references.write(tmp_path / "frames.npz", written)
    with pytest.raises(ArtifactError, match="holds no frames of three channels"):
        references.read(tmp_path / "frames.npz")


def test_a_bomb_of_zeros_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(references, "MOST_BYTES", 1 << 20)
    references.write(tmp_path / "frames.npz", Reference((np.zeros((1000, 1000, 3), np.uint8),), (Sees().found,)))
    with pytest.raises(ArtifactError, match="unpacks to more than 1 MiB"):
        references.read(tmp_path / "frames.npz")


def test_a_signature_names_type_and_shape_of_every_output(street_onnx: Path):
    import edgedet

    with edgedet.load(street_onnx, runtime="onnxruntime", device="cpu") as detector:
        found = references.signature(detector, FRAME)
        rows = detector.spec.suppression.max_detections
    assert found == {"boxes": ("float32", (1, rows, 4)), "scores": ("float32", (1, rows)), "labels": ("int32", (1, rows))}
