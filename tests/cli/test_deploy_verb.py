"""`edgedet deploy`: all that a device needs, in one folder, or nothing at all."""

from __future__ import annotations

import getpass
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from places import ROOT, refused

onnx = pytest.importorskip("onnx")

from edgedet.cli import deploy, packing  # noqa: E402
from edgedet.cli.deploy import Given  # noqa: E402
from edgedet.export import bundle, onnx_file  # noqa: E402
from edgedet.export.to_fp16 import to_fp16  # noqa: E402

STREAMS = 'model = "any.onnx"\ntracker = "bytetrack"\n\n[[stream]]\nname = "gate"\nsource = "rtsp://10.0.0.7/stream1"\n'


@pytest.fixture(scope="module")
def models(street_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The embedded detector in fp32 and fp16, with a table of ranges beside."""
    folder = tmp_path_factory.mktemp("models")
    fp32 = folder / "street-416-fp32.onnx"
    shutil.copy(street_onnx, fp32)
    (folder / "street-416.ranges.json").write_text("{}")
    return {"fp32": fp32, "fp16": to_fp16(fp32, folder / "street-416-fp16.onnx")}


@pytest.fixture(scope="module")
def made(models: dict[str, Path], street_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle for a Jetson, of both precisions, with streams."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "streams.toml").write_text(STREAMS)
    command = [sys.executable, "-m", "edgedet", "deploy", models["fp32"], models["fp16"], "--images", street_photos]
    command += ["--stream", folder / "streams.toml", "--target", "jetson", "--out", folder / "street box"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "street box"


def test_a_bundle_holds_what_the_device_needs_and_nothing_is_left_beside_it(made: Path):
    names = {path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()}
    version = importlib.metadata.version("edgedet")
    assert names == {
        "manifest.json",
        "models/street-416-fp32.onnx",
        "models/street-416-fp16.onnx",
        "models/street-416.ranges.json",
        "reference/frames.npz",
        f"wheels/edgedet-{version}-py3-none-any.whl",
        "streams.toml",
        "install.sh",
        "edgedet.service",
        "requirements.txt",
        "requirements-no-deps.txt",
        "README.md",
        "Dockerfile.jetpack6",
        "Dockerfile.jetpack7",
    }
    assert (made / "install.sh").stat().st_mode & 0o111
    assert sorted(path.name for path in made.parent.iterdir()) == ["streams.toml", "street box"]


def test_its_manifest_says_what_was_measured_and_in_which_order_to_try(made: Path):
    manifest = bundle.read(made)
    assert bundle.differences(made, manifest) == {}
    assert [(choice.runtime, Path(choice.model).name) for choice in manifest.order] == [
        ("tensorrt", "street-416-fp16.onnx"),
        ("onnxruntime", "street-416-fp32.onnx"),
        ("openvino", "street-416-fp32.onnx"),
    ]
    fp16 = manifest.model("models/street-416-fp16.onnx")
    assert str(fp16.input) == "uint8 (1, 416, 416, 3)"
    assert str(fp16.outputs["boxes"]) == "float32 (1, 300, 4)"
    figures = fp16.measured["in"]["onnxruntime"]
    assert 0 < figures["disagreement"] < fp16.gates["disagreement"]
    assert figures["pairs"] > 20


def test_the_wheel_inside_is_this_very_edgedet(made: Path):
    (wheel,) = (made / "wheels").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read("edgedet/cli/deploy.py") == (ROOT / "edgedet/cli/deploy.py").read_bytes()
        assert archive.read("edgedet/export/bundle.py") == (ROOT / "export/bundle.py").read_bytes()
        assert archive.read("edgedet/export/templates/install.sh") == (ROOT / "export/templates/install.sh").read_bytes()


def test_no_template_is_left_unfilled_but_for_what_install_sh_knows(made: Path):
    kept = {"BUNDLE", "VENV", "USER", "GROUPS"}
    for name in ("README.md", "Dockerfile.jetpack6", "Dockerfile.jetpack7", "edgedet.service"):
        text = (made / name).read_text()
        for key in ("NAME", "TARGET", "PRIVATE_TMP", "VERSION", "MADE", "BOX"):
            assert f"@{key}@" not in text, name
        assert name == "edgedet.service" or not any(f"@{key}@" in text for key in kept)
    assert "PrivateTmp=no" in (made / "edgedet.service").read_text()
    assert "target=jetson" in (made / "install.sh").read_text()
    assert "edgedet-street-box" in (made / "Dockerfile.jetpack6").read_text()


def test_systemd_finds_nothing_wrong_with_the_unit(made: Path, tmp_path: Path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is absent: apt-get install systemd")
    text = (made / "edgedet.service").read_text()
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "edgedet").symlink_to(sys.executable)
    for key, value in {
        "BUNDLE": str(tmp_path),
        "VENV": str(tmp_path / "venv"),
        "USER": getpass.getuser(),
        "GROUPS": "video",
    }.items():
        text = text.replace(f"@{key}@", value)
    (tmp_path / "edgedet.service").write_text(text)
    verify = ["systemd-analyze", "verify", "--man=no", tmp_path / "edgedet.service"]
    done = subprocess.run(verify, capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    # From 0, shut in, to 10; a unit without any hardening has 9.6. Devices and the network it must have.
    shut = ["systemd-analyze", "security", "--offline=yes", "--no-pager", "--threshold=30", tmp_path / "edgedet.service"]
    done = subprocess.run(shut, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_a_jetson_is_asked_to_install_nothing_that_jetpack_brings(made: Path):
    followed = (made / "requirements.txt").read_text()
    names = {line.split(">")[0].split("<")[0].split(";")[0].strip() for line in followed.splitlines()}
    assert not names & {"numpy", "opencv-python", "opencv-python-headless", "onnxruntime", "onnx", "torch", "openvino"}
    assert {"typer", "rich", "scipy", "cuda-bindings", "ml_dtypes"} <= names
    assert (made / "requirements-no-deps.txt").read_text().split() == ["onnxruntime", "onnx"]


@pytest.mark.parametrize(
    ("arguments", "python", "words"),
    [
        (["--bogus"], sys.executable, "unknown argument --bogus"),
        (["--venv"], sys.executable, "--venv needs a value"),
        ([], "/bin/false", "/bin/false is older than 3.10; name another: PYTHON=python3.12"),
        ([], sys.executable, "the path of the bundle or of --venv has a space or a special character"),
    ],
)
def test_install_sh_says_in_one_line_what_it_cannot_do(made: Path, arguments: list[str], python: str, words: str):
    environment = {**os.environ, "PYTHON": python}
    done = subprocess.run([made / "install.sh", *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert words in done.stderr.splitlines()[-1]
    assert not (made / "venv").exists()


def test_requirements_follow_the_package_s_own_metadata():
    wanted = list(packing.requirements("x86"))
    assert {"numpy>=1.26", "opencv-python-headless>=4.10"} <= set(wanted)
    assert "openvino>=2025.0" in wanted
    assert 'tomli>=2; python_version < "3.11"' in wanted
    assert not any("torch" in line or "extra" in line for line in wanted)


def given(precision: str, encoding: str | None = None) -> Given:
    from edgedet.spec import ModelSpec

    spec = ModelSpec("yolox", "nano", ("person",), (416, 416), precision=precision, encoding=encoding)  # type: ignore[arg-type]
    return Given(Path(f"{precision}-{encoding}.onnx"), spec)


@pytest.mark.parametrize(
    ("target", "files", "order"),
    [
        (
            "x86",
            [given("fp32"), given("fp16"), given("int8", "cpu")],
            ["tensorrt fp16-None", "openvino int8-cpu", "onnxruntime fp32-None"],
        ),
        (
            "jetson",
            [given("fp32"), given("int8", "tensorrt"), given("int8", "cpu")],
            ["tensorrt int8-tensorrt", "onnxruntime fp32-None", "openvino fp32-None"],
        ),
        ("x86", [given("int8", "tensorrt")], ["tensorrt int8-tensorrt", "onnxruntime int8-tensorrt"]),
        ("x86", [given("int8", "cpu")], ["openvino int8-cpu", "onnxruntime int8-cpu"]),
    ],
)
def test_every_runtime_gets_the_file_that_it_runs_best_and_none_that_it_computes_wrong(target, files, order):
    found = [f"{choice.runtime} {Path(choice.model).stem}" for choice in deploy._order(target, files)]
    assert found == order


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{fp32}", "--target", "toaster"], ["--target 'toaster' is not one of jetson, x86"]),
        (["{fp32}", "street-nano", "--target", "x86"], ["give one checkpoint, or the ONNX files"]),
        (["{fp32}", "{fp32}", "--target", "x86"], ["two files are called street-416-fp32.onnx"]),
        (["absent.onnx", "--target", "x86"], ["absent.onnx: no such file"]),
        (["{fp32}", "--target", "x86", "--images", "absent"], ["--images absent: no such file or folder"]),
        (["{fp32}", "--target", "x86", "--images", "{grey}"], ["detects fewer than 3 objects", "--images DIR"]),
        (["{fp32}", "--target", "x86", "--stream", "{wrong}"], ["2 mistakes, nothing was started"]),
        (["{fp32}", "{other}", "--target", "x86"], ["other.onnx has classes ('a', 'b'", "deploy forms of one model"]),
    ],
)
def test_what_cannot_be_deployed_is_said_in_one_line_and_leaves_nothing(
    edgedet_cli, models: dict[str, Path], tmp_path: Path, arguments: list[str], words: list[str]
):
    model, spec = onnx_file.read(models["fp32"])
    other = onnx_file.write(tmp_path / "other.onnx", model, replace(spec, classes=("a", "b", "c", "d", "e", "f")))
    (tmp_path / "wrong.toml").write_text("model = 1\n[[stream]]\nsource = 'test:'\ntracker = 'magic'\n")
    (tmp_path / "grey").mkdir()
    cv2.imwrite(str(tmp_path / "grey" / "grey.png"), np.full((320, 320, 3), 114, np.uint8))
    places = {"grey": tmp_path / "grey", "fp32": models["fp32"], "other": other, "wrong": tmp_path / "wrong.toml"}
    before = sorted(tmp_path.iterdir())
    ended = edgedet_cli("deploy", *[text.format(**places) for text in arguments], "--out", tmp_path / "box")
    assert ended.code == 2, ended.err
    for word in words:
        assert word in ended.err
    assert "Traceback" not in ended.err
    assert sorted(tmp_path.iterdir()) == before


def test_what_jetpack_will_refuse_is_said(models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    model, spec = onnx_file.read(models["fp32"])
    deploy._warn("jetson", {"a": Given(models["fp32"], spec)}, [bundle.Choice("tensorrt", "a")])
    assert capsys.readouterr().err == ""
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([3841], np.int64), "many"))
    model.graph.node.append(onnx.helper.make_node("TopK", ["scores", "many"], ["best", "rows"], "most"))
    onnx.save(model, tmp_path / "street.onnx")
    deploy._warn("jetson", {"a": Given(tmp_path / "street.onnx", spec)}, [bundle.Choice("tensorrt", "a")])
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(" (TopK): ")[0] for line in said] == [
        "warning: jetpack6 will refuse street.onnx: most",
        "warning: jetpack7 will refuse street.onnx: most",
    ]


def test_a_place_that_is_taken_is_refused_before_any_work(edgedet_cli, models: dict[str, Path], tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("years of work")
    ended = edgedet_cli("deploy", models["fp32"], "--target", "x86", "--out", tmp_path)
    refused(ended, "holds something that is no bundle")


def test_a_file_that_gives_other_answers_than_the_widest_is_not_deployed(
    edgedet_cli, models: dict[str, Path], street_photos: Path, tmp_path: Path
):
    model, spec = onnx_file.read(models["fp16"])
    for weights in model.graph.initializer:
        if "cls_preds" in weights.name and weights.name.endswith("bias.fp16"):
            values = onnx.numpy_helper.to_array(weights) - 3
            weights.CopyFrom(onnx.numpy_helper.from_array(values, weights.name))
    altered = onnx_file.write(tmp_path / "street-416-fp16.onnx", model, spec)
    ended = edgedet_cli(
        "deploy", models["fp32"], altered, "--images", street_photos, "--target", "x86", "--out", tmp_path / "box"
    )
    assert ended.code == 1, ended.err
    assert "street-416-fp16.onnx in onnxruntime differs from the reference: its disagreement is" in ended.err
    assert not (tmp_path / "box").exists()


def test_frames_are_those_of_a_video_in_which_most_is_seen(models: dict[str, Path], street_photos: Path, tmp_path: Path):
    import edgedet

    pictures = [cv2.resize(cv2.imread(str(path)), (320, 320)) for path in sorted(street_photos.iterdir())]
    writer = cv2.VideoWriter(str(tmp_path / "clip.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, (320, 320))
    for number in range(12):
        writer.write(pictures[number // 3] if number % 3 == 0 else pictures[0] * 0)
    writer.release()
    with edgedet.load(models["fp32"], device="cpu") as detector:
        frames = deploy._frames(detector, tmp_path / "clip.mp4")
        assert len(frames) == deploy.FRAMES
        assert all(frame.mean() > 20 for frame in frames)  # none of the eight black ones


def test_without_images_it_is_checked_on_what_it_sees_in_drawn_pictures(edgedet_cli, models: dict[str, Path], tmp_path: Path):
    ended = edgedet_cli("deploy", models["fp32"], models["fp16"], "--target", "x86", "--out", tmp_path / "box", "--json")
    assert ended.code == 0, ended.err
    assert " objects in drawn pictures; --images with what it will see checks it better" in ended.err
    figures = json.loads(ended.out)["models"][1]["measured"]["in"]["onnxruntime"]
    assert figures["pairs"] >= 3
    assert 0 < figures["box_error_px"] < 1


def test_an_installed_edgedet_becomes_the_wheel_that_it_came_from(wheel: Path, tmp_path: Path):
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", tmp_path / "site", wheel]
    subprocess.run(list(map(str, install)), check=True)
    (installed,) = importlib.metadata.distributions(name="edgedet", path=[str(tmp_path / "site")])
    (tmp_path / "wheels").mkdir()
    again = packing._pack(installed, tmp_path / "wheels")
    with zipfile.ZipFile(wheel) as ours, zipfile.ZipFile(again) as theirs:
        contents = [{i.filename: z.read(i) for i in z.infolist() if not i.filename.endswith("/RECORD")} for z in (ours, theirs)]
    assert contents[0] == contents[1]
    check = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", tmp_path / "again", again]
    subprocess.run(list(map(str, check)), check=True)
    assert (tmp_path / "again" / "edgedet" / "cli" / "up.py").is_file()
