"""`edgedet doctor MODEL --for RUNTIME`: clean, broken and unreadable files, as the user runs it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

onnx = pytest.importorskip("onnx")
from places import Ended  # noqa: E402
from qdq_graphs import INT8, UINT8, Graph, built, clean  # noqa: E402

Cli = Callable[..., Ended]


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """Five convolutions whose inputs stand at zero-point 128; no file of edgedet's."""

    def chain(g: Graph) -> str:
        name = "a"
        for _ in range(5):
            name = g.silu(g.conv(g.qdq(name)))
        return name

    path = tmp_path / "broken.onnx"
    onnx.save(built(chain, UINT8), path)
    return path


def test_a_clean_file_ends_with_zero(edgedet_cli: Cli, tmp_path: Path):
    onnx.save(built(clean, INT8), tmp_path / "clean.onnx")
    ended = edgedet_cli("doctor", tmp_path / "clean.onnx", "--for", "tensorrt")
    assert ended.code == 0
    assert ended.out == "clean.onnx breaks no rule of tensorrt\n"


def test_a_broken_rule_ends_with_one_and_names_places_and_reason(edgedet_cli: Cli, broken: Path):
    ended = edgedet_cli("doctor", broken, "--for", "tensorrt")
    assert ended.code == 1
    assert ended.err == "edgedet: broken.onnx breaks rules of tensorrt: not-int8\n"
    assert "a is quantised to uint8" in ended.out
    assert "and 2 more (--json)" in ended.out
    assert "TensorRT refuses it" in ended.out
    assert edgedet_cli("doctor", broken, "--for", "openvino").code == 0


def test_json_holds_every_finding(edgedet_cli: Cli, broken: Path):
    ended = edgedet_cli("doctor", broken, "--for", "tensorrt", "--json")
    assert ended.code == 1
    report = json.loads(ended.out)
    assert (report["file"], report["runtime"]) == ("broken.onnx", "tensorrt")
    assert [finding["rule"] for finding in report["findings"]] == ["not-int8"] * 5
    assert set(report["findings"][0]) == {"rule", "node", "message", "reason"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["broken.onnx"], "which runtime it is for is not said; add --for tensorrt, onnxruntime or openvino"),
        (["broken.onnx", "--for", "tflite"], "there are no rules for tflite; add --for tensorrt, onnxruntime or openvino"),
        (["--for", "openvino"], "needs a model to look at: edgedet doctor MODEL.onnx --for openvino"),
        (["absent.onnx", "--for", "openvino"], "absent.onnx: no such file"),
        (["text.onnx", "--for", "openvino"], "text.onnx: not a whole ONNX file"),
        (["cut.onnx", "--for", "openvino"], "cut.onnx: not a whole ONNX file"),
        (["empty.onnx", "--for", "openvino"], "empty.onnx: the model has not a single operator"),
        (["damaged.onnx", "--for", "openvino"], "is damaged"),
        ([".", "--for", "openvino"], "is a folder; name a file in it"),
    ],
)
def test_what_cannot_be_read_is_one_line_and_two(
    edgedet_cli: Cli, broken: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
):
    monkeypatch.chdir(broken.parent)
    whole = broken.read_bytes()
    Path("text.onnx").write_text("no model at all")
    Path("cut.onnx").write_bytes(whole[: len(whole) // 2])
    Path("empty.onnx").touch()
    damaged = onnx.load(broken)
    damaged.graph.initializer[0].raw_data = b"x"
    onnx.save(damaged, "damaged.onnx")
    ended = edgedet_cli("doctor", *arguments)
    assert ended.code == 2
    assert said in ended.err
    assert ended.err.count("\n") == 1
    assert ended.out == ""
