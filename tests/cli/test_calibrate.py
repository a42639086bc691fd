"""`edgedet calibrate`, as its user runs it: a tiny detector, real runtimes; latency is measured where a test is about it."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from places import Ended, refused

onnx = pytest.importorskip("onnx")
pytest.importorskip("faster_coco_eval")
import quantizable  # noqa: E402

from edgedet.calibration import observe as observing  # noqa: E402
from edgedet.cli import calibrate, quantization  # noqa: E402
from edgedet.export import onnx_file  # noqa: E402

Cli = Callable[..., Ended]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "tiny-fp32.onnx"
    onnx.save(quantizable.model(), path)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 pictures that differ."""
    return quantizable.write_frames(tmp_path_factory.mktemp("calibration") / "photos", 40)


@pytest.fixture
def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Latency takes processes of their own, seconds each."""
    monkeypatch.setattr(calibrate, "time_both", lambda model, path, purpose: {"onnxruntime": (2.0, 1.0)})


@pytest.fixture
def quick(untimed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime loads the tiny file in a tenth of OpenVINO's time, and each call loads a dozen."""
    monkeypatch.setattr(quantization, "measuring_runtimes", lambda purpose: ("onnxruntime",))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_file_carries_how_it_was_made_and_how_good_it_is(
    edgedet_cli: Cli, model: Path, photos: Path, tmp_path: Path, untimed
):
    ended = edgedet_cli("calibrate", model, "--images", photos, "--out", tmp_path / "out", "--json")
    assert ended.code == 0, ended.err
    assert names(tmp_path / "out") == ["tiny-int8.onnx", "tiny.ranges.json"]
    result = json.loads(ended.out)
    found, spec = onnx_file.read(tmp_path / "out/tiny-int8.onnx")
    onnx.checker.check_model(found, full_check=True)
    assert (spec.precision, spec.encoding) == ("int8", result["encoding"])
    facts = spec.provenance["calibration"]
    assert facts == result["calibration"]
    assert facts["method"] == "mse"
    assert len(facts["parent_sha256"]) == 64
    assert facts["images"]["name"] == "photos"
    assert (facts["images"]["count"], facts["images"]["skipped"]) == (40, 0)
    assert facts["images"]["objections"] == []
    assert set(facts["left_float"]) == {"depthwise", "score", "box", "narrow"}
    assert facts["left_float"]["narrow"].startswith("measured: in INT8 it causes")
    assert all(len(reason) > 20 for reason in facts["left_float"].values())
    assert facts["int8_share_of_macs"] == pytest.approx(0.9436, abs=0.001)
    # The spelling that measured better is the one in the file.
    assert set(result["disagreement"]) == {"cpu", "cpu-asymmetric"}
    assert result["encoding"] == min(result["disagreement"], key=result["disagreement"].get)
    assert facts["disagreement"] < 0.9 * min(result["disagreement"].values())
    assert 0 < facts["disagreement"] < 0.15
    figures = spec.provenance["verification"]
    assert figures["images"] == 40
    assert "reference's detections" in figures["truth"]
    assert set(figures["runtimes"]) >= {"onnxruntime"}
    for measured in figures["runtimes"].values():
        assert measured["ap_drop"] is None  # nothing was annotated
        assert measured["matched"] > 0.9
    assert result["latency_ms"] == {"onnxruntime": {"fp32": 2.0, "int8": 1.0}}


def test_people_read_what_was_written_what_stays_in_float_and_why(
    edgedet_cli: Cli, model: Path, photos: Path, quick, monkeypatch
):
    monkeypatch.setattr(calibrate, "time_both", lambda model, path, purpose: {"onnxruntime": (1.0, 2.0)})
    ended = edgedet_cli("calibrate", model, "--images", photos)
    assert ended.code == 0, ended.err
    for word in ("tiny-int8.onnx", "40 images of photos", "94.4%", "left in float because", "score, box", "2.00 times"):
        assert word in ended.out
    assert "warning: INT8 is slower than fp32" in ended.err
    assert names(model.parent) == ["tiny-fp32.onnx", "tiny-int8.onnx", "tiny.ranges.json"]


def test_the_table_is_used_again_without_another_look_at_the_images(
    edgedet_cli: Cli, model: Path, photos: Path, quick, monkeypatch
):
    first = edgedet_cli("calibrate", model, "--images", photos, "--json")
    table = (model.parent / "tiny.ranges.json").read_bytes()
    monkeypatch.setattr(observing, "observe", None)  # whoever observes, fails
    second = edgedet_cli("calibrate", model, "--images", photos, "--json")
    assert (first.code, second.code) == (0, 0), second.err
    assert "ranges: " in second.err
    assert json.loads(first.out) == json.loads(second.out)
    # The other encodings are spelt from it too.
    third = edgedet_cli("calibrate", model, "--images", photos, "--for", "tensorrt")
    assert third.code == 0, third.err
    assert (model.parent / "tiny.ranges.json").read_bytes() == table


def test_a_table_of_other_images_or_another_method_is_refused(
    edgedet_cli: Cli, model: Path, photos: Path, tmp_path: Path, quick
):
    assert edgedet_cli("calibrate", model, "--images", photos).code == 0
    before = {path.name: path.read_bytes() for path in model.parent.iterdir() if path.is_file()}
    others = quantizable.write_frames(tmp_path / "others", 40, seed=8)
    refused(edgedet_cli("calibrate", model, "--images", others), "tiny.ranges.json", "other image set", "remove it")
    refused(edgedet_cli("calibrate", model, "--images", photos, "--method", "minmax"), "other method", "mse there", "minmax")
    assert {path.name: path.read_bytes() for path in model.parent.iterdir() if path.is_file()} == before


def test_a_file_with_tensorrts_plugin_is_calibrated_for_tensorrt_alone(edgedet_cli: Cli, model: Path, photos: Path):
    _, spec = onnx_file.read(model)
    onnx_file.annotate(model, replace(spec, suppression=replace(spec.suppression, mode="efficientnms")))
    refused(edgedet_cli("calibrate", model, "--images", photos), "tiny-fp32.onnx", "--nms efficientnms", "--for tensorrt")


def test_a_table_of_another_model_is_refused(edgedet_cli: Cli, model: Path, photos: Path, tmp_path: Path, quick):
    assert edgedet_cli("calibrate", model, "--images", photos, "--table", tmp_path / "t.json").code == 0
    other, spec = onnx_file.read(model)
    bias = next(tensor for tensor in other.graph.initializer if tensor.name.endswith("stem.bias"))
    bias.CopyFrom(onnx.numpy_helper.from_array(np.zeros(8, np.float32), bias.name))
    onnx_file.write(tmp_path / "other-fp32.onnx", other, spec)
    ended = edgedet_cli("calibrate", tmp_path / "other-fp32.onnx", "--images", photos, "--table", tmp_path / "t.json")
    refused(ended, "t.json", "other weights")
    assert not (tmp_path / "other-int8.onnx").exists()


def test_data_that_was_calibrated_on_is_told(
    edgedet_cli: Cli, model: Path, photos: Path, annotated: Path, tmp_path: Path, quick
):
    shared = edgedet_cli("calibrate", model, "--images", annotated, "--data", annotated, "--force")
    assert "warning: 24 of the 24 images" in shared.err
    apart = edgedet_cli(
        "calibrate", model, "--images", photos, "--data", annotated, "--method", "minmax", "--table", tmp_path / "m.json"
    )
    assert "calibrated on too" not in apart.err
    assert apart.code == 0, apart.err


def test_few_images_are_refused_and_with_force_recorded(edgedet_cli: Cli, model: Path, tmp_path: Path, quick):
    few = quantizable.write_frames(tmp_path / "few", 6)
    refused(edgedet_cli("calibrate", model, "--images", few, "--out", tmp_path / "out"), "usable images: 6", "32", "--force")
    assert not (tmp_path / "out").exists()
    ended = edgedet_cli("calibrate", model, "--images", few, "--out", tmp_path / "out", "--force")
    assert ended.code == 0, ended.err
    assert "usable images: 6" in ended.err
    _, spec = onnx_file.read(tmp_path / "out/tiny-int8.onnx")
    (objection,) = spec.provenance["calibration"]["images"]["objections"]
    assert "usable images: 6" in objection


def test_blank_and_duplicate_images_are_refused(edgedet_cli: Cli, model: Path, tmp_path: Path, quick):
    folder = quantizable.write_frames(tmp_path / "photos", 36)
    shutil.copy(folder / "003.png", folder / "copy.png")
    cv2.imwrite(str(folder / "black.png"), np.zeros((64, 64, 3), np.uint8))
    ended = edgedet_cli("calibrate", model, "--images", folder)
    refused(ended, "blank images: 1 (black.png)", "copy.png is 003.png again")
    assert names(tmp_path) == ["photos", "tiny-fp32.onnx"]


def test_corrupt_images_are_named_skipped_and_counted(edgedet_cli: Cli, model: Path, tmp_path: Path, quick):
    folder = quantizable.write_frames(tmp_path / "photos", 36)
    (folder / "001.png").write_bytes((folder / "001.png").read_bytes()[:40])
    (folder / "text.png").write_text("this is no picture")
    ended = edgedet_cli("calibrate", model, "--images", folder)
    assert ended.code == 0, ended.err
    assert "2 calibration images skipped" in ended.err
    assert "001.png" in ended.err
    assert "text.png" in ended.err
    _, spec = onnx_file.read(tmp_path / "tiny-int8.onnx")
    facts = spec.provenance["calibration"]["images"]
    assert (facts["count"], facts["skipped"]) == (35, 2)


def test_images_are_taken_from_a_video(edgedet_cli: Cli, model: Path, tmp_path: Path, quick):
    clip = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 64))
    for frame in np.repeat(quantizable.frames(40), 3, axis=0):
        writer.write(frame)
    writer.release()
    ended = edgedet_cli("calibrate", model, "--images", clip, "--out", tmp_path / "out")
    assert ended.code == 0, ended.err
    _, spec = onnx_file.read(tmp_path / "out/tiny-int8.onnx")
    assert spec.provenance["calibration"]["images"]["name"] == "clip.avi"
    assert 32 <= spec.provenance["calibration"]["images"]["count"] <= 40
    assert spec.provenance["verification"]["images"] == spec.provenance["calibration"]["images"]["count"]
    assert names(tmp_path / "out") == ["tiny-int8.onnx", "tiny.ranges.json"]


@pytest.mark.parametrize("variant", [{"batch": None}, {"batch": 2}, {"layout": "float32-nchw"}, {"mode": "none"}], ids=str)
def test_every_form_of_file_is_calibrated(edgedet_cli: Cli, photos: Path, tmp_path: Path, quick, variant):
    onnx.save(quantizable.model(**variant), tmp_path / "tiny-fp32.onnx")
    ended = edgedet_cli("calibrate", tmp_path / "tiny-fp32.onnx", "--images", photos, "--json")
    assert ended.code == 0, ended.err
    _, spec = onnx_file.read(tmp_path / "tiny-int8.onnx")
    assert (spec.batch, spec.input_layout) == (variant.get("batch", 1), variant.get("layout", "uint8-nhwc"))


def test_a_quantised_model_is_refused(edgedet_cli: Cli, model: Path, photos: Path, quick):
    assert edgedet_cli("calibrate", model, "--images", photos).code == 0
    before = names(model.parent)
    ended = edgedet_cli("calibrate", model.with_name("tiny-int8.onnx"), "--images", photos)
    refused(ended, "tiny-int8.onnx: is quantised already", "calibrate the fp32 file")
    assert names(model.parent) == before


def test_a_narrower_file_is_refused(edgedet_cli: Cli, model: Path, photos: Path):
    found, spec = onnx_file.read(model)
    half = onnx_file.write(model.with_name("tiny-fp16.onnx"), found, replace(spec, precision="fp16"))
    refused(edgedet_cli("calibrate", half, "--images", photos), "is fp16; INT8 is calibrated from the fp32 file")


def test_a_model_of_somebody_else_is_refused(edgedet_cli: Cli, model: Path, photos: Path):
    found = onnx.load(model)
    del found.metadata_props[:]
    onnx.save(found, model)
    refused(edgedet_cli("calibrate", model, "--images", photos), "carries no edgedet spec", "edgedet export")
    assert names(model.parent) == ["tiny-fp32.onnx"]


def test_truncated_and_missing_models_are_refused(edgedet_cli: Cli, model: Path, photos: Path):
    model.write_bytes(model.read_bytes()[:500])
    refused(edgedet_cli("calibrate", model, "--images", photos), "tiny-fp32.onnx")
    refused(edgedet_cli("calibrate", "absent.onnx", "--images", photos), "absent.onnx")
    refused(edgedet_cli("calibrate", model.parent, "--images", photos), "is a folder")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--method", "best"], ["--method 'best'", "minmax, percentile, entropy, mse"]),
        (["--for", "gpu"], ["--for 'gpu'", "cpu", "tensorrt"]),
        (["--max-ap-drop", "0.005"], ["--max-ap-drop needs --data"]),
        (["--images", "nosuchdir"], ["nosuchdir", "no such file or folder"]),
        (["--data", "nosuchdir"], ["nosuchdir"]),
    ],
)
def test_a_wrong_option_gets_one_message_and_nothing_is_made(
    edgedet_cli: Cli, model: Path, photos: Path, tmp_path: Path, options, words
):
    given = options if "--images" in options else ["--images", photos, *options]
    refused(edgedet_cli("calibrate", model, *given, "--out", tmp_path / "out"), *words)
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize("drop", ["-0.1", "1.5", "much"])
def test_a_budget_outside_its_range_is_refused(edgedet_cli: Cli, model: Path, photos: Path, drop: str):
    ended = edgedet_cli("calibrate", model, "--images", photos, "--data", photos, "--max-ap-drop", drop)
    assert ended.code == 2
    assert "--max-ap-drop" in ended.err


def test_a_place_that_cannot_be_written_is_refused_before_any_work(
    edgedet_cli: Cli, model: Path, photos: Path, tmp_path: Path, monkeypatch
):
    monkeypatch.setattr(observing, "observe", None)
    (tmp_path / "file").write_text("a file")
    refused(edgedet_cli("calibrate", model, "--images", photos, "--out", tmp_path / "file"), "file", "cannot be written")
    refused(edgedet_cli("calibrate", model, "--images", photos, "--out", tmp_path / "file/below"), "cannot be written")


def test_a_table_that_is_none_is_refused(edgedet_cli: Cli, model: Path, photos: Path, tmp_path: Path):
    (tmp_path / "t.json").write_text('{"version": 1')
    refused(edgedet_cli("calibrate", model, "--images", photos, "--table", tmp_path / "t.json"), "t.json", "calibrate again")
    assert (tmp_path / "t.json").read_text() == '{"version": 1'


def test_a_file_whose_detections_are_not_fp32s_is_not_written(
    edgedet_cli: Cli, model: Path, photos: Path, tmp_path: Path, quick, monkeypatch
):
    """What stood under its name stands there still; the table is good and stays."""
    (tmp_path / "tiny-int8.onnx").write_text("before")
    monkeypatch.setattr(quantization, "MOST_DISAGREEMENT", 0.001)
    ended = edgedet_cli("calibrate", model, "--images", photos)
    assert ended.code == 1
    assert "tiny-int8.onnx is not written: its detections differ" in ended.err
    assert (tmp_path / "tiny-int8.onnx").read_text() == "before"
    assert names(tmp_path) == ["tiny-fp32.onnx", "tiny-int8.onnx", "tiny.ranges.json"]


def test_the_tensorrt_encoding_is_judged_in_onnxruntime_and_passes_its_rules(
    edgedet_cli: Cli, model: Path, photos: Path, tmp_path: Path
):
    """Nothing here runs it as TensorRT will, so no latency is told."""
    ended = edgedet_cli("calibrate", model, "--images", photos, "--for", "tensorrt", "--json")
    assert ended.code == 0, ended.err
    result = json.loads(ended.out)
    assert result["latency_ms"] == {}
    assert list(result["verification"]["runtimes"]) == ["onnxruntime"]
    assert "stem" in result["calibration"]["left_float"]
    path = tmp_path / "tiny-int8-tensorrt.onnx"
    found, spec = onnx_file.read(path)
    assert spec.encoding == "tensorrt"
    zeros = {a.input[2] for a in found.graph.node if a.op_type == "QuantizeLinear"}
    kinds = {t.data_type for t in found.graph.initializer if t.name in zeros}
    assert kinds == {onnx.TensorProto.INT8}
    if importlib.util.find_spec("edgedet.calibration.lint") is None:
        pytest.skip("edgedet.calibration.lint is absent")
    from edgedet.calibration.lint import lint

    assert lint(found, "tensorrt") == []


def test_openvino_refuses_the_tensorrt_encoding_by_name(edgedet_cli: Cli, model: Path, photos: Path, tmp_path: Path, quick):
    pytest.importorskip("openvino")
    assert edgedet_cli("calibrate", model, "--images", photos, "--for", "tensorrt").code == 0
    path = tmp_path / "tiny-int8-tensorrt.onnx"
    ended = edgedet_cli("bench", path, "--runtime", "openvino")
    refused(ended, "tiny-int8-tensorrt.onnx", "tensorrt encoding", "openvino", "--for cpu")


@pytest.mark.parametrize("purpose", ["cpu-symmetric", "cpu-asymmetric"])
def test_files_for_a_cpu_pass_the_rules_of_both_its_runtimes(edgedet_cli: Cli, model: Path, photos: Path, quick, purpose):
    lint = pytest.importorskip("edgedet.calibration.lint")
    assert edgedet_cli("calibrate", model, "--images", photos, "--for", purpose).code == 0
    found, _ = onnx_file.read(model.with_name("tiny-int8.onnx"))
    for runtime in ("onnxruntime", "openvino"):
        assert lint.lint(found, runtime) == []


@pytest.fixture
def annotated(model: Path, tmp_path: Path) -> Path:
    """COCO annotations of 24 other pictures: what the fp32 file finds in them."""
    from edgedet.runtimes.detector import load

    folder = quantizable.write_frames(tmp_path / "val", 24, seed=9)
    images, objects = [], []
    with load(model, runtime="onnxruntime", device="cpu") as detector:
        for index, path in enumerate(sorted(folder.iterdir())):
            images.append({"id": index, "file_name": path.name, "width": 64, "height": 64})
            found = detector(cv2.imread(str(path)))
            for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True):
                x, y, width, height = map(float, (*box[:2], *(box[2:] - box[:2])))
                entry = {"id": len(objects) + 1, "image_id": index, "category_id": int(label) + 1, "iscrowd": 0}
                if score >= 0.5 and min(width, height) > 1:
                    objects.append({**entry, "bbox": [x, y, width, height], "area": width * height})
    categories = [{"id": index + 1, "name": name} for index, name in enumerate(quantizable.spec().classes)]
    path = folder / "instances.json"
    path.write_text(json.dumps({"images": images, "annotations": objects, "categories": categories}))
    return path


def test_layers_are_left_in_float_until_the_budget_is_kept_and_the_plot_shows_it(
    edgedet_cli: Cli, model: Path, photos: Path, annotated: Path, tmp_path: Path, quick, monkeypatch
):
    pytest.importorskip("matplotlib")
    from edgedet.calibration import sensitivity

    monkeypatch.setattr(sensitivity, "STEPS", (1 / 4, 1 / 2, 3 / 4))
    monkeypatch.setattr(quantization, "_latency_ms", lambda target: float(target.path.stat().st_size))
    options = ["--images", photos, "--data", annotated, "--max-ap-drop", "0.1", "--out", tmp_path / "out", "--json"]
    ended = edgedet_cli("calibrate", model, *options)
    assert ended.code == 0, ended.err
    assert names(tmp_path / "out") == ["tiny-int8.onnx", "tiny-int8.png", "tiny.ranges.json"]
    result = json.loads(ended.out)
    assert len(result["points"]) >= 5
    within = [point for point in result["points"] if point["ap_drop"] <= 0.1]
    best = min(within, key=lambda point: point["latency_ms"])
    assert set(result["calibration"]["left_float"]) == set(best["left_float"])
    assert result["verification"]["truth"] == "annotations"
    assert result["verification"]["runtimes"]["onnxruntime"]["ap_drop"] == pytest.approx(best["ap_drop"], abs=0.01)
    picture = cv2.imread(str(tmp_path / "out/tiny-int8.png"))
    assert picture is not None


def test_a_budget_that_nothing_keeps_fails_and_writes_no_model(
    edgedet_cli: Cli, model: Path, photos: Path, annotated: Path, tmp_path: Path, quick, monkeypatch
):
    from edgedet.calibration import sensitivity

    monkeypatch.setattr(quantization, "_latency_ms", lambda target: 1.0)
    monkeypatch.setattr(quantization._Meter, "_ap", lambda self, path: 0.5 if path == self._writer.model else 0.1)
    monkeypatch.setattr(sensitivity, "STEPS", (1 / 4,) * 4)
    options = ["--images", photos, "--data", annotated, "--max-ap-drop", "0.005", "--out", tmp_path / "out"]
    ended = edgedet_cli("calibrate", model, *options)
    assert ended.code == 1
    assert "no choice of layers keeps the AP drop within 0.005" in ended.err
    assert names(tmp_path / "out") == ["tiny.ranges.json"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_embedded_detector_keeps_the_budget_on_photos(
    edgedet_cli: Cli, street_onnx: Path, coco_calib: Path, coco_val: Path, tmp_path: Path
):
    """End to end with real latency: AP of 64 photos within .02, most of the multiply-accumulates in INT8."""
    options = ["--images", coco_calib, "--data", coco_val, "--max-ap-drop", "0.02", "--out", tmp_path, "--json"]
    ended = edgedet_cli("calibrate", street_onnx, *options)
    assert ended.code == 0, ended.err
    result = json.loads(ended.out)
    assert names(tmp_path) == ["street-int8.onnx", "street-int8.png", "street.ranges.json"]
    assert result["verification"]["runtimes"]["onnxruntime"]["ap_drop"] <= 0.02
    assert result["calibration"]["int8_share_of_macs"] > 0.5
    assert all(milliseconds["int8"] > 0 for milliseconds in result["latency_ms"].values())
