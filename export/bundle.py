"""A bundle: the folder that `edgedet deploy` writes and `edgedet up` runs on a device. Torch-free.

manifest.json       what is in it, with the sha256 of every file
models/             typed ONNX files, and the ranges that an INT8 one was made with
reference/          frames, and what the widest model gives for them
wheels/             edgedet itself
streams.toml …      at the top lies what the person at the box may edit; an edit there is told, one below is refused
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

from edgedet import artifact
from edgedet.errors import ArtifactError, OutputError

MANIFEST, REFERENCE, STREAMS = "manifest.json", "reference/frames.npz", "streams.toml"
MODELS, WHEELS = "models", "wheels"
VERSION = 1
MOST_MANIFEST_BYTES = 1 << 20

Target = Literal["jetson", "x86"]


@dataclass(frozen=True)
class File:
    """One file as it was when the bundle was made."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Tensor:
    """An output's type and shape, None where any number fits."""

    dtype: str
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        return f"{self.dtype} ({', '.join('any' if side is None else str(side) for side in self.shape)})"


@dataclass(frozen=True)
class Model:
    """One model file.

    path: in the bundle. input, outputs: its signature. gates: what it may
    differ from the reference by on the bundle's frames, see
    `runtimes/reference.py`. measured: what it did where the bundle was made.
    """

    path: str
    precision: str
    encoding: str | None
    nms: str
    input: Tensor
    outputs: Mapping[str, Tensor]
    gates: Mapping[str, float]
    measured: Mapping[str, Any]


@dataclass(frozen=True)
class Choice:
    """A runtime to try, and the model for it."""

    runtime: str
    model: str


@dataclass(frozen=True)
class Manifest:
    """What a bundle holds.

    order: what to run, the best first. versions: of what made it. files: by
    their path in the bundle, all but the manifest itself.
    """

    name: str
    target: Target
    made: str
    versions: Mapping[str, str]
    order: tuple[Choice, ...]
    models: tuple[Model, ...]
    files: Mapping[str, File] = field(default_factory=dict)

    def model(self, path: str) -> Model:
        """The model of this path."""
        return next(model for model in self.models if model.path == path)

    def to_json(self) -> str:
        """The manifest as indented JSON."""
        return json.dumps({"version": VERSION, **asdict(self)}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, *, where: str) -> Manifest:
        """The manifest read from JSON; `where` names the file in errors."""
        again = "make the bundle again with `edgedet deploy`"
        try:
            values = json.loads(text)
            version = values.pop("version")
        except (ValueError, AttributeError, KeyError, TypeError) as error:
            raise ArtifactError(f"{where}: is no manifest of a bundle ({error}); {again}") from error
        if version != VERSION:
            raise ArtifactError(f"{where}: manifest version {version}, this edgedet reads {VERSION}; {again}")
        try:
            values["order"] = tuple(Choice(**choice) for choice in values["order"])
            values["models"] = tuple(_model(model) for model in values["models"])
            values["files"] = {str(name): File(**file) for name, file in values["files"].items()}
            found = cls(**values)
        except (KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(f"{where}: has a wrong field ({error}); {again}") from error
        if wrong := _wrong(found):
            raise ArtifactError(f"{where}: {wrong}; {again}")
        return found


def _model(values: dict[str, Any]) -> Model:
    outputs = {name: _tensor(tensor) for name, tensor in values["outputs"].items()}
    return Model(**{**values, "input": _tensor(values["input"]), "outputs": outputs})


def _tensor(values: dict[str, Any]) -> Tensor:
    return Tensor(values["dtype"], tuple(values["shape"]))


def _wrong(manifest: Manifest) -> str:
    """What of a manifest cannot be; empty where all can."""
    paths = [model.path for model in manifest.models]
    files = manifest.files
    if manifest.target not in get_args(Target) or not isinstance(manifest.name, str):
        return f"is for {manifest.target!r}; there are {', '.join(get_args(Target))}"
    for name, file in files.items():
        if problem := name_problem(name):
            return f"lists {name!r}, which {problem}"
        if not isinstance(file.sha256, str) or type(file.bytes) is not int or file.bytes < 0:
            return f"says of {name} neither sha256 nor size"
    for name in (*paths, REFERENCE):
        if name not in files:
            return f"does not list {name}"
    if not manifest.order:
        return "names no runtime in its order"
    if unknown := [choice.model for choice in manifest.order if choice.model not in paths]:
        return f"orders {unknown[0]!r}, which is none of its models"
    for model in manifest.models:
        if not all(type(limit) in (int, float) for limit in model.gates.values()):
            return f"has a gate of {model.path} that is no number"
    return ""


def name_problem(name: str) -> str:
    """Why a file of this name may not stand in a bundle, empty where it may."""
    path = PurePosixPath(name)
    if not name or len(name) > 200 or not name.isprintable() or "\\" in name or ":" in name:
        return "is no plain file name"
    if path.is_absolute() or ".." in path.parts or str(path) != name:
        return "leads out of the bundle"
    return ""


def may_be_edited(name: str) -> bool:
    """Whether a file of a bundle is its owner's: settings and scripts at the top are, what lies in folders is not."""
    return "/" not in name


def seal(folder: Path, manifest: Manifest) -> Manifest:
    """Write the manifest of all that lies in the folder, and return it."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    files = {name: File(artifact.sha256(folder / name), (folder / name).stat().st_size) for name in names if name != MANIFEST}
    sealed = replace(manifest, files=files)
    artifact.write_text(folder / MANIFEST, sealed.to_json())
    return sealed


def require_place(out: Path) -> None:
    """OutputError where something other than a bundle or an empty folder stands at the place of a new one."""
    if out.is_dir() and ((out / MANIFEST).is_file() or not any(out.iterdir())):
        return
    if out.exists() or out.is_symlink():
        what = "holds something that is no bundle" if out.is_dir() else "is no folder"
        raise OutputError(f"{out}: {what}; name a folder that does not exist yet")


def publish(folder: Path, out: Path) -> None:
    """Move a finished bundle to its place, instead of the one that stands there; both lie in one file system."""
    require_place(out)
    old = folder.with_name(f"{folder.name}.replaced")
    with artifact.output_errors(out):
        if out.exists():
            out.replace(old)
        try:
            folder.replace(out)
        except BaseException:
            if old.exists():
                old.replace(out)
            raise


def read(folder: Path) -> Manifest:
    """The manifest of a bundle."""
    if not folder.is_dir():
        raise ArtifactError(f"{folder}: no such folder; name a bundle that `edgedet deploy` wrote")
    path = folder / MANIFEST
    if not path.is_file():
        raise ArtifactError(f"{folder}: holds no {MANIFEST}, so it is no bundle; make one with `edgedet deploy`")
    if path.stat().st_size > MOST_MANIFEST_BYTES:
        raise ArtifactError(f"{path}: has {path.stat().st_size} bytes, more than any manifest")
    return Manifest.from_json(path.read_bytes(), where=str(path))


def differences(folder: Path, manifest: Manifest) -> dict[str, str]:
    """How each file that is not as it was when the bundle was made differs, by its name."""
    found = {}
    for name, told in manifest.files.items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            found[name] = "is a link that leads out of the bundle"
        elif not path.is_file():
            found[name] = "is missing"
        elif (size := path.stat().st_size) != told.bytes:
            found[name] = f"has {size} bytes, was made with {told.bytes}"
        elif (sha256 := artifact.sha256(path)) != told.sha256:
            found[name] = f"has sha256 {sha256[:12]}…, was made with {told.sha256[:12]}…"
    return found
