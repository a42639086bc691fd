"""benchmarks/int8.py: floors are held where a target ran, and a word stands where it did not."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from places import ROOT

pytest.importorskip("torch")
sys.path.insert(0, str(ROOT / "benchmarks"))

OPENVINO, ORT = "openvino", "onnxruntime"


def places(name: str):
    from edgedet.runtimes.recording import Target

    return {runtime: Target(Path(name), runtime) for runtime in (OPENVINO, ORT)}


def measured(ap: tuple[float, float], share: float, latency_ms: float):
    """Artefacts and figures of an FP32 file of AP .300 that takes 10 ms, and an INT8 one; ap: OpenVINO's and ORT's."""
    import int8 as benchmark

    fp32 = benchmark.Artefact("FP32", places("fp32.onnx"))
    ours = benchmark.Artefact("ours", places("int8.onnx"), benchmark.CPU)
    both = [(fp32, 0.3, 0.3, 10.0, 0.0), (ours, *ap, latency_ms, share)]
    aps = {a.places[runtime]: value for a, *found in both for runtime, value in zip((OPENVINO, ORT), found)}
    shares = {a.places[runtime]: found[3] for a, *found in both for runtime in (OPENVINO, ORT)}
    times = {a.places[runtime]: np.full(3, found[2]) for a, *found in both for runtime in (OPENVINO, ORT)}
    return fp32, ours, benchmark.Figures(aps, dict.fromkeys(aps, 0.9), shares, times)


def test_an_artefact_within_every_floor_holds():
    import int8 as benchmark

    fp32, ours, figures = measured((0.296, 0.31), 0.86, 7.9)
    assert benchmark.misses(ours, fp32, figures) == []
    assert benchmark.row(ours, fp32, figures, [])[-7:] == ["86.0%", "86.0%", "7.90", "0.79", "7.90", "0.79", "hold"]


@pytest.mark.parametrize(
    ("ap", "share", "latency_ms", "missed"),
    [
        ((0.29, 0.3), 0.9, 7.0, "AP drop 0.0100 in openvino, floor 0.005"),
        ((0.3, 0.29), 0.9, 7.0, "AP drop 0.0100 in onnxruntime, floor 0.005"),
        ((0.3, 0.3), 0.84, 7.0, "84.0% of the MACs in INT8, floor 85%"),
        ((0.3, 0.3), 0.9, 8.1, "0.81 × FP32's latency in openvino, floor 0.8"),
    ],
)
def test_each_floor_that_is_missed_is_named_with_its_figure(ap, share, latency_ms, missed):
    import int8 as benchmark

    fp32, ours, figures = measured(ap, share, latency_ms)
    assert benchmark.misses(ours, fp32, figures) == [missed]


def test_what_a_runtime_refuses_is_told_so_and_misses_only_where_it_must_run_there():
    import int8 as benchmark

    fp32, ours, figures = measured((0.3, 0.3), 0.9, 7.0)
    refused = replace(ours, places={**ours.places, OPENVINO: "refused"})
    assert benchmark.misses(refused, fp32, figures) == ["refused in openvino"]
    assert benchmark.misses(replace(refused, floors=benchmark.TENSORRT), fp32, figures) == []
    assert benchmark.row(refused, fp32, figures, [])[1:3] == ["refused", "0.3000"]


def test_what_was_not_written_misses_its_floors():
    import int8 as benchmark

    fp32, ours, figures = measured((0.3, 0.3), 0.9, 7.0)
    absent = replace(ours, places=dict.fromkeys((OPENVINO, ORT), "not written"))
    assert benchmark.misses(absent, fp32, figures) == ["not written in openvino", "not written in onnxruntime"]


def test_without_nncf_its_rows_say_skipped(monkeypatch, capsys):
    import int8 as benchmark

    monkeypatch.setattr(benchmark, "nncf_version", lambda: None)
    assert benchmark.by_nncf(Path("absent.onnx"), [], "default") == "skipped"
    assert "pip install nncf" in capsys.readouterr().err


def test_a_turn_on_a_busy_machine_does_not_move_the_ratio():
    import int8 as benchmark

    fp32, ours, figures = measured((0.3, 0.3), 0.9, 7.0)
    figures.latency_ms[fp32.places[OPENVINO]] = np.array([10.0, 40.0, 10.0])
    figures.latency_ms[ours.places[OPENVINO]] = np.array([7.0, 7.0, 21.0])
    assert benchmark.ratio(ours, fp32, figures, OPENVINO) == pytest.approx(0.7)
