"""Where a run starts from: a detector with random, pretrained or transferred weights, and its ModelSpec."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from edgedet import __version__
from edgedet.console import say
from edgedet.errors import CheckpointError, UsageError
from edgedet.models import checkpoint
from edgedet.models.checkpoint import Checkpoint
from edgedet.training.config import TrainingConfig


def check_model(config: TrainingConfig) -> None:
    """Raise UsageError where there is no such model or it cannot take the size: before the data is read."""
    with torch.device("meta"):
        multiple = checkpoint.build(config.model, 1).size_multiple
    if config.size and config.size % multiple:
        nearest = max(round(config.size / multiple), 1) * multiple
        raise UsageError(f"--size is {config.size}; it must be a multiple of {multiple}, such as {nearest}")


def initial_detector(config: TrainingConfig, classes: Sequence[str]) -> Checkpoint:
    """The detector that training starts from, for these classes, seeded; and its spec with where it comes from."""
    torch.manual_seed(config.seed)
    detector = checkpoint.build(config.model, len(classes))
    size_hw = (config.size, config.size) if config.size else None
    spec = checkpoint.describe(detector, classes, size_hw=size_hw)
    spec = spec.with_provenance(edgedet=__version__, torch=torch.__version__, data=config.data.name, seed=config.seed)
    if config.init is None:
        return Checkpoint(detector, spec)
    try:
        parent = _parent(config.init, config.model)
    except CheckpointError:
        if count := checkpoint.load_backbone(detector, config.init):
            say(f"{count} tensors of the backbone from {config.init.name}; the rest starts at random")
            return Checkpoint(detector, spec.with_provenance(backbone=config.init.name))
        raise
    kept = checkpoint.transfer(detector, parent.detector.state_dict(), old=parent.spec.classes, new=classes)
    shared = [name for name in classes if name in parent.spec.classes]
    random = f"; {len(kept)} tensors start at random" if kept else ""
    say(f"weights from {config.init.name}; {_fate(shared, len(classes))}{random}")
    return Checkpoint(
        detector, spec.with_provenance(parent=config.init.name, parent_sha256=parent.spec.provenance["parent_sha256"])
    )


def _parent(path: Path, model: str) -> Checkpoint:
    parent = checkpoint.load(path)
    if parent.spec.name != model:
        raise CheckpointError(f"{path} is a {parent.spec.name} but --model is {model}; use --model {parent.spec.name}")
    return parent


def _fate(shared: Sequence[str], count: int) -> str:
    if len(shared) == count:
        return "all classes are known to it"
    return f"{len(shared)} of {count} classes are known to it" + (f" ({', '.join(shared[:5])})" if shared else "")
