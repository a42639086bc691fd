"""Measure the cells of the support table and record them in edgedet/support.json.

    python benchmarks/support.py            # every variant; about fifteen minutes on two cores
    python benchmarks/support.py nano s     # only these; nano needs ../shared beside the project

nano has real weights: AP, boxes and scores on coco128 (val), the worst of the three NMS modes. The other variants have no
weights here: they are built with random ones, biases raised so that something is detected, and hold candidates against
PyTorch on drawn pictures, as every `edgedet export` does; their random boxes are too alike for suppression to be stable.
Where FP16 rounding upsets a random network beyond the export's gate, nothing is known of a trained one: not yet run.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

import torch
from parity import DATA, WEIGHTS, export

from edgedet import console, support
from edgedet.classes import COCO
from edgedet.models import checkpoint, yolox
from edgedet.runtimes import machine, parity, selfcheck
from edgedet.runtimes.figures import Comparison
from edgedet.runtimes.recording import Target
from edgedet.runtimes.session import Options
from edgedet.support import Cell

RUNTIMES = {"onnx": "onnxruntime", "openvino": "openvino"}


def main() -> None:
    chosen = sys.argv[1:] or list(yolox.VARIANTS)
    for variant in chosen:
        cells = [*trained(), *quantized()] if variant == "nano" else untrained(variant)
        support.record(cells)
        console.say(f"yolox-{variant}: {len(cells)} cells recorded")


def evidence(what: str) -> str:
    """What a figure rests on, in one sentence."""
    here, versions = machine.describe(), machine.packages()
    names = ", ".join(f"{name} {versions[name]}" for name in ("torch", "onnxruntime", "openvino") if name in versions)
    return f"{what}; {here.cpu}, {here.cores} cores; {names}; {date.today()}."


def trained() -> list[Cell]:
    """The cells of YOLOX-nano with its published weights."""
    words = evidence(
        "yolox-nano: published COCO weights, 64 photos of coco128 (val), `python benchmarks/support.py nano`; "
        "AP drop and the worst box of all matched detections against PyTorch, the worst of the NMS modes; "
        "runs in f32: the file is FP16, this CPU's arithmetic is not"
    )
    with tempfile.TemporaryDirectory() as folder:
        targets = [target for _, target in export(WEIGHTS, Path(folder))]
        fp32 = next(t for t in targets if t.path.name == "onnx-fp32.xml")
        targets.append(Target(fp32.path, options=Options(inference_precision="bf16")))
        comparisons = parity.validate(Target(WEIGHTS), targets, DATA).comparisons
    places: dict[tuple[str, str], list[Comparison]] = {}
    for target, comparison in zip(targets, comparisons, strict=True):
        bf16 = target.options.inference_precision == "bf16"
        places.setdefault((comparison.other.runtime, "bf16" if bf16 else comparison.other.spec.precision), []).append(
            comparison
        )
    return [Cell("yolox-nano", *place, "verified", worst(found), words) for place, found in places.items()]


def quantized() -> list[Cell]:
    """The INT8 cells of YOLOX-nano: calibrated on the other half of coco128."""
    words = evidence(
        "yolox-nano int8: ranges by mse from 64 photos of coco128 (calib), AP drop and matched detections against fp32 on the "
        "64 of val, on which YOLOX was trained too, `python benchmarks/support.py nano`; INT8 convolutions in OpenVINO, in "
        "float in ONNX Runtime"
    )
    with tempfile.TemporaryDirectory() as folder:
        images = DATA.with_name("instances_calib.json")
        options = ["--precision", "int8", "--images", str(images), "--to", "onnx", "--to", "openvino", "--out", folder]
        subprocess.run([sys.executable, "-m", "edgedet", "export", str(WEIGHTS), *options], check=True)
        targets = [Target(path) for path in sorted(Path(folder).glob("*-int8.*")) if path.suffix in (".onnx", ".xml")]
        comparisons = parity.validate(Target(WEIGHTS), targets, DATA).comparisons
    return [
        Cell("yolox-nano", c.other.runtime, "int8", "verified", f"AP {-c.ap_drop:+.4f}, matched {c.match_rate:.3f}", words)
        for c in comparisons
    ]


def worst(found: list[Comparison]) -> str:
    """The largest difference of AP, the worst box error, and what an FP16 file ran in."""
    drop = max((comparison.ap_drop for comparison in found), key=abs)
    box = max(comparison.box_error_px.max for comparison in found)
    other = found[0].other
    runs_in = note_runs_in(other.spec.precision, other.facts["precision"])
    return f"AP {round(-drop, 4) + 0.0:+.4f}, box {box:.2g} px{runs_in}"  # + 0.0: no minus before zero


def note_runs_in(precision: str, executed: str) -> str:
    """`, runs in f32` where that is not what the file is in."""
    return f", runs in {executed}" if precision == "fp16" and executed in ("f32", "bf16") else ""


def untrained(variant: str) -> list[Cell]:
    """The cells of a variant with random weights."""
    words = evidence(
        "The other variants: random weights, `python benchmarks/support.py`; the 100 best candidates of each of three drawn "
        "pictures against PyTorch before suppression, 99th percentile in fp32, median in fp16; runs in f32 as above"
    )
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "random.safetensors"
        save_random(variant, weights)
        return [
            random_cell(weights, f"yolox-{variant}", target, precision, words)
            for target in RUNTIMES
            for precision in ("fp32", "fp16")
        ]


def random_cell(weights: Path, model: str, target: str, precision: str, words: str) -> Cell:
    """One export's cell; where the random network misses the FP16 gate, nothing is known of a trained one: not yet run."""
    options = ["--to", target, "--precision", precision, "--nms", "none", "--json", "--out", str(weights.parent)]
    command = [sys.executable, "-m", "edgedet", "export", str(weights), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    print(done.stderr, end="", file=sys.stderr)
    if done.returncode == 1 and precision == "fp16" and (missed := missed_gate(done.stderr)):
        return Cell(model, RUNTIMES[target], precision, "not yet run", missed)
    done.check_returncode()
    (file,) = json.loads(done.stdout)
    return Cell(model, RUNTIMES[target], precision, "verified", random_note(file["check"], precision), words)


def missed_gate(stderr: str) -> str | None:
    """The note of a cell whose random weights miss the export's gate, None where the export ended for another reason."""
    found = re.search(r"is not written: its (box|score)_error(_px)? against PyTorch is (\S+), limit (\S+)", stderr)
    if found is None:
        return None
    kind, pixels, figure, limit = found.groups()
    unit = " px" if pixels else ""
    return f"no trained weights here; random ones miss the FP16 gate ({kind} error {float(figure):.2g}{unit}, limit {limit})"


def random_note(check: dict, precision: str) -> str:
    return f"random weights, box {check['box_error_px']:.2g} px{note_runs_in(precision, check['runs_in'])}"


def save_random(variant: str, path: Path) -> None:
    """Random weights with which scores spread over (0, 1) and boxes differ, as a trained detector's do."""
    torch.manual_seed(0)
    detector = checkpoint.build(f"yolox-{variant}", len(COCO))
    images = torch.from_numpy(selfcheck.pictures(detector.default_size_hw, selfcheck.PICTURES)).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        measure_norms(detector, images)
        raw = detector(images)
        for i, level in enumerate(raw):
            for heads, maps, spread in (("reg", level.box, 0.1), ("obj", level.objectness, 1.0), ("cls", level.classes, 1.0)):
                prediction = getattr(detector.head, f"{heads}_preds")[i]
                values = maps - prediction.bias.view(1, -1, 1, 1)
                mean, scale = values.mean(dim=(0, 2, 3)), spread / values.std(dim=(0, 2, 3))
                prediction.weight *= scale.view(-1, 1, 1, 1)
                prediction.bias.copy_(-mean * scale)
    checkpoint.save(path, detector.state_dict(), checkpoint.describe(detector, COCO))


def measure_norms(detector: torch.nn.Module, images: torch.Tensor) -> None:
    """Give every batch norm the statistics of these images; without them a random network's signal fades out."""
    norms = [module for module in detector.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    detector.train()(images)
    detector.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


if __name__ == "__main__":
    main()
