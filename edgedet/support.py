"""The support table: what was run, with its figure, and what was not. `support.json` holds it; docs/support.md shows a copy."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from edgedet import artifact

FILE = Path(__file__).with_name("support.json")
State = Literal["verified", "compiled", "not yet run", "refused"]
COLUMNS = (
    ("onnxruntime", "fp32"),
    ("onnxruntime", "fp16"),
    ("openvino", "fp32"),
    ("openvino", "fp16"),
    ("openvino", "bf16"),
    ("onnxruntime", "int8"),
    ("openvino", "int8"),
    ("onnxruntime", "fp32 aarch64"),
    ("openvino", "fp32 aarch64"),
    ("tensorrt-rtx", "fp32"),
    ("tensorrt-rtx", "fp16"),
    ("tensorrt-rtx", "int8"),
    ("tensorrt-rtx", "int8+fp16"),
    ("tensorrt", "any"),
)
TITLES = {
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "tensorrt": "TensorRT on a device",
    "tensorrt-rtx": "TensorRT-RTX",
    "any": "",
}


@dataclass(frozen=True)
class Cell:
    """One model on one runtime in one precision.

    state: `verified` against PyTorch with its figure, `compiled` only, `not
    yet run`, or `refused` with the reason. note: the figure or the reason.
    evidence: data, weights, versions, machine and date behind a figure.
    """

    model: str
    runtime: str
    precision: str
    state: State
    note: str
    evidence: str = ""


def read(path: Path = FILE) -> list[Cell]:
    """The cells, in the order of the file."""
    return [Cell(**cell) for cell in json.loads(path.read_text(encoding="utf-8"))]


def record(cells: Iterable[Cell], path: Path = FILE) -> None:
    """Replace the cells of the same model, runtime and precision, keep the others."""
    merged = {(c.model, c.runtime, c.precision): c for c in (*read(path), *cells)}
    models = list(dict.fromkeys(cell.model for cell in merged.values()))
    ordered = sorted(merged.values(), key=lambda cell: models.index(cell.model))
    lines = ",\n".join(json.dumps(asdict(cell), ensure_ascii=False) for cell in ordered)
    artifact.write_text(path, f"[\n{lines}\n]\n")


def table(cells: list[Cell]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows, a model a row and a runtime with its precision a column."""
    headings = ["model", *(f"{TITLES[runtime]} {precision}".replace(" any", "").strip() for runtime, precision in COLUMNS)]
    by_place = {(c.model, c.runtime, c.precision): c for c in cells}
    rows = []
    for model in dict.fromkeys(c.model for c in cells):
        found = (by_place.get((model, *column)) for column in COLUMNS)
        rows.append([model, *(_text(cell) for cell in found)])
    return headings, rows


def _text(cell: Cell | None) -> str:
    if cell is None:
        return "not yet run"
    return f"{cell.state}: {cell.note}" if cell.note else cell.state


def markdown(cells: list[Cell]) -> str:
    """The same table as Markdown, and below it what the figures rest on."""
    headings, rows = table(cells)
    lines = [headings, ["---"] * len(headings), *rows]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    evidence = dict.fromkeys(cell.evidence for cell in cells if cell.evidence)
    return "\n\n".join([text, *evidence]) + "\n"
