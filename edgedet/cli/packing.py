"""What a bundle brings so that a device can install edgedet: its wheel, lists of packages, and the filled-in templates."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import importlib.resources
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import edgedet
from edgedet.errors import ExportError

EXTRAS = {"jetson": ("tensorrt", "tracking", "web", "mqtt"), "x86": ("openvino", "tracking", "web", "mqtt")}
"""What of edgedet's optional parts a device gets."""
NO_DEPS = ("onnxruntime", "onnx")
"""They name a newer NumPy than JetPack 6 has, but run with it, so pip must not follow them there."""
THEIR_DEPS = ("flatbuffers", "ml_dtypes", "packaging", "protobuf", "typing_extensions")
BROUGHT = ("numpy", "opencv-python")
"""JetPack's own."""
TEMPLATES = {
    "jetson": ("install.sh", "edgedet.service", "README.md", "Dockerfile.jetpack6", "Dockerfile.jetpack7"),
    "x86": ("install.sh", "edgedet.service", "README.md"),
}
_SOURCES = ("edgedet", "export", "runtimes", "calibration", "pyproject.toml", "README.md", "LICENSE", "NOTICE")


def write_wheel(folder: Path) -> Path:
    """This very edgedet as a wheel in the folder: built where it runs from its sources, packed anew where it is installed."""
    folder.mkdir(parents=True)
    root = Path(edgedet.__file__).resolve().parents[1]
    if not (root / "pyproject.toml").is_file():
        return _pack(importlib.metadata.distribution("edgedet"), folder)
    source = folder / "source"
    for name in _SOURCES:
        if (root / name).is_dir():
            shutil.copytree(root / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            source.mkdir(exist_ok=True)
            shutil.copy(root / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps", "-w", str(folder)]
    done = subprocess.run([*command, *_isolation(), str(source)], capture_output=True, text=True)
    shutil.rmtree(source)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
        raise ExportError(
            f"edgedet runs from {root}, and no wheel can be built of it ({reason}); pip install 'setuptools>=77', "
            "or install edgedet from a wheel and deploy with that"
        )
    return next(folder.glob("*.whl"))


def _isolation() -> list[str]:
    """pip's own build environment needs an index; it is spared where setuptools is here and new enough."""
    try:
        major = int(importlib.metadata.version("setuptools").partition(".")[0])
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return []
    return ["--no-build-isolation"] if major >= 77 else []


def _pack(installed: importlib.metadata.Distribution, folder: Path) -> Path:
    """The wheel of an installed distribution, out of its files (PyPA's binary distribution format)."""
    path = folder / f"edgedet-{installed.version}-py3-none-any.whl"
    # Of the installation, not of the distribution: the script that starts it and pip's notes.
    own = ("INSTALLER", "REQUESTED", "direct_url.json", "RECORD")
    records, info = [], ""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for file in sorted(installed.files or [], key=str):
            name = file.as_posix()
            if name.startswith("..") or "__pycache__" in file.parts or file.name in own:
                continue
            content = Path(str(file.locate())).read_bytes()
            info = file.parts[0] if file.parts[0].endswith(".dist-info") else info
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            records.append(f"{name},sha256={digest},{len(content)}")
            wheel.writestr(name, content)
        wheel.writestr(f"{info}/RECORD", "\n".join([*records, f"{info}/RECORD,,", ""]))
    return path


def requirements(target: str) -> list[str]:
    """What pip installs on the device besides edgedet itself, NO_DEPS apart where it is a Jetson."""
    wanted = (None, *EXTRAS[target])
    found: dict[str, str] = {}
    for requirement in importlib.metadata.requires("edgedet") or []:
        package, _, marker = map(str.strip, requirement.partition(";"))
        extra = re.search(r"""(?:and\s+)?extra\s*==\s*['"]([\w-]+)['"]""", marker)
        rest = marker.replace(extra[0], "").strip() if extra else marker
        name = re.split(r"[^\w.-]", package)[0]
        if name == "opencv-python":  # no windows, so no libGL, which a box seldom has
            package = package.replace(name, f"{name}-headless")
        if name != "edgedet" and (extra[1] if extra else None) in wanted:
            found[name] = f"{package}; {rest}" if rest else package
    if target == "jetson":
        found["scipy"] = "scipy"  # whichever goes with JetPack's NumPy
        found = {name: text for name, text in found.items() if name not in (*BROUGHT, *NO_DEPS)}
        found |= {name: name for name in THEIR_DEPS}
    return list(found.values())


def write_scripts(folder: Path, target: str, values: Mapping[str, str]) -> None:
    """Write install.sh and what goes with it at the top of a bundle; values: for the templates' `@NAMES@`."""
    templates = importlib.resources.files("edgedet.export.templates")
    for name in TEMPLATES[target]:
        text = (templates / name).read_text(encoding="utf-8")
        for key, value in values.items():
            text = text.replace(f"@{key}@", value)
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "install.sh").chmod(0o755)
    (folder / "requirements.txt").write_text("\n".join([*requirements(target), ""]), encoding="utf-8")
    if target == "jetson":
        (folder / "requirements-no-deps.txt").write_text("\n".join([*NO_DEPS, ""]), encoding="utf-8")
