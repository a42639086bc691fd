"""Which layers must stay in float: ranking, choices, the choice, the plot."""

from __future__ import annotations

from collections.abc import Collection

import cv2
import numpy as np
import pytest

from edgedet.calibration.network import Layer
from edgedet.calibration.sensitivity import Point, Sensitivity, choices, fastest, plot, rank
from edgedet.errors import GateFailed

NAMES = tuple(f"layer_{index}" for index in range(16))


def layers(macs: dict[str, int] | None = None) -> list[Layer]:
    return [Layer(name, "data", f"{name}.weight", "", f"{name}_out", (macs or {}).get(name, 100), "plain") for name in NAMES]


def damaged_by(**damages: float):
    """A model where quantising each named layer does so much, and any other nothing."""
    return lambda left_float: sum(damage for name, damage in damages.items() if name not in left_float)


def test_the_layer_that_does_the_damage_comes_first():
    found = rank(layers(), damaged_by(layer_5=0.5, layer_2=0.1))
    assert [one.layer.name for one in found[:2]] == ["layer_5", "layer_2"]
    assert [one.damage for one in found[:3]] == [0.5, 0.1, 0]


def test_each_layer_is_quantised_alone():
    asked: list[set[str]] = []

    def damage(left_float: Collection[str]) -> float:
        asked.append(set(left_float))
        return 0.0

    rank(layers(), damage)
    assert asked == [set(NAMES) - {name} for name in NAMES]


def test_of_equal_damage_the_layer_comes_first_that_gives_up_less():
    found = rank(layers({"layer_1": 10_000, "layer_2": 10}), damaged_by(layer_1=0.2, layer_2=0.2))
    assert [one.layer.name for one in found[:2]] == ["layer_2", "layer_1"]


def test_choices_reach_from_none_to_three_quarters_and_hold_what_the_rules_say():
    ranked = [Sensitivity(layer, 0.0) for layer in layers()]
    rules = {"layer_15": "a reason", "layer_14": "another"}
    found = choices(ranked, rules)
    assert found[:2] == [(), ("layer_15", "layer_14")]
    assert NAMES[:12] in found
    assert max(map(len, found)) == 12
    assert all(set(one) <= set(NAMES) and len(set(one)) == len(one) for one in found)


@pytest.mark.parametrize("count", [1, 2, 3, 16])
@pytest.mark.parametrize("ruled", [(), (1, 0), (0, 1, 2), (15,)])
def test_no_choice_is_measured_twice_even_in_another_order(count, ruled):
    ranked = [Sensitivity(layer, 0.0) for layer in layers()[:count]]
    found = choices(ranked, [NAMES[index] for index in ruled if index < count])
    assert len({frozenset(one) for one in found}) == len(found)
    assert found[0] == ()


POINTS = (
    Point((), 0.20, 5.0, 1.0),
    Point(("a",), 0.004, 6.5, 0.9),
    Point(("a", "b"), 0.003, 6.0, 0.8),
    Point(("a", "b", "c"), 0.001, 8.0, 0.5),
)


@pytest.mark.parametrize(("budget", "index"), [(1.0, 0), (0.005, 2), (0.0035, 2), (0.001, 3)])
def test_the_fastest_within_the_budget_is_chosen(budget, index):
    assert fastest(POINTS, budget) is POINTS[index]


def test_where_nothing_was_timed_the_one_with_most_in_int8_is_chosen():
    untimed = [Point(point.left_float, point.ap_drop, None, point.int8_share) for point in POINTS]
    assert fastest(untimed, 0.005) is untimed[1]


def test_where_none_is_within_the_budget_the_gate_fails_and_names_the_best():
    with pytest.raises(GateFailed, match=r"AP drop within 0.0005; the best drops 0.0010 with 50% .* or use fp16"):
        fastest(POINTS, 0.0005)


@pytest.mark.parametrize("timed", [True, False])
def test_the_plot_is_a_png_with_the_chosen_point_in_it(timed):
    """Ring, budget and points are there in their colours, to what anti-aliasing leaves of a thin line."""
    pytest.importorskip("matplotlib")
    points = POINTS if timed else [Point(one.left_float, one.ap_drop, None, one.int8_share) for one in POINTS]
    page = plot(points, points[2], 0.005)
    assert page[:8] == b"\x89PNG\r\n\x1a\n"
    picture = cv2.imdecode(np.frombuffer(page, np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (504, 840, 3)
    for colour in ("#1b7f3b", "#c02626", "#1668c7"):
        bgr = np.array([int(colour[place : place + 2], 16) for place in (5, 3, 1)])
        assert (np.abs(picture.astype(int) - bgr).max(axis=2) <= 40).any(), colour
