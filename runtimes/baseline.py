"""An earlier run of `edgedet bench --json`, to hold a new one against; never one under another power mode."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedet.artifact import require_file
from edgedet.errors import ArtifactError, UsageError

Key = tuple[str, str, str, str, str]
"""File, runtime, device, float precision asked for, and what it was opened for."""


@dataclass(frozen=True)
class Baseline:
    """The median inference milliseconds of each model of an earlier run; power_mode: None where that machine told none."""

    path: Path
    machine: str
    power_mode: str | None
    medians_ms: dict[Key, float]

    def require_mode(self, mode: str | None) -> None:
        """Raise UsageError where the power mode is another than the earlier run's."""
        if mode != self.power_mode:
            raise UsageError(
                f"{self.path.name} was measured in power mode {self.power_mode or 'unknown'!r}, this machine is in "
                f"{mode or 'unknown'!r}: their times say nothing of the models; set that mode (sudo nvpmodel -m …, "
                "sudo jetson_clocks, sudo nvidia-smi -pl …), or measure the baseline anew"
            )

    def ratio(self, model: Mapping[str, Any]) -> float | None:
        """The earlier median over the model's own: 2 is twice as fast; None where the earlier run has no such model."""
        median = self.medians_ms.get(_key(model))
        return None if median is None else round(median / model["latency_ms"]["inference"]["p50"], 3)


def read(path: Path) -> Baseline:
    """The earlier run out of the file that `edgedet bench --json` printed."""
    try:
        report = json.loads(require_file(path).read_text(encoding="utf-8"))
        medians = {_key(model): float(model["latency_ms"]["inference"]["p50"]) for model in report["models"]}
        return Baseline(path, report["machine"]["cpu"], report["power_mode"], medians)
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{path}: is not what `edgedet bench MODEL --json` prints in this version ({error!r}); measure it anew"
        ) from error


def _key(model: Mapping[str, Any]) -> Key:
    return model["file"], model["runtime"], model["device"], model["precision"]["asked"], model["performance"]
