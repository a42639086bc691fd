"""What a training run was asked to do, with every default filled in; it stands in the run folder as config.json."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from edgedet.console import to_json
from edgedet.errors import ArtifactError, UsageError

FILE = "config.json"
REFERENCE_BATCH = 16
PEAK_RATE = 1e-3  # AdamW's at the reference batch
STEPS_FINE_TUNING, STEPS_FROM_SCRATCH = 780, 30_000
_LEAST = {"epochs": 1, "plain_epochs": 0, "batch": 1, "size": 32, "seed": 0, "workers": 1, "devices": 1}
PLAIN_PART = 0.15  # of the epochs
EPOCHS_AT_LEAST, EPOCHS_AT_MOST = 10, 300


def _check_classes(names: tuple[str, ...]) -> None:
    keys = [name.strip().casefold() for name in names]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if not all(keys) or not keys:
        raise UsageError(f"--classes {','.join(names)!r} has an empty name; write names with single commas: person,car")
    if twice:
        raise UsageError(f"--classes names {', '.join(twice)} more than once")


class Plan(NamedTuple):
    """How long and how fast one run trains: the numbers that a configuration may leave open."""

    epochs: int
    plain_epochs: int
    lr: float


@dataclass(frozen=True)
class TrainingConfig:
    """One run as it was asked for. Numbers of None are chosen by `plan`.

    data, val: data sets. init: a checkpoint to start from. batch: images a step
    and device. size: the input's side in pixels. lr: the peak rate. workers:
    threads that prepare images. norms: `batch`, normalise by each batch, or
    `frozen`, by the initial weights' own statistics: for few images that are
    unlike what is to be recognised later. plain_epochs: how many epochs, at the
    end, train on images as inference sees them. out: the run folder.
    """

    data: Path
    out: Path
    model: str
    val: Path | None = None
    classes: tuple[str, ...] | None = None
    init: Path | None = None
    epochs: int | None = None
    batch: int = REFERENCE_BATCH
    size: int | None = None
    lr: float | None = None
    seed: int = 0
    workers: int = 2
    devices: int = 1
    accelerator: str = "auto"
    precision: str = "auto"
    norms: str = "batch"
    plain_epochs: int | None = None

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"--{name.replace('_', '-')} is {value}; it must be at least {least}")
        if self.norms not in ("batch", "frozen"):
            raise UsageError(f"--norms is {self.norms!r}; it must be batch or frozen")
        if self.norms == "frozen" and self.init is None:
            raise UsageError("--norms frozen keeps the statistics of initial weights; give some with --init")
        if self.classes is not None:
            _check_classes(self.classes)
        if self.lr is not None and not 0 < self.lr < 1:
            raise UsageError(f"--lr is {self.lr}; it must lie between 0 and 1")

    def default_rate(self) -> float:
        """The peak learning rate for this batch over all devices: it grows with the root of the batch, as AdamW wants."""
        return PEAK_RATE * math.sqrt(self.batch * self.devices / REFERENCE_BATCH)

    def default_epochs(self, images: int) -> int:
        """As many epochs as give a small data set enough steps, and a large one no more than it needs."""
        steps = STEPS_FINE_TUNING if self.init else STEPS_FROM_SCRATCH
        epochs = math.ceil(steps / math.ceil(images / (self.batch * self.devices)))
        return min(max(epochs, EPOCHS_AT_LEAST), EPOCHS_AT_MOST)

    def plan(self, images: int) -> Plan:
        """The numbers asked for, or what suits this many images."""
        epochs = self.epochs or self.default_epochs(images)
        plain = round(epochs * PLAIN_PART) if self.plain_epochs is None else self.plain_epochs
        return Plan(epochs, plain, self.lr or self.default_rate())

    def to_json(self) -> str:
        """Indented JSON, paths as absolute strings."""
        return to_json({k: v.resolve() if isinstance(v, Path) else v for k, v in asdict(self).items()})

    @classmethod
    def read(cls, folder: Path) -> TrainingConfig:
        """The configuration of a run folder; `out` is the folder itself, wherever it has been moved."""
        try:
            values = json.loads((folder / FILE).read_text(encoding="utf-8"))
            paths = {k: Path(values[k]) for k in ("data", "val", "init") if values[k]}
            classes = tuple(values["classes"]) if values["classes"] else None
            return cls(**{**values, **paths, "classes": classes, "out": folder})
        except FileNotFoundError as error:
            raise ArtifactError(
                f"{folder}: no training run ({FILE} is absent); name a folder that `edgedet train` wrote"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise ArtifactError(f"{folder / FILE}: not readable ({error}); start the run anew") from error
