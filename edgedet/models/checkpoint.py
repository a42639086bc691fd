"""Checkpoints: recognise a file's family from its tensors, load it strictly and safely, save it with its ModelSpec."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from edgedet import artifact, plugins, published
from edgedet.classes import default_names
from edgedet.errors import ArtifactError, CheckpointError, UsageError
from edgedet.letterbox import Anchor
from edgedet.models import darknet
from edgedet.models.base import Detector
from edgedet.spec import KEY, ModelSpec

WRAPPERS = ("model", "state_dict", "model_state_dict", "ema", "net")
PACKAGE = "edgedet.models"
EPSILON = 1e-5
"""What PyTorch's batch norms add to the variance where nothing else is said."""


class Checkpoint(NamedTuple):
    """A detector in evaluation mode and what describes it."""

    detector: Detector
    spec: ModelSpec


def families() -> list[str]:
    """Names of the detector families: the modules of this package that can recognise a checkpoint."""
    return [name for name in plugins.names(PACKAGE) if hasattr(plugins.find(PACKAGE, name), "recognise")]


def names() -> list[str]:
    """Every model that can be built, as in `yolox-nano`."""
    return [_name(family, variant) for family in families() for variant in plugins.find(PACKAGE, family).VARIANTS]


def build(name: str, num_classes: int) -> Detector:
    """A detector with random weights by its name, as in `yolox-nano`."""
    family, _, variant = name.partition("-")
    if name not in (known := names()):
        raise UsageError(f"no model named {name!r}; there are: {', '.join(known)}")
    return plugins.find(PACKAGE, family).build(variant, num_classes)


def _name(family: str, variant: str) -> str:
    """As in `yolox-nano`; the family alone where it has an unnamed variant."""
    return f"{family}-{variant}".removesuffix("-")


def load(path: Path, *, classes: Sequence[str] | None = None) -> Checkpoint:
    """The detector that a file holds, loaded strictly, in evaluation mode, on the CPU.

    path: a safetensors file of edgedet's, a foreign `.pth` with `{'model': …}`,
    `{'state_dict': …}` or bare tensors, or Darknet's `.weights`. classes: names
    instead of the file's; by default COCO's 80, else class_0, class_1, …
    """
    state, spec = read_state(path)
    family, variant, count, state = _recognise(path, state)
    variant = _among_twins(path, family, variant, spec)
    digest = artifact.sha256(path)
    origin = published.of_digest(digest)
    if origin and origin.frozen_without_epsilon:
        state = _with_epsilon(state)
    detector = plugins.find(PACKAGE, family).build(variant, count)
    _load_strictly(path, detector, state)
    if spec and (spec.family, spec.variant, len(spec.classes)) != (family, variant, count):
        raise CheckpointError(
            f"{path}: its spec describes a {spec.name} of {len(spec.classes)} classes, but its tensors are of a "
            f"{_name(family, variant)} of {count}; save it again from the detector it belongs to"
        )
    names = tuple(classes) if classes else spec.classes if spec else default_names(count, detector.known_classes)
    if len(names) != count:
        raise CheckpointError(f"{path.name} has {count} classes but {len(names)} names were given: {', '.join(names)}")
    spec = replace(spec, classes=names) if spec else describe(detector, names)
    if origin:
        spec = replace(spec, weights_licence=origin.licence)
    return Checkpoint(detector.eval(), spec.with_provenance(parent_sha256=digest))


def describe(detector: Detector, classes: Sequence[str], *, size_hw: tuple[int, int] | None = None) -> ModelSpec:
    """The ModelSpec of a detector in PyTorch: its family's defaults and the given classes."""
    return ModelSpec(
        family=detector.family,
        variant=detector.variant,
        classes=tuple(classes),
        size_hw=size_hw or detector.default_size_hw,
        letterbox_anchor=detector.letterbox_anchor,
        letterbox_fill=detector.letterbox_fill,
        candidate_order=detector.candidate_order,
        suppression=detector.suppression,
        batch=None,
    )


def save(path: Path, state: Mapping[str, Tensor], spec: ModelSpec) -> None:
    """Write tensors as safetensors with the spec in the file's metadata, whole or not at all."""
    from safetensors import torch as safetensors

    # Python writes the bytes: safetensors' own writer hides what the operating system refused.
    content = safetensors.save({k: v.detach().cpu().contiguous() for k, v in state.items()}, {KEY: spec.to_json()})
    with artifact.writing(path) as (temporary,):
        temporary.write_bytes(content)


def read_state(path: Path) -> tuple[dict[str, Tensor], ModelSpec | None]:
    """The tensors of a checkpoint file as float32, and its ModelSpec where it carries one. Never runs code from the file."""
    artifact.require_file(path)
    if path.suffix == ".safetensors":
        state, spec = _read_safetensors(path)
    elif path.suffix == ".weights":
        state, spec = _read_darknet(path)
    elif path.suffix[1:].isdigit() and path.stem.endswith(".conv"):
        state, spec = darknet.read_first_layers(path), None
    else:
        state, spec = _unwrap(path, _unpickle(path)), None
    if not state:
        raise CheckpointError(f"{path}: holds no tensors; save {{'model': model.state_dict()}}")
    if odd := [k for k, v in state.items() if v.layout != torch.strided or v.is_quantized or v.is_meta]:
        raise CheckpointError(
            f"{path}: {len(odd)} tensors are sparse, quantised or without data (first: {odd[0]}); save plain ones"
        )
    return {k: v.float() if v.is_floating_point() else v for k, v in state.items()}, spec


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], ModelSpec | None]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(KEY)
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (the file is no mapping)
    except SafetensorError as error:
        raise ArtifactError(f"{path}: not a whole safetensors file ({error}); copy it again") from error
    return state, ModelSpec.from_json(text, where=path.name) if text else None


def _read_darknet(path: Path) -> tuple[dict[str, Tensor], ModelSpec | None]:
    network, state, cfg = darknet.read(path)
    if cfg is None:
        return state, None
    with torch.device("meta"):
        detector = plugins.find(PACKAGE, network.family).build(network.variant, cfg.classes)
    names = default_names(cfg.classes, detector.known_classes)
    spec = describe(detector, names, size_hw=(cfg.height, cfg.width))
    anchors: dict[int | None, Anchor] = {0: "stretch", 1: "center"}
    return state, replace(spec, letterbox_anchor=anchors.get(cfg.letter_box, spec.letterbox_anchor))


def _unpickle(path: Path) -> object:
    # Best scores in training checkpoints are often NumPy numbers: data, not code.
    scalar = np.float64(0).__reduce__()[0]
    harmless: list[Any] = [np.dtype, scalar, type(np.dtype(np.float64)), type(np.dtype(np.float32))]
    try:
        with torch.serialization.safe_globals(harmless), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols: what cannot be read is refused below
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        blocked = next((line for line in str(error).splitlines() if "GLOBAL" in line or "Unsupported" in line), "").strip()
        raise CheckpointError(
            f"{path}: refused, because reading it could run code from the file{f' ({blocked})' if blocked else ''}; "
            "save only the tensors: torch.save({'model': model.state_dict()}, path)"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path}: not a readable PyTorch checkpoint, or cut short; copy it again") from error


def _unwrap(path: Path, content: object) -> dict[str, Tensor]:
    """The tensors inside `{'model': …}`, `{'state_dict': …}` or a bare dictionary, without DataParallel's prefix."""
    for key in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not any(isinstance(v, Tensor) for v in content.values()):
        raise CheckpointError(f"{path}: holds no tensors by name; save {{'model': model.state_dict()}}")
    return {str(k).removeprefix("module."): v for k, v in content.items() if isinstance(v, Tensor)}


def _recognise(path: Path, state: dict[str, Tensor]) -> tuple[str, str, int, dict[str, Tensor]]:
    """Family, variant, class count, and the tensors under the family's names."""
    for family in families():
        module = plugins.find(PACKAGE, family)
        adapted = module.adapt(state) if hasattr(module, "adapt") else state
        if found := module.recognise(adapted):
            return family, *found, adapted
    name, share = _nearest(state)
    near = f"the nearest is {name}, which shares {share:.0%} of the names" if share else "no model shares a name with it"
    raise CheckpointError(
        f"{path}: its {len(state)} tensors (first: {next(iter(state))!r}) are of no family edgedet knows; "
        f"{near}; `edgedet models` lists what is supported"
    )


def _among_twins(path: Path, family: str, variant: str, spec: ModelSpec | None) -> str:
    """The variant, or the one of its twins, whose tensors are the same, that the spec or else the file's name tells."""
    twins = (variant, *getattr(plugins.find(PACKAGE, family), "TWINS", {}).get(variant, ()))
    told = [spec.variant] if spec else re.split(r"[^a-z0-9]+", path.stem.lower())
    named = [twin for twin in twins if twin in told]
    if len(twins) > 1 and len(named) != 1:
        names = " and of ".join(_name(family, twin) for twin in twins)
        raise CheckpointError(
            f"{path}: its tensors are those of {names} alike; "
            f"put the right one's variant into the file's name, as in {path.stem}-{twins[-1]}{path.suffix}"
        )
    return named[0] if named else variant


def _nearest(state: Mapping[str, Tensor]) -> tuple[str, float]:
    """The known model that shares most tensor names with the file, and the share: a variant of the nearest family."""

    def share(family: str, variant: str) -> float:
        with torch.device("meta"):
            own = set(plugins.find(PACKAGE, family).build(variant, 1).state_dict())
        return len(own & set(state)) / len(own | set(state))

    variants = {family: list(plugins.find(PACKAGE, family).VARIANTS) for family in families()}
    nearest = max(variants, key=lambda family: share(family, variants[family][0]))  # building all would take seconds
    shares = {variant: share(nearest, variant) for variant in variants[nearest]}
    variant = max(shares, key=lambda name: shares[name])
    return _name(nearest, variant), shares[variant]


def _with_epsilon(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same network where batch norms divide by √(σ² + ε), of tensors for norms that divide by σ: γ·√((σ² + ε)/σ²)."""
    norms = {name.removesuffix("running_var"): value for name, value in state.items() if name.endswith("running_var")}
    scaled = {f"{norm}weight": state[f"{norm}weight"] * (1 + EPSILON / variance).sqrt() for norm, variance in norms.items()}
    return {**state, **scaled}


def _load_strictly(path: Path, detector: Detector, state: Mapping[str, Tensor]) -> None:
    """Load every tensor; only batch counters, which do not enter inference, may be absent."""
    own = detector.state_dict()
    missing = sorted(k for k in own.keys() - state.keys() if not k.endswith("num_batches_tracked"))
    unexpected = sorted(state.keys() - own.keys())
    shared = sorted(own.keys() & state.keys())
    wrong = [k for k in shared if own[k].shape != state[k].shape]
    untyped = [k for k in shared if own[k].is_floating_point() and not state[k].is_floating_point()]
    endless = [k for k in shared if not torch.isfinite(state[k]).all()]
    kinds = {
        "missing": missing,
        "unexpected": unexpected,
        "misshapen": wrong,
        "not of real numbers": untyped,
        "not finite": endless,
    }
    if any(kinds.values()):
        faults = "; ".join(f"{len(names)} {kind} (first: {names[0]})" for kind, names in kinds.items() if names)
        name = _name(detector.family, detector.variant)
        raise CheckpointError(f"{path}: looks like {name} but its tensors do not fit: {faults}")
    detector.load_state_dict(state, strict=False)


def transfer(detector: Detector, state: Mapping[str, Tensor], *, old: Sequence[str], new: Sequence[str]) -> list[str]:
    """Load what fits into a detector of other classes; returns the names of tensors that kept random values.

    A tensor whose first axis counts the classes, once or for each anchor, takes
    the rows of classes that both sides name, so that `person` stays `person`.
    """
    own = detector.state_dict()
    shared = [(new.index(name), old.index(name)) for name in new if name in old]
    to, where = ([*range(detector.class_rows), *(detector.class_rows + pair[i] for pair in shared)] for i in (0, 1))
    kept = []
    for name, tensor in own.items():
        source = state.get(name)
        anchors, rest = divmod(tensor.shape[0], detector.class_rows + len(new)) if tensor.ndim else (0, 0)
        grown = (anchors * (detector.class_rows + len(old)), *tensor.shape[1:])
        if source is not None and source.shape == tensor.shape:
            tensor.copy_(source)
        elif source is not None and source.shape == grown and anchors and not rest and shared:
            tensor.unflatten(0, (anchors, -1))[:, to] = source.unflatten(0, (anchors, -1))[:, where]
        elif not name.endswith("num_batches_tracked"):
            kept.append(name)
    return kept


def load_backbone(detector: Detector, path: Path) -> int | None:
    """Load a classification checkpoint of the ecosystem into the detector's backbone; None where it is of another network.

    Returns how many tensors were loaded: all of the backbone's, while the
    classifier at the file's end is left out.
    """
    state, _ = read_state(path)
    own = detector.state_dict()
    names = {name: other for name, other in detector.classification_names().items() if not name.endswith("num_batches_tracked")}
    if not names or any(other not in state or state[other].shape != own[name].shape for name, other in names.items()):
        return None
    detector.load_state_dict({name: state[other] for name, other in names.items()}, strict=False)
    return len(names)
