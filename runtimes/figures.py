"""What a validation found: figures of each model, of each comparison, and the gates they pass or miss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgedet.data.dataset import Problems, Sample
from edgedet.data.evaluation import Scores
from edgedet.detections import Detections
from edgedet.errors import GateFailed
from edgedet.runtimes.matching import Matches, Spread
from edgedet.runtimes.precision import Layer
from edgedet.spec import ModelSpec, Precision


@dataclass(frozen=True)
class Gates:
    """The limits a comparison must keep; None asks for nothing.

    max_ap_drop: AP of the reference minus AP of the other, in [0, 1].
    max_ap_change: the same either way, as for a file that should be equal.
    max_box_error: the worst coordinate of the matched boxes, original-image
    pixels. max_score_drift: the worst difference of a matched score.
    usual_box_error, usual_score_drift: the same at the 99th percentile, which
    one box kept instead of its near equal by suppression does not move.
    min_match: share of the detections that have a partner, in [0, 1].
    """

    max_ap_drop: float | None = None
    max_box_error: float | None = None
    max_score_drift: float | None = None
    min_match: float | None = None
    max_ap_change: float | None = None
    usual_box_error: float | None = None
    usual_score_drift: float | None = None


ANNOTATIONS = "annotations"
FLOORS: dict[Precision, Gates] = {
    "fp32": Gates(max_ap_change=0.0005, usual_box_error=0.1, usual_score_drift=0.001, min_match=0.999),
    "fp16": Gates(max_ap_change=0.002, min_match=0.95),
    "int8": Gates(max_ap_drop=0.005),
    "int8+fp16": Gates(max_ap_drop=0.005),
}
"""What every export must keep on real images. Where two objects compete for one candidate, FP16 moves boxes far, and
even FP32 rounding can decide which of two near equals suppression keeps; so the worst box is told, not gated. INT8 has its
accuracy to keep, and no parity."""


@dataclass(frozen=True)
class GateResult:
    """One gate, what was measured (None where nothing could be) and whether it holds; nothing measured never passes."""

    name: str
    figure: float | None
    limit: float
    passed: bool

    def __str__(self) -> str:
        if self.figure is None:
            return f"{self.name}: nothing could be measured, limit {self.limit:g}"
        return f"{self.name}: {self.figure:.5g}, limit {self.limit:g}"


@dataclass(frozen=True)
class Latency:
    """Milliseconds an image of inference alone, after warm-up, each model by itself; batch: images at once."""

    p50_ms: float
    p90_ms: float
    p99_ms: float
    batch: int


@dataclass(frozen=True)
class Side:
    """One model on the whole data set.

    files: sha256 by name. facts: what the runtime says of device and precision.
    layers: with the precision of each, none where the runtime does not tell.
    scores, curve: None where the data has no truth. curve: what
    `evaluation.score_curve` gives. histogram: (20,) detections by score in steps of .05.
    """

    label: str
    files: dict[str, str]
    size_bytes: int
    runtime: str
    facts: dict[str, str]
    layers: tuple[Layer, ...]
    spec: ModelSpec
    latency: Latency
    scores: Scores | None
    curve: dict[str, np.ndarray] | None
    histogram: np.ndarray


@dataclass(frozen=True)
class CandidateFigures:
    """Errors of the candidates that count on `images` images: boxes in input pixels, scores, and labels that changed."""

    box_error_px: Spread | None
    score_error: Spread | None
    labels_changed: int
    images: int


@dataclass(frozen=True)
class ImageDifference:
    """One image where both sides detect, and what differs there."""

    sample: Sample
    reference: Detections
    other: Detections
    matches: Matches

    @property
    def name(self) -> str:
        """The image's file name."""
        return self.sample.path.name

    @property
    def severity(self) -> tuple[float, float, float]:
        """What to sort by: the surest detection without a partner, then the worst score drift, then the worst box."""
        lone = np.concatenate([self.reference.scores[self.matches.only_reference], self.other.scores[self.matches.only_other]])
        drift = np.abs(self.matches.score_drifts).max(initial=0)
        return float(lone.max(initial=0)), float(drift), float(self.matches.box_errors.max(initial=0))


@dataclass(frozen=True)
class Lone:
    """A detection without a partner. side: `reference` or `other`. box: xyxy, original-image pixels."""

    image: str
    side: str
    label: str
    score: float
    box: tuple[float, ...]


@dataclass(frozen=True)
class Operating:
    """The score thresholds to run at: the reference's best F1, and the other's nearest to it that costs no F1."""

    reference_threshold: float
    reference_f1: float
    other_f1_there: float
    other_threshold: float
    other_f1: float


@dataclass(frozen=True)
class Divergence:
    """One operator whose output differs.

    name: of the layer in the checkpoint, or of the operator in the graph.
    behind: kinds of the operators between the compared values that go in and
    this one. error_in, error_out: the worst of the values that go in, and of
    its output, other against reference. own_error: of its output for the very
    same input. All are ‖other − reference‖ / ‖reference‖.
    """

    name: str
    kind: str
    behind: tuple[str, ...]
    error_in: float
    error_out: float
    own_error: float


@dataclass(frozen=True)
class Bisection:
    """Where a file and its reference part.

    values: how many were compared. usual_error: the median of the own errors
    of convolutions and matrix products.
    changed: how far reading inner values moved the scores that come out; where
    it is large a fusion was undone, and a fault in it is not listed. operators:
    those with the largest own error, the gravest first and in the graph's order.
    """

    runtime: str
    images: int
    values: int
    usual_error: float
    changed: float
    operators: tuple[Divergence, ...]


@dataclass(frozen=True)
class Comparison:
    """One model against the reference.

    pair_scores: (P, 2) float32, reference's and other's score of every pair.
    box_errors: (P,) float32, original-image pixels. notes: what makes the two
    differ by design, and where a wider file is faster. bisection: None where
    it was not asked for.
    """

    other: Side
    candidates: CandidateFigures | None
    matched: int
    only_reference: int
    only_other: int
    box_error_px: Spread | None
    score_drift: Spread | None
    operating: Operating | None
    ap_drop: float | None
    pair_scores: np.ndarray
    box_errors: np.ndarray
    lone: tuple[Lone, ...]
    worst: tuple[ImageDifference, ...]
    notes: tuple[str, ...] = ()
    gates: tuple[GateResult, ...] = ()
    bisection: Bisection | None = None

    @property
    def match_rate(self) -> float | None:
        """Share of the detections of both sides that have a partner; None where there are no detections."""
        total = self.matched + self.only_reference + self.only_other
        return self.matched / total if total else None

    def against(self, gates: Gates) -> tuple[GateResult, ...]:
        """Every gate that was asked for, with its figure."""
        spreads = (self.box_error_px, self.score_drift)
        box, drift = (spread.max if spread else None for spread in spreads)
        usual_box, usual_drift = (spread.p99 if spread else None for spread in spreads)
        most = (
            ("AP drop", self.ap_drop, gates.max_ap_drop),
            ("AP change", None if self.ap_drop is None else abs(self.ap_drop), gates.max_ap_change),
            ("box error max (px)", box, gates.max_box_error),
            ("score drift max", drift, gates.max_score_drift),
            ("box error p99 (px)", usual_box, gates.usual_box_error),
            ("score drift p99", usual_drift, gates.usual_score_drift),
        )
        results = [GateResult(n, f, limit, f is not None and f <= limit) for n, f, limit in most if limit is not None]
        if gates.min_match is not None:
            rate = self.match_rate
            results.append(GateResult("matched", rate, gates.min_match, rate is not None and rate >= gates.min_match))
        return tuple(results)


@dataclass(frozen=True)
class Report:
    """A reference, what was compared with it, and on what.

    truth: where the boxes that AP is scored against come from. min_score:
    detections from this score on are compared. unreadable: one message an image
    that could not be used.
    """

    reference: Side
    comparisons: tuple[Comparison, ...]
    dataset: str
    images: int
    problems: Problems
    unreadable: tuple[str, ...]
    truth: str
    min_score: float

    @property
    def annotated(self) -> bool:
        """Whether AP is scored against annotations, not against the reference's own detections."""
        return self.truth == ANNOTATIONS

    @property
    def failures(self) -> list[str]:
        """One line a missed gate."""
        return [f"{c.other.label}: {gate}" for c in self.comparisons for gate in c.gates if not gate.passed]

    def require_gates(self) -> None:
        """Raise GateFailed where a gate is missed, naming each."""
        require_none(self.failures)


def require_none(failures: Sequence[str]) -> None:
    """Raise GateFailed where there is a missed gate, naming each."""
    if failures:
        raise GateFailed(f"{len(failures)} of the gates missed: " + "; ".join(failures))
