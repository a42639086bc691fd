"""The base install, in an empty environment: no torch, an exported ONNX runs end to end."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from places import ROOT

PROGRAM = """
import sys, json, cv2, edgedet
image = cv2.imread(sys.argv[2])
objects = edgedet.load(sys.argv[1], min_score=0.3)(image)
heavy = sorted({"torch", "onnx", "openvino", "scipy"} & set(sys.modules))
print(json.dumps({"boxes": objects.boxes.round(1).tolist(), "labels": objects.labels.tolist(), "heavy": heavy}))
"""


@pytest.fixture(scope="module")
def empty_python(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """The Python of a fresh environment that holds the wheel and its base dependencies only."""
    folder = tmp_path_factory.mktemp("base")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-c", ROOT / "constraints.txt", wheel]
    done = subprocess.run(install, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return python


def most_persons(truth: dict) -> str:
    """The file name of the photo with the most persons."""
    persons = Counter(a["image_id"] for a in truth["annotations"] if a["category_id"] == 1)
    image_id = persons.most_common(1)[0][0]
    return next(image["file_name"] for image in truth["images"] if image["id"] == image_id)


def test_an_exported_onnx_runs_end_to_end_without_torch(empty_python: Path, street_onnx: Path, coco_val: Path, tmp_path: Path):
    photo = coco_val.parent / "images" / most_persons(json.loads(coco_val.read_text()))
    arguments = ["-c", PROGRAM, str(street_onnx), str(photo)]
    bare = subprocess.run([empty_python, *arguments], capture_output=True, text=True, cwd=tmp_path)
    assert bare.returncode == 0, bare.stderr
    full = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert json.loads(bare.stdout) == json.loads(full.stdout)
    assert json.loads(bare.stdout)["heavy"] == []
    assert json.loads(bare.stdout)["boxes"]


def test_the_stream_verb_runs_without_any_extra(empty_python: Path, street_onnx: Path, coco_val: Path, tmp_path: Path):
    photos = coco_val.parent / "images"
    command = [
        empty_python,
        "-m",
        "edgedet",
        "stream",
        photos,
        "--model",
        street_onnx,
        "--jsonl",
        "out.jsonl",
        "--max-frames",
        "3",
    ]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 3


def test_a_verb_that_needs_an_extra_names_it(empty_python: Path, tmp_path: Path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    command = [empty_python, "-m", "edgedet", "export", "model.safetensors", "--to", "onnx"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert "edgedet[export]" in done.stderr
    assert "Traceback" not in done.stderr
