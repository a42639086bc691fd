"""A training run from outside: its folder, its end after a kill, what it refuses."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest
import torch

from edgedet.errors import ArtifactError, CheckpointError, DataError, UsageError
from edgedet.models import checkpoint
from edgedet.training import loop
from edgedet.training.config import TrainingConfig

EPOCHS = 4


def arguments(squares, out: Path) -> list[str]:
    train, val = squares
    options = [
        "--data",
        train,
        "--val",
        val,
        "--model",
        "yolox-nano",
        "--size",
        64,
        "--batch",
        4,
        "--epochs",
        EPOCHS,
        "--out",
        out,
    ]
    return [str(option) for option in options]


def start(*options: str) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "edgedet", "train", *options]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def finished(squares, tmp_path_factory) -> Path:
    """The folder of a run that nothing interrupted."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    process = start(*arguments(squares, out))
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert stdout.strip() == str(out / "best.safetensors")
    assert "\x1b" not in stderr  # no progress bar where there is no terminal
    return out


def test_a_run_leaves_its_config_metrics_pictures_and_weights(finished):
    config = json.loads((finished / "config.json").read_text())
    assert (config["epochs"], config["batch"], config["seed"]) == (EPOCHS, 4, 0)
    rows = list(csv.DictReader((finished / "metrics.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert set(rows[0]) == {"epoch", "box", "objectness", "classes", "l1", "lr", "ap", "ap50", "seconds"}
    assert cv2.imread(str(finished / "predictions.png")).shape[1] > 800
    assert cv2.imread(str(finished / "curves.png")) is not None
    for name in ("best", "last"):
        spec = checkpoint.load(finished / f"{name}.safetensors").spec
        assert (spec.name, spec.classes, spec.size_hw) == ("yolox-nano", ("red", "green"), (64, 64))
        assert {"edgedet", "torch", "data", "seed", "epochs", "ap", "ap50"} <= set(spec.provenance)


def test_a_killed_run_resumes_to_the_same_weights(finished, squares, tmp_path):
    out = tmp_path / "killed"
    process = start(*arguments(squares, out))
    deadline = time.monotonic() + 100
    while not (out / "resume.pt").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    epochs_done = torch.load(out / "resume.pt", weights_only=True)["epoch"]
    assert epochs_done < EPOCHS
    resumed = start("--resume", str(out))
    _, stderr = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, stderr
    assert f"resuming after epoch {epochs_done}" in stderr
    ours, expected = (checkpoint.load(folder / "last.safetensors").detector.state_dict() for folder in (out, finished))
    for name, tensor in expected.items():
        torch.testing.assert_close(ours[name], tensor, atol=1e-5, rtol=1e-4, msg=name)
    assert len((out / "metrics.csv").read_text().splitlines()) == 1 + EPOCHS


def test_ctrl_c_ends_with_130_and_keeps_the_last_epoch(squares, tmp_path):
    out = tmp_path / "interrupted"
    options = arguments(squares, out)
    options[options.index("--epochs") + 1] = "200"
    process = start(*options)
    while not (out / "resume.pt").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert checkpoint.load(out / "last.safetensors").spec.classes == ("red", "green")


def config(squares, out: Path, **changes) -> TrainingConfig:
    values = {"data": squares[0], "val": squares[1], "model": "yolox-nano", "size": 64, "batch": 4, "epochs": 1, "out": out}
    return TrainingConfig(**{**values, **changes})


def test_classes_shared_with_the_initial_weights_keep_them(finished, squares, tmp_path, capsys):
    loop.train(config(squares, tmp_path / "a", init=finished / "best.safetensors", classes=("green",), lr=1e-9))
    assert "all classes are known" in capsys.readouterr().err
    state = checkpoint.load(tmp_path / "a" / "last.safetensors").detector.state_dict()
    parent = checkpoint.load(finished / "best.safetensors").detector.state_dict()
    name = "head.cls_preds.0.weight"
    torch.testing.assert_close(state[name], parent[name][1:], atol=1e-5, rtol=0)


@pytest.mark.parametrize("norms", ["batch", "frozen"])
def test_frozen_norms_keep_the_statistics_of_the_initial_weights(norms, finished, squares, tmp_path):
    loop.train(config(squares, tmp_path / "a", init=finished / "best.safetensors", norms=norms, plain_epochs=1))
    name = "backbone.backbone.stem.conv.bn.running_var"
    before, after = (
        checkpoint.read_state(f)[0][name] for f in (finished / "best.safetensors", tmp_path / "a/last.safetensors")
    )
    assert torch.equal(before, after) == (norms == "frozen")


def test_without_a_validation_set_a_tenth_is_held_out_and_said(squares, tmp_path, capsys):
    loop.train(config(squares, tmp_path / "a", val=None))
    assert "holding out 1 of 8 images" in capsys.readouterr().err


def test_a_folder_that_holds_a_run_is_not_overwritten(finished, squares):
    with pytest.raises(UsageError, match="--resume"):
        loop.train(config(squares, finished))


def test_resuming_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match=r"config\.json is absent"):
        loop.resume(tmp_path)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"model": "yolox-huge"}, UsageError, "yolox-nano"),
        ({"init": Path("absent.pth")}, ArtifactError, "absent.pth: no such file"),
        ({"data": Path("absent")}, DataError, "absent: no such file"),
        ({"classes": ("blue",)}, DataError, "none of its 2 classes"),
        ({"size": 100}, UsageError, "multiple of 32"),
        ({"batch": 0}, UsageError, "--batch is 0"),
        ({"lr": -1.0}, UsageError, "--lr is -1"),
        ({"norms": "none"}, UsageError, "--norms"),
        ({"norms": "frozen"}, UsageError, "--norms frozen .* --init"),
        ({"classes": ("red", "blue")}, DataError, "no object of --classes blue"),
        ({"classes": ("red", "green", "Red")}, UsageError, "--classes names red more than once"),
        ({"classes": ("red", "")}, UsageError, "--classes 'red,' has an empty name"),
        ({"accelerator": "cpu", "precision": "16-mixed"}, UsageError, "--precision 16-mixed needs a GPU"),
        ({"plain_epochs": -1}, UsageError, "--plain-epochs is -1"),
        ({"precision": "int8"}, UsageError, "--precision"),
        ({"accelerator": "tpu"}, UsageError, "--accelerator"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(changes, error, words, squares, tmp_path):
    with pytest.raises(error, match=words):
        loop.train(config(squares, tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_initial_weights_of_another_model_are_refused_with_the_right_name(finished, squares, tmp_path):
    with pytest.raises(CheckpointError, match="use --model yolox-nano"):
        loop.train(config(squares, tmp_path / "run", model="yolox-tiny", init=finished / "best.safetensors"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there_is_refused(squares, tmp_path):
    with pytest.raises(UsageError, match="sees no such device"):
        loop.train(config(squares, tmp_path / "run", accelerator="cuda"))


def test_default_epochs_give_small_data_more_and_large_data_fewer(squares, tmp_path):
    fine_tuning = config(squares, tmp_path, init=Path("x.pth"), epochs=None, batch=16)
    assert fine_tuning.default_epochs(205) > fine_tuning.default_epochs(2000) >= fine_tuning.default_epochs(200_000) == 10
    assert config(squares, tmp_path, epochs=None).default_epochs(205) == 300


@pytest.fixture
def stopped(finished, squares, tmp_path) -> Path:
    """A copy of the finished run on a copy of its data, so that either may be damaged."""
    run, data = tmp_path / "run", tmp_path / "data"
    shutil.copytree(finished, run)
    shutil.copytree(squares[0].parent, data)
    values = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**values, "data": str(data / squares[0].name), "epochs": EPOCHS + 1}))
    return run


@pytest.mark.parametrize("names", [("red", "blue"), ("green", "red"), ("red", "green", "blue")])
def test_a_run_does_not_go_on_with_other_classes(names, stopped):
    file = stopped.parent / "data/instances_train.json"
    content = json.loads(file.read_text())
    content["categories"] = [{"id": i + 1, "name": name} for i, name in enumerate(names)]
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match=f"has the classes {', '.join(names)} now, but .* red, green"):
        loop.resume(stopped)


@pytest.mark.parametrize("content", [{"model": {}}, [1, 2], {"detector": {"a": torch.zeros(1)}}])
def test_a_run_does_not_go_on_from_another_torch_file(content, stopped):
    if isinstance(content, dict) and "detector" in content:
        content = {**torch.load(stopped / "resume.pt", weights_only=True), **content}
    torch.save(content, stopped / "resume.pt")
    with pytest.raises(ArtifactError, match=r"resume\.pt: .*start the run anew"):
        loop.resume(stopped)


def test_a_run_goes_on_past_damaged_metrics_and_images(stopped, capsys):
    (stopped / "metrics.csv").write_text("epoch,box\n1,x,3\n")
    image = stopped.parent / "data/images/3.png"
    cv2.imwrite(str(image), cv2.imread(str(image))[:32])
    loop.resume(stopped)
    assert "1 images unreadable" in capsys.readouterr().err
    assert [row["epoch"] for row in csv.DictReader((stopped / "metrics.csv").open())] == ["1", "2", "3", "4", "5"]


def test_resuming_takes_no_option_that_it_would_not_follow(edgedet_cli, finished):
    ended = edgedet_cli("train", "--resume", finished, "--epochs", 9, "--json", "--batch", 16)
    assert ended.code == 2
    assert "cannot take --batch, --epochs" in ended.err


def test_the_embedded_model_is_a_start(edgedet_cli, squares, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = [*arguments(squares, tmp_path / "run"), "--init", "street-nano"]
    options[options.index("--epochs") + 1] = "1"
    ended = edgedet_cli("train", *options)
    assert ended.code == 0, ended.err
    assert "weights from street-nano.safetensors" in ended.err
