"""Whether models give the answers of a reference: every image through each of them, candidates and detections compared.

One model runs at a time, so that none disturbs another's latency.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from heapq import nlargest
from pathlib import Path

import numpy as np

from edgedet import artifact
from edgedet.data import evaluation
from edgedet.data.dataset import Dataset, open_dataset
from edgedet.detections import Detections
from edgedet.errors import DataError, UsageError
from edgedet.runtimes.figures import (
    ANNOTATIONS,
    CandidateFigures,
    Comparison,
    Gates,
    ImageDifference,
    Lone,
    Operating,
    Report,
    Side,
)
from edgedet.runtimes.matching import FLOOR_MARGIN, Spread, compare_candidates, match
from edgedet.runtimes.recording import Recording, Target, record
from edgedet.spec import ModelSpec

MIN_SCORE = 0.05  # detections from here on are compared; partners are sought down to the file's floor
TRUTH_SCORE = 0.3  # the reference's detections from here on are the truth of images without annotations
WORST_IMAGES, ALIKE_IMAGES = 6, 2  # how many to show where some differ visibly, and where none does
VISIBLE = (0.0, 0.001, 0.1)  # what ImageDifference.severity must exceed somewhere for that
LONE_LISTED = 20
SLOWER = 1.05  # times as long, before it is said
F1_SLACK = 0.001  # F1 curves are flat about their best; thresholds this near to it are as good


def validate(
    reference: Target,
    others: Sequence[Target],
    data: Path,
    *,
    split: str | None = None,
    max_images: int | None = None,
    min_score: float = MIN_SCORE,
    gates: Gates | None = None,
) -> Report:
    """How each of the others differs from the reference on the images at `data`, and which gates that passes.

    max_images: only the first so many. min_score: what a detection must score
    on either side to be compared, in (0, 1); raised where a file bakes a higher floor.
    """
    reference, labels, specs = comparable(reference, others)
    dataset = open_dataset(data, split=split, classes=specs[0].classes)
    dataset = replace(dataset, samples=dataset.samples[:max_images])
    first = record(reference, dataset, label=labels[0])
    if not first.positions:
        raise DataError(f"{data}: none of its {len(dataset)} images can be read; first: {first.unreadable[0]}")
    readable = replace(dataset, samples=tuple(dataset.samples[i] for i in first.positions))
    truth, words = _truth(readable, first.detections)
    min_score = max(min_score, *(spec.suppression.min_score + FLOOR_MARGIN for spec in specs))
    side = describe(first, truth)
    comparisons = []
    for target, label in zip(others, labels[1:], strict=True):
        second = record(target, readable, label=label)
        comparison = compare(first, second, (side, describe(second, truth)), readable, min_score=min_score)
        comparisons.append(replace(comparison, gates=comparison.against(gates or Gates())))
    comparisons = _with_warnings(side, comparisons)
    return Report(side, tuple(comparisons), dataset.name, len(readable), dataset.problems, first.unreadable, words, min_score)


def comparable(reference: Target, others: Sequence[Target]) -> tuple[Target, list[str], list[ModelSpec]]:
    """The reference as it is to be run, then label and spec of every target, the reference's first.

    A checkpoint has no input size of its own; it is run as the first of the others runs.
    """
    labels = _labels([reference, *others])
    specs = _specs([reference, *others], labels)
    return replace(reference, options=replace(reference.options, like=specs[1])), labels, specs


def compare(
    reference: Recording, other: Recording, sides: tuple[Side, Side], dataset: Dataset, *, min_score: float
) -> Comparison:
    """Every figure of one model against the reference; the data set holds the readable images alone."""
    pairs = zip(dataset.samples, reference.detections, other.detections, strict=True)
    images = [ImageDifference(s, ours, theirs, match(ours, theirs, min_score=min_score)) for s, ours, theirs in pairs]
    candidates, notes = _compare_candidates(reference, other, min_score)
    scores = [np.stack([i.reference.scores[i.matches.reference], i.other.scores[i.matches.other]], axis=1) for i in images]
    ours, theirs = (side.scores for side in sides)
    return Comparison(
        other=sides[1],
        candidates=candidates,
        matched=sum(len(i.matches.reference) for i in images),
        only_reference=sum(len(i.matches.only_reference) for i in images),
        only_other=sum(len(i.matches.only_other) for i in images),
        box_error_px=Spread.of([i.matches.box_errors for i in images]),
        score_drift=Spread.of([i.matches.score_drifts for i in images]),
        operating=_operating(sides[0].curve, sides[1].curve),
        ap_drop=ours.ap - theirs.ap if ours and theirs else None,
        pair_scores=np.concatenate(scores),
        box_errors=np.concatenate([i.matches.box_errors for i in images]),
        lone=tuple(nlargest(LONE_LISTED, _lone(images, dataset.classes), key=lambda lone: lone.score)),
        worst=_worst(images),
        notes=(*_by_design(reference.spec, other.spec), *notes),
    )


def _with_warnings(reference: Side, comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons, noting where a file is slower than one of a wider precision in the same runtime."""
    sides = [reference, *(comparison.other for comparison in comparisons)]
    return [replace(c, notes=(*c.notes, *_slower(c.other, sides))) for c in comparisons]


def _slower(side: Side, others: Sequence[Side]) -> Iterator[str]:
    """A line where a wider file is faster here, naming the fastest such."""
    if side.spec.encoding == "tensorrt" and side.runtime != "tensorrt":
        yield f"{side.runtime} executes TensorRT's encoding as a reference for its arithmetic; its latency tells nothing"
        return
    wider = [other for other in others if _place(other) == _place(side) and _width(other) > _width(side)]
    fastest = min(wider, key=lambda other: other.latency.p50_ms, default=None)
    if fastest and side.latency.p50_ms > SLOWER * fastest.latency.p50_ms:
        yield (
            f"{side.spec.precision} is slower here than {fastest.spec.precision}: {side.latency.p50_ms:.1f} ms an image "
            f"against {fastest.latency.p50_ms:.1f} ms, one after the other in this process; keep {fastest.spec.precision} "
            f"(run in {fastest.facts['precision']}) in {side.runtime}, unless `edgedet bench`, which times each alone, "
            "finds otherwise"
        )


def _place(side: Side) -> tuple[object, ...]:
    """What must be equal for latencies to be compared."""
    return side.runtime, side.facts.get("device"), side.spec.name, side.spec.size_hw, side.latency.batch


def _width(side: Side) -> int:
    """Bits of the widest arithmetic that the file asks for less of."""
    return {"fp32": 32, "fp16": 16, "bf16": 16}.get(side.spec.precision, 8)


def describe(recording: Recording, truth: Dataset | None) -> Side:
    """The figures of one model by itself; truth: None where nothing can be scored."""
    path = recording.target.path
    files = artifact.parts(path)
    scores = np.concatenate([found.scores for found in recording.detections])
    return Side(
        label=recording.label,
        files={file.name: artifact.sha256(file) for file in files},
        size_bytes=sum(file.stat().st_size for file in files),
        runtime=recording.target.runtime_name,
        facts=recording.facts,
        layers=recording.layers,
        spec=recording.spec,
        latency=recording.latency,
        scores=evaluation.evaluate(truth, recording.detections) if truth else None,
        curve=evaluation.score_curve(truth, recording.detections) if truth else None,
        histogram=np.histogram(np.clip(scores, 0, 1), bins=20, range=(0, 1))[0],
    )


def _labels(targets: Sequence[Target]) -> list[str]:
    """A name for each target; where files of several folders are called alike, with their folder."""
    folders: dict[str, set[str]] = {}
    for target in targets:
        folders.setdefault(target.name, set()).add(target.path.resolve().parent.name)
    return [t.name if len(folders[t.name]) == 1 else f"{t.path.resolve().parent.name}/{t.name}" for t in targets]


def _specs(targets: Sequence[Target], labels: Sequence[str]) -> list[ModelSpec]:
    """The spec of every target, before any long work; models of other classes than the first's are refused."""
    specs = []
    for target in targets:
        with target.open() as model:
            specs.append(model.spec)
    for spec, label in zip(specs, labels, strict=True):
        if spec.classes != specs[0].classes:
            raise UsageError(
                f"{label} has {_count(spec.classes)} but {labels[0]} has {_count(specs[0].classes)}; "
                "compare a model with the checkpoint it was exported from"
            )
    return specs


def _count(classes: Sequence[str]) -> str:
    """`80 classes (person, bicycle, car …)`."""
    return f"{len(classes)} classes ({', '.join(classes[:3])}{' …' if len(classes) > 3 else ''})"


def _compare_candidates(reference: Recording, other: Recording, min_score: float) -> tuple[CandidateFigures | None, list[str]]:
    """The candidates' figures, or None and why they cannot be compared."""
    first, second = reference.candidates, other.candidates
    if first is None or second is None:
        return None, [f"candidates are not compared: {reference.without or other.without}"]
    ours, theirs = (len(side[0]["candidate_scores"]) for side in (first, second))
    if ours != theirs or reference.spec.size_hw != other.spec.size_hw:
        return None, [f"candidates are not compared: {ours} on the reference, {theirs} here, so none has a partner"]
    parts = [
        compare_candidates(a, b, min_score=min_score, order=other.spec.candidate_order)
        for a, b in zip(first, second, strict=True)
    ]
    boxes, scores = Spread.of([part.boxes for part in parts]), Spread.of([part.scores for part in parts])
    return CandidateFigures(boxes, scores, sum(part.labels_changed for part in parts), len(parts)), []


def _truth(dataset: Dataset, detections: Sequence[Detections]) -> tuple[Dataset | None, str]:
    """What AP is scored against, and in words; None where there is no object at all."""
    words = ANNOTATIONS
    if not dataset.annotated:
        dataset = dataset.labelled_by([found[found.scores >= TRUTH_SCORE] for found in detections])
        words = f"the reference's detections with a score of at least {TRUTH_SCORE}"
    if any((~sample.crowd).any() for sample in dataset.samples):
        return dataset, words
    return None, f"none: there is no object in {words}"


def _operating(reference: dict[str, np.ndarray] | None, other: dict[str, np.ndarray] | None) -> Operating | None:
    """The thresholds to run at; the other's is the one nearest to the reference's among its best."""
    if reference is None or other is None:
        return None
    thresholds = reference["thresholds"]
    here = evaluation.best_threshold(reference)
    at = int(np.abs(thresholds - here).argmin())
    good = np.flatnonzero(other["f1"] >= other["f1"].max() - F1_SLACK)
    there = good[np.abs(good - at).argmin()]
    return Operating(
        here, float(reference["f1"][at]), float(other["f1"][at]), float(thresholds[there]), float(other["f1"][there])
    )


def _lone(images: Sequence[ImageDifference], classes: Sequence[str]) -> Iterator[Lone]:
    for image in images:
        for side, found, rows in (
            ("reference", image.reference, image.matches.only_reference),
            ("other", image.other, image.matches.only_other),
        ):
            for row in rows:
                box = tuple(found.boxes[row].tolist())
                yield Lone(image.name, side, classes[found.labels[row]], float(found.scores[row]), box)


def _worst(images: Sequence[ImageDifference]) -> tuple[ImageDifference, ...]:
    """The images that differ most."""
    worst = nlargest(WORST_IMAGES, images, key=lambda image: image.severity)
    differing = [image for image in worst if any(found > limit for found, limit in zip(image.severity, VISIBLE, strict=True))]
    return tuple(differing or worst[:ALIKE_IMAGES])


def _by_design(reference: ModelSpec, other: ModelSpec) -> Iterator[str]:
    """What makes two models differ whatever the runtime does."""
    rules, other_rules = reference.suppression, other.suppression
    for name, ours, theirs in (
        ("input size (height, width)", reference.size_hw, other.size_hw),
        ("letterbox", reference.letterbox, other.letterbox),
        ("NMS threshold", rules.iou_threshold, other_rules.iou_threshold),
        ("score floor", rules.min_score, other_rules.min_score),
        ("candidates into NMS", rules.candidates, other_rules.candidates),
        ("detections an image", rules.max_detections, other_rules.max_detections),
    ):
        if ours != theirs:
            yield f"{name} differs by design: {ours} on the reference, {theirs} here"
