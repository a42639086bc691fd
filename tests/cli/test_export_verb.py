"""`edgedet export`, as its user runs it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from places import Ended, refused

torch = pytest.importorskip("torch")

from edgedet.cli import export, exported  # noqa: E402
from edgedet.errors import UsageError  # noqa: E402
from edgedet.export import onnx_file, to_onnx  # noqa: E402
from edgedet.models import checkpoint, yolox  # noqa: E402
from edgedet.runtimes.figures import FLOORS, Comparison  # noqa: E402
from edgedet.runtimes.matching import Spread  # noqa: E402

Cli = Callable[..., Ended]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A YOLOX-nano of two unnamed classes with random weights, as a foreign `.pth`."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("checkpoint") / "mine.pth"
    torch.save({"model": yolox.build("nano", 2).state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def traced(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That checkpoint at 64x96 pixels, traced once for all tests."""
    detector, spec = checkpoint.load(saved)
    spec = export.replace(spec, size_hw=(64, 96), batch=1)
    return to_onnx.to_onnx(detector, spec, tmp_path_factory.mktemp("traced") / "traced.onnx")


@pytest.fixture
def quick(traced: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The verb takes the traced file instead of tracing for seconds again."""
    monkeypatch.setattr(to_onnx, "to_onnx", lambda detector, spec, path: Path(shutil.copy(traced, path)))


def test_every_file_is_named_by_what_it_is_and_carries_its_figures(edgedet_cli: Cli, saved: Path, tmp_path: Path, quick):
    options = ["--to", "onnx", "--to", "openvino", "--precision", "fp32", "--precision", "fp16", "--size", "64x96"]
    ended = edgedet_cli("export", saved, *options, "--out", tmp_path, "--json")
    assert ended.code == 0, ended.err
    stem = "yolox-nano-64x96"
    suffixes = ("fp16.bin", "fp16.onnx", "fp16.xml", "fp32.bin", "fp32.onnx", "fp32.xml")
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{stem}-{suffix}" for suffix in suffixes]
    files = json.loads(ended.out)
    assert [(file["format"], file["precision"]) for file in files] == [
        ("onnx", "fp32"),
        ("openvino", "fp32"),
        ("onnx", "fp16"),
        ("openvino", "fp16"),
    ]
    for file in files:
        assert file["check"]["candidates"] >= 100
        assert file["check"]["box_error_px"] < 0.1
    _, spec = onnx_file.read(tmp_path / f"{stem}-fp16.onnx")
    assert spec.provenance["check"] == files[2]["check"]
    assert len(spec.provenance["parent_sha256"]) == 64


def test_a_file_with_tensorrts_plugin_is_checked_with_it_evaluated_and_its_deprecation_told(
    edgedet_cli: Cli, saved: Path, tmp_path: Path
):
    ended = edgedet_cli("export", saved, "--nms", "efficientnms", "--size", "64x96", "--out", tmp_path, "--json")
    assert ended.code == 0, ended.err
    assert "EfficientNMS_TRT is deprecated since TensorRT 10.12" in ended.err
    (file,) = json.loads(ended.out)
    assert Path(file["path"]).name == "yolox-nano-64x96-fp32-efficientnms.onnx"
    assert "EfficientNMS_TRT evaluated in NumPy" in file["check"]["runtime"]
    ended = edgedet_cli("bench", file["path"])
    assert ended.code == 2
    assert "holds EfficientNMS_TRT" in ended.err


def test_the_table_names_the_file_and_its_error(edgedet_cli: Cli, saved: Path, tmp_path: Path, quick):
    ended = edgedet_cli("export", saved, "--size", "64x96", "--out", tmp_path)
    assert ended.code == 0, ended.err
    assert "yolox-nano-64x96-fp32.onnx" in ended.out
    assert "(p99)" in ended.out
    assert "onnxruntime" in ended.out


def test_a_file_that_differs_from_pytorch_is_not_written(
    edgedet_cli: Cli, saved: Path, traced: Path, tmp_path: Path, monkeypatch
):
    def disturbed(detector, spec, path: Path) -> Path:
        model, spec = onnx_file.read(traced)
        bias = next(t for t in model.graph.initializer if t.name.endswith("reg_preds.0.bias"))
        bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + np.float32(0.1), bias.name))
        return onnx_file.write(path, model, spec)

    monkeypatch.setattr(to_onnx, "to_onnx", disturbed)
    ended = edgedet_cli("export", saved, "--size", "64x96", "--out", tmp_path)
    assert ended.code == 1
    assert "fp32.onnx is not written: its box_error_px against PyTorch is" in ended.err
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_gives_no_numbers_is_not_written(edgedet_cli: Cli, saved: Path, traced: Path, tmp_path: Path, monkeypatch):
    def broken(detector, spec, path: Path) -> Path:
        model, spec = onnx_file.read(traced)
        bias = next(t for t in model.graph.initializer if t.name.endswith("obj_preds.0.bias"))
        bias.CopyFrom(onnx.numpy_helper.from_array(np.full(1, np.nan, np.float32), bias.name))
        return onnx_file.write(path, model, spec)

    monkeypatch.setattr(to_onnx, "to_onnx", broken)
    ended = edgedet_cli("export", saved, "--size", "64x96", "--out", tmp_path)
    assert ended.code == 1
    assert "nan" in ended.err
    assert list(tmp_path.iterdir()) == []


def test_verify_measures_on_the_users_images_and_writes_it_into_the_file(
    edgedet_cli: Cli, saved: Path, traced: Path, bccd: Path, tmp_path: Path, monkeypatch
):
    """With random weights nothing is detected: a gate that could not be measured is not passed."""
    monkeypatch.setattr(to_onnx, "to_onnx", lambda detector, spec, path: Path(shutil.copy(traced, path)))
    folder = tmp_path / "photos"
    folder.mkdir()
    for photo in sorted(bccd.rglob("*.jpg"))[:2]:
        shutil.copy(photo, folder)
    ended = edgedet_cli("export", saved, "--size", "64x96", "--out", tmp_path / "out", "--verify", folder)
    assert ended.code == 1
    assert "nothing could be measured" in ended.err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_trained_detector_passes_every_gate_on_photos(
    edgedet_cli: Cli, yolox_nano_pth: Path, coco_val: Path, tmp_path: Path
):
    options = ["--precision", "fp32", "--precision", "fp16", "--to", "onnx", "--to", "openvino", "--simplify"]
    ended = edgedet_cli("export", yolox_nano_pth, *options, "--out", tmp_path, "--verify", coco_val, "--json")
    assert ended.code == 0, ended.err
    for file in json.loads(ended.out):
        assert file["verification"]["images"] == 64
        assert abs(file["verification"]["ap_drop"]) <= (0.0005 if file["precision"] == "fp32" else 0.002)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--precision", "int4"], ["--precision 'int4'", "fp32, fp16, int8, int8+fp16"]),
        (["--precision", "int8"], ["--images"]),
        (["--precision", "auto"], ["--images"]),
        (["--precision", "auto", "--images", "."], ["--verify"]),
        (["--precision", "auto", "--precision", "fp32"], ["auto", "alone"]),
        (["--precision", "int8", "--images", ".", "--method", "guess"], ["--method 'guess'", "entropy"]),
        (["--precision", "int8", "--images", ".", "--to", "openvino", "--for", "tensorrt"], ["--for cpu"]),
        (["--nms", "efficientnms", "--to", "openvino"], ["--nms efficientnms --to openvino", "--nms onnx or matrix"]),
        (["--nms", "efficientnms", "--precision", "int8", "--images", "."], ["--nms efficientnms", "--for tensorrt"]),
        (["--nms", "efficientnms", "--precision", "auto", "--images", ".", "--verify", "."], ["efficientnms --precision auto"]),
        (["--to", "caffe"], ["--to 'caffe'", "onnx, openvino, tensorrt"]),
        (["--size", "400"], ["400x400", "multiple of 32", "--size 384x384"]),
        (["--size", "big"], ["'big'", "384x640"]),
        (["--batch", "0"], ["'0'", "dynamic"]),
        (["--classes", "one,two,three"], ["2 classes", "3 names"]),
        (["--classes", "absent.txt"], ["2 classes", "1 name"]),
        (["--classes", " , "], ["holds no names"]),
        (["--classes", ",".join(f"class number {i}" for i in range(80))], ["2 classes", "80 names"]),
        (["--classes", "long" * 100], ["2 classes", "1 name"]),
        (["--batch", "1000000000"], ["'1000000000'", "1024"]),
        (["--batch", "9" * 5000], ["1024"]),
        (["--size", "3200000"], ["'3200000'", "8192"]),
        (["--verify", "nosuchdir"], ["nosuchdir", "no such file or folder"]),
    ],
)
def test_a_wrong_option_gets_one_message_and_nothing_is_made(edgedet_cli: Cli, saved: Path, tmp_path: Path, options, words):
    ended = edgedet_cli("export", saved, *options, "--out", tmp_path / "out")
    assert ended.code == 2
    assert ended.err.count("\n") == 1
    for word in words:
        assert word in ended.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("mode", ["onnx", "efficientnms"])
def test_suppression_that_tensorrt_rtx_cannot_build_is_refused_before_any_work(
    edgedet_cli: Cli, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
):
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.setattr(to_onnx, "to_onnx", None)  # whoever traces, fails
    options = ["--nms", mode, "--to", "tensorrt", "--for", "rtx", "--size", "64x96"]
    refused(edgedet_cli("export", saved, *options, "--out", tmp_path / "out"), f"--nms {mode} --to tensorrt", "--nms matrix")
    assert not (tmp_path / "out").exists()


def test_classes_are_read_from_a_file_or_from_the_option(tmp_path: Path):
    (tmp_path / "names.txt").write_text("red cell\nplatelet\n\n")
    assert export.read_classes(str(tmp_path / "names.txt")) == ["red cell", "platelet"]
    assert export.read_classes("red cell, platelet") == ["red cell", "platelet"]
    assert export.read_classes("cat") == ["cat"]
    assert export.read_classes("St. Bernard") == ["St. Bernard"]
    (tmp_path / "latin.txt").write_bytes("Käfer\n".encode("latin-1"))
    with pytest.raises(UsageError, match="UTF-8"):
        export.read_classes(str(tmp_path / "latin.txt"))


def test_a_folder_where_a_file_should_go_is_refused_before_any_work(edgedet_cli: Cli, saved: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(to_onnx, "to_onnx", None)  # whoever traces, fails
    (tmp_path / "yolox-nano-64x96-fp32.xml").mkdir()
    ended = edgedet_cli("export", saved, "--size", "64x96", "--to", "onnx", "--to", "openvino", "--out", tmp_path)
    assert ended.code == 2
    assert "yolox-nano-64x96-fp32.xml: stands where a file is to be written" in ended.err
    assert [p.name for p in tmp_path.iterdir()] == ["yolox-nano-64x96-fp32.xml"]


def test_where_one_file_cannot_be_put_in_its_place_none_is(
    edgedet_cli: Cli, saved: Path, tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
):
    """What stood there stands there again."""
    before = tmp_path / "yolox-nano-64x96-fp32.onnx"
    before.write_text("before")
    whole = Path.replace

    def failing(self: Path, target: Path) -> Path:
        if target == tmp_path / "yolox-nano-64x96-fp32.xml":
            raise PermissionError(13, "Permission denied")
        return whole(self, target)

    monkeypatch.setattr(Path, "replace", failing)
    ended = edgedet_cli("export", saved, "--size", "64x96", "--to", "onnx", "--to", "openvino", "--out", tmp_path)
    assert ended.code == 2
    assert "permission denied" in ended.err
    assert list(tmp_path.iterdir()) == [before]
    assert before.read_text() == "before"


def test_floors_hold_ap_in_both_directions_and_a_file_that_finds_nothing_misses_them():
    """A higher AP is as much a difference as a lower one."""
    from types import SimpleNamespace

    for precision, limit in (("fp32", 0.0005), ("fp16", 0.002)):
        for change, holds in ((limit, True), (-limit, True), (-2 * limit, False), (2 * limit, False), (None, False)):
            found = SimpleNamespace(box_error_px=None, score_drift=None, ap_drop=change, match_rate=None)
            gates = {gate.name: gate.passed for gate in Comparison.against(found, FLOORS[precision])}
            assert gates["AP change"] is holds
            assert gates["matched"] is False


def test_one_box_that_suppression_kept_instead_of_its_near_equal_does_not_refuse_a_file():
    """Two percent of far boxes are too many, one in two hundred is not; the worst box gate of `validate` still sees it."""
    from types import SimpleNamespace

    for far, holds in ((1, True), (4, False)):
        errors = np.where(np.arange(200) < far, 2.0, 1e-4)
        found = SimpleNamespace(
            box_error_px=Spread.of([errors]), score_drift=Spread.of([errors * 0]), ap_drop=0.0, match_rate=1.0
        )
        gates = {gate.name: gate.passed for gate in Comparison.against(found, replace(FLOORS["fp32"], max_box_error=0.1))}
        assert gates["box error p99 (px)"] is holds
        assert gates["box error max (px)"] is False


def test_a_figure_that_could_not_be_measured_is_a_dash(capsys: pytest.CaptureFixture[str], traced: Path):
    _, spec = onnx_file.read(traced)
    check = {"runtime": "x", "box_error_px": 0.0, "score_error": 0.0, "percentile": 99, "detections": 0}
    spec = spec.with_provenance(check=check, verification={"ap_drop": None, "matched": None})
    exported.show([exported.Exported(traced, "onnx", spec)])
    assert capsys.readouterr().out.count("–") == 2


def test_sizes_are_height_by_width():
    assert export.parse_size("416") == (416, 416)
    assert export.parse_size("384x640") == (384, 640)
    with pytest.raises(UsageError):
        export.parse_size("384x640x3")


def test_int8_is_calibrated_on_the_images_and_says_so(edgedet_cli: Cli, coco_calib: Path, tmp_path: Path):
    options = ["--precision", "int8", "--images", coco_calib, "--to", "onnx", "--to", "openvino", "--out", tmp_path, "--json"]
    ended = edgedet_cli("export", "street-nano", *options)
    assert ended.code == 0, ended.err
    assert [file["precision"] for file in json.loads(ended.out)] == ["int8", "int8"]
    _, spec = onnx_file.read(tmp_path / "yolox-nano-416-int8.onnx")
    facts = spec.provenance["calibration"]
    assert spec.encoding in ("cpu", "cpu-asymmetric")
    assert facts["images"]["count"] == 64
    assert facts["int8_share_of_macs"] >= 0.85
    assert facts["disagreement"] <= 0.4
    assert spec.provenance["check"]["detections"] > 20  # of calibration images: in drawn pictures it finds nothing


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_auto_keeps_the_fastest_within_the_budget(
    edgedet_cli: Cli, yolox_nano_pth: Path, coco_calib: Path, coco_val: Path, tmp_path: Path
):
    options = ["--to", "onnx", "--to", "openvino", "--images", coco_calib, "--verify", coco_val, "--out", tmp_path, "--json"]
    ended = edgedet_cli("export", yolox_nano_pth, "--precision", "auto", *options)
    assert ended.code == 0, ended.err
    (file,) = json.loads(ended.out)["files"]
    decision = file["decision"]
    within = [trial for trial in decision["trials"] if trial["ap_drop"] <= decision["budget"]]
    best = min(within, key=lambda trial: trial["latency_ms"])
    assert (best["file"], best["precision"]) == (Path(file["path"]).name, decision["run_in"])
    assert {trial["precision"] for trial in decision["trials"]} >= {"fp32", "fp16", "int8"}


def test_unreadable_calibration_images_are_not_what_int8_is_compared_on(tmp_path: Path):
    """Three of forty are damaged: the ones that an even spread over all files would take."""
    from edgedet.cli.export import _calibrated_on
    from edgedet.cli.quantization import Request
    from edgedet.letterbox import Letterbox

    random = np.random.default_rng(0)
    for index in range(40):
        cv2.imwrite(str(tmp_path / f"{index:02}.png"), random.integers(0, 256, (40, 40, 3), np.uint8))
    for index in (0, 13, 26):
        (tmp_path / f"{index:02}.png").write_bytes(b"no image")
    assert _calibrated_on(Request(tmp_path), Letterbox((32, 32))).shape == (3, 32, 32, 3)
