"""Print how far every export of a checkpoint lies from PyTorch, NMS modes × precisions × runtimes; exit 1 below a floor.

    python benchmarks/parity.py [CHECKPOINT] [DATA]

Floors: fp32: |AP drop| ≤ .0005, matched ≥ .999, box error ≤ .1 px of the
original image, score drift ≤ .001; fp16: |AP drop| ≤ .002, matched ≥ .95.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from edgedet import console
from edgedet.export.to_fp16 import to_fp16
from edgedet.export.to_onnx import to_onnx
from edgedet.export.to_openvino import to_openvino
from edgedet.models import checkpoint
from edgedet.runtimes import parity
from edgedet.runtimes.figures import FLOORS, Comparison
from edgedet.runtimes.recording import Target
from edgedet.runtimes.session import Options

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
WEIGHTS, DATA = SHARED / "weights" / "yolox_nano.pth", SHARED / "coco128" / "instances_val.json"


def main() -> None:
    weights, data = (Path(given) for given in (*sys.argv[1:], *(WEIGHTS, DATA)[len(sys.argv) - 1 :]))
    if not weights.exists() or not data.exists():
        console.say(f"skipped: {weights if not weights.exists() else data} is absent; name a checkpoint and a data set")
        return
    with tempfile.TemporaryDirectory() as folder:
        targets = list(export(weights, Path(folder)))
        report = parity.validate(Target(weights), [target for _, target in targets], data)
    rows, missed = [], 0
    for (name, _), comparison in zip(targets, report.comparisons, strict=True):
        holds = passes(comparison)
        missed += not holds
        rows.append(row(name, comparison, holds))
    columns = [
        "nms, precision, runtime",
        "AP",
        "AP drop",
        "matched",
        "box px p99",
        "box px max",
        "drift p99",
        "drift max",
        "floors",
    ]
    console.print_table(
        columns, rows, title=f"{report.images} images of {report.dataset}, reference AP {report.reference.scores.ap:.4f}"
    )
    sys.exit(missed > 0)


def export(weights: Path, folder: Path):
    """Name and target of every export."""
    detector, spec = checkpoint.load(weights)
    for mode in ("onnx", "matrix", "none", "efficientnms"):
        console.say(f"exporting, nms {mode}")
        suppression = replace(spec.suppression, mode=mode)
        fp32 = to_onnx(detector, replace(spec, batch=1, suppression=suppression), folder / f"{mode}-fp32.onnx")
        fp16 = folder / f"{mode}-fp16.onnx"
        to_fp16(fp32, fp16)
        for path in (fp32, fp16):
            precision = path.stem.removeprefix(f"{mode}-")
            on = Options(plugins="evaluated")
            yield f"{mode}, {precision}, onnxruntime", Target(path, options=on)
            yield f"{mode}, {precision}, onnxruntime unoptimised", Target(path, options=replace(on, graph_optimization="off"))
            if mode == "efficientnms":  # TensorRT's alone
                continue
            yield f"{mode}, {precision}, openvino (ONNX)", Target(path, "openvino")
            yield f"{mode}, {precision}, openvino (IR)", Target(to_openvino(path, path.with_suffix(".xml")))


def passes(comparison: Comparison) -> bool:
    """Whether the floors of its precision hold."""
    floors = FLOORS[comparison.other.spec.precision]
    if comparison.other.spec.precision == "fp32":
        floors = replace(floors, max_box_error=0.1, max_score_drift=0.001)  # on these photos the worst box holds too
    return all(gate.passed for gate in comparison.against(floors))


def row(name: str, comparison: Comparison, holds: bool) -> list[str]:
    """The figures of one export as text."""
    boxes, drift = comparison.box_error_px, comparison.score_drift
    figures = [f"{value:.3g}" for value in (boxes.p99, boxes.max, drift.p99, drift.max)]
    ap = comparison.other.scores.ap
    return [
        name,
        f"{ap:.4f}",
        f"{comparison.ap_drop:+.5f}",
        f"{comparison.match_rate:.4f}",
        *figures,
        "hold" if holds else "MISSED",
    ]


if __name__ == "__main__":
    main()
