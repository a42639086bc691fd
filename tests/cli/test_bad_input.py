"""Bad input: one message that says what is wrong, exit code 2, no traceback, nothing half-written."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from places import Ended, refused

from edgedet.errors import OutputError

Cli = Callable[..., Ended]


def tree(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


@pytest.fixture
def photos(tmp_path: Path, coco_val: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for photo in sorted((coco_val.parent / "images").glob("*.jpg"))[:2]:
        shutil.copy(photo, folder)
    return folder


@pytest.mark.parametrize(
    "command",
    [
        ["export", "absent.pth", "--to", "onnx"],
        ["validate", "absent.pth", "absent.onnx", "--data", "."],
        ["bench", "absent.onnx"],
        ["stream", "absent.mp4", "--model", "absent.onnx"],
        ["train", "--data", "absent", "--model", "yolox-nano"],
    ],
    ids=lambda command: command[0],
)
def test_a_missing_file_is_named(edgedet_cli: Cli, tmp_path: Path, monkeypatch, command: list[str]):
    monkeypatch.chdir(tmp_path)
    refused(edgedet_cli(*command), "absent")
    assert tree(tmp_path) == []


def test_a_truncated_onnx_is_refused(edgedet_cli: Cli, tmp_path: Path, street_onnx: Path, photos: Path):
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(street_onnx.read_bytes()[:100_000])
    refused(edgedet_cli("stream", photos, "--model", cut), "cut.onnx")
    refused(edgedet_cli("bench", cut), "cut.onnx")


def test_a_file_that_is_no_onnx_is_refused(edgedet_cli: Cli, tmp_path: Path, photos: Path):
    (tmp_path / "text.onnx").write_text("this is not a model")
    refused(edgedet_cli("stream", photos, "--model", tmp_path / "text.onnx"), "text.onnx")


def test_an_onnx_without_our_spec_is_refused(edgedet_cli: Cli, tmp_path: Path, photos: Path, yolox_nano_onnx: Path):
    refused(edgedet_cli("stream", photos, "--model", yolox_nano_onnx), "spec", "edgedet export")
    refused(edgedet_cli("validate", yolox_nano_onnx, yolox_nano_onnx, "--data", photos), "spec")


class _Executes:
    def __reduce__(self):
        return os.system, ("touch executed",)


def test_a_pickle_that_executes_is_refused_and_does_not(edgedet_cli: Cli, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": {"weight": torch.zeros(1)}, "hook": _Executes()}, tmp_path / "zip.pth")
    (tmp_path / "raw.pkl").write_bytes(pickle.dumps(_Executes()))
    (tmp_path / "raw.pkl").rename(tmp_path / "raw.pth")
    for name in ("zip.pth", "raw.pth"):
        refused(edgedet_cli("export", name, "--to", "onnx", "--out", "out"), name, "run code")
    assert tree(tmp_path) == ["raw.pth", "zip.pth"]


def test_a_checkpoint_of_an_unknown_family_names_the_nearest(edgedet_cli: Cli, tmp_path: Path, yolox_nano_pth: Path):
    state = torch.load(yolox_nano_pth, weights_only=True)["model"]
    path = tmp_path / "other.pth"
    torch.save({k: v for k, v in state.items() if not k.startswith("head.")}, path)
    refused(edgedet_cli("export", path, "--to", "onnx", "--out", tmp_path / "out"), "nearest is yolox-nano")


def test_classes_of_the_model_and_the_data_set_must_meet(edgedet_cli: Cli, tmp_path: Path, bccd: Path, street_onnx: Path):
    ended = edgedet_cli("validate", street_onnx, street_onnx, "--data", bccd, "--split", "val", "--out", tmp_path / "out")
    refused(ended, "person", "RBC")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff\xe0 no picture", None], ids=["empty", "corrupt", "truncated"])
def test_a_single_unreadable_image_is_refused_by_name(
    edgedet_cli: Cli, tmp_path: Path, photos: Path, street_onnx: Path, content: bytes | None
):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(next(photos.iterdir()).read_bytes()[:5000] if content is None else content)
    refused(edgedet_cli("stream", broken, "--model", street_onnx), "broken.jpg")


def _odd_images(folder: Path, photo: np.ndarray) -> None:
    folder.mkdir()
    grey = cv2.cvtColor(photo, cv2.COLOR_BGR2GRAY)
    cv2.imwrite(str(folder / "grey.png"), grey)
    cv2.imwrite(str(folder / "rgba.png"), cv2.cvtColor(photo, cv2.COLOR_BGR2BGRA))
    cv2.imwrite(str(folder / "sixteen.png"), photo.astype(np.uint16) * 257)
    cv2.imwrite(str(folder / "tiny.png"), photo[:1, :1])


def test_odd_images_are_detected_like_their_plain_form(edgedet_cli: Cli, tmp_path: Path, coco_val: Path, street_onnx: Path):
    """Greyscale, RGBA and 16-bit files give what their plain 8-bit form gives; a single pixel gives nothing and no error."""
    import edgedet
    from edgedet.images import read_image

    photo = cv2.imread(str(coco_val.parent / "images" / "000000000072.jpg"))
    if photo is None:
        photo = cv2.imread(str(sorted((coco_val.parent / "images").glob("*.jpg"))[0]))
    _odd_images(tmp_path / "odd", photo)
    assert edgedet_cli("stream", tmp_path / "odd", "--model", street_onnx, "--jsonl", tmp_path / "out.jsonl").code == 0
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 4
    with edgedet.load(street_onnx) as detector:
        plain = detector(photo)
        for name in ("rgba.png", "sixteen.png"):
            np.testing.assert_array_equal(detector(read_image(tmp_path / "odd" / name)).boxes, plain.boxes)
        grey = cv2.cvtColor(cv2.cvtColor(photo, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
        np.testing.assert_array_equal(detector(read_image(tmp_path / "odd" / "grey.png")).boxes, detector(grey).boxes)


def test_an_empty_data_set_is_refused(edgedet_cli: Cli, tmp_path: Path, street_onnx: Path):
    (tmp_path / "nothing").mkdir()
    refused(
        edgedet_cli("validate", street_onnx, street_onnx, "--data", tmp_path / "nothing", "--out", tmp_path / "o"), "nothing"
    )
    refused(edgedet_cli("train", "--data", tmp_path / "nothing", "--model", "yolox-nano", "--out", tmp_path / "o"), "nothing")
    assert tree(tmp_path) == ["nothing"]


def test_annotations_of_absent_images_are_counted_and_all_absent_is_refused(
    edgedet_cli: Cli, tmp_path: Path, coco_val: Path, street_onnx: Path
):
    shutil.copy(coco_val, tmp_path / "instances.json")
    refused(
        edgedet_cli("validate", street_onnx, street_onnx, "--data", tmp_path / "instances.json", "--out", tmp_path / "o"),
        ".jpg",
    )
    (tmp_path / "images").mkdir()
    for photo in sorted((coco_val.parent / "images").glob("*.jpg")):
        if photo.name in coco_val.read_text():
            shutil.copy(photo, tmp_path / "images")
            break
    ended = edgedet_cli("validate", street_onnx, street_onnx, "--data", tmp_path / "instances.json", "--out", tmp_path / "o")
    assert ended.code == 0, ended.err
    assert "63" in ended.out + ended.err


def test_a_video_without_frames_is_refused(edgedet_cli: Cli, tmp_path: Path, street_onnx: Path):
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "noise.mp4").write_bytes(bytes(range(256)) * 40)
    for name in ("empty.mp4", "noise.mp4"):
        refused(edgedet_cli("stream", tmp_path / name, "--model", street_onnx, "--save", tmp_path / "out.mp4"), name)
    assert tree(tmp_path) == ["empty.mp4", "noise.mp4"]


def test_a_camera_that_is_not_there_is_refused(edgedet_cli: Cli, street_onnx: Path):
    refused(edgedet_cli("stream", "97", "--model", street_onnx), "97")


def test_an_output_that_cannot_be_written_is_refused(
    edgedet_cli: Cli, tmp_path: Path, street_onnx: Path, photos: Path, yolox_nano_pth
):
    (tmp_path / "file").write_text("")
    below = tmp_path / "file" / "out"
    refused(edgedet_cli("export", yolox_nano_pth, "--to", "onnx", "--out", below), "file")
    refused(edgedet_cli("stream", photos, "--model", street_onnx, "--jsonl", below / "out.jsonl"), "file")
    refused(edgedet_cli("validate", street_onnx, street_onnx, "--data", photos, "--out", below), "file")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("mounting a tmpfs needs root")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_leaves_nothing_behind(edgedet_cli: Cli, small_disk: Path, yolox_nano_pth: Path):
    for command in (
        ["export", yolox_nano_pth, "--to", "onnx", "--out", small_disk],
        ["export", yolox_nano_pth, "--to", "openvino", "--out", small_disk],
    ):
        refused(edgedet_cli(*command), "disk is full")
        assert tree(small_disk) == []


def test_training_on_a_full_disk_leaves_no_half_of_a_file(edgedet_cli: Cli, small_disk: Path, tmp_path: Path, photos: Path):
    from edgedet.training import run_folder

    images = [{"id": i, "file_name": photo.name} for i, photo in enumerate(sorted(photos.iterdir()))]
    annotations = [{"id": image["id"], "image_id": image["id"], "category_id": 1, "bbox": [9, 9, 90, 90]} for image in images]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (photos / "instances.json").write_text(json.dumps(content))
    options = ["--data", photos / "instances.json", "--epochs", "1", "--batch", "1", "--size", "64"]
    refused(edgedet_cli("train", *options, "--out", small_disk / "run"), "disk is full")
    assert tree(small_disk) == ["run", "run/config.json", "run/predictions.png"]  # each whole
    with pytest.raises(OutputError, match="disk is full"):
        run_folder.save_state(small_disk / "run", {"detector": torch.zeros(1_000_000)})
    assert tree(small_disk) == ["run", "run/config.json", "run/predictions.png"]


def test_a_graph_that_lies_about_its_size_is_refused(edgedet_cli: Cli, tmp_path: Path, street_onnx: Path, photos: Path):
    """The spec inside a file is checked against the graph, not believed."""
    model = onnx.load(street_onnx)
    for entry in model.metadata_props:
        entry.value = entry.value.replace('"size_hw": [416, 416]', '"size_hw": [640, 640]')
    onnx.save(model, tmp_path / "liar.onnx")
    refused(edgedet_cli("stream", photos, "--model", tmp_path / "liar.onnx"), "liar.onnx", "416", "640")
