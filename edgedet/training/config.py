"""What a training run was asked to do, with every default filled in; it stands in the run folder as config.json."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from edgedet.console import to_json
from edgedet.errors import ArtifactError, UsageError

FILE = "config.json"
REFERENCE_BATCH = 16
PEAK_RATE = 1e-3  # AdamW's at the reference batch
STEPS_FINE_TUNING, STEPS_FROM_SCRATCH = 1300, 30_000
EPOCHS_AT_LEAST, EPOCHS_AT_MOST = 10, 300


@dataclass(frozen=True)
class TrainingConfig:
    """One run. Values of None are chosen by `resolved`.

    data, val: data sets. init: a checkpoint to start from. batch: images a step
    and device. size: the input's side in pixels. lr: the peak rate. workers:
    threads that prepare images. out: the run folder.
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

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch", 1), ("workers", 1), ("devices", 1), ("size", 32), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"--{name} is {value}; it must be at least {least}")
        if self.size is not None and self.size % 32:
            raise UsageError(f"--size is {self.size}; it must be a multiple of 32, such as {round(self.size / 32) * 32}")
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
            raise ArtifactError(f"{folder}: no training run ({FILE} is absent); name a folder that `edgedet train` wrote") from error
        except (ValueError, KeyError, TypeError) as error:
            raise ArtifactError(f"{folder / FILE}: not readable ({error}); start the run anew") from error
