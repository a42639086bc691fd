"""Bench: every stage timed, each model alone in its own process, and the machine named."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgedet import assets
from edgedet.cli import bench
from edgedet.errors import SourceError, SpecError
from edgedet.runtimes import benchmark, machine
from edgedet.runtimes.recording import Target


def job(path: Path, **settings: object) -> benchmark.Job:
    return benchmark.Job(Target(path), **{"runs": 5, "warm_up": 1, **settings})


def test_every_stage_of_every_run_is_timed(bright_onnx: Path) -> None:
    samples = benchmark.measure(job(bright_onnx))
    assert samples.stages_ms.shape == (3, 5)
    assert (samples.stages_ms > 0).all()
    assert samples.frames_per_s > 0
    assert samples.load_s > 0


def test_models_take_turns_and_share_the_runs(bright_onnx: Path, bright_xml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "measure_alone", benchmark.measure)
    jobs = [job(bright_onnx), job(bright_xml)]
    samples = list(benchmark.run(jobs, turns=2))
    assert [index for index, _ in samples] == [0, 1, 0, 1]
    for found in benchmark.gather(jobs, samples):
        assert found.stages_ms["total"].shape == (5,)


def test_each_measurement_runs_in_a_process_of_its_own(bright_onnx: Path) -> None:
    samples = benchmark.measure_alone(job(bright_onnx))
    assert samples.facts["device"] == "cpu"
    if machine.memory_status("VmHWM") is not None:
        peak, before = samples.memory_mib
        assert peak > before > 0


def test_an_error_in_that_process_reaches_the_user(write_bright_cells: Callable[..., Path]) -> None:
    with pytest.raises(SpecError, match="holds no edgedet spec"):
        benchmark.measure_alone(job(write_bright_cells(with_spec=False)))


def test_frames_come_from_a_folder_or_a_video_or_are_made_up(tmp_path: Path) -> None:
    for index in range(10):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.full((20, 30, 3), index, np.uint8))
    assert len(benchmark.read_frames(tmp_path)) == benchmark.FRAMES
    writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for _ in range(12):
        writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    assert benchmark.read_frames(tmp_path / "clip.avi")[0].shape == (48, 64, 3)
    assert benchmark.read_frames(None)[0].shape == (720, 1280, 3)


@pytest.mark.parametrize("name", ["absent", "empty", "text.mp4"])
def test_a_place_without_frames_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(SourceError, match=name):
        benchmark.read_frames(tmp_path / name)


def test_the_machine_is_described() -> None:
    here = machine.describe()
    assert here.cores == len(os.sched_getaffinity(0))
    assert here.packages["onnxruntime"]
    assert f"{here.cores} cores" in str(here)


def test_bench_prints_json_with_ratios_to_the_first_model(edgedet_cli: Callable, bright_onnx: Path, bright_xml: Path) -> None:
    ended = edgedet_cli("bench", bright_onnx, f"{bright_onnx}@openvino", "--runs", 4, "--turns", 1, "--warm-up", 1, "--json")
    assert ended.code == 0, ended.err
    report = json.loads(ended.out)
    first, second = report["models"]
    assert (first["runtime"], second["runtime"]) == ("onnxruntime", "openvino")
    assert set(first["latency_ms"]) == {"letterbox", "inference", "map_back", "total"}
    assert first["speed_ratio"] == 1
    assert second["precision"] == {"file": "fp32", "asked": "f32", "executed": "f32"}
    assert report["machine"]["cpu"]


def test_bench_prints_a_table(edgedet_cli: Callable, bright_onnx: Path) -> None:
    ended = edgedet_cli("bench", bright_onnx, "--runs", 2, "--turns", 1, "--warm-up", 0)
    assert ended.code == 0, ended.err
    assert "2 runs a model in 1 processes" in ended.out
    assert "onnxruntime cpu" in ended.out


def test_a_model_is_a_file_with_or_without_its_runtime_or_the_embedded_checkpoint() -> None:
    street = assets.street_nano()
    assert bench._resolve("a.onnx", None) == "a.onnx"
    assert bench._resolve("a.onnx", "openvino") == bench._resolve("a.onnx@openvino", None) == "a.onnx@openvino"
    assert bench._resolve("street-nano", None) == str(street)
    assert bench._resolve("street-nano@torch", None) == f"{street}@torch"


def test_bench_takes_a_runtime_once_or_twice_the_same(edgedet_cli: Callable, bright_onnx: Path) -> None:
    options = ["--runs", 1, "--turns", 1, "--warm-up", 0]
    ended = edgedet_cli("bench", f"{bright_onnx}@openvino", "--runtime", "openvino", *options)
    assert ended.code == 0, ended.err
    assert "openvino cpu" in ended.out
    ended = edgedet_cli("bench", f"{bright_onnx}@openvino", "--runtime", "onnxruntime", *options)
    assert ended.code == 2
    assert "leave one out" in ended.err


def test_bench_refuses_fewer_runs_than_turns(edgedet_cli: Callable, bright_onnx: Path) -> None:
    ended = edgedet_cli("bench", bright_onnx, "--runs", 2)
    assert ended.code == 2
    assert "--runs 2 cannot be shared among --turns 3" in ended.err
