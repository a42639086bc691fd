"""`edgedet validate` as its user runs it, on checkpoints, which need no export."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
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


def _spoil(path: Path, weights: str, to: Path) -> None:
    """Write a copy of an ONNX file with one convolution's weights halved."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load(path)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == weights)
    tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) / np.float32(2), weights))
    onnx.save(model, to)


@pytest.mark.parametrize("gate", [["--max-box-error", "0.001"], []])
def test_operators_that_diverge_are_named_where_a_gate_is_missed_or_none_was_asked_for(
    edgedet_cli: Cli, here: Path, gate: list[str]
):
    onnx = pytest.importorskip("onnx")
    import quantizable

    onnx.save(quantizable.model(), "one.onnx")
    _spoil(Path("one.onnx"), "whole.detector.mix.weight", Path("spoilt.onnx"))
    ended = edgedet_cli(
        "validate", "one.onnx", "spoilt.onnx", "one.onnx@openvino", "--data", "photos", "--bisect", "--out", "out", *gate
    )
    assert ended.code == len(gate[:1]), ended.err
    assert "spoilt.onnx: where it diverges, the gravest first" in ended.out
    assert "one.onnx@openvino: where it diverges" not in ended.out
    assert ("one.onnx@openvino: no operator differs by more than rounding does" in ended.err) == (not gate)
    spoilt, sound = json.loads(Path("out/report.json").read_text())["comparisons"]
    assert spoilt["bisection"]["operators"][0]["name"] == "mix"
    assert spoilt["bisection"]["images"] == 2
    assert (sound["bisection"] is None) == bool(gate)
    page = Path("out/report.html").read_text()
    assert page.count("Where it diverges") == 2 - len(gate[:1])
    assert "<b>mix</b>" in page


@pytest.mark.slow
def test_a_spoilt_convolution_is_named_against_the_checkpoint(edgedet_cli: Cli, street_onnx: Path, here: Path):
    """The reference is no ONNX file, so it is exported with the other's input and suppression."""
    name = "backbone.C3_p4.conv3.conv"
    _spoil(street_onnx, f"whole.detector.{name}.weight", Path("spoilt.onnx"))
    ended = edgedet_cli("validate", "street-nano", "spoilt.onnx", "--data", "photos", "--bisect", "--out", "out")
    assert ended.code == 0, ended.err
    (spoilt,) = json.loads(Path("out/report.json").read_text())["comparisons"]
    assert spoilt["bisection"]["operators"][0]["name"] == name


def test_what_cannot_be_bisected_is_said_in_the_report(edgedet_cli: Cli, here: Path):
    onnx = pytest.importorskip("onnx")
    import quantizable

    onnx.save(quantizable.model(), "one.onnx")
    onnx.save(quantizable.model(batch=2), "two.onnx")
    ended = edgedet_cli("validate", "one.onnx", "two.onnx", "--data", "photos", "--bisect", "--out", "out")
    assert ended.code == 0, ended.err
    assert "two.onnx: not bisected: two.onnx takes" in ended.err
    assert json.loads(Path("out/report.json").read_text())["comparisons"][0]["bisection"] is None


def test_layers_that_run_in_another_precision_are_told(edgedet_cli: Cli, here: Path):
    onnx = pytest.importorskip("onnx")
    import quantizable

    from edgedet.export.to_fp16 import to_fp16

    model = quantizable.model()
    for index, node in enumerate(model.graph.node):
        node.name = node.name or f"node_{index}"
    onnx.save(model, "one.onnx")
    to_fp16(Path("one.onnx"), Path("half.onnx"))
    ended = edgedet_cli("validate", "one.onnx", "half.onnx", "--data", "photos", "--out", "out")
    assert ended.code == 0, ended.err
    layers = json.loads(Path("out/report.json").read_text())["comparisons"][0]["other"]["precision_by_layer"]
    assert sum(layers["shares"].values()) == pytest.approx(1)
    assert {layer["asked"] for layer in layers["layers"]} == {"f16"}
    for complaint in layers["complaints"]:
        assert complaint.startswith("8 of 8 layers were asked for in f16 and ran in f32: stem, depthwise, point")
        assert complaint in ended.err
        assert complaint in Path("out/report.html").read_text()


@pytest.mark.parametrize(
    ("reference", "other", "words"),
    [("one.xml", "one.onnx", ["--bisect", "one.xml", "checkpoint"]), ("one.onnx", "good.pth", ["--bisect", "good.pth"])],
)
def test_bisecting_what_has_no_graph_is_refused_at_once(
    edgedet_cli: Cli, here: Path, reference: str, other: str, words: list[str]
):
    ended = edgedet_cli("validate", reference, other, "--data", "photos", "--bisect")
    assert ended.code == 2
    assert all(word in ended.err for word in words), ended.err
    assert len(ended.err.splitlines()) == 1
