"""Data sets: images with their boxes, from whatever format lies at a path; what is wrong in them is counted, not fatal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from edgedet.data import coco, folder, voc, yolo
from edgedet.data.records import Record, Source
from edgedet.detections import Detections
from edgedet.errors import DataError, ImageError
from edgedet.images import check_image, image_size_hw, read_image

READERS = (coco, voc, yolo, folder)  # the first that matches reads; plain images match almost anything
CLIP_TOLERANCE_PX = 1.0  # boxes are always clipped; beyond this it counts as a problem rather than rounding


@dataclass(frozen=True)
class Sample:
    """One image and the N objects annotated in it.

    boxes: (N, 4) float32 xyxy, original-image pixels, clipped to the image.
    labels: (N,) int32, index into the data set's classes. crowd: (N,) bool,
    objects that scoring ignores (COCO iscrowd, VOC difficult). size_hw: the
    annotated height and width in pixels. areas: (N,) float32 square pixels of
    the object's mask, where annotated; they decide small, medium, large.
    """

    path: Path
    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    size_hw: tuple[int, int] | None
    image_id: int
    areas: np.ndarray | None = None

    def read(self) -> np.ndarray:
        """The image, (H, W, 3) uint8 BGR, as the boxes were drawn on it."""
        return read_image(self.path, annotated_hw=self.size_hw)


@dataclass(frozen=True)
class Problems:
    """What was wrong in a data set and what became of it; as text, one line.

    zero_area, outside, unknown_class: boxes dropped. clipped: boxes kept in
    part. absent: names of annotated images that are not there. unreadable: one
    message an image that cannot be decoded. unannotated: images taken as empty
    because they have no annotation file.
    """

    zero_area: int = 0
    clipped: int = 0
    outside: int = 0
    unknown_class: int = 0
    absent: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()
    unannotated: int = 0

    def __bool__(self) -> bool:
        return any(
            (self.zero_area, self.clipped, self.outside, self.unknown_class, self.absent, self.unreadable, self.unannotated)
        )

    def __str__(self) -> str:
        parts = [
            f"{count} {what}"
            for count, what in (
                (self.zero_area, "zero-area boxes dropped"),
                (self.clipped, "boxes clipped to the image"),
                (self.outside, "boxes outside the image dropped"),
                (self.unknown_class, "boxes of unknown class dropped"),
                (self.unannotated, "images without an annotation file taken as empty"),
            )
            if count
        ]
        if self.absent:
            parts.append(f"{len(self.absent)} annotated images absent ({_shorten(self.absent)})")
        if self.unreadable:
            parts.append(f"{len(self.unreadable)} images unreadable ({_shorten(self.unreadable)})")
        return "; ".join(parts) or "no problems"


@dataclass(frozen=True)
class Dataset:
    """Images with boxes. annotated: False for plain images, which have no truth to score against."""

    name: str
    classes: tuple[str, ...]
    samples: tuple[Sample, ...]
    problems: Problems = field(default_factory=Problems)
    annotated: bool = True

    def __len__(self) -> int:
        return len(self.samples)

    def labelled_by(self, detections: Sequence[Detections]) -> Dataset:
        """The same images with one Detections each in place of their annotations."""
        samples = tuple(
            replace(sample, boxes=found.boxes, labels=found.labels, crowd=np.zeros(len(found), bool), areas=None)
            for sample, found in zip(self.samples, detections, strict=True)
        )
        return replace(self, samples=samples, annotated=True)


def open_dataset(path: Path, *, split: str | None = None, classes: Sequence[str] | None = None) -> Dataset:
    """The data set at a path: COCO JSON, Pascal VOC, YOLO txt, plain images or one image, found by looking.

    split: `train` or `val` as the format keeps them; None takes all images.
    classes: names in a model's label order; the data's labels are mapped onto
    it by name, boxes of other classes are counted as unknown and dropped.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; name a COCO JSON, a VOC or YOLO folder, a data.yaml or images")
    reader = next((reader for reader in READERS if reader.matches(path)), None)
    if reader is None:
        raise DataError(f"{path}: no data set; expected COCO JSON, VOC annotations/*.xml, YOLO labels/*.txt or images")
    source = reader.read(path, split)
    wanted = _classes(path, source, classes)
    samples, problems = _samples(source, wanted)
    if not samples:
        raise DataError(_why_empty(path, source, problems))
    return Dataset(f"{path.stem}:{split}" if split else path.stem, wanted, samples, problems, source.annotated)


def _classes(path: Path, source: Source, wanted: Sequence[str] | None) -> tuple[str, ...]:
    if wanted is None:
        return source.classes
    if source.classes and not {_key(name) for name in source.classes} & {_key(name) for name in wanted}:
        raise DataError(
            f"{path}: none of its {len(source.classes)} classes ({_shorten(source.classes)}) is among "
            f"the model's {len(wanted)} ({_shorten(wanted)}); use data of the model's classes or train on these"
        )
    return tuple(wanted)


def _key(name: str) -> str:
    """What two spellings of a class name must share."""
    return name.strip().casefold()


def _samples(source: Source, classes: tuple[str, ...]) -> tuple[tuple[Sample, ...], Problems]:
    labels = {_key(name): label for label, name in reversed(list(enumerate(classes)))}
    samples, absent, unreadable = [], list(source.absent), []
    counts: Counter[str] = Counter()
    for record in source.records:
        if not record.path.exists():
            absent.append(str(record.path))
            continue
        try:
            check_image(record.path)
            samples.append(_sample(record, labels, counts))
        except ImageError as error:
            unreadable.append(str(error))
    problems = Problems(**counts, absent=tuple(absent), unreadable=tuple(unreadable), unannotated=source.unannotated)
    return tuple(samples), problems


def _sample(record: Record, labels: dict[str, int], counts: Counter[str]) -> Sample:
    """The record with its usable boxes; the others are counted."""
    size_hw, boxes = record.size_hw, record.boxes
    if size_hw is None and len(boxes):
        size_hw = image_size_hw(record.path)
    height, width = size_hw or (0, 0)
    label = np.array([-1 if name is None else labels.get(_key(name), -1) for name in record.names], np.int32)
    clipped = np.clip(boxes, 0, [width, height, width, height])
    with np.errstate(invalid="ignore"):  # a box with NaN is a box without area
        solid = (boxes[:, 2:] > boxes[:, :2]).all(axis=1) & np.isfinite(boxes).all(axis=1)
        inside = (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
        moved = (np.abs(clipped - boxes) > CLIP_TOLERANCE_PX).any(axis=1)
    keep = solid & inside & (label >= 0)
    counts["zero_area"] += int((~solid).sum())
    counts["outside"] += int((solid & ~inside).sum())
    counts["unknown_class"] += int((solid & inside & (label < 0)).sum())
    counts["clipped"] += int((keep & moved).sum())
    areas = None if record.areas is None else record.areas[keep].astype(np.float32)
    kept = clipped[keep].astype(np.float32)
    return Sample(record.path, kept, label[keep], record.crowd[keep], size_hw, record.image_id, areas)


def _why_empty(path: Path, source: Source, problems: Problems) -> str:
    if problems.unreadable:
        return f"{path}: no readable image; {_shorten(problems.unreadable)}"
    if problems.absent:
        return f"{path}: all {len(problems.absent)} annotated images are absent, first looked for {problems.absent[0]}"
    return f"{path}: the data set is empty ({len(source.records)} images)"


def _shorten(names: Iterable[str], limit: int = 3) -> str:
    """The first names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
