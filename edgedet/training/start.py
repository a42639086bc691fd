"""Where a run starts from: a detector with random, pretrained or transferred weights, and its ModelSpec."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from edgedet import __version__
from edgedet.console import say
from edgedet.errors import CheckpointError
from edgedet.models import checkpoint
from edgedet.models.checkpoint import Checkpoint
from edgedet.training.config import TrainingConfig


def initial_detector(config: TrainingConfig, classes: Sequence[str]) -> Checkpoint:
    """The detector that training starts from, for these classes, seeded; and its spec with where it comes from."""
    torch.manual_seed(config.seed)
    detector = checkpoint.build(config.model, len(classes))
    size_hw = (config.size, config.size) if config.size else None
    spec = checkpoint.describe(detector, classes, size_hw=size_hw)
    spec = spec.with_provenance(edgedet=__version__, torch=torch.__version__, data=config.data.name, seed=config.seed)
    if config.init is None:
        return Checkpoint(detector, spec)
    parent = _parent(config.init, config.model)
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
