"""Plots and pictures of a comparison as data URIs, so that a page holds them itself."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from edgedet.detections import Detections
from edgedet.runtimes.figures import Comparison, ImageDifference, Operating, Side
from edgedet.runtimes.track_parity import TrackComparison, TrackReport

REFERENCE, OTHER, BAD = "#5b6472", "#1668c7", "#c02626"
MATCHED_BGR, LONE_BGR = (96, 174, 39), (43, 38, 214)
PANEL_PX = 560
CAPTION_SCORE = 0.3  # fainter boxes that match go without a caption, or nothing is seen of the picture
POINTS = 4000


def plots(reference: Side, comparison: Comparison) -> list[tuple[str, str]]:
    """Caption and SVG data URI of each plot that the comparison has figures for."""
    drawn = [("Detections by score", _histograms(reference, comparison))]
    if comparison.operating:
        drawn.append(("F1 against the score threshold", _f1_curves(reference, comparison.other, comparison.operating)))
    if comparison.matched:
        drawn.append(("Score drift of every matched detection", _drift(comparison)))
        drawn.append(("Box error of every matched detection", _box_errors(comparison)))
    return drawn


def objects_over_time(tracks: TrackReport, comparison: TrackComparison) -> str:
    """SVG data URI: objects tracked in each frame on both sides, and a mark where an id switches."""
    figure, axes = _figure(size_inches=(11.6, 3.0))
    reference, other = tracks.reference, comparison.other
    axes.fill_between(
        tracks.times_s, reference.counts, step="post", color=REFERENCE, alpha=0.3, label=f"reference: {reference.label}"
    )
    axes.step(tracks.times_s, other.counts, where="post", color=OTHER, linewidth=1.4, label=other.label)
    if comparison.switches_s:
        marks = np.zeros(len(comparison.switches_s))
        axes.scatter(comparison.switches_s, marks, marker="^", color=BAD, zorder=3, label="id switch", clip_on=False)
    axes.set(xlabel="seconds of the clip", ylabel="objects tracked", ylim=(0, None))
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="lower left", bbox_to_anchor=(0, 1))
    return _svg(figure)


def side_by_side(image: ImageDifference, classes: Sequence[str]) -> str:
    """JPEG data URI: the reference's detections on the left, the other's on the right; red ones have no partner."""
    frame = image.sample.read()
    pairs = image.matches
    panels = [
        _panel(frame, image.reference, pairs.reference, pairs.only_reference, classes),
        _panel(frame, image.other, pairs.other, pairs.only_other, classes),
    ]
    gap = np.full((len(panels[0]), 8, 3), 255, np.uint8)
    _, data = cv2.imencode(".jpg", np.hstack([panels[0], gap, panels[1]]), [cv2.IMWRITE_JPEG_QUALITY, 82])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


def _panel(frame: np.ndarray, found: Detections, matched: np.ndarray, lone: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """The frame, fitted into the panel's width and at most as high, with the matched and the lone detections on it."""
    scale = PANEL_PX / max(frame.shape[:2])
    width, height = (max(round(side * scale), 1) for side in (frame.shape[1], frame.shape[0]))
    panel = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    for rows, colour in ((matched, MATCHED_BGR), (lone, LONE_BGR)):
        for row in rows[np.argsort(found.scores[rows])]:
            left, top, right, bottom = (round(float(side) * scale) for side in found.boxes[row])
            sure = found.scores[row] >= CAPTION_SCORE or rows is lone
            cv2.rectangle(panel, (left, top), (right, bottom), colour, 2 if sure else 1, cv2.LINE_AA)
            if sure:
                _caption(panel, f"{classes[found.labels[row]]} {found.scores[row]:.2f}", (left, top), colour)
    return cv2.copyMakeBorder(panel, 0, 0, 0, PANEL_PX - width, cv2.BORDER_CONSTANT, value=(246, 245, 244))


def _caption(panel: np.ndarray, text: str, corner_xy: tuple[int, int], colour: tuple[int, int, int]) -> None:
    """White text on the box's colour, above the box's corner where there is room."""
    font, size = cv2.FONT_HERSHEY_SIMPLEX, 0.4
    (width, height), _ = cv2.getTextSize(text, font, size, 1)
    left = int(np.clip(corner_xy[0], 0, max(panel.shape[1] - width - 4, 0)))
    bottom = max(corner_xy[1], height + 6)
    cv2.rectangle(panel, (left, bottom - height - 6), (left + width + 4, bottom), colour, cv2.FILLED)
    cv2.putText(panel, text, (left + 2, bottom - 4), font, size, (255, 255, 255), 1, cv2.LINE_AA)


def _figure(*, size_inches: tuple[float, float] = (5.6, 3.3)) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size_inches, layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e4e7eb", linewidth=0.7)
    axes.set_axisbelow(True)
    return figure, axes


def _svg(figure: Any) -> str:
    """The figure as an SVG data URI, its text as text."""
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, dpi=150)
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def _histograms(reference: Side, comparison: Comparison) -> str:
    figure, axes = _figure()
    edges = np.linspace(0, 1, 21)
    axes.stairs(
        np.maximum(reference.histogram, 0.5),
        edges,
        color=REFERENCE,
        fill=True,
        alpha=0.3,
        label=f"reference: {reference.label}",
    )
    axes.stairs(np.maximum(comparison.other.histogram, 0.5), edges, color=OTHER, linewidth=1.6, label=comparison.other.label)
    axes.set(xlabel="score", ylabel="detections", yscale="log", xlim=(0, 1), ylim=(0.7, None))
    axes.legend(frameon=False, fontsize=8)
    return _svg(figure)


def _f1_curves(reference: Side, other: Side, operating: Operating) -> str:
    figure, axes = _figure()
    for side, threshold, colour, style, label in (
        (reference, operating.reference_threshold, REFERENCE, (0, (5, 3)), f"reference: {reference.label}"),
        (other, operating.other_threshold, OTHER, "solid", other.label),
    ):
        curve = side.curve or {}
        axes.plot(curve["thresholds"], curve["f1"], color=colour, linestyle=style, linewidth=1.6, label=label)
        axes.axvline(threshold, color=colour, linestyle=style, linewidth=0.9)
    axes.set(xlabel="score threshold", ylabel="F1 at IoU .5", xlim=(0, 1), ylim=(0, None))
    axes.legend(frameon=False, fontsize=8)
    return _svg(figure)


def _drift(comparison: Comparison) -> str:
    figure, axes = _figure()
    scores = comparison.pair_scores[:: len(comparison.pair_scores) // POINTS + 1]
    axes.scatter(scores[:, 0], scores[:, 1] - scores[:, 0], s=9, color=OTHER, alpha=0.45, linewidths=0, rasterized=True)
    axes.axhline(0, color=REFERENCE, linewidth=0.9)
    axes.set(xlabel="score on the reference", ylabel="score here − on the reference", xlim=(0, 1))
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
    return _svg(figure)


def _box_errors(comparison: Comparison) -> str:
    figure, axes = _figure()
    errors = np.sort(np.maximum(comparison.box_errors, 1e-6))
    axes.step(errors, np.arange(1, len(errors) + 1) / len(errors), color=OTHER, linewidth=1.6, where="post")
    axes.set(xlabel="worst coordinate, original-image pixels", ylabel="share of detections", xscale="log", ylim=(0, 1.02))
    return _svg(figure)
