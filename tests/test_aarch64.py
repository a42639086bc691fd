"""aarch64: every dependency of a device has a wheel there, and the device install runs there under emulation."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlparse

import pytest
from places import ROOT

pytestmark = pytest.mark.slow
DEVICE = "openvino,tracking,web,mqtt,tensorrt"
"""The extras of a device; TensorRT's own Python module there comes from apt."""
NATIVE = {"numpy", "opencv-python", "onnx", "onnxruntime", "openvino", "scipy", "cuda-bindings"}
"""What is compiled, and so has a wheel a processor."""

# pip reads markers such as `python_version < "3.11"` for the Python that it runs in, whatever --python-version says.
PIP = """
import runpy, sys
from pip._vendor.packaging import markers
python = sys.argv[1]
there = {**markers.default_environment(), "python_version": python, "python_full_version": f"{python}.12",
         "platform_machine": "aarch64"}
markers.default_environment = lambda: dict(there)
sys.argv = ["pip", *sys.argv[2:]]
runpy.run_module("pip", run_name="__main__")
"""


def resolve(wheel: Path, folder: Path, python: str, glibc: int) -> dict[str, str]:
    """File name by package of what pip would install on aarch64 with this Python and this glibc 2.N."""
    report = folder / "report.json"
    tag = f"cp{python.replace('.', '')}"
    places = ["manylinux2014_aarch64", *(f"manylinux_2_{minor}_aarch64" for minor in range(17, glibc + 1))]
    target = ["--python-version", python, "--implementation", "cp", "--abi", tag, "--abi", "abi3", "--abi", "none"]
    target += [word for place in places for word in ("--platform", place)]
    options = ["--dry-run", "--ignore-installed", "--only-binary=:all:", "--target", folder / "target", "--report", report]
    options += ["--disable-pip-version-check", "-c", ROOT / "constraints.txt"]
    command = [sys.executable, "-c", PIP, python, "install", *options, *target, f"{wheel}[{DEVICE}]"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode != 0 and ("NewConnectionError" in done.stderr or "Max retries exceeded" in done.stderr):
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found = json.loads(report.read_text())["install"]
    return {entry["metadata"]["name"].lower(): Path(urlparse(entry["download_info"]["url"]).path).name for entry in found}


@pytest.mark.parametrize(("python", "glibc"), [("3.10", 35), ("3.12", 39)], ids=["jetpack6", "jetpack7"])
def test_every_dependency_of_a_device_has_an_aarch64_wheel(wheel: Path, tmp_path: Path, python: str, glibc: int):
    """JetPack 6 is Ubuntu 22.04 (Python 3.10, glibc 2.35), JetPack 7 is Ubuntu 24.04 (3.12, 2.39)."""
    found = resolve(wheel, tmp_path, python, glibc)
    assert set(found) >= NATIVE
    assert ("tomli" in found) == (python == "3.10")  # else the markers were read for another Python
    for package, name in found.items():
        assert name.endswith(("-any.whl", "_aarch64.whl")), name
        assert (package in NATIVE) <= name.endswith("_aarch64.whl"), name


@pytest.mark.timeout(3600)
def test_the_device_install_gives_x86s_answers_on_aarch64():
    for tool in ("qemu-aarch64-static", "debootstrap"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is absent; apt-get install qemu-user-static debootstrap")
    done = subprocess.run([ROOT / "scripts" / "check-aarch64"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    first, second = done.stdout.splitlines()
    assert first.startswith("onnxruntime ")
    assert second.startswith("openvino ")
    assert "5 frames" in first
    assert "5 frames" in second


def test_an_unknown_option_of_the_check_is_refused():
    done = subprocess.run([ROOT / "scripts" / "check-aarch64", "--fast"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "--fast is no option" in done.stderr
