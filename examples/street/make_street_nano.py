"""Make edgedet/assets/street-nano.safetensors: YOLOX-nano for six street classes, on data that may be passed on.

    python examples/street/make_street_nano.py        # from a clone with ../shared beside it; about 2 minutes on two cores

1. Frames of two clips, labelled by the base model where it is sure and sees the same at two input sizes.
2. Photos of coco128's calibration half whose licence allows commercial use and changes, with their own annotations.
3. `edgedet train` from the base model; the output rows of the six classes are taken over by name. The rate is very low:
   the base has seen a thousand times as many photos, and a higher one forgets more than these few teach.
4. Stored as float16; scored on the six classes of coco128 (val), which trains nothing, beside the base model.

The photos of the calibration half with other licences are only measured on, to watch the training.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from edgedet import artifact
from edgedet.boxes import iou_matrix
from edgedet.cli.demo import find_clip
from edgedet.data import coco
from edgedet.data.dataset import Dataset, Sample, open_dataset
from edgedet.data.evaluation import Scores, evaluate
from edgedet.detections import Detections
from edgedet.models import checkpoint
from edgedet.models.checkpoint import Checkpoint
from edgedet.spec import Suppression
from edgedet.training import loop
from edgedet.training.config import TrainingConfig
from edgedet.training.evaluation import detect

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared/data"
BASE = SHARED / "weights/yolox_nano.pth"
WORK = ROOT / "runs/street"
ASSET = ROOT / "edgedet/assets/street-nano.safetensors"

CLASSES = ("person", "bicycle", "car", "motorcycle", "bus", "truck")
FREE_LICENCES = {4, 5, 7, 8}  # BY, BY-SA, no known restrictions, US government work; not NC, not ND
LABELLING_SIZES = (416, 640)  # the base model must see the same at both, or the frame is left out
SURE, UNSURE = 0.45, 0.2  # and be sure of it: an object that is there without a label would be taught as background
PHOTO_REPEATS = 3
EPOCHS, RATE = 4, 2e-6


def main() -> None:
    """Build the data, train, store, score."""
    base = checkpoint.load(BASE)
    shutil.rmtree(WORK, ignore_errors=True)
    train, val = build_data(base)
    run = loop.train(
        TrainingConfig(
            data=train, val=val, out=WORK / "run", model="yolox-nano", init=BASE,
            epochs=EPOCHS, plain_epochs=EPOCHS, lr=RATE, norms="frozen",
        )
    )  # fmt: skip
    assert run is not None  # one process
    store(checkpoint.load(run.folder / "last.safetensors"), {})
    scores = {"base": score(base), "street": score(checkpoint.load(ASSET))}  # of the stored, rounded weights
    store(checkpoint.load(ASSET), scores)
    print(json.dumps({name: {"ap": s.ap, "ap50": s.ap50, "by_class": s.by_class} for name, s in scores.items()}, indent=2))


def build_data(base: Checkpoint) -> tuple[Path, Path]:
    """COCO files of what trains (labelled frames, free photos) and of what is measured meanwhile (the other photos)."""
    images = WORK / "data/images"
    images.mkdir(parents=True)
    clips = {SHARED / "video/people.mp4": 60, find_clip(): 3}
    frames = [path for clip, every in clips.items() for path in write_frames(clip, images, every=every)]
    free, other = photos()
    copies = [replace(sample, path=Path(shutil.copy(sample.path, images))) for sample in free]
    return write("train", label(base, frames) + copies * PHOTO_REPEATS), write("val", other)


def write(name: str, samples: list[Sample]) -> Path:
    """A COCO file of the samples."""
    file = WORK / f"data/instances_{name}.json"
    coco.write(
        Dataset(name, CLASSES, tuple(replace(sample, image_id=number) for number, sample in enumerate(samples, 1))), file
    )
    counts = np.bincount(np.concatenate([sample.labels for sample in samples]), minlength=len(CLASSES))
    print(f"{name}: {len(samples)} images, {dict(zip(CLASSES, counts.tolist(), strict=True))}")
    return file


def write_frames(clip: Path, folder: Path, *, every: int) -> list[Path]:
    """Every n-th frame of a clip as JPEG."""
    capture, paths = cv2.VideoCapture(str(clip)), []
    number = 0
    while capture.grab():
        if number % every == 0:
            path = folder / f"{clip.stem}-{number:05d}.jpg"
            cv2.imwrite(str(path), capture.retrieve()[1], [cv2.IMWRITE_JPEG_QUALITY, 95])
            paths.append(path)
        number += 1
    return paths


def label(base: Checkpoint, frames: list[Path]) -> list[Sample]:
    """The frames on which the base model is sure of all it sees, with what that is."""
    nothing = (np.zeros((0, 4), np.float32), np.zeros(0, np.int32), np.zeros(0, bool))
    blank = [Sample(path, *nothing, None, 0) for path in frames]
    small, large = (_look(base, blank, size) for size in LABELLING_SIZES)
    return [
        replace(sample, boxes=two.boxes, labels=two.labels, crowd=np.zeros(len(two), bool))
        for sample, one, two in zip(blank, small, large, strict=True)
        if (two.scores >= SURE).all() and _agree(one, two) and not _doubtful(two)
    ]


def _look(base: Checkpoint, samples: list[Sample], size: int) -> list[Detections]:
    suppression = Suppression(min_score=UNSURE, iou_threshold=0.5)
    spec = replace(base.spec, size_hw=(size, size), suppression=suppression)
    return [to_street(found, base) for found in detect(base.detector, spec, samples, batch=8)]


def _agree(first: Detections, second: Detections) -> bool:
    """Whether each object of either has its one counterpart in the other: same class, IoU above one half."""
    same = (iou_matrix(first.boxes, second.boxes) > 0.5) & (first.labels[:, None] == second.labels[None])
    return len(first) == len(second) and bool((same.sum(0) == 1).all() and (same.sum(1) == 1).all())


def _doubtful(found: Detections) -> bool:
    """Whether one thing has two classes: a bicycle that is a motorcycle as well."""
    overlap = iou_matrix(found.boxes, found.boxes) > 0.6
    return bool((overlap & (found.labels[:, None] != found.labels[None])).any())


def photos() -> tuple[list[Sample], list[Sample]]:
    """coco128's calibration half: photos whose licence allows commercial use and changes, and the others."""
    file = SHARED / "coco128/instances_calib.json"
    licences = {image["id"]: image["license"] for image in json.loads(file.read_text())["images"]}
    samples = open_dataset(file, classes=CLASSES).samples
    free = [sample for sample in samples if licences[sample.image_id] in FREE_LICENCES]
    return free, [sample for sample in samples if licences[sample.image_id] not in FREE_LICENCES]


def to_street(found: Detections, source: Checkpoint) -> Detections:
    """Detections of the six classes only, under their new labels."""
    new = np.array([CLASSES.index(name) if name in CLASSES else -1 for name in source.spec.classes], np.int32)
    found = replace(found, labels=new[found.labels])
    return found[found.labels >= 0]


def score(model: Checkpoint) -> Scores:
    """Scores on the six classes of coco128 (val), which nothing here was trained on."""
    dataset = open_dataset(SHARED / "coco128/instances_val.json", classes=CLASSES)
    found = detect(model.detector, model.spec, dataset.samples, batch=8)
    return evaluate(dataset, [to_street(one, model) for one in found])


def store(trained: Checkpoint, scores: dict[str, Scores]) -> None:
    """Write the asset as float16, with where it comes from and what it scored."""
    half = {k: v.half() if v.is_floating_point() else v for k, v in trained.detector.state_dict().items()}
    figures = {f"coco128_val_{name}": {"ap": s.ap, "ap50": s.ap50} for name, s in scores.items()}
    provenance = {**trained.spec.provenance, "parent_sha256": artifact.sha256(BASE), **figures}
    checkpoint.save(ASSET, half, replace(trained.spec, weights_licence="Apache-2.0", provenance=provenance))


if __name__ == "__main__":
    main()
