"""Python 3.10, which JetPack 6 has: everything parses as it, and what runs on a device runs in it."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT
from test_house import TORCH_MODULES, TORCH_PACKAGES, modules

PROGRAM = """
import importlib, json, sys
for module in sys.argv[1].split():
    importlib.import_module(module)
print(json.dumps([*sys.version_info[:2]]))
"""


@pytest.fixture(scope="module")
def python310(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """A fresh environment of Python 3.10 with the wheel and what a device has."""
    interpreter = _find()
    if interpreter is None:
        pytest.skip("no python3.10 here")
    folder = tmp_path_factory.mktemp("python310")
    subprocess.run([interpreter, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    options = ["-q", "--disable-pip-version-check", "-c", ROOT / "constraints.txt"]
    done = subprocess.run(
        [python, "-m", "pip", "install", *options, f"{wheel}[openvino,tracking,web,mqtt]"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return python


def _find() -> str | None:
    """A python3.10 that runs; on the path may lie one of pyenv's that only says that it is not chosen."""
    for name in ("python3.10", *map(str, Path.home().glob(".pyenv/versions/3.10.*/bin/python3.10"))):
        try:
            asked = subprocess.run(
                [name, "-c", "import venv, sys; print(sys.version_info[:2])"], capture_output=True, text=True
            )
        except OSError:
            continue
        if asked.stdout == "(3, 10)\n":
            return name
    return None


def test_every_module_parses_as_python_3_10():
    for path in modules().values():
        ast.parse(path.read_text(), filename=str(path), feature_version=(3, 10))


@pytest.mark.slow
def test_what_needs_no_torch_imports_in_python_3_10(python310: Path, tmp_path: Path):
    names = [m for m in modules() if m not in TORCH_MODULES and not m.startswith(TORCH_PACKAGES) and m != "edgedet.__main__"]
    done = subprocess.run([python310, "-c", PROGRAM, " ".join(names)], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [3, 10]


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_an_exported_onnx_tracks_in_python_3_10_as_here(
    python310: Path, street_onnx: Path, people_mp4: Path, tmp_path: Path, runtime: str
):
    """The same objects and ids; NumPy and ONNX Runtime are older there, so boxes may differ by .1 px, scores by .001."""
    words = ["stream", people_mp4, "--model", street_onnx, "--runtime", runtime, "--tracker", "bytetrack", "--max-frames", "5"]
    lines = {}
    for python in (python310, sys.executable):
        out = tmp_path / f"{Path(python).parents[1].name}.jsonl"
        done = subprocess.run(
            list(map(str, [python, "-m", "edgedet", *words, "--jsonl", out])), capture_output=True, text=True, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        lines[str(python)] = [json.loads(line) for line in out.read_text().splitlines()]
    there, here = lines.values()
    assert len(there) == len(here) == 5
    for one, other in zip(there, here, strict=True):
        assert [(o["label"], o["track_id"]) for o in one["objects"]] == [(o["label"], o["track_id"]) for o in other["objects"]]
        for a, b in zip(one["objects"], other["objects"], strict=True):
            assert a["box"] == pytest.approx(b["box"], abs=0.1)
            assert a["score"] == pytest.approx(b["score"], abs=0.001)
