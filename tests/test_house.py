"""The house rules that no single module can hold: layers, torch-free imports, packaging."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

from places import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PACKAGES = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
FOLDERS = {"export": ROOT / "export", "runtimes": ROOT / "runtimes", "calibration": ROOT / "calibration"}
TORCH_MODULES = {"edgedet.export.graph", "edgedet.export.suppression", "edgedet.export.to_onnx"}
TORCH_PACKAGES = ("edgedet.models", "edgedet.training")
EXTRAS = ["torch", "onnx", "onnxscript", "onnxsim", "openvino", "scipy", "matplotlib", "jinja2", "safetensors"]
EXTRAS += ["lightning_fabric", "faster_coco_eval", "defusedxml", "yaml", "paho", "starlette", "uvicorn", "prometheus_client"]
EXTRAS += ["cuda", "tensorrt", "tensorrt_rtx"]

# Layer → the layers of edgedet it may import. Core is everything directly below `edgedet`.
ALLOWED = {
    "core": {"core"},
    "assets": {"core"},
    "data": {"core", "data"},
    "tracking": {"core", "tracking"},
    "runtimes": {"core", "data", "runtimes"},
    "calibration": {"core", "data", "calibration"},
    "export": {"core", "export"},
    "models": {"core", "models"},
    "training": {"core", "data", "models", "training"},
    "streaming": {"core", "tracking", "streaming"},
}


def folder_of(package: str) -> Path:
    parts = package.split(".")
    return FOLDERS[parts[1]].joinpath(*parts[2:]) if len(parts) > 1 and parts[1] in FOLDERS else ROOT.joinpath(*parts)


def modules() -> dict[str, Path]:
    """Every module of the project by its dotted name."""
    found = {}
    for package in PACKAGES:
        for path in folder_of(package).glob("*.py"):
            found[package if path.stem == "__init__" else f"{package}.{path.stem}"] = path
    return found


def layer(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and (parts[1] in ALLOWED or parts[1] == "cli") else "core"


def imports(path: Path) -> set[str]:
    """Dotted names of what a file imports, at top level or inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import; siblings are imported absolutely"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def may_import(module: str, imported: str) -> bool:
    here, there = layer(module), layer(imported)
    if here == "cli" or module in ("edgedet", "edgedet.__main__") or there in ALLOWED[here]:
        return True
    if module in TORCH_MODULES and there == "models":
        return True
    return module == "edgedet.runtimes.run_torch" and there in ("models", "export")


def may_import_torch(module: str) -> bool:
    reference = module == "edgedet.runtimes.run_torch"
    return reference or module.startswith(TORCH_PACKAGES) or module in TORCH_MODULES or layer(module) == "cli"


def test_every_import_respects_the_layer_table():
    known = modules()
    wrong = []
    for module, path in known.items():
        for imported in imports(path):
            if imported in known and not may_import(module, imported):
                wrong.append(f"{module} imports {imported}")
            if imported.partition(".")[0] == "torch" and not may_import_torch(module):
                wrong.append(f"{module} imports torch")
    assert not wrong, "\n".join(wrong)


def test_packages_listed_are_those_on_disk():
    on_disk = {"edgedet"}
    for path in (ROOT / "edgedet").rglob("__init__.py"):
        on_disk.add(".".join(path.parent.relative_to(ROOT).parts))
    for name, folder in FOLDERS.items():
        on_disk |= {".".join(("edgedet", name, *p.parent.relative_to(folder).parts)) for p in folder.rglob("__init__.py")}
    assert set(PACKAGES) == on_disk


def test_everything_but_the_torch_files_imports_without_any_extra():
    light = [m for m in modules() if m not in TORCH_MODULES and not m.startswith(TORCH_PACKAGES) and m != "edgedet.__main__"]
    program = f"""
import importlib, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {EXTRAS!r}:
            raise ModuleNotFoundError("absent on purpose", name=name)
sys.meta_path.insert(0, Absent())
for module in {sorted(light)!r}:
    importlib.import_module(module)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_built_wheel_holds_every_module_and_data_file(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    wanted = set()
    for package in PACKAGES:
        for path in folder_of(package).glob("*"):
            if path.suffix in (".py", ".safetensors", ".html", ".css", ".js", ".json", ".md", ".sh", ".service", ".jetpack6"):
                wanted.add(f"{package.replace('.', '/')}/{path.name}")
    assert wanted <= inside, sorted(wanted - inside)


def test_importing_edgedet_loads_neither_torch_nor_a_runtime():
    program = "import sys, edgedet; print({'torch', 'onnxruntime', 'openvino', 'cv2', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
