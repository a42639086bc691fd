"""Real Python bindings of other TensorRT versions, imported without TensorRT's libraries: what their classes have."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

Members = dict[str, dict[str, str]]
"""Class → its members, each with its docstring; the module's own under an empty name, a class's docstring under `__doc__`."""

_TELL = """
import importlib, json, sys
module = importlib.import_module(sys.argv[1])
def members(owner):
    told = {name: str(getattr(getattr(owner, name, None), "__doc__", "")) for name in dir(owner)}
    return {**told, "__doc__": str(owner.__doc__)}
classes = {name: value for name, value in vars(module).items() if isinstance(value, type)}
print(json.dumps({"": members(module), **{name: members(value) for name, value in classes.items()}}))
"""


def downloaded(requirement: str, folder: Path) -> Path:
    """A wheel of the package index, unpacked; the test skips where it cannot be had."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(folder)]
    done = subprocess.run([*command, requirement], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"{requirement} cannot be downloaded for this Python: {done.stderr.strip().splitlines()[-1]}")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder / "unpacked")
    return folder / "unpacked"


def stub_libraries(bindings: Path, folder: Path) -> Path:
    """A folder of libraries with the names and functions that the bindings want, which all give a null pointer."""
    folder.mkdir()
    needed = re.findall(r"\[(libnv\w+\.so[.\d]*)\]", _told("readelf", "--dynamic", bindings))
    symbols = re.findall(r"^\s+U ([A-Za-z]\w*)$", _told("nm", "--dynamic", "--undefined-only", bindings), re.MULTILINE)
    source = folder / "stubs.c"
    wanted = [name for name in symbols if not name.startswith(("Py", "_Py")) and re.search("Nv|Infer|Plugin", name)]
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in wanted))
    for library in needed:
        _told("gcc", "-shared", "-fPIC", f"-Wl,-soname,{library}", "-o", folder / library, source)
    return folder


def members(module: str, *, path: Path, libraries: Path | None = None) -> Members:
    """What a module's classes have, asked in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(path), "LD_LIBRARY_PATH": str(libraries or "")}
    done = subprocess.run([sys.executable, "-c", _TELL, module], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _told(*command: str | Path) -> str:
    try:
        return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        pytest.skip(f"{command[0]} is not installed; it makes the libraries that the bindings want (apt-get install gcc)")
