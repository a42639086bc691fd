"""The support table: what is recorded is what is shown, and nothing is greener than its evidence."""

from __future__ import annotations

from pathlib import Path

from edgedet import support
from edgedet.models import checkpoint
from edgedet.support import Cell


def test_every_model_that_can_be_built_has_a_row_and_no_other():
    assert sorted({cell.model for cell in support.read()}) == sorted(checkpoint.names())


def test_a_verified_cell_has_a_figure_and_its_evidence():
    for cell in support.read():
        if cell.state == "verified":
            assert any(character.isdigit() for character in cell.note), cell
            assert cell.evidence, cell


def test_recording_replaces_the_cells_of_the_same_place_and_keeps_models_together(tmp_path: Path):
    path = tmp_path / "support.json"
    path.write_text("[]")
    first = [Cell("a", "onnxruntime", "fp32", "not yet run", ""), Cell("b", "onnxruntime", "fp32", "not yet run", "")]
    support.record(first, path)
    better = Cell("a", "onnxruntime", "fp32", "verified", "AP +0.0000", "measured.")
    support.record([better, Cell("a", "openvino", "fp32", "compiled", "")], path)
    assert [(c.model, c.runtime, c.state) for c in support.read(path)] == [
        ("a", "onnxruntime", "verified"),
        ("a", "openvino", "compiled"),
        ("b", "onnxruntime", "not yet run"),
    ]
    assert "| a | verified: AP +0.0000 | not yet run | compiled |" in support.markdown(support.read(path))
