"""benchmarks/support.py: what a random network cannot show is told as not run, and any other failure is no cell."""

from __future__ import annotations

import sys

import pytest
from places import ROOT

pytest.importorskip("torch")
sys.path.insert(0, str(ROOT / "benchmarks"))


def test_a_missed_fp16_gate_becomes_the_note_and_nothing_else_does():
    import support as benchmark

    score = "edgedet: a-fp16.onnx is not written: its score_error against PyTorch is 0.02213, limit 0.01\n"
    box = "edgedet: a-fp16.xml is not written: its box_error_px against PyTorch is 1.46, limit 1\n"
    words = "no trained weights here; random ones miss the FP16 gate"
    assert benchmark.missed_gate(f"tracing\n{score}") == f"{words} (score error 0.022, limit 0.01)"
    assert benchmark.missed_gate(box) == f"{words} (box error 1.5 px, limit 1)"
    assert benchmark.missed_gate("edgedet: it has no space left\n") is None


def test_a_note_says_where_an_fp16_file_ran_in_float32():
    import support as benchmark

    check = {"box_error_px": 0.036, "runs_in": "f32"}
    assert benchmark.random_note(check, "fp16") == "random weights, box 0.036 px, runs in f32"
    assert benchmark.random_note(check, "fp32") == "random weights, box 0.036 px"
