"""`edgedet validate` as its user runs it, on checkpoints, which need no export."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

Cli = Callable[..., Any]


@pytest.fixture
def here(tmp_path: Path, yolox_nano_pth: Path, coco_val: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with good.pth, a worse.pth whose boxes and scores differ, and two plain photos."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(yolox_nano_pth, "good.pth")
    state = torch.load(yolox_nano_pth, weights_only=True)["model"]
    state = {name: tensor * 1.1 if "preds" in name else tensor for name, tensor in state.items()}
    torch.save({"model": state}, "worse.pth")
    Path("photos").mkdir()
    for photo in sorted((coco_val.parent / "images").glob("*.jpg"))[:2]:
        shutil.copy(photo, "photos")
    return tmp_path


def test_it_prints_a_table_and_leaves_a_report(edgedet_cli: Cli, here: Path):
    ended = edgedet_cli("validate", "good.pth", "good.pth", "--data", "photos", "--min-match", "0.999", "--max-ap-drop", "0")
    assert ended.code == 0, ended.err
    assert "matched" in ended.out
    assert "passed  " in ended.out
    assert sorted(p.name for p in Path("runs/validate/good.pth").iterdir()) == ["report.html", "report.json"]
    assert "runs/validate/good.pth/report.html" in ended.err


def test_the_embedded_detector_is_known_by_its_name_on_both_sides(edgedet_cli: Cli, here: Path):
    ended = edgedet_cli("validate", "street-nano", "street-nano", "--data", "photos", "--max-images", 1, "--out", "out")
    assert ended.code == 0, ended.err
    assert "street-nano.safetensors" in ended.out


def test_a_missed_gate_is_exit_1_and_names_the_figure(edgedet_cli: Cli, here: Path):
    ended = edgedet_cli(
        "validate", "good.pth", "worse.pth", "--data", "photos", "--max-score-drift", "0.01", "--min-match", "0"
    )
    assert ended.code == 1
    assert ended.err.splitlines()[-1].startswith("edgedet: 1 of the gates missed: worse.pth: score drift max: 0.")
    assert "MISSED  worse.pth: score drift max" in ended.out


def test_json_is_the_report_and_without_gates_nothing_fails(edgedet_cli: Cli, here: Path):
    ended = edgedet_cli(
        "validate", "good.pth", "worse.pth", "good.pth", "--data", "photos", "--max-images", 1, "--json", "--out", "out"
    )
    assert ended.code == 0
    facts, written = json.loads(ended.out), json.loads(Path("out/report.json").read_text())
    assert facts == written
    assert facts["dataset"]["images"] == 1
    assert facts["command"].startswith("edgedet validate good.pth worse.pth good.pth --data photos")
    assert [c["other"]["label"] for c in facts["comparisons"]] == ["worse.pth", "good.pth"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["good.pth@tensort", "--data", "photos"], ["tensort", "torch"]),
        (["good.pth@openvino", "--data", "photos"], ["good.pth", "openvino", ".xml"]),
        (["good.pth", "--data", "nowhere"], ["nowhere"]),
        (["good.pth", "--data", "photos", "--out", "good.pth"], ["good.pth", "folder"]),
        (["good.pth", "--data", "photos", "--out", "/proc/x"], ["/proc/x", "cannot be written"]),
        (["good.pth", "--data", "photos", "--inference-precision", "f16"], ["torch", "f16"]),
        (["two.pth", "--data", "photos"], ["two.pth has 2 classes", "good.pth has 80 classes"]),
    ],
)
def test_a_wrong_input_is_one_line_and_exit_2(edgedet_cli: Cli, here: Path, arguments: list[str], words: list[str]):
    from edgedet.models import checkpoint

    torch.save({"model": checkpoint.build("yolox-nano", 2).state_dict()}, "two.pth")
    ended = edgedet_cli("validate", "good.pth", *arguments)
    assert ended.code == 2, ended
    message = [line for line in ended.err.splitlines() if line.startswith("edgedet: ")]
    assert len(message) == 1
    assert all(word in message[0] for word in words), message
    assert not Path("runs").exists()
