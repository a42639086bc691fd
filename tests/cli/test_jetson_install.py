"""install.sh of a Jetson's bundle, beside a Python that has what JetPack 6's has: NumPy 1.21.5, OpenCV of no index, TensorRT.

The versions are those of Ubuntu 22.04's python3-numpy and JetPack 6's libopencv-python; its TensorRT is a module of that name
here, as nothing in an installation runs it. What it cannot show is aarch64; `scripts/check-aarch64` does.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

pytest.importorskip("onnx", reason="onnx, which deploy reads models with, is not installed")
from edgedet.cli import demo

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


class Installed(NamedTuple):
    """What install.sh made, beside the system's Python."""

    system: Path
    python: Path
    bundle: Path
    ended: subprocess.CompletedProcess[str]


def python_310() -> Path:
    """A Python 3.10, JetPack 6's."""
    for command in ("python3.10", "pyenv"):
        if shutil.which(command) is None:
            continue
        program = "import sys; print(sys.base_prefix) if sys.version_info[:2] == (3, 10) else sys.exit(1)"
        arguments = [command, "-c", program] if command != "pyenv" else ["pyenv", "prefix", "3.10"]
        done = subprocess.run(arguments, capture_output=True, text=True)
        if done.returncode == 0 and (found := Path(done.stdout.strip()) / "bin" / "python3.10").exists():
            return found
    pytest.skip("there is no Python 3.10 here, which JetPack 6 has")


def output(*command: str | Path) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The system's Python: a 3.10 with a folder of packages that is its own."""
    real = python_310()
    prefix = tmp_path_factory.mktemp("system")
    packages = prefix / "lib" / "python3.10" / "site-packages"
    packages.mkdir(parents=True)
    (prefix / "bin").mkdir()
    shutil.copy(real, prefix / "bin" / "python3.10")
    for part in (real.parents[1] / "lib" / "python3.10").iterdir():
        if part.name not in ("site-packages", "dist-packages"):
            (packages.parent / part.name).symlink_to(part)
    python = prefix / "bin" / "python3.10"
    install = [sys.executable, "-m", "pip", "--python", real, "install", "-q", "--no-deps", "--target", packages]
    wanted = ["--only-binary=:all:", "numpy==1.21.5", "opencv-python-headless==4.8.0.74"]
    done = subprocess.run(list(map(str, [*install, *wanted])), capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"JetPack's NumPy and OpenCV cannot be had here: {done.stderr.strip().splitlines()[-1]}")
    shutil.rmtree(next(packages.glob("opencv_python_headless-*.dist-info")))  # JetPack's is no package of pip's
    (packages / "tensorrt").mkdir()
    (packages / "tensorrt" / "__init__.py").write_text('__version__ = "10.3.0"\n')
    assert output(python, "-c", "import cv2, numpy, tensorrt; print(numpy.__version__)") == "1.21.5"
    return python


@pytest.fixture(scope="module")
def installed(system: Path, street_onnx: Path, street_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """A bundle for a Jetson, installed beside that Python."""
    folder = tmp_path_factory.mktemp("jetson")
    shutil.copy(street_onnx, folder / "street-416-fp32.onnx")
    (folder / "streams.toml").write_text(f'model = "any"\ntracker = "bytetrack"\n\n[[stream]]\nsource = "{demo.find_clip()}"\n')
    deploy = [sys.executable, "-m", "edgedet", "deploy", folder / "street-416-fp32.onnx", "--images", street_photos]
    output(*deploy, "--stream", folder / "streams.toml", "--target", "jetson", "--out", folder / "street")
    ended = subprocess.run(
        [folder / "street" / "install.sh", "--venv", folder / "venv"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHON": str(system)},
    )
    return Installed(system, folder / "venv" / "bin" / "python", folder / "street", ended)


def test_it_installs_and_the_answers_are_those_of_the_newest_libraries(installed: Installed):
    assert installed.ended.returncode == 0, installed.ended.stderr
    assert "tensorrt is passed over: " in installed.ended.stderr
    assert "runtime: onnxruntime " in installed.ended.stderr
    assert "within the gates" in installed.ended.stderr


@pytest.mark.parametrize("name", ["numpy", "cv2", "tensorrt"])
def test_what_jetpack_brings_is_what_the_environment_sees(installed: Installed, name: str):
    program = f"import {name}; print({name}.__version__, {name}.__file__)"
    assert output(installed.python, "-c", program) == output(installed.system, "-c", program)


@pytest.mark.parametrize("pattern", ["numpy*", "opencv*", "cv2*", "tensorrt*", "torch*", "openvino*"])
def test_nothing_of_it_lies_in_the_environment_itself(installed: Installed, pattern: str):
    assert not list(installed.python.parents[1].glob(f"lib/python3.10/site-packages/{pattern}"))


def test_the_libraries_that_ask_for_a_newer_numpy_run_with_jetpack_s(installed: Installed):
    program = """
import numpy, onnx, onnx.numpy_helper, onnxruntime, scipy.optimize
assert numpy.__version__ == "1.21.5"
assert scipy.optimize.linear_sum_assignment([[1.0, 0.0], [0.0, 1.0]])[1].tolist() == [1, 0]
tensor = onnx.numpy_helper.from_array(numpy.arange(3.0, dtype=numpy.float16), "a")
assert onnx.numpy_helper.to_array(tensor).tolist() == [0.0, 1.0, 2.0]
"""
    output(installed.python, "-c", program)


def test_streams_are_tracked_there(installed: Installed, tmp_path: Path):
    ended = subprocess.run(
        [installed.python, "-m", "edgedet", "up", installed.bundle, "--json"], cwd=tmp_path, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    summary = json.loads(ended.stdout)
    assert summary["frames"] == 250
    assert summary["tracks"] >= 3
