"""What scripts/check-aarch64 runs: a model's answers on one machine, held against those of another through edgedet's gates.

aarch64_answers.py record MODEL CLIP FOLDER       # here: frames with what ONNX Runtime detects in them, and a clip of five
aarch64_answers.py check MODEL FOLDER             # there: each runtime against them, as `edgedet up` does on a device
aarch64_answers.py compare FOLDER [--record]      # here: the streamed frames of both machines, and the figures
"""

from __future__ import annotations

import json
import platform
import sys
from dataclasses import asdict
from datetime import date
from pathlib import Path

import cv2
import numpy as np

from edgedet import support
from edgedet.detections import Detections
from edgedet.errors import GateFailed
from edgedet.runtimes import detector, machine, reference
from edgedet.runtimes.matching import match

RUNTIMES = ("onnxruntime", "openvino")
GATES = reference.GATES["fp32"]
STREAMED = reference.GATES["fp16"]
"""OpenCV decodes and resizes to other roundings on aarch64, which moves what is seen as half precision may; the objects and
their ids must be the same."""
FRAMES = range(110, 190, 10)
"""Of the demo's clip: in most of them somebody rides by."""
CLIP = range(130, 135)


def record(model: Path, clip: Path, folder: Path) -> None:
    """Write `reference.npz`, and `clip.mp4` of CLIP's frames."""
    reader = cv2.VideoCapture(str(clip))
    frames = {index: reader.read()[1] for index in range(max(*FRAMES, *CLIP) + 1)}
    with detector.load(model, runtime="onnxruntime", device="cpu") as loaded:
        reference.write(folder / "reference.npz", reference.record(loaded, [frames[index] for index in FRAMES]))
    writer = cv2.VideoWriter(str(folder / "clip.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 25, frames[0].shape[1::-1])
    for index in CLIP:
        writer.write(frames[index])
    writer.release()


def check(model: Path, folder: Path) -> None:
    """Hold every runtime of this machine against the reference, and write `figures.json`; GateFailed where one differs."""
    recorded, found = reference.read(folder / "reference.npz"), {}
    for name in RUNTIMES:
        with detector.load(model, runtime=name, device="cpu") as loaded:
            figures = reference.compare(recorded, loaded).require(GATES, name=f"{model.name} in {name} on {platform.machine()}")
            found[name] = {**asdict(figures), "frames": len(recorded.frames), "runs_in": loaded.session.facts["precision"]}
    facts = {"machine": platform.machine(), "packages": machine.packages(), "figures": found}
    (folder / "figures.json").write_text(json.dumps(facts, indent=2))


def compare(folder: Path, *, write: bool) -> None:
    """Print what differs between both machines; with `write` also as cells of the support table."""
    there = json.loads((folder / "figures.json").read_text())
    if there["machine"] != "aarch64":
        raise GateFailed(f"what should be aarch64 says that it is {there['machine']}")
    cells = []
    for name, figures in there["figures"].items():
        frames, objects, box, score = _streams(folder / f"x86-{name}.jsonl", folder / f"aarch64-{name}.jsonl")
        print(
            f"{name} {there['packages'][name]} on aarch64, ONNX Runtime on x86-64: {figures['pairs']} detections of "
            f"{figures['frames']} frames, box {figures['box_error_px']:.2g} px, score {figures['score_error']:.2g} (medians), "
            f"disagreement {figures['disagreement']:.2g}, in {figures['runs_in']}; streamed against {name} there: "
            f"{frames} frames, {objects} objects with the same ids, box {box:.2g} px, score {score:.2g}"
        )
        note = f"box {figures['box_error_px']:.2g} px from x86-64, in a stream {box:.2g} px"
        cells.append(support.Cell("yolox-nano", name, "fp32 aarch64", "verified", note, _evidence(there["packages"])))
    if write:
        support.record(cells)


def _evidence(packages: dict[str, str]) -> str:
    versions = ", ".join(f"{name} {packages[name]}" for name in ("onnxruntime", "openvino", "numpy") if name in packages)
    return (
        "aarch64: street-nano, the embedded YOLOX-nano, in real aarch64 wheels under user-mode emulation of a Cortex-A76, no "
        f"board, `scripts/check-aarch64`; median box of the detections in {len(FRAMES)} frames against ONNX Runtime on x86-64, "
        f"of the same letterboxed input; of {len(CLIP)} frames streamed with ByteTrack every object and id is the same, and "
        f"boxes differ because OpenCV decodes and resizes to other roundings there; Python 3.11, {versions}; {date.today()}."
    )


def _streams(ours: Path, theirs: Path) -> tuple[int, int, float, float]:
    """Frames, objects, median box and score errors of two streams; GateFailed where an object or an id differs, or too much."""
    here, there = ([json.loads(line) for line in path.read_text().splitlines()] for path in (ours, theirs))
    if len(here) != len(CLIP) or len(there) != len(CLIP):
        raise GateFailed(f"{ours.name} has {len(here)} frames, {theirs.name} has {len(there)}; {len(CLIP)} were streamed")
    boxes, scores = [], []
    for one, other in zip(here, there, strict=True):
        expected, found = _detections(one), _detections(other)
        pairs = match(expected, found, min_score=0.0)
        ids = expected.track_ids[pairs.reference], found.track_ids[pairs.other]
        if len(pairs.only_reference) or len(pairs.only_other) or not np.array_equal(*ids):
            raise GateFailed(f"{theirs.name}: frame {one['frame']} has other objects or ids than on x86-64")
        boxes += pairs.box_errors.tolist()
        scores += np.abs(pairs.score_drifts).tolist()
    if not boxes:
        raise GateFailed(f"{theirs.name}: not one object in {len(here)} frames; nothing is compared")
    box, score = float(np.median(boxes)), float(np.median(scores))
    if not (box <= STREAMED.box_error_px and score <= STREAMED.score_error):
        raise GateFailed(f"{theirs.name}: boxes are {box:.3g} px and scores {score:.3g} off (medians); {STREAMED}")
    return len(here), len(boxes), box, score


def _detections(line: dict) -> Detections:
    boxes, scores, labels, ids = ([entry[key] for entry in line["objects"]] for key in ("box", "score", "label", "track_id"))
    xyxy = np.array(boxes, np.float32).reshape(-1, 4)
    return Detections(xyxy, np.array(scores, np.float32), np.array(labels, np.int32), np.array(ids, np.int64))


def main() -> None:
    """Do what the command line says; the message and 1 where a gate fails."""
    verb, *rest = sys.argv[1:]
    places = [Path(word) for word in rest if not word.startswith("--")]
    try:
        if verb == "compare":
            compare(*places, write="--record" in rest)
        else:
            {"record": record, "check": check}[verb](*places)
    except GateFailed as error:
        sys.exit(f"check-aarch64: {error}")


if __name__ == "__main__":
    main()
