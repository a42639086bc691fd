"""Tracks against tracks: IDF1 and id switches as motmetrics has them and as published, counts, gates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgedet.boxes import iou_matrix, xywh_to_xyxy
from edgedet.detections import Detections
from edgedet.runtimes import track_parity
from edgedet.runtimes.track_parity import TrackComparison, Tracked, TrackGates, TrackReport

Rows = Sequence[tuple[int, float]]


def frame(*rows: tuple[int, float], label: int = 0) -> Detections:
    """One object a row, its id and where its left side is; 40 pixels square."""
    ids, lefts = np.array(rows, float).reshape(-1, 2).T
    boxes = np.stack([lefts, 0 * lefts, lefts + 40, 0 * lefts + 40], axis=1).astype(np.float32)
    return Detections(boxes, np.ones(len(ids), np.float32), np.full(len(ids), label, np.int32), ids.astype(np.int64))


def side(objects: Sequence[Detections], label: str = "model.onnx") -> Tracked:
    return Tracked(label, "onnxruntime", {}, {}, objects)


def compared(reference: Sequence[Detections], other: Sequence[Detections], **gates: float) -> TrackComparison:
    times_s = [index / 10 for index in range(len(reference))]
    return track_parity.compare(side(reference), side(other), times_s, TrackGates(**gates))


def judged_by_motmetrics(reference: Sequence[Detections], other: Sequence[Detections]) -> tuple[float, int]:
    """IDF1 and the number of id switches."""
    motmetrics = pytest.importorskip("motmetrics")
    events = motmetrics.MOTAccumulator(auto_id=True)
    for ours, theirs in zip(reference, other, strict=True):
        overlap = iou_matrix(ours.boxes.astype(float), theirs.boxes.astype(float))
        apart = (overlap < 0.5) | (ours.labels[:, None] != theirs.labels[None])
        events.update(ours.track_ids, theirs.track_ids, np.where(apart, np.nan, 1 - overlap))
    figures = motmetrics.metrics.create().compute(events, metrics=["idf1", "num_switches"], return_dataframe=False)
    return figures["idf1"], figures["num_switches"]


def crowd(seed: int, *, frames: int = 40, count: int = 12) -> tuple[list[Detections], list[Detections]]:
    """A crowd that walks about, and the same as a bad tracker sees it: shaken, with gaps, strangers and ids that change."""
    random = np.random.default_rng(seed)
    corners, pace = random.uniform(0, 200, (count, 2)), random.normal(0, 3, (count, 2))
    labels, names = random.integers(0, 2, count), np.arange(1, count + 1)
    reference, other = [], []
    for _ in range(frames):
        corners = corners + pace
        boxes = np.concatenate([corners, corners + [40, 60]], axis=1).astype(np.float32)
        present = random.random(count) < 0.9
        reference.append(
            Detections(boxes, np.ones(count, np.float32), labels.astype(np.int32), np.arange(1, count + 1))[present]
        )
        if random.random() < 0.3:  # two swap their names, one gets a new one
            first, second, third = random.choice(count, 3, replace=False)
            names[[first, second]] = names[[second, first]]
            names[third] = names.max() + 1
        shaken = boxes + random.normal(0, 4, boxes.shape).astype(np.float32)
        seen = Detections(shaken, np.ones(count, np.float32), labels.astype(np.int32), names.copy())
        other.append(seen[random.permutation(count)[: random.integers(count // 2, count)]])
    return reference, other


@pytest.mark.parametrize("seed", range(20))
def test_idf1_and_switches_are_those_of_motmetrics(seed: int):
    reference, other = crowd(seed)
    expected_idf1, expected_switches = judged_by_motmetrics(reference, other)
    assert track_parity.idf1(reference, other) == pytest.approx(expected_idf1, abs=1e-12)
    assert len(track_parity.id_switches(reference, other)) == expected_switches
    assert expected_switches > 10
    assert 0.1 < expected_idf1 < 0.9


def tracks_in(path: Path, *, frames: int, counted_only: bool = False) -> list[Detections]:
    """A MOTChallenge file as one Detections a frame; counted_only leaves out what column 7 says does not count."""
    table = np.loadtxt(path, delimiter=",", ndmin=2)
    if counted_only:
        table = table[table[:, 6] > 0]
    found = []
    for number in range(1, frames + 1):
        rows = table[table[:, 0] == number]
        nothing = np.zeros(len(rows))
        boxes = xywh_to_xyxy(rows[:, 2:6]).astype(np.float32)
        found.append(Detections(boxes, nothing.astype(np.float32), nothing.astype(np.int32), rows[:, 1].astype(np.int64)))
    return found


@pytest.mark.parametrize(
    ("name", "frames", "idf1_percent", "switches"), [("TUD-Campus", 71, 55.8, 7), ("TUD-Stadtmitte", 179, 64.5, 7)]
)
def test_published_figures_come_out(name: str, frames: int, idf1_percent: float, switches: int):
    """Ground truth and results that motmetrics ships, with the figures of its README, which has one decimal."""
    motmetrics = pytest.importorskip("motmetrics")
    folder = Path(motmetrics.__file__).parent / "data" / name
    truth = tracks_in(folder / "gt.txt", frames=frames, counted_only=True)
    results = tracks_in(folder / "test.txt", frames=frames)
    assert 100 * track_parity.idf1(truth, results) == pytest.approx(idf1_percent, abs=0.05)
    assert len(track_parity.id_switches(truth, results)) == switches


def test_a_model_against_itself_has_nothing_to_answer_for():
    reference, _ = crowd(0)
    found = compared(reference, reference, min_idf1=1, max_id_switches=0, max_count_error=0)
    assert (found.idf1, found.switches_s, found.count_error, found.track_error) == (1, (), 0, 0)
    assert [gate.passed for gate in found.gates] == [True] * 4


def test_a_track_that_breaks_in_the_middle_is_half_right():
    """IDF1 = 2 · 5 / (10 + 10); the objects a frame are right, the tracks twice as many."""
    reference = [frame((1, 3 * i)) for i in range(10)]
    other = [frame((1 if i < 5 else 2, 3 * i)) for i in range(10)]
    found = compared(reference, other)
    assert (found.idf1, found.switches_s, found.count_error, found.track_error) == (0.5, (0.5,), 0, 1)


def test_a_gap_is_no_switch_but_another_id_after_it_is():
    reference = [frame((1, 0))] * 6
    assert track_parity.id_switches(reference, [frame((7, 0)), frame(), frame(), frame((7, 0)), frame((7, 0)), frame()]) == []
    assert track_parity.id_switches(reference, [frame((7, 0)), frame(), frame(), frame((8, 0)), frame((8, 0)), frame()]) == [3]


def test_a_pair_holds_although_a_stranger_lies_nearer():
    """CLEAR MOT's first step; a matching by overlap alone would count two switches."""
    reference = [frame((1, 0))] * 3
    other = [frame((5, 0)), frame((5, 8), (6, 0)), frame((5, 0))]
    assert track_parity.id_switches(reference, other) == []


def test_two_that_had_the_same_partner_share_it_no_longer():
    reference = [frame((1, 0)), frame((2, 0)), frame((1, 0), (2, 4))]
    other = [frame((9, 0)), frame((9, 0)), frame((9, 0), (8, 4))]
    expected = judged_by_motmetrics(reference, other)[1]
    assert track_parity.id_switches(reference, other) == [2] * expected == [2]


def test_as_many_pairs_are_made_as_can_be_although_fewer_would_lie_nearer():
    """Three pairs 13 px apart (IoU .51) go before two that coincide, as in the original's matching."""
    reference = [frame((1, 13), (2, 26), (3, 39)), frame((1, 0), (2, 100), (3, 200))]
    other = [frame((5, 0), (6, 13), (7, 26)), frame((5, 0), (6, 100), (7, 200))]
    assert judged_by_motmetrics(reference, other)[1] == 0
    assert track_parity.id_switches(reference, other) == []


def test_an_object_of_another_class_is_another_object():
    reference = [frame((1, 0))] * 4
    found = compared(reference, [frame((1, 0), label=1)] * 4)
    assert (found.idf1, found.count_error, found.track_error) == (0, 0, 0)


def test_missing_and_surplus_objects_do_not_cancel_out():
    found = compared([frame((1, 0), (2, 100))] * 2, [frame((1, 0)), frame((1, 0), (2, 100), (3, 200))])
    assert found.count_error == pytest.approx(2 / 4)
    assert found.track_error == pytest.approx(1 / 2)


def test_where_nothing_is_tracked_nothing_is_measured_and_no_share_passes():
    found = compared([frame()] * 3, [frame()] * 3, min_idf1=0.5, max_count_error=1, max_id_switches=0)
    assert (found.idf1, found.count_error, found.track_error) == (None, None, None)
    assert {gate.name: gate.passed for gate in found.gates} == {
        "IDF1": False,
        "id switches": True,
        "objects a frame off by": False,
        "tracks off by": False,
    }
    assert "IDF1: nothing could be measured" in str(found.gates[0])


def test_where_the_reference_tracks_nothing_whatever_the_other_tracks_is_wrong():
    """IDF1 = 2 · 0 / (0 + 3); no share can be taken of nothing, so its gates are missed, not passed."""
    found = compared([frame()] * 3, [frame((1, 0))] * 3, min_idf1=0.5, max_count_error=1, max_id_switches=0)
    assert (found.idf1, found.switches_s, found.count_error, found.track_error) == (0, (), None, None)
    assert [gate.passed for gate in found.gates] == [False, True, False, False]
    assert compared([frame((1, 0))] * 3, [frame()] * 3).count_error == 1


def test_each_missed_gate_is_named_with_its_figure_and_a_kept_one_is_not():
    reference = [frame((1, 3 * i)) for i in range(10)]
    other = [frame((1 if i < 5 else 2, 3 * i)) for i in range(10)]
    gates = {"min_idf1": 0.9, "max_id_switches": 0, "max_count_error": 0.2}
    found = replace(compared(reference, other, **gates), other=side(other, "int8.onnx"))
    report = TrackReport("clip.mp4", [i / 10 for i in range(10)], "bytetrack", 0.3, None, side(reference), (found,))
    assert report.failures == [
        "int8.onnx: IDF1: 0.5, limit 0.9",
        "int8.onnx: id switches: 1, limit 0",
        "int8.onnx: tracks off by: 1, limit 0.2",
    ]


def test_detections_that_no_tracker_has_seen_are_refused():
    with pytest.raises(ValueError, match="no track_ids; give them to a tracker first"):
        track_parity.idf1([replace(frame((1, 0)), track_ids=None)], [frame((1, 0))])
