"""Parity: matching, candidates, thresholds, gates, and whole validations of a tiny model and its broken twins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgedet.data.dataset import Problems
from edgedet.detections import Detections
from edgedet.errors import DataError, GateFailed, UsageError
from edgedet.runtimes import parity
from edgedet.runtimes.figures import FLOORS, Gates, Report, Side
from edgedet.runtimes.matching import Spread, compare_candidates, match
from edgedet.runtimes.recording import Target
from edgedet.runtimes.session import Options


def detections(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    """One row an object: left, top, right, bottom, score, label."""
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int32))


BOX = (10.0, 10.0, 50.0, 50.0)


def test_the_same_detections_match_without_error():
    found = detections((*BOX, 0.9, 0), (100, 100, 140, 160, 0.4, 1))
    pairs = match(found, found, min_score=0.05)
    assert pairs.reference.tolist() == pairs.other.tolist() == [0, 1]
    assert pairs.box_errors.tolist() == pairs.score_drifts.tolist() == [0, 0]
    assert len(pairs.only_reference) == len(pairs.only_other) == 0


def test_errors_are_the_worst_coordinate_and_the_signed_score():
    pairs = match(detections((*BOX, 0.9, 0)), detections((11, 10, 50, 47.5, 0.8, 0)), min_score=0.05)
    np.testing.assert_allclose(pairs.box_errors, [2.5])
    np.testing.assert_allclose(pairs.score_drifts, [-0.1], atol=1e-6)


def test_another_class_is_no_partner():
    pairs = match(detections((*BOX, 0.9, 0)), detections((*BOX, 0.9, 1)), min_score=0.05)
    assert pairs.only_reference.tolist() == pairs.only_other.tolist() == [0]


def test_overlapping_neighbours_keep_their_own_partner_when_their_scores_swap_order():
    # The two boxes overlap each other by .6, so an order by score alone could cross them.
    first, second = (0, 0, 40, 40), (10, 0, 50, 40)
    pairs = match(
        detections((*first, 0.51, 0), (*second, 0.5, 0)), detections((*second, 0.51, 0), (*first, 0.5, 0)), min_score=0.05
    )
    assert dict(zip(pairs.reference.tolist(), pairs.other.tolist(), strict=True)) == {0: 1, 1: 0}
    assert pairs.box_errors.tolist() == [0, 0]


def test_a_faint_box_that_lies_better_does_not_take_the_partner():
    other = detections((12, 10, 50, 50, 0.29, 0), (*BOX, 0.01, 0))
    pairs = match(detections((*BOX, 0.3, 0)), other, min_score=0.05)
    assert pairs.other.tolist() == [0]
    assert len(pairs.only_other) == 0


def test_a_detection_is_taken_once():
    pairs = match(detections((*BOX, 0.9, 0)), detections((*BOX, 0.9, 0), (11, 10, 50, 50, 0.8, 0)), min_score=0.05)
    assert pairs.other.tolist() == [0]
    assert pairs.only_other.tolist() == [1]


def test_noise_about_the_threshold_separates_nobody_and_faint_ones_do_not_count():
    faint = (200, 200, 240, 240)
    pairs = match(detections((*BOX, 0.0501, 0), (*faint, 0.02, 0)), detections((*BOX, 0.0499, 0)), min_score=0.05)
    assert pairs.reference.tolist() == [0]
    assert len(pairs.only_reference) == len(pairs.only_other) == 0


@pytest.mark.parametrize("seed", range(5))
def test_matching_finds_what_an_optimal_assignment_finds_on_jittered_scenes(seed: int):
    scipy = pytest.importorskip("scipy.optimize")
    from edgedet.boxes import iou_matrix

    random = np.random.default_rng(seed)
    corners = random.uniform(0, 400, (40, 2))
    boxes = np.concatenate([corners, corners + random.uniform(20, 80, (40, 2))], axis=1).astype(np.float32)
    labels = random.integers(0, 2, 40).astype(np.int32)
    reference = Detections(boxes, random.uniform(0.1, 1, 40).astype(np.float32), labels)
    order = random.permutation(40)
    moved = boxes[order] + random.normal(0, 0.5, (40, 4)).astype(np.float32)
    pairs = match(reference, Detections(moved, reference.scores[order], labels[order]), min_score=0.05)
    overlap = iou_matrix(boxes, moved) * (labels[:, None] == labels[order][None])
    rows, columns = scipy.linear_sum_assignment(-overlap)
    assert dict(zip(pairs.reference, pairs.other, strict=True)) == dict(zip(rows, columns, strict=True))


def test_a_spread_is_of_magnitudes_and_its_mean_is_signed():
    spread = Spread.of([np.array([-3.0, 1.0]), np.array([1.0])])
    assert (spread.count, spread.p50, spread.max) == (3, 1, 3)
    assert spread.mean == pytest.approx(-1 / 3)
    assert Spread.of([]) is None
    assert Spread.of([np.zeros(0)]) is None


def test_candidates_are_compared_where_either_side_scores_enough():
    boxes = np.zeros((3, 4), np.float32)
    names = ("candidate_boxes", "candidate_scores", "candidate_labels")
    ours = dict(zip(names, (boxes, np.float32([0.9, 0.01, 0.01]), np.int32([1, 1, 1])), strict=True))
    theirs = dict(zip(names, (boxes + [[2], [7], [5]], np.float32([0.8, 0.01, 0.6]), np.int32([1, 0, 2])), strict=True))
    found = compare_candidates(ours, theirs, min_score=0.05)
    np.testing.assert_allclose(found.boxes, [2, 5])
    np.testing.assert_allclose(found.scores, [-0.1, 0.59], atol=1e-6)
    assert found.labels_changed == 1


def test_a_target_names_its_runtime_after_an_at_sign(tmp_path: Path):
    assert Target.parse("a/model.onnx@openvino") == Target(Path("a/model.onnx"), "openvino")
    assert Target.parse("model.onnx") == Target(Path("model.onnx"))
    assert Target.parse("run@home/model.onnx") == Target(Path("run@home/model.onnx"))
    odd = tmp_path / "model@home"
    odd.touch()
    assert Target.parse(str(odd)) == Target(odd)


@pytest.fixture
def photos(tmp_path: Path, bright_frame: np.ndarray) -> Path:
    """Four plain images for the tiny model, all different, without annotations."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(4):
        cv2.imwrite(
            str(folder / f"{index}.png"), (np.roll(bright_frame, 64 * index, axis=1) * (1 - 0.1 * index)).astype(np.uint8)
        )
    return folder


@pytest.fixture
def altered(bright_onnx: Path, tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a twin of the tiny model with one of its constants changed."""
    onnx = pytest.importorskip("onnx")

    def write(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Path:
        model = onnx.load(bright_onnx)
        tensor = next(t for t in model.graph.initializer if t.name == name)
        tensor.CopyFrom(onnx.numpy_helper.from_array(change(onnx.numpy_helper.to_array(tensor)), name))
        onnx.save(model, str(tmp_path / "altered.onnx"))
        return tmp_path / "altered.onnx"

    return write


def compare(reference: Path, other: Path, data: Path, **limits: float) -> Report:
    return parity.validate(Target(reference), [Target(other)], data, gates=Gates(**limits))


ALL_GATES = {"max_ap_drop": 0.0005, "max_box_error": 0.1, "max_score_drift": 0.001, "min_match": 0.999}


def test_a_model_agrees_with_itself_in_another_runtime(bright_onnx: Path, bright_xml: Path, photos: Path):
    others = [
        Target(bright_xml),
        Target(bright_onnx, "openvino"),
        Target(bright_onnx, options=Options(graph_optimization="off")),
    ]
    report = parity.validate(Target(bright_onnx), others, photos, gates=Gates(**ALL_GATES))
    report.require_gates()
    assert [c.match_rate for c in report.comparisons] == [1, 1, 1]
    assert [c.other.runtime for c in report.comparisons] == ["openvino", "openvino", "onnxruntime"]
    for comparison in report.comparisons:
        assert comparison.candidates.score_error.max <= 1e-4  # sums of 768 float32, in another order
        assert comparison.candidates.images == 4
        assert comparison.operating.other_threshold == comparison.operating.reference_threshold
        assert not comparison.notes


def test_without_annotations_the_reference_is_the_truth(bright_onnx: Path, photos: Path):
    report = compare(bright_onnx, bright_onnx, photos)
    assert "0.3" in report.truth
    assert report.reference.scores.ap == pytest.approx(1)
    assert not report.failures


def test_scaled_scores_miss_the_drift_gate_and_move_the_threshold(bright_onnx: Path, altered, photos: Path):
    report = compare(bright_onnx, altered("weight", lambda w: w * 0.4), photos, **ALL_GATES)
    comparison = report.comparisons[0]
    assert [gate.passed for gate in comparison.gates] == [True, True, False, True]
    assert comparison.score_drift.max == pytest.approx(0.6, abs=1e-5)
    # Scores of .56 and more are objects, .2 and less are not; times .4 that leaves (.08, .224].
    assert (comparison.operating.reference_threshold, comparison.operating.other_threshold) == (0.38, 0.22)
    assert comparison.operating.other_f1 > comparison.operating.other_f1_there
    with pytest.raises(GateFailed, match=r"altered.onnx: score drift max: 0\.6, limit 0\.001"):
        report.require_gates()


def test_shifted_boxes_miss_the_box_gate_in_pixels_of_the_image(bright_onnx: Path, altered, photos: Path):
    comparison = compare(
        bright_onnx, altered("cells", lambda c: c + np.float32([1, 0, 1, 0])), photos, **ALL_GATES
    ).comparisons[0]
    assert [gate.passed for gate in comparison.gates][1:] == [False, True, True]
    # One input pixel is four pixels of the 256-pixel-wide image.
    assert comparison.box_error_px.max == pytest.approx(4, abs=1e-4)
    assert comparison.candidates.box_error_px.max == pytest.approx(1, abs=1e-5)


def test_swapped_classes_leave_everything_without_a_partner(bright_onnx: Path, altered, photos: Path):
    comparison = compare(bright_onnx, altered("columns", lambda c: 1 - c), photos, **ALL_GATES).comparisons[0]
    assert comparison.match_rate == 0
    assert comparison.box_error_px is None
    assert [gate.passed for gate in comparison.gates] == [False] * 4, "what could not be measured does not pass"
    assert comparison.candidates.labels_changed > 0
    assert {lone.side for lone in comparison.lone} == {"reference", "other"}


def test_a_file_with_another_batch_is_compared_image_by_image(bright_onnx: Path, write_bright_cells, photos: Path):
    report = compare(bright_onnx, write_bright_cells(batch=3), photos, **ALL_GATES)
    report.require_gates()
    assert report.comparisons[0].other.latency.batch == 3


def test_a_file_without_suppression_agrees_through_the_host(write_bright_cells, bright_onnx: Path, photos: Path):
    report = compare(bright_onnx, write_bright_cells(mode="none"), photos)
    assert report.comparisons[0].match_rate == 1


def test_images_that_cannot_be_read_are_named_and_the_rest_compared(bright_onnx: Path, photos: Path):
    whole = (photos / "1.png").read_bytes()
    (photos / "1.png").write_bytes(whole[:60] + bytes(40) + whole[100:])  # whole by its ends, damaged inside
    report = compare(bright_onnx, bright_onnx, photos)
    named = " ".join((*report.problems.unreadable, *report.unreadable))
    assert "1.png" in named
    assert report.images == 3


def test_where_no_image_can_be_read_there_is_nothing_to_compare(bright_onnx: Path, tmp_path: Path):
    (tmp_path / "broken.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"broken\.png"):
        compare(bright_onnx, bright_onnx, tmp_path)


def test_models_of_other_classes_are_refused_by_name(bright_onnx: Path, tmp_path: Path, photos: Path):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(bright_onnx)
    model.metadata_props[0].value = model.metadata_props[0].value.replace('"even", "odd"', '"cat", "dog"')
    onnx.save(model, str(tmp_path / "pets.onnx"))
    with pytest.raises(UsageError, match=r"pets.onnx has 2 classes \(cat, dog\) but .* has 2 classes \(even, odd\)"):
        compare(bright_onnx, tmp_path / "pets.onnx", photos)


def test_a_higher_floor_in_one_file_raises_what_counts_and_is_noted(bright_onnx: Path, tmp_path: Path, photos: Path):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(bright_onnx)
    model.metadata_props[0].value = model.metadata_props[0].value.replace('"min_score": 0.05', '"min_score": 0.3')
    onnx.save(model, str(tmp_path / "sure.onnx"))
    report = compare(bright_onnx, tmp_path / "sure.onnx", photos)
    assert report.min_score == pytest.approx(0.31)
    assert any("score floor differs by design" in note for note in report.comparisons[0].notes)
    assert report.comparisons[0].match_rate == 1


def test_nothing_detected_anywhere_passes_no_match_gate(bright_onnx: Path, tmp_path: Path):
    cv2.imwrite(str(tmp_path / "black.png"), np.zeros((64, 64, 3), np.uint8))
    report = compare(bright_onnx, bright_onnx, tmp_path, min_match=0.5, max_ap_drop=0.1)
    assert report.reference.scores is None
    assert [gate.figure for gate in report.comparisons[0].gates] == [None, None]
    assert len(report.failures) == 2


def test_files_of_one_name_are_told_apart_by_their_folder(bright_onnx: Path, tmp_path: Path, photos: Path):
    twin = tmp_path / "twin" / bright_onnx.name
    twin.parent.mkdir()
    twin.write_bytes(bright_onnx.read_bytes())
    report = compare(bright_onnx, twin, photos)
    assert report.comparisons[0].other.label == f"twin/{bright_onnx.name}"


def _timed(report: Report, precision: str, p50_ms: float, **facts: str) -> Side:
    """The report's reference as if it were a file of that precision and took that long."""
    side = report.reference
    spec = replace(side.spec, precision=precision)
    return replace(side, spec=spec, facts={**side.facts, **facts}, latency=replace(side.latency, p50_ms=p50_ms))


def test_a_narrower_file_that_is_slower_is_told_with_the_fastest_wider_one(bright_onnx: Path, photos: Path):
    report = compare(bright_onnx, bright_onnx, photos)
    reference, *others = [_timed(report, "fp32", 8.8), _timed(report, "int8", 11.4), _timed(report, "fp16", 9.0)]
    compared = [replace(report.comparisons[0], other=other, notes=("earlier",)) for other in others]
    narrow, half = parity._with_warnings(reference, compared)
    assert narrow.notes[0] == "earlier"
    assert narrow.notes[1].startswith("int8 is slower here than fp32: 11.4 ms an image against 8.8 ms, one after the other")
    assert "keep fp32 (run in f32) in onnxruntime" in narrow.notes[1]
    assert half.notes == ("earlier",), "two hundredths are noise"


def test_speed_is_compared_within_a_runtime_and_a_device_alone(bright_onnx: Path, photos: Path):
    report = compare(bright_onnx, bright_onnx, photos)
    slow = _timed(report, "int8", 20.0)
    for wide in (
        replace(_timed(report, "fp32", 5.0), runtime="torch"),
        _timed(report, "fp32", 5.0, device="gpu"),
        _timed(report, "int8+fp16", 5.0),
        _timed(report, "fp32", 30.0),
    ):
        assert parity._with_warnings(wide, [replace(report.comparisons[0], other=slow)])[0].notes == ()


def test_int8_has_its_accuracy_to_keep_and_no_parity(bright_onnx: Path, altered, photos: Path):
    """Scores times .9 change every score and no AP."""
    comparison = compare(bright_onnx, altered("weight", lambda w: w * 0.9), photos).comparisons[0]
    assert all(gate.passed for gate in comparison.against(FLOORS["int8"]))
    assert not all(gate.passed for gate in comparison.against(FLOORS["fp32"]))
    assert not all(gate.passed for gate in replace(comparison, ap_drop=0.006).against(FLOORS["int8"]))
    assert all(gate.passed for gate in replace(comparison, ap_drop=-0.1).against(FLOORS["int8"])), "a gain is no drop"


@pytest.fixture(scope="module")
def nano_onnx(yolox_nano_pth: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """YOLOX-nano as an fp32 ONNX file."""
    from edgedet.export.to_onnx import to_onnx
    from edgedet.models import checkpoint

    detector, spec = checkpoint.load(yolox_nano_pth)
    return to_onnx(detector, replace(spec, batch=1), tmp_path_factory.mktemp("nano") / "nano.onnx")


def test_an_exported_yolox_passes_every_floor_in_both_runtimes(yolox_nano_pth: Path, nano_onnx: Path, coco_val: Path):
    targets = [
        Target(nano_onnx),
        Target(nano_onnx, options=Options(graph_optimization="off")),
        Target(nano_onnx, "openvino"),
    ]
    report = parity.validate(Target(yolox_nano_pth), targets, coco_val, max_images=12, gates=Gates(**ALL_GATES))
    report.require_gates()
    assert report.problems == Problems()
    assert report.reference.scores.ap > 0.3
    assert all(abs(c.ap_drop) <= 0.0005 and c.candidates.labels_changed == 0 for c in report.comparisons)


def _swap_colours(model) -> None:
    """Feed red for blue, as an export that forgets the order of OpenCV does."""
    from onnx import helper, numpy_helper

    model.graph.initializer.append(numpy_helper.from_array(np.int64([2, 1, 0]), "swap"))
    for node in model.graph.node:
        node.input[:] = ["swapped" if name == "images" else name for name in node.input]
    model.graph.node.insert(0, helper.make_node("Gather", ["images", "swap"], ["swapped"], axis=3))


def _disturb_weights(model) -> None:
    """Change one convolution's weights by 20 %."""
    from onnx import numpy_helper

    tensor = next(t for t in model.graph.initializer if len(t.dims) == 4)
    noise = np.random.default_rng(0).normal(1, 0.2, tuple(tensor.dims)).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * noise, tensor.name))


def _shift_boxes(model) -> None:
    """Move every box by one input pixel, as a decode without its grid offset does."""
    from onnx import helper, numpy_helper

    model.graph.initializer.append(numpy_helper.from_array(np.float32([1, 1, 1, 1]), "shift"))
    node = next(node for node in model.graph.node if "boxes" in node.output)
    node.output[list(node.output).index("boxes")] = "unshifted"
    model.graph.node.append(helper.make_node("Add", ["unshifted", "shift"], ["boxes"]))


@pytest.mark.parametrize("spoil", [_swap_colours, _disturb_weights, _shift_boxes])
def test_a_spoiled_export_fails_its_gates(spoil, edgedet_cli, yolox_nano_pth, nano_onnx, coco_val, tmp_path: Path):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(nano_onnx)
    spoil(model)
    onnx.save(model, str(tmp_path / "spoiled.onnx"))
    gates = ["--max-ap-drop", "0.002", "--max-box-error", "0.5", "--min-match", "0.99"]
    command = [
        "validate",
        yolox_nano_pth,
        tmp_path / "spoiled.onnx",
        "--data",
        coco_val,
        "--max-images",
        4,
        "--out",
        tmp_path / "out",
    ]
    ended = edgedet_cli(*command, *gates)
    assert ended.code == 1
    assert "spoiled.onnx: box error max (px)" in ended.err
    assert (tmp_path / "out" / "report.html").exists(), "the report is what shows why"
