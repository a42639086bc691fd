"""SORT against its published figures, and against itself written plainly: one track at a time, full matrices."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mot_scores
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from edgedet.boxes import iou_matrix
from edgedet.detections import Detections
from edgedet.tracking import mot
from edgedet.tracking.base import create
from edgedet.tracking.sort import MAX_STEPS, FrameSteps, Sort


def objects(*rows):
    """Detections from rows (x1, y1, x2, y2[, label])."""
    table = np.array([(*row, 0)[:5] for row in rows], np.float32).reshape(-1, 5)
    return Detections(table[:, :4], np.full(len(table), 0.9, np.float32), table[:, 4].astype(np.int32))


def walker(x, *, y=100, label=0):
    return (x, y, x + 40, y + 100, label)


class PlainTrack:
    """One track with the matrices of the paper: state x, y, s, r, and the velocities of the first three."""

    MOVE, LOOK = np.eye(7) + np.eye(7, k=4), np.eye(4, 7)
    NOISE = np.diag([1, 1, 1, 1, 0.01, 0.01, 0.0001])
    MEASURED = np.diag([1, 1, 10, 10])

    def __init__(self, box):
        self.mean = np.concatenate([self.measure(box), np.zeros(3)])
        self.covariance = np.diag([10.0] * 4 + [10000.0] * 3)
        self.streak = self.missed = 0
        self.id = None

    @staticmethod
    def measure(box):
        left, top, right, bottom = box
        return np.array(
            [(left + right) / 2, (top + bottom) / 2, (right - left) * (bottom - top), (right - left) / (bottom - top)]
        )

    def predict(self):
        if self.mean[2] + self.mean[6] <= 0:
            self.mean[6] = 0
        self.mean = self.MOVE @ self.mean
        self.covariance = self.MOVE @ self.covariance @ self.MOVE.T + self.NOISE
        self.streak = 0 if self.missed else self.streak
        self.missed += 1

    def correct(self, box):
        spread = self.LOOK @ self.covariance @ self.LOOK.T + self.MEASURED
        gain = self.covariance @ self.LOOK.T @ np.linalg.inv(spread)
        self.mean = self.mean + gain @ (self.measure(box) - self.LOOK @ self.mean)
        rest = np.eye(7) - gain @ self.LOOK
        self.covariance = rest @ self.covariance @ rest.T + gain @ self.MEASURED @ gain.T
        self.streak += 1
        self.missed = 0

    @property
    def box(self):
        x, y, area, ratio = self.mean[:4]
        width = np.sqrt(area * ratio)
        return np.array([x - width / 2, y - area / width / 2, x + width / 2, y + area / width / 2])


def plain_sort(frames):
    """{track: box} of each frame, by the paper's section 3 with max_age 1 and min_hits 3."""
    tracks, shown = [], []
    for count, boxes in enumerate(frames, 1):
        for track in tracks:
            track.predict()
        overlap = iou_matrix(np.array([t.box for t in tracks]).reshape(-1, 4), boxes)
        pairs = [(t, d) for t, d in zip(*linear_sum_assignment(-overlap)) if overlap[t, d] >= 0.3]
        for t, d in pairs:
            tracks[t].correct(boxes[d])
        tracks += [PlainTrack(box) for d, box in enumerate(boxes) if d not in [pair[1] for pair in pairs]]
        now = [t for t in tracks if t.missed == 0 and (t.streak >= 3 or count <= 3)]
        shown.append({id(t): t.box for t in now})
        tracks = [t for t in tracks if t.missed <= 1]
        shown[-1]["alive"] = tracks  # so that no id() is used again
    return [{key: box for key, box in frame.items() if key != "alive"} for frame in shown]


def crowd(seed, frames=60, count=14):
    """Boxes (N, 4) of each frame: a crowd that meets, drops out and jitters."""
    random = np.random.default_rng(seed)
    centre, velocity = random.uniform(100, 500, (count, 2)), random.uniform(-7, 7, (count, 2))
    size = random.uniform(40, 110, (count, 2))
    for i in range(frames):
        middle = centre + velocity * i + random.normal(0, 1.5, (count, 2))
        boxes = np.concatenate([middle - size / 2, middle + size / 2], axis=1)
        yield boxes[random.random(count) > 0.12]


def assert_as_plain(frames):
    """Boxes and identities of frames of boxes (N, 4) are those of the plain tracks."""
    tracker, names = Sort(), {}
    for i, (boxes, expected) in enumerate(zip(frames, plain_sort(frames), strict=True)):
        found = tracker.update(objects(*boxes), i / 25)
        assert len(found) == len(expected)
        for key, box in expected.items():
            nearest = np.abs(found.boxes - box).max(axis=1).argmin()
            np.testing.assert_allclose(found.boxes[nearest], box, atol=1e-3)  # float32 of pixels below 1000
            assert names.setdefault(key, found.track_ids[nearest]) == found.track_ids[nearest]
    assert len(set(names.values())) == len(names) >= 8


@pytest.mark.parametrize("seed", range(5))
def test_a_crowd_is_tracked_as_by_one_plain_track_at_a_time(seed):
    assert_as_plain([boxes.astype(np.float32) for boxes in crowd(seed)])


@pytest.mark.parametrize("sequence", ["TUD-Campus", "TUD-Stadtmitte"])
def test_a_published_trackers_boxes_are_tracked_as_by_one_plain_track_at_a_time(sequence):
    found = mot.read(mot_scores.shipped(sequence) / "test.txt")
    assert_as_plain([found[i].boxes if i in found else np.zeros((0, 4), np.float32) for i in range(1, max(found) + 1)])


@pytest.mark.parametrize("fps", [10, 25, 29.97])
def test_tud_campus_gives_exactly_the_published_figures_whatever_the_frame_rate(tud_campus: Path, tmp_path: Path, fps: float):
    """Published with the paper: MOTA 62.7, 15 false positives, 113 misses, 6 id switches, at IoU .5."""
    tracks = mot_scores.track_file(tud_campus / "det.txt", tmp_path / "mot.txt", Sort(), fps)
    scores = mot_scores.score(tud_campus / "gt.txt", tracks)
    assert (scores["num_false_positives"], scores["num_misses"], scores["num_switches"]) == (15, 113, 6)
    assert round(100 * scores["mota"], 1) == 62.7


def test_a_track_is_shown_from_its_fourth_frame_on_and_at_once_while_the_stream_is_young():
    tracker = Sort()
    assert tracker.update(objects(walker(100)), 0.0).track_ids.tolist() == [1]
    shown = [len(tracker.update(objects(walker(100), walker(400)), i / 25)) for i in range(1, 8)]
    assert shown == [2, 2, 1, 2, 2, 2, 2]  # the second walker: within three frames of the start, then after three more hits


def test_a_track_missed_for_one_frame_lives_on_and_for_two_is_freed():
    for gap, tracks in ((1, 1), (2, 2)):
        tracker, ids = Sort(), set()
        for i in range(20):
            seen = objects() if 8 <= i < 8 + gap else objects(walker(100 + 2 * i))
            ids |= set(tracker.update(seen, i / 25).track_ids.tolist())
        assert len(ids) == tracks
        assert len(tracker) == 1


def test_dropped_frames_keep_ids_when_times_are_true():
    kept = [i for i in range(60) if i < 20 or i % 4 == 0]
    tracker = Sort()
    for i in kept[:22]:
        found = tracker.update(objects(walker(100 + 9 * i)), i / 30)
    assert found.track_ids.tolist() == [1]
    tracker, last = Sort(), None
    for count, i in enumerate(kept[:22]):  # the same frames at a pretended 30 fps break the identity
        last = tracker.update(objects(walker(100 + 9 * i)), count / 30)
    assert last.track_ids.tolist() != [1]


def test_frames_passed_are_told_from_the_usual_interval():
    steps = FrameSteps()
    assert [steps.since_last(i / 30) for i in range(6)] == [1] * 6
    assert steps.since_last(8 / 30) == 3
    assert steps.since_last(8 / 30) == 1  # a clock that stands still
    assert steps.since_last(1 / 30) == 1  # one set back
    assert steps.since_last(1000.0) == MAX_STEPS


def test_objects_of_different_classes_are_not_paired():
    tracker = Sort()
    for i in range(6):
        tracker.update(objects(walker(100, label=0)), i / 25)
    tracker.update(objects(walker(100, label=1)), 6 / 25)
    assert len(tracker) == 2


def test_masks_scores_and_order_travel_with_the_detections():
    found = objects(walker(300), walker(100), walker(500))
    masks = np.arange(3, dtype=np.uint8)[:, None, None] * np.ones((1, 4, 4), np.uint8)
    scores = np.array([0.9, 0.1, 0.7], np.float32)
    tracked = create("sort", min_score=0.5).update(replace(found, scores=scores, masks=masks), 0.0)
    assert tracked.boxes[:, 0].tolist() == [300, 500]
    assert tracked.masks[:, 0, 0].tolist() == [0, 2]
    assert tracked.scores.tolist() == scores[[0, 2]].tolist()


def test_an_empty_box_and_an_object_that_shrinks_away_are_survived():
    tracker = Sort()
    for i in range(30):
        side = max(60 - 12 * i, 0)
        tracker.update(objects((100, 100, 100 + side, 100 + side)), i / 25)
    for i in range(30, 33):
        tracker.update(Detections.empty(), i / 25)
    assert len(tracker) == 0


def test_ids_belong_to_the_tracker_instance():
    first, second = Sort(), Sort()
    first.update(objects(walker(100), walker(300)), 0.0)
    assert second.update(objects(walker(100)), 0.0).track_ids.tolist() == [1]
