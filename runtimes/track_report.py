"""The part of a validation's report that tells of tracks: a table, what JSON holds, what the page shows."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from edgedet.runtimes import pictures
from edgedet.runtimes.track_parity import MIN_IOU, Tracked, TrackReport


def summary(tracks: TrackReport) -> tuple[list[str], list[list[str]]]:
    """Column names and rows of text: one column a model, one row a figure of its tracks."""
    sides = [tracks.reference, *(comparison.other for comparison in tracks.comparisons)]
    rows = [
        ["runtime", *(f"{side.runtime} {side.facts.get('device', '')}".strip() for side in sides)],
        ["precision it ran in", *(side.facts.get("precision", "–") for side in sides)],
        ["IDF1", "", *("–" if c.idf1 is None else f"{c.idf1:.4f}" for c in tracks.comparisons)],
        ["id switches", "", *(str(len(c.switches_s)) for c in tracks.comparisons)],
        ["objects a frame", *(f"{side.objects_a_frame:.3f}" for side in sides)],
        ["objects a frame, off by", "", *(_percent(c.count_error) for c in tracks.comparisons)],
        ["tracks", *(str(side.tracks) for side in sides)],
        ["tracks, off by", "", *(_percent(c.track_error) for c in tracks.comparisons)],
    ]
    return ["", *(side.label for side in sides)], rows


def to_dict(tracks: TrackReport) -> dict[str, Any]:
    """The report as what JSON can hold."""
    return {
        "clip": tracks.clip,
        "frames": len(tracks.times_s),
        "tracker": tracks.tracker,
        "track_score": tracks.track_score,
        "classes": tracks.classes,
        "reference": _tracked(tracks.reference),
        "comparisons": [
            {
                "other": _tracked(comparison.other),
                "idf1": comparison.idf1,
                "id_switches": len(comparison.switches_s),
                "switches_s": list(comparison.switches_s),
                "count_error": comparison.count_error,
                "track_error": comparison.track_error,
                "gates": [asdict(gate) for gate in comparison.gates],
            }
            for comparison in tracks.comparisons
        ],
    }


def page(tracks: TrackReport) -> dict[str, Any]:
    """What the page's part about the clip shows."""
    columns, rows = summary(tracks)
    plots = [pictures.objects_over_time(tracks, comparison) for comparison in tracks.comparisons]
    return {"track_columns": columns, "track_rows": rows, "track_plots": plots, "min_iou": MIN_IOU}


def _tracked(side: Tracked) -> dict[str, Any]:
    return {name: getattr(side, name) for name in ("label", "files", "runtime", "facts", "tracks", "objects_a_frame")}


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.2f} %"
