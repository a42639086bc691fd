"""Where training runs: devices, processes and precision, through Lightning Fabric."""

from __future__ import annotations

from typing import Any

import torch

from edgedet.errors import RuntimeUnavailable, UsageError
from edgedet.training.config import TrainingConfig

ACCELERATORS = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed")


def make_fabric(config: TrainingConfig) -> Any:
    """Fabric for the devices asked for; fails before anything is read where they are not there."""
    for name, value, known in (("accelerator", config.accelerator, ACCELERATORS), ("precision", config.precision, PRECISIONS)):
        if value not in known:
            raise UsageError(f"--{name} is {value!r}; it must be one of {', '.join(known)}")
    try:
        from lightning_fabric import Fabric
    except ImportError as error:
        raise RuntimeUnavailable("training needs Lightning Fabric; run: pip install 'edgedet[train]'") from error
    accelerator = _accelerator(config)
    return Fabric(accelerator=accelerator, devices=config.devices, precision=_precision(config.precision, accelerator))


def _accelerator(config: TrainingConfig) -> str:
    there = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    wanted = there if config.accelerator == "auto" else config.accelerator
    if wanted != "cpu" and wanted != there:
        raise UsageError(f"--accelerator {wanted}: PyTorch {torch.__version__} sees no such device here; it would use {there}")
    if wanted == "cuda" and config.devices > torch.cuda.device_count():
        raise UsageError(f"--devices {config.devices}: there are {torch.cuda.device_count()} CUDA devices here")
    return wanted


def _precision(wanted: str, accelerator: str) -> Any:
    """Mixed precision where it is fast: on CUDA; full precision elsewhere."""
    if wanted == "16-mixed" and accelerator == "cpu":
        raise UsageError("--precision 16-mixed needs a GPU; on a CPU choose bf16-mixed or 32-true")
    if wanted != "auto":
        return wanted
    if accelerator != "cuda":
        return "32-true"
    return "bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed"
