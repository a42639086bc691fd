"""The report of a validation: a table of figures, report.json for machines and a report.html that needs no other file."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edgedet import artifact, console
from edgedet.data.evaluation import Scores
from edgedet.runtimes import machine, pictures, precision, track_report
from edgedet.runtimes.figures import Comparison, ImageDifference, Report, Side
from edgedet.runtimes.matching import Spread
from edgedet.runtimes.track_parity import Tracked, TrackReport

SCHEMA = 1
TEMPLATE = Path(__file__).with_name("report.html")
SCORES = {"AP": "ap", "AP50": "ap50", "AP75": "ap75", "AP small": "ap_small", "AP medium": "ap_medium", "AP large": "ap_large"}


def require_libraries() -> None:
    """Import what a report needs, so that an absent one is said before any long work."""
    for name in ("faster_coco_eval", "jinja2", "matplotlib"):
        importlib.import_module(name)


def write(folder: Path, report: Report | None, *, tracks: TrackReport | None = None, command: str = "") -> tuple[Path, Path]:
    """Write report.json and report.html, both or none; returns their paths.

    report, tracks: what was compared on images and on a clip; either may be
    absent. command: how to run it again.
    """
    paths = folder / "report.json", folder / "report.html"
    facts = to_dict(report, tracks=tracks, command=command)
    page = to_html(report, facts, tracks=tracks)
    with artifact.writing(*paths) as (json_path, html_path):
        json_path.write_text(console.to_json(facts) + "\n", encoding="utf-8")
        html_path.write_text(page, encoding="utf-8")
    return paths


def to_dict(report: Report | None, *, tracks: TrackReport | None = None, command: str = "") -> dict[str, Any]:
    """The reports as what JSON can hold; every figure, no pictures, no path of this machine."""
    failures = [*(report.failures if report else []), *(tracks.failures if tracks else [])]
    return {
        "schema": SCHEMA,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command,
        "passed": not failures,
        "failures": failures,
        **(_images(report) if report else {}),
        **({"video": track_report.to_dict(tracks)} if tracks else {}),
        "machine": asdict(machine.describe()),
    }


def summary(report: Report) -> tuple[list[str], list[list[str]]]:
    """Column names and rows of text: one column a model, one row a figure."""
    sides = [report.reference, *(comparison.other for comparison in report.comparisons)]
    rows = [
        ["runtime", *(f"{side.runtime} {side.facts.get('device', '')}".strip() for side in sides)],
        ["precision of the file", *(side.spec.precision for side in sides)],
        ["precision it ran in", *(side.facts.get("precision", "–") for side in sides)],
        ["layers in another than asked", *(_differing(side) for side in sides)],
        *([name, *(_score(side.scores, key) for side in sides)] for name, key in SCORES.items()),
        *([name, "", *(show(c) for c in report.comparisons)] for name, show in _ROWS),
        ["best threshold", *(_threshold(report, index) for index in range(len(sides)))],
        ["latency p50, p90 (ms)", *(f"{side.latency.p50_ms:.1f}, {side.latency.p90_ms:.1f}" for side in sides)],
        ["file (MB)", *(f"{side.size_bytes / 1e6:.2f}" for side in sides)],
    ]
    return ["", *(side.label for side in sides)], rows


def bisection_rows(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Column names and rows of text: the operators that diverge."""
    found = comparison.bisection.operators if comparison.bisection else ()
    columns = ["operator", "kind", "behind", "error in", "error out", "its own"]
    return columns, [
        [o.name, o.kind, ", ".join(o.behind) or "–", *(f"{error:.2g}" for error in (o.error_in, o.error_out, o.own_error))]
        for o in found
    ]


def to_html(report: Report | None, facts: dict[str, Any], *, tracks: TrackReport | None = None) -> str:
    """A page with every figure, plot and picture in it."""
    import jinja2

    loader = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    parts = [part for part in (report, tracks) if part]
    compared = [comparison for part in parts for comparison in part.comparisons]
    return loader.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        facts=facts,
        report=report,
        tracks=tracks,
        labels=list(dict.fromkeys(comparison.other.label for comparison in compared)),
        asked=sum(len(comparison.gates) for comparison in compared),
        files=list(dict.fromkeys(file for part in parts for side in _sides(part) for file in side.files.items())),
        **(_image_pages(report) if report else {}),
        **(track_report.page(tracks) if tracks else {}),
    )


def _sides(report: Report | TrackReport) -> list[Side | Tracked]:
    return [report.reference, *(comparison.other for comparison in report.comparisons)]


def _image_pages(report: Report) -> dict[str, Any]:
    """What the page's part about images shows."""
    columns, rows = summary(report)
    return {
        "columns": columns,
        "rows": rows,
        "classes": [_classes(report.reference, comparison) for comparison in report.comparisons],
        "signed": _signed,
        "precision": [_precision(comparison.other) for comparison in report.comparisons],
        "bisections": [bisection_rows(comparison) for comparison in report.comparisons],
        "plots": [pictures.plots(report.reference, comparison) for comparison in report.comparisons],
        "worst": [[_worst(report, image) for image in comparison.worst] for comparison in report.comparisons],
    }


def _spread(spread: Spread | None) -> str:
    """`p50 / p99 / max`, or a dash."""
    return f"{spread.p50:.3g} / {spread.p99:.3g} / {spread.max:.3g}" if spread else "–"


def _differing(side: Side) -> str:
    """`3 of 113`, or a dash where the runtime does not tell."""
    return f"{len(precision.differing(side.layers))} of {len(side.layers)}" if side.layers else "–"


def _precision(side: Side) -> dict[str, Any]:
    """Shares of the multiply-accumulates by executed precision, what differs from what was asked, and every layer."""
    return {
        "shares": precision.shares(side.layers),
        "complaints": precision.complaints(side.layers),
        "layers": [asdict(layer) for layer in side.layers],
    }


def _signed(difference: float) -> str:
    """A difference with its sign, plain zero where it rounds to that."""
    return f"{difference:+.4f}" if abs(difference) >= 5e-5 else "0.0000"


def _candidates(comparison: Comparison, name: str) -> str:
    return _spread(getattr(comparison.candidates, name)) if comparison.candidates else "–"


def _rate(comparison: Comparison) -> str:
    return "–" if comparison.match_rate is None else f"{comparison.match_rate:.4f} ({comparison.matched})"


_ROWS: Sequence[tuple[str, Callable[[Comparison], str]]] = (
    ("AP drop", lambda c: "–" if c.ap_drop is None else _signed(c.ap_drop)),
    ("matched", _rate),
    ("only reference, only here", lambda c: f"{c.only_reference}, {c.only_other}"),
    ("box error px p50 / p99 / max", lambda c: _spread(c.box_error_px)),
    ("score drift p50 / p99 / max", lambda c: _spread(c.score_drift)),
    ("score drift mean", lambda c: f"{c.score_drift.mean:+.3g}" if c.score_drift else "–"),
    ("candidate boxes px p50 / p99 / max", lambda c: _candidates(c, "box_error_px")),
    ("candidate scores p50 / p99 / max", lambda c: _candidates(c, "score_error")),
)


def _score(scores: Scores | None, name: str) -> str:
    value = getattr(scores, name) if scores else None
    return "–" if value is None else f"{value:.4f}"


def _threshold(report: Report, index: int) -> str:
    """The threshold to run a column's model at, and its F1."""
    operating = report.comparisons[max(index - 1, 0)].operating
    if operating is None:
        return "–"
    if index == 0:
        return f"{operating.reference_threshold:.2f} (F1 {operating.reference_f1:.4f})"
    return f"{operating.other_threshold:.2f} (F1 {operating.other_f1:.4f})"


def _images(report: Report) -> dict[str, Any]:
    return {
        "dataset": {
            "name": report.dataset,
            "images": report.images,
            "truth": report.truth,
            "problems": str(report.problems) if report.problems else None,
            "unreadable": list(report.unreadable),
        },
        "min_score": report.min_score,
        "reference": _side(report.reference),
        "comparisons": [_comparison(report.reference, comparison) for comparison in report.comparisons],
    }


def _side(side: Side) -> dict[str, Any]:
    return {
        "label": side.label,
        "files": side.files,
        "size_bytes": side.size_bytes,
        "runtime": side.runtime,
        "facts": side.facts,
        "model": side.spec.name,
        "size_hw": side.spec.size_hw,
        "precision": side.spec.precision,
        "encoding": side.spec.encoding,
        "precision_by_layer": _precision(side),
        "nms": asdict(side.spec.suppression),
        "provenance": dict(side.spec.provenance),
        "latency": asdict(side.latency),
        "scores": asdict(side.scores) if side.scores else None,
        "curve": side.curve,
        "histogram": side.histogram,
    }


def _comparison(reference: Side, comparison: Comparison) -> dict[str, Any]:
    return {
        "other": _side(comparison.other),
        "candidates": asdict(comparison.candidates) if comparison.candidates else None,
        "detections": {
            "matched": comparison.matched,
            "only_reference": comparison.only_reference,
            "only_other": comparison.only_other,
            "match_rate": comparison.match_rate,
            "box_error_px": asdict(comparison.box_error_px) if comparison.box_error_px else None,
            "score_drift": asdict(comparison.score_drift) if comparison.score_drift else None,
            "unmatched": [asdict(lone) for lone in comparison.lone],
        },
        "ap_drop": comparison.ap_drop,
        "ap_drop_by_class": {name: ours - theirs for name, ours, theirs in _classes(reference, comparison)},
        "operating": asdict(comparison.operating) if comparison.operating else None,
        "worst_images": [{"image": i.name, **dict(zip(_SEVERITY, i.severity, strict=True))} for i in comparison.worst],
        "notes": list(comparison.notes),
        "gates": [asdict(gate) for gate in comparison.gates],
        "bisection": asdict(comparison.bisection) if comparison.bisection else None,
    }


_SEVERITY = ("unmatched_score", "score_drift", "box_error_px")


def _classes(reference: Side, comparison: Comparison) -> list[tuple[str, float, float]]:
    """Class name, AP of the reference and of the other, the largest difference first."""
    if not reference.scores or not comparison.other.scores:
        return []
    theirs = comparison.other.scores.by_class
    rows = [(name, ap, theirs[name]) for name, ap in reference.scores.by_class.items()]
    return sorted(rows, key=lambda row: -abs(row[1] - row[2]))


def _worst(report: Report, image: ImageDifference) -> dict[str, Any]:
    _, drift, error = image.severity
    return {
        "name": image.name,
        "source": pictures.side_by_side(image, report.reference.spec.classes),
        "unmatched": len(image.matches.only_reference) + len(image.matches.only_other),
        "matched": len(image.matches.reference),
        "drift": drift,
        "error": error,
    }
