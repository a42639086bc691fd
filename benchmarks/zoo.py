"""Count parameters and multiplications of every model, time those that are asked for, and draw docs/zoo.md and docs/zoo.png.

    python benchmarks/zoo.py                      # counts only; latencies stay as they were recorded
    python benchmarks/zoo.py ssd-vgg16 yolov3     # and these timed, in ONNX Runtime and OpenVINO
    python benchmarks/zoo.py all                  # every model of at most 60 GMACs timed; an hour or two on two cores

Random weights: what a network costs does not depend on them, but suppression has more to do where more is found.
GMACs are the multiplications of convolutions and matrix products at the default input, from PyTorch's own counter; the
published figures beside them are of the models' authors, who count nearly the same.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path

import numpy as np
import torch
from support import classes_of, save_random
from torch.utils.flop_counter import FlopCounterMode

from edgedet import artifact, console
from edgedet.export.to_onnx import to_onnx
from edgedet.models import checkpoint
from edgedet.runtimes import benchmark, machine
from edgedet.runtimes.benchmark import Job
from edgedet.runtimes.recording import Target

DOCS = Path(__file__).resolve().parent.parent / "docs"
RECORD, TABLE, PLOT = (DOCS / name for name in ("zoo.json", "zoo.md", "zoo.png"))
RUNTIMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
MOST_GMACS = 60.0
RUNS, TURNS = 30, 3
PUBLISHED = {
    "yolox-nano": (0.91, 0.54), "yolox-tiny": (5.06, 3.23), "yolox-s": (9.0, 13.4), "yolox-m": (25.3, 36.9),
    "yolox-l": (54.2, 77.8), "yolox-x": (99.1, 141.0),
    "ssd-vgg16": (35.6, 34.9), "ssd-lite-mobilenetv3": (3.44, 0.58),
    "retinanet-r50": (34.0, None), "retinanet-r50-v2": (38.2, None), "fcos-r50": (32.3, None),
    "efficientdet-d0": (3.9, 2.5), "efficientdet-d1": (6.6, 6.1), "efficientdet-d2": (8.1, 11.0),
    "efficientdet-d3": (12.0, 24.9), "efficientdet-d4": (20.7, 55.2), "efficientdet-d5": (33.7, 135.4),
    "efficientdet-d6": (51.9, 225.6), "efficientdet-d7": (51.9, 324.8), "efficientdet-d7x": (77.0, 410.0),
    "yolov3": (61.9, 32.9), "yolov3-tiny": (8.85, 2.78), "yolov4": (64.4, 64.2), "yolov4-tiny": (6.06, 3.45),
    "yolov1": (None, 20.1),
}  # fmt: skip
"""Millions of parameters and GMACs, None where nobody gives the figure for this input. YOLOX: its README (GFLOPs / 2). SSD,
RetinaNet, FCOS: torchvision's documentation. EfficientDet: arXiv:1911.09070, table 2. YOLOv3, v4, v1: Darknet's BFLOPs / 2."""


@dataclass(frozen=True)
class Row:
    """One model. parameters: millions. latency_ms: p50 of a frame through inference, by runtime; none where not timed."""

    model: str
    size_hw: tuple[int, int]
    parameters: float
    gmacs: float
    latency_ms: dict[str, float]
    timed_on: str = ""


def main() -> None:
    before = {row.model: row for row in recorded()}
    rows = [replace(counted(model), **_timing(before.get(model))) for model in checkpoint.names()]
    asked = [row.model for row in rows if row.gmacs <= MOST_GMACS] if sys.argv[1:] == ["all"] else sys.argv[1:]
    for index, row in enumerate(rows):
        if row.model in asked:
            rows[index] = replace(row, latency_ms=timed(row.model), timed_on=where())
            console.say(f"{row.model}: {rows[index].latency_ms}")
            record(rows)
    record(rows)


def recorded() -> list[Row]:
    """What was written last, none at first."""
    return [Row(**row) for row in json.loads(RECORD.read_text(encoding="utf-8"))] if RECORD.exists() else []


def _timing(row: Row | None) -> dict:
    return {} if row is None else {"latency_ms": row.latency_ms, "timed_on": row.timed_on}


def where() -> str:
    """On what a latency was measured, in one sentence."""
    here, versions = machine.describe(), machine.packages()
    names = ", ".join(f"{name} {versions[name]}" for name in RUNTIMES)
    return f"{here.cpu}, {here.cores} cores; {names}; {date.today()}"


def counted(model: str) -> Row:
    """A model's parameters and multiplications at its default input, without its weights."""
    with torch.device("meta"):
        detector = checkpoint.build(model, len(classes_of(model))).eval()
        images = torch.zeros(1, 3, *detector.default_size_hw)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        detector(images)
    parameters = sum(parameter.numel() for parameter in detector.parameters())
    return Row(model, detector.default_size_hw, round(parameters / 1e6, 2), round(counter.get_total_flops() / 2e9, 2), {})


def timed(model: str) -> dict[str, float]:
    """Milliseconds of a frame through inference, p50, in every runtime: FP32, batch 1, each alone in its process, in turns."""
    with tempfile.TemporaryDirectory() as folder:
        weights, path = Path(folder) / "w.safetensors", Path(folder) / "m.onnx"
        save_random(model, weights)
        detector, spec = checkpoint.load(weights)
        to_onnx(detector, replace(spec, batch=1), path)
        jobs = [Job(Target(path, runtime), runs=RUNS, warm_up=3) for runtime in RUNTIMES]
        found = benchmark.gather(jobs, benchmark.run(jobs, turns=TURNS))
    medians = [round(float(np.median(one.stages_ms["inference"])), 1) for one in found]
    return dict(zip(RUNTIMES, medians, strict=True))


def record(rows: list[Row]) -> None:
    """Write what was measured, the table and the plot."""
    lines = ",\n".join(json.dumps(asdict(row)) for row in rows)
    artifact.write_text(RECORD, f"[\n{lines}\n]\n")
    artifact.write_text(TABLE, table(rows))
    if any(row.latency_ms for row in rows):
        draw(rows)


def table(rows: list[Row]) -> str:
    """docs/zoo.md."""
    head = ["model", "input", "M parameters", "published", "GMACs", "published", *(f"{name} ms" for name in RUNTIMES.values())]
    lines = [head, ["---"] * len(head), *(_cells(row) for row in rows)]
    machines = "\n".join(f"- {words}" for words in dict.fromkeys(row.timed_on for row in rows if row.timed_on))
    body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"""# The zoo

Every model that `edgedet train --model` and `edgedet export` know, drawn by `python benchmarks/zoo.py`. Parameters and
multiplications are counted at the default input with the class count of the published weights, beside what the authors publish.
Latency is the median of a frame through inference, suppression included, in FP32 with batch 1 and random weights:

{machines}

![latency against multiplications](zoo.png)

{body}
"""


def _cells(row: Row) -> list[str]:
    published = [_number(figure) for figure in PUBLISHED.get(row.model, (None, None))]
    latencies = [_number(row.latency_ms.get(runtime)) for runtime in RUNTIMES]
    size = "×".join(map(str, row.size_hw))
    return [row.model, size, f"{row.parameters:.2f}", published[0], f"{row.gmacs:.2f}", published[1], *latencies]


def _number(figure: float | None) -> str:
    return "–" if figure is None else f"{figure:g}"


def draw(rows: list[Row]) -> None:
    """docs/zoo.png: latency against multiplications, a colour a family, a marker a runtime."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 6))
    families = list(dict.fromkeys(row.model.partition("-")[0] for row in rows))
    for row in rows:
        color = f"C{families.index(row.model.partition('-')[0]) % 10}"
        for runtime, marker in zip(RUNTIMES, "os"):
            if milliseconds := row.latency_ms.get(runtime):
                axes.plot(row.gmacs, milliseconds, marker, color=color, markersize=7 if marker == "o" else 6, alpha=0.8)
        if row.latency_ms:
            axes.annotate(row.model, (row.gmacs, min(row.latency_ms.values())), (5, -9), textcoords="offset points", fontsize=8)
    for name, marker in zip(RUNTIMES.values(), "os"):
        axes.plot([], [], marker, color="gray", label=name)
    axes.set(xscale="log", yscale="log", xlabel="GMACs at the default input", ylabel="latency of a frame, ms (FP32, batch 1)")
    axes.grid(visible=True, which="both", alpha=0.2)
    axes.legend()
    figure.tight_layout()
    figure.savefig(PLOT, dpi=120, metadata={"Software": ""})
    pyplot.close(figure)


if __name__ == "__main__":
    main()
