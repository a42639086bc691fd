"""Zones against OpenCV's pointPolygonTest, lines against exact arithmetic, events on made-up walks."""

from __future__ import annotations

import json
from fractions import Fraction

import cv2
import numpy as np
import pytest

from edgedet.detections import Detections
from edgedet.errors import UsageError
from edgedet.tracking.zones import Happening, Line, Zone, Zones

SIZE_HW = (480, 640)
SQUARE = [(100, 100), (300, 100), (300, 300), (100, 300)]
STAR = [(320, 40), (370, 180), (520, 180), (400, 270), (450, 420), (320, 330), (190, 420), (240, 270), (120, 180), (270, 180)]


def standing(*places, label=0):
    """Detections with track_ids from {id: (x, y)}: boxes whose lower edge's middle is there."""
    (places,) = places
    points = np.array(list(places.values()), np.float32).reshape(-1, 2)
    boxes = np.concatenate([points - (10, 40), points + (10, 0)], axis=1).astype(np.float32)
    count = len(points)
    return Detections(boxes, np.ones(count, np.float32), np.full(count, label, np.int32), np.array(list(places), np.int64))


def walk(zones, places, *, label=0, step_s=0.1):
    """What happens while track 1 walks from place to place."""
    return [event for i, place in enumerate(places) for event in zones.update(standing({1: place}, label=label), i * step_s)]


@pytest.mark.parametrize("points", [SQUARE, STAR, STAR[::-1], [(0, 0), (640, 0), (320, 480)]])
def test_inside_is_what_opencv_calls_inside(points):
    places = np.random.default_rng(0).uniform((0, 0), (640, 480), (3000, 2)).astype(np.float32)
    contour = np.array(points, np.float32)
    expected = np.array([cv2.pointPolygonTest(contour, (float(x), float(y)), False) for x, y in places])
    off_edge = expected != 0
    assert (Zone("z", points).holds(places.astype(float))[off_edge] == (expected[off_edge] > 0)).all()
    assert off_edge.mean() > 0.99
    assert 0.1 < (expected > 0).mean() < 0.9


def test_zones_side_by_side_share_no_point_and_leave_no_gap():
    whole = Zone("whole", [(0, 0), (100, 0), (100, 100), (0, 100)])
    upper, lower = Zone("upper", [(0, 0), (100, 0), (100, 100)]), Zone("lower", [(0, 0), (100, 100), (0, 100)])
    places = np.stack(np.meshgrid(np.arange(101.0), np.arange(101.0)), axis=-1).reshape(-1, 2)
    both = upper.holds(places).astype(int) + lower.holds(places)
    np.testing.assert_array_equal(both, whole.holds(places).astype(int))


def exact_crossing(line, before, now):
    """1, -1 or 0 by fractions: the side changes, and the meeting point lies on [start, end)."""
    (ax, ay), (bx, by) = (tuple(map(Fraction, point)) for point in (line.start, line.end))
    sides = [(bx - ax) * (Fraction(y) - ay) - (by - ay) * (Fraction(x) - ax) for x, y in (before, now)]
    if (sides[0] >= 0) == (sides[1] >= 0):
        return 0
    share = sides[0] / (sides[0] - sides[1])
    meet_x, meet_y = (Fraction(p) + share * (Fraction(q) - Fraction(p)) for p, q in zip(before, now))
    place = ((meet_x - ax) * (bx - ax) + (meet_y - ay) * (by - ay)) / ((bx - ax) ** 2 + (by - ay) ** 2)
    return (1 if sides[1] >= 0 else -1) if 0 <= place < 1 else 0


def test_crossings_equal_exact_arithmetic_corners_and_touches_too():
    random, found = np.random.default_rng(0), []
    for _ in range(40):
        start, end = random.choice(100, 2, replace=False)
        line = Line("l", divmod(int(start), 10), divmod(int(end), 10))
        before, now = (random.integers(0, 10, (40, 2)).astype(float) for _ in range(2))
        ways = line.crossed(before, now).tolist()
        assert ways == [exact_crossing(line, *pair) for pair in zip(before.tolist(), now.tolist())]
        found += ways
    assert min(found.count(way) for way in (-1, 0, 1)) > 100


def test_right_and_left_are_as_seen_from_the_start_of_the_line():
    door = Line("door", (100, 200), (300, 200))  # looking to the right of the screen, right is down
    zones = Zones(lines=[door], size_hw=SIZE_HW, classes=["person", "car"])
    events = walk(zones, [(200, 150), (200, 190), (205, 210), (205, 260), (200, 195)])
    assert events == [
        Happening("cross", {"line": "door", "direction": "right", "track_id": 1, "class": "person"}),
        Happening("cross", {"line": "door", "direction": "left", "track_id": 1, "class": "person"}),
    ]
    walk(zones, [(200, 195), (200, 205)], label=1)
    assert zones.counts() == {"door": {"left": {"person": 1}, "right": {"person": 1, "car": 1}}}


def test_who_walks_round_the_end_of_a_line_has_not_crossed_it():
    zones = Zones(lines=[Line("door", (100, 200), (300, 200))], size_hw=SIZE_HW)
    assert walk(zones, [(350, 150), (350, 250)]) == []
    assert walk(zones, [(50, 250), (50, 150)]) == []


def test_who_steps_on_a_line_and_back_nets_nothing_and_standing_on_it_counts_once():
    zones = Zones(lines=[Line("door", (100, 200), (300, 200))], size_hw=SIZE_HW)
    walk(zones, [(200, 190), (200, 200), (200, 200), (200, 200)])
    assert zones.counts() == {"door": {"left": {}, "right": {"class 0": 1}}}
    walk(zones, [(200, 200), (200, 190)])
    assert zones.counts() == {"door": {"left": {"class 0": 1}, "right": {"class 0": 1}}}


def test_dwell_time_and_occupancy_follow_the_frames_times():
    zones = Zones([Zone("yard", SQUARE)], size_hw=SIZE_HW, classes=["person"])
    events = walk(zones, [(50, 200), (150, 200), (200, 200), (250, 200)], step_s=0.5)
    assert events == [Happening("enter", {"zone": "yard", "track_id": 1, "class": "person"})]
    assert zones.occupancy() == {"yard": 1}
    (left,) = zones.update(standing({1: (350, 200)}), 3.0)
    assert left == Happening("leave", {"zone": "yard", "dwell_s": 2.5, "track_id": 1, "class": "person"})
    assert zones.occupancy() == {"yard": 0}
    json.dumps([event.detail for event in events])


def test_a_track_out_of_sight_for_a_moment_stays_and_one_that_vanishes_leaves_when_last_seen():
    zones = Zones([Zone("yard", SQUARE)], size_hw=SIZE_HW, forget_s=1.0)
    zones.update(standing({1: (200, 200)}), 0.0)
    zones.update(standing({1: (200, 200)}), 2.0)
    assert zones.update(standing({}), 2.8) == []
    assert zones.update(standing({1: (210, 200)}), 2.9) == []
    assert zones.occupancy() == {"yard": 1}
    assert zones.update(standing({}), 4.0) == [
        Happening("leave", {"zone": "yard", "track_id": 1, "class": "class 0", "dwell_s": 2.9})
    ]
    assert len(zones) == 0


def test_a_track_found_again_behind_a_line_has_crossed_it():
    zones = Zones(lines=[Line("door", (100, 200), (300, 200))], size_hw=SIZE_HW)
    zones.update(standing({1: (200, 150)}), 0.0)
    zones.update(standing({}), 0.3)
    (event,) = zones.update(standing({1: (200, 250)}), 0.6)
    assert event.detail["direction"] == "right"


def test_whose_box_is_cut_off_by_the_frame_is_in_a_zone_that_ends_there():
    whole = Zone("whole", [(0, 0), (640, 0), (640, 480), (0, 480)])
    assert len(Zones([whole], size_hw=SIZE_HW).update(standing({1: (200, 480), 2: (640, 480), 3: (0, 0)}), 0.0)) == 3


def test_everybody_leaves_at_the_end():
    zones = Zones([Zone("yard", SQUARE)], size_hw=SIZE_HW)
    zones.update(standing({1: (200, 200), 2: (250, 250), 3: (10, 10)}), 0.0)
    zones.update(standing({1: (200, 200), 2: (50, 50), 3: (10, 10)}), 1.0)
    assert [event.detail["dwell_s"] for event in zones.close()] == [1.0]
    assert len(zones) == 0


def test_two_thousand_strangers_are_forgotten():
    zones, random = Zones([Zone("yard", SQUARE)], size_hw=SIZE_HW), np.random.default_rng(0)
    entered = left = 0
    for i in range(2000):
        events = zones.update(standing({i: random.uniform((0, 0), (640, 480))}), i / 10)
        entered += sum(event.kind == "enter" for event in events)
        left += sum(event.kind == "leave" for event in events)
        assert len(zones) <= 12
    assert entered > 100
    assert 0 <= entered - left <= 12


def test_a_clock_set_back_keeps_nobody_and_gives_no_negative_dwell():
    zones = Zones([Zone("yard", SQUARE)], size_hw=SIZE_HW)
    zones.update(standing({1: (200, 200)}), 3600.0)
    events = [event for i in range(20) for event in zones.update(standing({}), i / 10)]
    assert [event.detail["dwell_s"] for event in events] == [0.0]
    assert len(zones) == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Zone("yard", SQUARE[:2]), "zone 'yard' has 2 points; a zone takes 3 at least"),
        (
            lambda: Zone("bow", [(0, 0), (9, 9), (9, 0), (0, 9)]),
            r"zone 'bow' crosses itself: the edge from \(0, 0\) to \(9, 9\)",
        ),
        (lambda: Zone("flat", [(0, 0), (9, 0), (5, 0)]), "zone 'flat' crosses itself"),
        (lambda: Zone("spike", [(0, 0), (9, 0), (9, 9), (9, 4), (0, 9)]), "zone 'spike' crosses itself"),
        (lambda: Zone("touch", [(0, 0), (9, 0), (9, 9), (5, 0), (0, 9)]), "zone 'touch' crosses itself"),
        (lambda: Zone("twice", [(0, 0), (0, 0), (9, 9), (5, 0)]), r"zone 'twice' has the point \(0, 0\) twice in a row"),
        (lambda: Zone("odd", [(0, 0), (9, 9), (9,)]), "zone 'odd': .* are no points"),
        (lambda: Zone("nan", [(0, 0), (9, 9), (float("nan"), 0)]), "zone 'nan': .* are no points"),
        (lambda: Line("dot", (3, 4), (3, 4)), r"line 'dot' starts and ends at \(3, 4\)"),
        (
            lambda: Zones([Zone("far", [(0, 0), (700, 0), (0, 9)])], size_hw=SIZE_HW),
            r"\(700, 0\) outside the frame.* 640x480; draw",
        ),
        (lambda: Zones(lines=[Line("up", (0, -1), (5, 5))], size_hw=SIZE_HW), r"line 'up' has the point \(0, -1\) outside"),
        (lambda: Zones([Zone("a", SQUARE), Zone("a", STAR)], size_hw=SIZE_HW), "there are two zones named 'a'; rename one"),
    ],
)
def test_a_wrong_zone_or_line_gets_one_message(make, message):
    with pytest.raises(UsageError, match=message):
        make()


def test_a_concave_zone_whose_edges_run_along_one_line_is_accepted():
    Zone("comb", [(0, 0), (90, 0), (90, 50), (60, 50), (60, 20), (30, 20), (30, 50), (0, 50)])
    Zone("straight corner", [(0, 0), (5, 0), (9, 0), (9, 9)])


def test_zones_made_before_the_frames_size_is_known_are_refused_when_it_is():
    zones = Zones([Zone("yard", SQUARE)])
    zones.fit(SIZE_HW)
    with pytest.raises(UsageError, match=r"zone 'yard' has the point \(300, 100\) outside the frame, which is 240x480"):
        zones.fit((480, 240))


def test_detections_without_tracks_are_refused():
    found = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32))
    with pytest.raises(UsageError, match="zones and lines need tracks; choose a tracker"):
        Zones([Zone("yard", SQUARE)], size_hw=SIZE_HW).update(found, 0.0)
