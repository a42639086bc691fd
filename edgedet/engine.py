"""EngineFacts: what is known of a TensorRT plan, as JSON in `model.engine.json` beside it; the plan itself stays raw.

Also which TensorRT is here. Its flavours are the modules `tensorrt` (≥ 10.3 and 11.x, which compile on the device that
will run the plan) and `tensorrt_rtx` (which compiles ahead of time, for other GPUs too). Code asks a flavour for what it
has (`hasattr`), never for its version.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from edgedet import artifact
from edgedet.errors import ArtifactError, RuntimeUnavailable, SpecError
from edgedet.spec import KEY, ModelSpec

Flavour = Literal["tensorrt", "tensorrt_rtx"]
FLAVOURS: tuple[Flavour, ...] = get_args(Flavour)
TITLES: Mapping[Flavour, str] = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
VERSION = 1
State = Literal["compiled, not run here", "verified on this device"]
NOT_RUN: State = "compiled, not run here"
VERIFIED: State = "verified on this device"


@dataclass(frozen=True)
class EngineLayer:
    """One convolution or matrix product of the ONNX file; asked, built: `int8`, `f16` or `f32`, built None where nothing tells.

    reason: why it is left in float where others are int8, empty where it is not.
    """

    name: str
    asked: str
    built: str | None
    reason: str = ""


@dataclass(frozen=True)
class EngineFacts:
    """What a plan was compiled from, with what, for which GPUs, and what came of it.

    version: the flavour's, in full. compute_capabilities: such as `SM87`, the GPUs that the plan runs on; none for
    every GPU that TensorRT-RTX serves. device: the GPU it was compiled on, None where it was compiled without one.
    onnx: the name of the file compiled. batches: least, usual and largest of the profile, None where the batch is
    fixed. weights_bytes: what the builder says the weights take, None where it does not say. dla: which core, None
    for the GPU. state: whether it ran.
    """

    flavour: Flavour
    version: str
    compute_capabilities: tuple[str, ...]
    plan_sha256: str
    onnx: str
    onnx_sha256: str
    spec: ModelSpec
    layers: tuple[EngineLayer, ...] = ()
    device: str | None = None
    batches: tuple[int, int, int] | None = None
    workspace_mib: int | None = None
    dla: int | None = None
    weights_bytes: int | None = None
    state: State = NOT_RUN

    def to_json(self) -> str:
        """The facts as indented JSON, the spec under its own key."""
        values = asdict(self)
        del values["spec"]
        layers = values.pop("layers")
        text = json.dumps({"version_of_sidecar": VERSION, **values, KEY: json.loads(self.spec.to_json())}, indent=2)
        lines = ",\n".join(f"    {json.dumps(layer)}" for layer in layers)
        return f'{text[:-2]},\n  "layers": [\n{lines}\n  ]\n}}\n'

    @classmethod
    def from_json(cls, text: str | bytes, *, where: str) -> EngineFacts:
        """The facts read from JSON; `where` names the file in errors."""
        again = "compile it again with `edgedet export MODEL.onnx --to tensorrt`"
        try:
            values = json.loads(text)
            version, spec = values.pop("version_of_sidecar"), values.pop(KEY)
        except (ValueError, AttributeError, KeyError, TypeError) as error:
            raise SpecError(f"{where}: its engine facts are not readable ({error}); {again}") from error
        if version != VERSION:
            raise SpecError(f"{where}: engine facts of version {version}, this edgedet reads {VERSION}; {again}")
        values["spec"] = ModelSpec.from_json(json.dumps(spec), where=where)
        try:
            values["layers"] = tuple(EngineLayer(**layer) for layer in values["layers"])
            values["compute_capabilities"] = tuple(values["compute_capabilities"])
            values["batches"] = values["batches"] and tuple(values["batches"])
            facts = cls(**values)
        except (KeyError, TypeError) as error:
            raise SpecError(f"{where}: its engine facts have a wrong field ({error}); {again}") from error
        if wrong := _wrong_fields(facts):
            raise SpecError(f"{where}: its engine facts are wrong in {wrong}; {again}")
        return facts


def _wrong_fields(facts: EngineFacts) -> str:
    """The names of fields that hold what they cannot, joined; empty where none does."""
    whole = (type(None), int)
    batches = facts.batches
    holds = {
        "flavour": facts.flavour in FLAVOURS,
        "version": isinstance(facts.version, str),
        "compute_capabilities": all(isinstance(name, str) for name in facts.compute_capabilities),
        "plan_sha256": isinstance(facts.plan_sha256, str),
        "onnx": isinstance(facts.onnx, str),
        "onnx_sha256": isinstance(facts.onnx_sha256, str),
        "device": isinstance(facts.device, str | None),
        "batches": batches is None or (len(batches) == 3 and all(type(b) is int and b > 0 for b in batches)),
        "workspace_mib": isinstance(facts.workspace_mib, whole),
        "dla": isinstance(facts.dla, whole),
        "weights_bytes": isinstance(facts.weights_bytes, whole),
        "state": facts.state in get_args(State),
    }
    return ", ".join(name for name, right in holds.items() if not right)


def sidecar(path: Path) -> Path:
    """Where the facts of a plan stand: `model.engine.json` for `model.engine`."""
    return path.with_name(f"{path.name}.json")


def read_facts(path: Path) -> EngineFacts:
    """The facts of the plan at `path`; ArtifactError where it has no sidecar or is not the file the sidecar is about."""
    beside = sidecar(path)
    artifact.require_file(path)
    if not beside.is_file():
        raise ArtifactError(
            f"{path}: has no {beside.name} beside it, so its classes, its input and its TensorRT are unknown; "
            "copy both files, or compile it with `edgedet export MODEL --to tensorrt`"
        )
    facts = EngineFacts.from_json(beside.read_bytes(), where=str(beside))
    if (found := artifact.sha256(path)) != facts.plan_sha256:
        raise ArtifactError(
            f"{path}: its sha256 is {found[:12]}… but {beside.name} is about {facts.plan_sha256[:12]}…: it was altered, "
            "cut off or compiled elsewhere; copy both files, or compile it with `edgedet export MODEL --to tensorrt`"
        )
    return facts


def module(flavours: Sequence[Flavour] = FLAVOURS) -> tuple[Flavour, Any]:
    """The first of the flavours that imports, with its module; RuntimeUnavailable says why none does."""
    reasons = []
    for flavour in flavours:
        try:
            return flavour, importlib.import_module(flavour)
        except (ImportError, OSError, RuntimeError) as error:  # a wheel without its libraries raises any of these
            reasons.append(f"{flavour} cannot be imported ({error})")
    raise RuntimeUnavailable(f"{'; '.join(reasons)}; {INSTALL[flavours[0]]}")


INSTALL: Mapping[Flavour, str] = {
    "tensorrt": (
        "on a Jetson it comes with JetPack (python3-libnvinfer, for a venv made with --system-site-packages), elsewhere with "
        "NVIDIA's TensorRT; `pip install tensorrt-rtx-cu13` compiles for RTX GPUs on any x86-64 machine"
    ),
    "tensorrt_rtx": "pip install tensorrt-rtx-cu13",
}
