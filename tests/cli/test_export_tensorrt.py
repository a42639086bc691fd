"""`edgedet export --to tensorrt`, as its user runs it: on a laptop without a GPU, where TensorRT-RTX compiles."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from places import Ended, refused

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed; pip install -e '.[dev]'")
import qdq_graphs
import quantizable

from edgedet import artifact, engine
from edgedet.export import onnx_file

Cli = Callable[..., Ended]


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """A small detector that was exported already."""
    return onnx_file.write(tmp_path / "small-fp32.onnx", quantizable.model(), quantizable.spec())


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_onnx_file_becomes_a_plan_that_says_what_it_was_compiled_from(edgedet_cli: Cli, exported: Path, tmp_path: Path):
    out = tmp_path / "out"
    ended = edgedet_cli("export", exported, "--to", "tensorrt", "--targets", "sm86,SM89", "--out", out, "--json")
    assert ended.code == 0, ended.err
    assert names(out) == ["small-fp32.engine", "small-fp32.engine.json"]
    (file,) = json.loads(ended.out)
    assert file["engine"]["onnx_sha256"] == artifact.sha256(exported)
    assert file["engine"]["compute_capabilities"] == ["SM86", "SM89"]
    assert file["engine"]["layers"] == {"f32": len(quantizable.LAYERS)}
    assert file["sha256"] == engine.read_facts(out / "small-fp32.engine").plan_sha256
    assert "compiled, not run here" in ended.err
    assert file["engine"]["state"] == "compiled, not run here"


@pytest.fixture
def runs_as(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """A GPU that gives the answers of an ONNX file: it shows what is made of them, nothing of GPUs."""
    from edgedet.runtimes import run_onnxruntime, run_tensorrt

    def answer(path: Path) -> None:
        monkeypatch.setattr(run_tensorrt, "available", lambda: None)
        monkeypatch.setattr(run_tensorrt, "differences", lambda facts: [])
        monkeypatch.setattr(run_tensorrt, "open", lambda plan, options: run_onnxruntime.open(path, options))

    return answer


def test_a_plan_that_ran_as_its_onnx_file_does_says_so(edgedet_cli: Cli, exported: Path, tmp_path: Path, runs_as):
    runs_as(exported)
    ended = edgedet_cli("export", exported, "--to", "tensorrt", "--out", tmp_path / "out", "--json")
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)[0]["engine"]["state"] == "verified on this device"
    assert engine.read_facts(tmp_path / "out" / "small-fp32.engine").state == "verified on this device"


@pytest.mark.parametrize(
    ("layer", "shift", "words"),
    [
        ("box", 1.0, "its box error against its ONNX file is"),
        ("box", float("nan"), "it gives values that are no numbers"),
        ("score", -0.5, "its score error against its ONNX file is"),
        ("score", -50.0, "are its own or its ONNX file's alone"),
    ],
)
def test_a_plan_that_runs_otherwise_than_its_onnx_file_is_not_written(
    edgedet_cli: Cli, exported: Path, tmp_path: Path, runs_as, layer: str, shift: float, words: str
):
    model, spec = onnx_file.read(exported)
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == f"whole.detector.{layer}.bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + np.float32(shift), bias.name))
    runs_as(onnx_file.write(tmp_path / "wrong.onnx", model, spec))
    ended = edgedet_cli("export", exported, "--to", "tensorrt", "--out", tmp_path / "out")
    assert ended.code == 1
    assert "small-fp32.engine is not written: " in ended.err
    assert words in ended.err
    assert not (tmp_path / "out").exists()


@pytest.mark.gpu
def test_on_a_gpu_the_plan_runs_before_it_gets_its_name(edgedet_cli: Cli, exported: Path, tmp_path: Path):
    from edgedet.runtimes import run_tensorrt

    if problem := run_tensorrt.available():
        pytest.skip(problem)
    ended = edgedet_cli("export", exported, "--to", "tensorrt", "--out", tmp_path / "out", "--json")
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)[0]["engine"]["state"] == "verified on this device"


NO_TORCH = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "safetensors", "onnxscript"):
            raise ModuleNotFoundError("absent on purpose", name=name)
sys.meta_path.insert(0, Absent())
from edgedet.cli.main import main
main()
"""


def test_a_device_needs_no_torch_to_compile(exported: Path, tmp_path: Path):
    options = ["export", str(exported), "--to", "tensorrt", "--out", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-c", NO_TORCH, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "small-fp32.engine" in done.stdout
    assert engine.read_facts(tmp_path / "out" / "small-fp32.engine").compute_capabilities == ()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--to", "onnx"], ["is an ONNX file already", "--to tensorrt"]),
        (["--check"], ["--check is for TensorRT", "--to tensorrt"]),
        (["--workspace", "64"], ["--workspace is for TensorRT"]),
        (["--batch", "1,4,8", "--to", "onnx"], ["ONNX file already"]),
        (["--to", "tensorrt", "--for", "cpu"], ["--for cpu --to tensorrt", "zero-point 0"]),
        (["--to", "tensorrt", "--for", "jetson"], ["'jetson'", "jetpack6, jetpack7, tensorrt11, rtx"]),
        (["--to", "tensorrt", "--for", "jetpack6"], ["tensorrt cannot be imported", "JetPack", "--check"]),
        (["--to", "tensorrt", "--for", "jetpack6", "--targets", "SM86"], ["only TensorRT-RTX", "--for rtx"]),
        (["--to", "tensorrt", "--targets", "SM87"], ["SM87", "SM86, SM89"]),
        (["--to", "tensorrt", "--dla", "0"], ["--dla 0", "finds no DLA", "11.4.1"]),
        (["--to", "tensorrt", "--timing-cache", "x"], ["--timing-cache x", "leave it out"]),
        (["--to", "tensorrt", "--batch", "8,4,1"], ["--batch 8,4,1", "1,4,8"]),
        (["--to", "tensorrt", "--batch", "1,4"], ["'1,4'", "MIN,OPT,MAX"]),
        (["--to", "tensorrt", "--batch", "1,4,8"], ["its batch is 1", "--batch 1,4,8"]),
        (["--to", "tensorrt", "--precision", "int8"], ["--precision is for a checkpoint", "fp32, NMS matrix, batch 1"]),
        (["--to", "tensorrt", "--nms", "onnx"], ["--nms is for a checkpoint"]),
    ],
)
def test_a_wrong_option_gets_one_message_and_nothing_is_made(edgedet_cli: Cli, exported: Path, tmp_path: Path, options, words):
    refused(edgedet_cli("export", exported, *options, "--out", tmp_path / "out"), *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--to", "tensorrt", "--batch", "dynamic"], ["--batch dynamic --to tensorrt", "1,4,8"]),
        (["--batch", "1,4,8"], ["--batch 1,4,8 is for TensorRT", "--batch dynamic"]),
        (["--to", "tensorrt", "--precision", "auto", "--images", ".", "--verify", "."], ["--precision auto --to tensorrt"]),
        (["--precision", "int8+fp16", "--images", "."], ["int8+fp16 is TensorRT's", "--for tensorrt"]),
        (["--to", "tensorrt", "--precision", "int8"], ["--images"]),
        (["--to", "tensorrt", "--nms", "onnx"], ["--nms onnx --to tensorrt", "cannot build it", "--nms matrix"]),
        (["--to", "tensorrt", "--nms", "efficientnms"], ["none of TensorRT's plugins", "--nms matrix"]),
    ],
)
def test_a_checkpoint_with_a_wrong_option_is_refused_before_it_is_read(edgedet_cli: Cli, tmp_path: Path, options, words):
    refused(edgedet_cli("export", "street-nano", *options, "--out", tmp_path / "out"), *words)
    assert not (tmp_path / "out").exists()


def test_a_plan_that_is_too_wide_is_not_written(edgedet_cli: Cli, tmp_path: Path):
    spec = replace(quantizable.spec(), precision="int8", encoding="tensorrt")
    path = onnx_file.write(tmp_path / "wide.onnx", quantizable.model(), spec)
    ended = edgedet_cli("export", path, "--to", "tensorrt", "--out", tmp_path / "out")
    assert ended.code == 1
    assert "8 of 8 layers are wider than asked for: stem is f32 instead of int8" in ended.err
    assert not (tmp_path / "out").exists()


def test_lint_stands_before_the_build(edgedet_cli: Cli, tmp_path: Path):
    """uint8 with zero-point 0, which TensorRT-RTX reads as int8 without refusing it."""
    model = qdq_graphs.built(qdq_graphs.TENSORRT["not-int8"][0])
    model.metadata_props.add(key="edgedet.spec", value=quantizable.spec().to_json())
    onnx.save(model, tmp_path / "graph.onnx")
    ended = edgedet_cli("export", tmp_path / "graph.onnx", "--to", "tensorrt", "--out", tmp_path / "out")
    refused(ended, "a is quantised to uint8", "reads uint8 with zero-point 0 as int8")
    assert not (tmp_path / "out").exists()


def test_check_names_what_fails_where_and_ends_with_1(edgedet_cli: Cli, tmp_path: Path):
    onnx.save(qdq_graphs.built(qdq_graphs.TENSORRT["topk-too-long"][0]), tmp_path / "foreign.onnx")  # no spec is needed
    ended = edgedet_cli("export", tmp_path / "foreign.onnx", "--to", "tensorrt", "--check", "--json")
    assert ended.code == 1
    assert "foreign.onnx will fail on jetpack6, jetpack7, tensorrt11, rtx: 4 places, listed above" in ended.err
    for fault in json.loads(ended.out):
        assert (fault["node"], fault["operator"]) == ("topk0", "TopK")
        assert "3841" in fault["reason"]
    ended = edgedet_cli("export", tmp_path / "foreign.onnx", "--to", "tensorrt", "--check", "--for", "jetpack6")
    assert ended.code == 1
    assert "JetPack 6" in ended.out
    assert "let fewer candidates in" in ended.out


def test_check_of_a_clean_file_ends_with_0_and_writes_nothing(edgedet_cli: Cli, exported: Path, tmp_path: Path):
    ended = edgedet_cli("export", exported, "--to", "tensorrt", "--check", "--out", tmp_path / "out")
    assert ended.code == 0, ended.err
    assert "nothing found that fails on jetpack6, jetpack7, tensorrt11, rtx" in ended.err
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A YOLOX-nano with random weights, and its trace of 64x96 pixels with a free batch and matrix suppression."""
    torch = pytest.importorskip("torch")
    from edgedet.export.to_onnx import to_onnx
    from edgedet.models import checkpoint as checkpoints
    from edgedet.models import yolox

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.save({"model": yolox.build("nano", 2).state_dict()}, folder / "mine.pth")
    detector, spec = checkpoints.load(folder / "mine.pth")
    spec = replace(spec, size_hw=(64, 96), batch=None, suppression=replace(spec.suppression, mode="matrix"))
    return folder / "mine.pth", to_onnx(detector, spec, folder / "traced.onnx")


def test_a_checkpoint_becomes_an_onnx_file_and_the_plan_of_just_that(edgedet_cli: Cli, checkpoint, tmp_path: Path, monkeypatch):
    from edgedet.export import to_onnx

    saved, traced = checkpoint
    monkeypatch.setattr(to_onnx, "to_onnx", lambda detector, spec, path: Path(shutil.copy(traced, path)))
    options = ["--to", "tensorrt", "--precision", "fp16", "--batch", "1,2,4", "--size", "64x96", "--targets", "SM86"]
    ended = edgedet_cli("export", saved, *options, "--out", tmp_path)
    assert ended.code == 0, ended.err
    stem = "yolox-nano-64x96-fp16-matrix-dynamic"
    assert names(tmp_path) == [f"{stem}.engine", f"{stem}.engine.json", f"{stem}.onnx"]
    facts = engine.read_facts(tmp_path / f"{stem}.engine")
    assert facts.onnx_sha256 == artifact.sha256(tmp_path / f"{stem}.onnx")
    assert facts.batches == (1, 2, 4)
    assert facts.spec.provenance["check"]["runtime"].startswith("onnxruntime")
    assert "compiled, not run here" in ended.out
    assert f"from {stem}.onnx" in ended.err


@pytest.mark.slow
def test_with_calibration_images_int8_has_float16_around_it(edgedet_cli: Cli, coco_calib: Path, tmp_path: Path):
    """All in INT8 but the 30 depthwise, 9 prediction and 1 pixel layers of 113, and what measurement left in float."""
    options = ["--to", "tensorrt", "--images", coco_calib, "--targets", "SM86,SM89", "--force"]
    ended = edgedet_cli("export", "street-nano", *options, "--out", tmp_path, "--json")
    assert ended.code == 0, ended.err
    onnx_row, plan_row = json.loads(ended.out)
    assert (onnx_row["format"], plan_row["format"]) == ("onnx", "tensorrt")
    assert plan_row["precision"] == "int8+fp16"
    _, spec = onnx_file.read(Path(onnx_row["path"]))
    by_measurement = sum("measured" in reason for reason in spec.provenance["calibration"]["left_float"].values())
    assert plan_row["engine"]["layers"]["int8"] == 73 - by_measurement
    assert plan_row["engine"]["onnx_sha256"] == onnx_row["sha256"]
