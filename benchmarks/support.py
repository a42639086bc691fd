"""Measure the cells of the support table and record them in edgedet/support.json and docs/support.md.

    python benchmarks/support.py                     # every model; hours on two cores
    python benchmarks/support.py yolox-nano fcos-r18 # only these; yolox-nano needs ../shared beside the project
    python benchmarks/support.py runs/train/MODEL    # INT8 of what `edgedet train` left there, on the images it learnt

yolox-nano has real weights: AP, boxes and scores on coco128 (val), the worst of the three NMS modes. The others have no
weights here: they are built with random ones, predictions spread so that something is detected, and hold candidates against
PyTorch on drawn pictures, as every `edgedet export` does; their random boxes are too alike for suppression to be stable.
Where FP16 rounding upsets a random network beyond the export's gate, nothing is known of a trained one: not yet run.
INT8 of random weights says nothing either: small models learn sixteen pictures first (tests/training/test_zoo_learns.py).
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from datetime import date
from pathlib import Path

import torch
from parity import DATA, WEIGHTS, export

from edgedet import artifact, console, engine, support
from edgedet.classes import COCO, COCO_90, VOC
from edgedet.models import checkpoint
from edgedet.models.base import Detector
from edgedet.runtimes import machine, parity, selfcheck
from edgedet.runtimes.figures import Comparison
from edgedet.runtimes.recording import Target
from edgedet.runtimes.session import Options
from edgedet.support import Cell

KNOWN = {"yolov1": VOC, **dict.fromkeys(("retinanet", "fcos", "ssd", "efficientdet"), COCO_90)}  # as published weights have
RUNTIMES = {"onnx": "onnxruntime", "openvino": "openvino"}
FLOATS = ("fp32", "fp16")
DOCUMENT = Path(__file__).parents[1] / "docs/support.md"


def main() -> None:
    chosen = sys.argv[1:] or checkpoint.names()
    for model in chosen:
        if Path(model).is_dir():
            cells = learnt(Path(model))
        else:
            cells = [*trained(), *quantized()] if model == "yolox-nano" else untrained(model)
        support.record(cells)
        publish()
        console.say(f"{model}: {len(cells)} cells recorded")


def publish() -> None:
    """Write the table into docs/support.md, between its marks."""
    text = DOCUMENT.read_text(encoding="utf-8")
    before, _, rest = text.partition("<!-- support -->\n")
    _, mark, after = rest.partition("<!-- /support -->")
    artifact.write_text(DOCUMENT, f"{before}<!-- support -->\n{support.markdown(support.read())}{mark}{after}")


def evidence(what: str) -> str:
    """What a figure rests on, in one sentence."""
    here, versions = machine.describe(), machine.packages()
    names = ", ".join(f"{name} {versions[name]}" for name in ("torch", "onnxruntime", "openvino") if name in versions)
    return f"{what}; {here.cpu}, {here.cores} cores; {names}; {date.today()}."


def trained() -> list[Cell]:
    """The cells of YOLOX-nano with its published weights."""
    words = evidence(
        "yolox-nano: published COCO weights, 64 photos of coco128 (val), `python benchmarks/support.py yolox-nano`; "
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
        "64 of val, on which YOLOX was trained too, `python benchmarks/support.py yolox-nano`; INT8 convolutions in OpenVINO, "
        "in float in ONNX Runtime"
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


def learnt(run: Path) -> list[Cell]:
    """The INT8 cells of a model that has learnt a few pictures: against its FP32 on the same ones, in both spellings."""
    settings = json.loads((run / "config.json").read_text(encoding="utf-8"))
    model, data, weights = settings["model"], settings["data"], run / "best.safetensors"
    words = evidence(
        "INT8 of the small models: each has learnt sixteen BCCD pictures (`tests/training/test_zoo_learns.py`), ranges and "
        "figures from the same ones, `python benchmarks/support.py RUN`; AP and matched detections against fp32; the file for "
        "OpenVINO in OpenVINO, the file for TensorRT in ONNX Runtime"
    )
    cells = []
    for target, runtime in (("openvino", "openvino"), ("tensorrt", "onnxruntime")):
        with tempfile.TemporaryDirectory() as folder:
            for_what = ["--for", "tensorrt", "--to", "onnx"] if target == "tensorrt" else ["--to", "openvino"]
            options = ["--precision", "int8", "--images", data, "--force", *for_what, "--out", folder]
            subprocess.run([sys.executable, "-m", "edgedet", "export", str(weights), *options], check=True)
            (path,) = (path for path in Path(folder).iterdir() if path.suffix in (".onnx", ".xml"))
            (found,) = parity.validate(Target(weights), [Target(path, runtime)], Path(data)).comparisons
        note = f"learnt 16 pictures: AP {-found.ap_drop:+.4f}, matched {found.match_rate:.3f}"
        cells.append(Cell(model, runtime, "int8", "verified", note, words))
    return cells


def untrained(model: str) -> list[Cell]:
    """The cells of a model with random weights."""
    words = evidence(
        "The other models: random weights, `python benchmarks/support.py`; the 100 best candidates of each of three drawn "
        "pictures against PyTorch before suppression, 99th percentile in fp32, median in fp16; runs in f32 as above"
    )
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "random.safetensors"
        save_random(model, weights)
        cells = [random_cell(weights, model, target, precision, words) for target in RUNTIMES for precision in FLOATS]
        return [*cells, *(compiled_cell(weights, model, precision) for precision in FLOATS)]


def compiled_cell(weights: Path, model: str, precision: str) -> Cell:
    """TensorRT-RTX's cell: the plan it builds without a GPU, every layer's precision read back."""
    words = evidence(
        "TensorRT-RTX, the other models: compiled for SM86 and SM89 by tensorrt-rtx without a GPU, random weights, NMS matrix, "
        "batch 1, `python benchmarks/support.py`; the convolutions' precisions read back layer by layer; not yet run on a GPU"
    )
    options = ["--to", "tensorrt", "--precision", precision, "--targets", "SM86,SM89", "--out", str(weights.parent)]
    done = subprocess.run([sys.executable, "-m", "edgedet", "export", str(weights), *options], capture_output=True, text=True)
    print(done.stderr, end="", file=sys.stderr)
    if done.returncode == 1 and precision == "fp16" and (missed := missed_gate(done.stderr)):
        return Cell(model, "tensorrt-rtx", precision, "not yet run", missed)
    done.check_returncode()
    (plan,) = weights.parent.glob(f"*-{precision}-*.engine")
    facts = engine.read_facts(plan)
    counts = Counter(layer.built for layer in facts.layers if "conv" in layer.name)
    built = ", ".join(f"{count} {name}" for name, count in counts.items())
    return Cell(model, "tensorrt-rtx", precision, "compiled", f"{', '.join(facts.compute_capabilities)}; {built}", words)


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


def save_random(model: str, path: Path) -> None:
    """Random weights with which scores spread over (0, 1) and boxes differ, as a trained detector's do."""
    torch.manual_seed(0)
    classes = classes_of(model)
    detector = checkpoint.build(model, len(classes))
    pictures = selfcheck.pictures(detector.default_size_hw, selfcheck.PICTURES)
    images = detector.normalize(torch.from_numpy(pictures).permute(0, 3, 1, 2).float())
    with torch.no_grad():
        measure_norms(detector, images)
        spread_predictions(detector, images, predictors(model, len(classes)))
    checkpoint.save(path, detector.state_dict(), checkpoint.describe(detector, classes))


def classes_of(model: str) -> tuple[str, ...]:
    """The classes of the model's published weights."""
    return KNOWN.get(model.partition("-")[0], COCO)


def predictors(model: str, classes: int) -> list[str]:
    """The layers whose outputs grow with the classes, by name."""
    with torch.device("meta"):
        one, other = (checkpoint.build(model, count).state_dict() for count in (classes, classes + 1))
    return [name.removesuffix(".weight") for name in one if name.endswith(".weight") and one[name].shape != other[name].shape]


def spread_predictions(detector: Detector, images: torch.Tensor, names: list[str]) -> None:
    """Scale the named layers so that each channel has mean 0 and spread 1 over these images, on all levels together."""
    seen: dict[str, list[torch.Tensor]] = {name: [] for name in names}
    layers = {name: detector.get_submodule(name) for name in names}
    hooks = [
        layer.register_forward_hook(lambda _, __, out, name=name: seen[name].append(out.movedim(1, 0).flatten(1)))
        for name, layer in layers.items()
    ]
    detector(images)
    for hook in hooks:
        hook.remove()
    for name, layer in layers.items():
        values = torch.cat(seen[name], 1) - (layer.bias[:, None] if layer.bias is not None else 0)
        mean, scale = values.mean(1), 1 / values.std(1).clamp(min=1e-6)
        layer.weight *= scale.view(-1, *[1] * (layer.weight.ndim - 1))
        if layer.bias is not None:
            layer.bias.copy_(-mean * scale)


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
