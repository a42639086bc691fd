"""Which layers must stay in float: each is quantised alone and judged by what that does to the detections, then choices
between all INT8 and all float are measured whole, and the fastest within the accuracy budget is taken."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from edgedet.calibration.network import Layer
from edgedet.console import track
from edgedet.errors import GateFailed

STEPS = (1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2, 3 / 4)
"""Shares of the layers in float that are tried between the rule's choice and all."""


@dataclass(frozen=True)
class Sensitivity:
    """What quantising one layer alone does: the disagreement of the detections with FP32's, 0 where none."""

    layer: Layer
    damage: float


@dataclass(frozen=True)
class Point:
    """One choice of layers, measured whole. latency_ms: median of an image; None where no runtime here runs the encoding."""

    left_float: tuple[str, ...]
    ap_drop: float
    latency_ms: float | None
    int8_share: float


def rank(layers: Sequence[Layer], damage_of: Callable[[Collection[str]], float]) -> list[Sensitivity]:
    """The layers, those first that are best left in float: most damage for the multiply-accumulates given up.

    damage_of: the disagreement of a model with these layers left in float, all others quantised.
    """
    names = [layer.name for layer in layers]
    found = []
    for layer in track(layers, "one layer at a time", total=len(layers)):
        found.append(Sensitivity(layer, damage_of([name for name in names if name != layer.name])))
    total = sum(layer.macs for layer in layers)
    # Residual additions and pools are quantised each time: what they cost is in every figure and no layer's own.
    floor = min((one.damage for one in found), default=0.0)

    def worth(one: Sensitivity) -> float:
        return (one.damage - floor) / (one.layer.macs / total + 1 / len(layers))

    return sorted(found, key=worth, reverse=True)


def choices(ranked: Sequence[Sensitivity], by_rule: Collection[str]) -> list[tuple[str, ...]]:
    """Sets of layers to leave in float, from none to three quarters, by rank; what the rules leave among them."""
    names = [one.layer.name for one in ranked]
    sets = [(), tuple(by_rule), *(tuple(names[: max(round(share * len(names)), 1)]) for share in STEPS)]
    sets += [tuple(dict.fromkeys([*by_rule, *names[: round(share * len(names))]])) for share in STEPS[:4]]
    unique: dict[frozenset[str], tuple[str, ...]] = {}
    for one in sets:
        unique.setdefault(frozenset(one), one)
    return list(unique.values())


def fastest(points: Sequence[Point], max_ap_drop: float) -> Point:
    """The fastest point within the budget, by INT8 share where nothing was timed; GateFailed where none is."""
    within = [point for point in points if point.ap_drop <= max_ap_drop]
    if not within:
        best = min(points, key=lambda point: point.ap_drop, default=None)
        words = best and f"; the best drops {best.ap_drop:.4f} with {best.int8_share:.0%} of the convolution in INT8"
        raise GateFailed(
            f"no choice of layers keeps the AP drop within {max_ap_drop:g}{words or ''}: "
            "allow more, give more calibration images, or use fp16"
        )
    return min(within, key=lambda point: (point.latency_ms or 0.0, -point.int8_share, point.ap_drop))


def plot(points: Sequence[Point], chosen: Point, max_ap_drop: float) -> bytes:
    """A PNG of AP drop against latency (INT8 share where nothing was timed), with the budget and the chosen point."""
    import io

    from matplotlib.figure import Figure

    timed = chosen.latency_ms is not None
    across = [_across(point) for point in points]
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    axes.scatter(across, [point.ap_drop for point in points], color="#1668c7", label="measured choices")
    for x, point in zip(across, points, strict=True):
        note = f"{len(point.left_float)} float, {point.int8_share:.0%}"
        axes.annotate(note, (x, point.ap_drop), textcoords="offset points", xytext=(6, 4), fontsize=8)
    axes.scatter(
        [_across(chosen)], [chosen.ap_drop], s=140, facecolors="none", edgecolors="#1b7f3b", linewidths=2, label="chosen"
    )
    axes.axhline(max_ap_drop, color="#c02626", linewidth=1, linestyle="--", label=f"budget {max_ap_drop:g}")
    axes.set_xlabel("latency, ms an image" if timed else "convolution in INT8, %")
    axes.set_ylabel("AP drop against fp32")
    axes.legend()
    page = io.BytesIO()
    figure.savefig(page, format="png", dpi=120)
    return page.getvalue()


def _across(point: Point) -> float:
    """Where a point stands on the plot's horizontal axis: milliseconds, or percent in INT8 where it was not timed."""
    return point.int8_share * 100 if point.latency_ms is None else point.latency_ms
