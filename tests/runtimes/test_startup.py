"""Starting is light: what is imported is what is used (benchmarks/startup.py has the times)."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "onnxruntime", "onnx", "openvino", "cv2", "numpy", "scipy", "matplotlib", "lightning_fabric")


def imported(code: str) -> set[str]:
    """The heavy libraries that a fresh Python has imported after the code."""
    check = f"{code}\nimport sys; print('loaded', *[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split()[1:])


def test_importing_edgedet_imports_nothing_heavy() -> None:
    assert imported("import edgedet") == set()


def test_the_command_line_imports_neither_torch_nor_a_runtime() -> None:
    """cv2 and NumPy are allowed: they cost a tenth of a second together."""
    assert imported("import edgedet.cli.main") <= {"cv2", "numpy"}


@pytest.mark.parametrize("module", ["detector", "benchmark", "doctor", "run_onnxruntime", "run_openvino"])
def test_runtime_modules_import_their_libraries_on_use(module: str) -> None:
    assert imported(f"import edgedet.runtimes.{module}") <= {"cv2", "numpy"}
