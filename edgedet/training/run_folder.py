"""The folder of a training run: what a crash must not lose, and what a person looks at."""

from __future__ import annotations

import csv
import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from edgedet import artifact
from edgedet.errors import ArtifactError

STATE, METRICS, BEST, LAST = "resume.pt", "metrics.csv", "best.safetensors", "last.safetensors"
KEYS = ("epoch", "best", "rows", "spec", "detector", "average", "average_steps", "optimizer")  # of the state


def save_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write all that the next epoch depends on, whole or not at all."""
    buffer = io.BytesIO()  # written by Python: PyTorch's own writer hides what the operating system refused
    torch.save(dict(state), buffer)
    with artifact.writing(folder / STATE) as (temporary,):
        temporary.write_bytes(buffer.getbuffer())


def load_state(folder: Path) -> dict[str, Any] | None:
    """What `save_state` wrote, on the CPU; None where no epoch was finished."""
    path = folder / STATE
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, IndexError) as error:
        raise ArtifactError(f"{path}: not a readable training state; start the run anew") from error
    if not isinstance(state, dict) or (lacking := [key for key in KEYS if key not in state]):
        what = f"without {', '.join(lacking)}" if isinstance(state, dict) else f"a {type(state).__name__}"
        raise ArtifactError(f"{path}: no training state but {what}; start the run anew")
    return state


def write_metrics(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Write one row an epoch as CSV; an empty field is an epoch that was not evaluated."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    artifact.write_text(folder / METRICS, buffer.getvalue())
