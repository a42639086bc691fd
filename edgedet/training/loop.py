"""Training: epochs over batches, averaged weights, a run folder that a kill at any moment leaves usable."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgedet import artifact
from edgedet.console import say, track
from edgedet.data.dataset import Dataset
from edgedet.data.evaluation import Scores, evaluate
from edgedet.errors import ArtifactError, DataError, UsageError
from edgedet.models import checkpoint
from edgedet.models.base import Target
from edgedet.models.checkpoint import Checkpoint
from edgedet.spec import ModelSpec
from edgedet.training import config as configuration
from edgedet.training import pictures, run_folder
from edgedet.training.augmentation import Augmentation
from edgedet.training.batches import Batch, TrainingImages, batches_per_epoch, epoch_batches
from edgedet.training.config import TrainingConfig
from edgedet.training.devices import make_fabric
from edgedet.training.evaluation import detect
from edgedet.training.normalization import freeze_norms, unfold_norms
from edgedet.training.schedule import AveragedWeights, Schedule, parameter_groups
from edgedet.training.splits import open_splits
from edgedet.training.start import check_model, initial_detector

EVALUATIONS = 20  # spread over the run
WEIGHT_DECAY = 0.05
GRADIENT_NORM = 20.0
PICTURED = 8


@dataclass(frozen=True)
class Result:
    """What a finished run leaves. ap, ap50: of the best weights on the validation images. epoch: theirs, from 1."""

    folder: Path
    best: Path
    ap: float
    ap50: float
    epoch: int
    epochs: int


def train(config: TrainingConfig) -> Result | None:
    """Train from the start into a new run folder; None in all but the first process of several."""
    if (config.out / configuration.FILE).exists():
        raise UsageError(f"{config.out} holds a training run already; go on with --resume {config.out} or choose another --out")
    return _run(config)


def resume(folder: Path) -> Result | None:
    """Go on where a run stopped; the end is the same as without the stop. Returns as `train` does."""
    return _run(TrainingConfig.read(folder))


def _run(config: TrainingConfig) -> Result | None:
    fabric = make_fabric(config)
    fabric.launch()
    check_model(config)
    train_set, val_set = open_splits(config)
    config = replace(config, **config.plan(len(train_set))._asdict())
    state = run_folder.load_state(config.out)
    start = initial_detector(config, train_set.classes) if state is None else _stopped(config, state, train_set)
    trainer = Trainer(config, fabric, start, train_set, val_set)
    if state is not None:
        trainer.restore(state)
    elif fabric.is_global_zero:
        artifact.write_text(config.out / configuration.FILE, config.to_json())
    result = trainer.fit()
    return result if fabric.is_global_zero else None


def _stopped(config: TrainingConfig, state: dict[str, Any], train_set: Dataset) -> Checkpoint:
    """A detector to restore the state into, with the run's spec; the data must still have the run's classes."""
    spec = ModelSpec.from_json(state["spec"], where=run_folder.STATE)
    if spec.classes != train_set.classes:
        raise DataError(
            f"{train_set.name} has the classes {', '.join(train_set.classes)} now, but {config.out} was trained on "
            f"{', '.join(spec.classes)}; restore the data set or start the run anew"
        )
    return Checkpoint(checkpoint.build(config.model, len(spec.classes)), spec)


class Trainer:
    """One run on one process: the detector, its optimizer, the averaged weights, and what was measured so far."""

    def __init__(self, config: TrainingConfig, fabric: Any, start: Checkpoint, train_set: Dataset, val_set: Dataset) -> None:
        self._config, self._fabric, self._spec = config, fabric, start.spec
        self._plan = config.plan(len(train_set))
        self._val_set = val_set
        self._images = TrainingImages(train_set, start.spec.letterbox, Augmentation())
        self._detector = start.detector.to(fabric.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._unfold()
        self._average = AveragedWeights(self._detector)
        groups = parameter_groups(self._detector, weight_decay=WEIGHT_DECAY)
        optimizer = torch.optim.AdamW(groups, lr=self._plan.lr)
        self._network, self._optimizer = fabric.setup(self._detector, optimizer)
        self._steps = batches_per_epoch(len(train_set), config.batch, fabric.world_size)
        total = self._steps * self._plan.epochs
        self._schedule = Schedule(self._plan.lr, warmup=min(max(total // 20, 1), 1000), total=total)
        self._epoch = 0
        self._rows: list[dict[str, Any]] = []
        self._best: dict[str, float] = {"ap": -1.0, "ap50": -1.0, "epoch": 0}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up the state that the last finished epoch left."""
        try:
            self._detector.load_state_dict(state["detector"])
            self._average.detector.load_state_dict(state["average"])
            self._optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            state_file = self._config.out / run_folder.STATE
            raise ArtifactError(f"{state_file}: not the state of a {self._config.model}; start the run anew") from error
        self._average.steps = state["average_steps"]
        self._epoch, self._best, self._rows = state["epoch"], state["best"], state["rows"]
        say(f"resuming after epoch {self._epoch} of {self._plan.epochs}")

    def fit(self) -> Result:
        """Train the epochs that are left; what comes back describes the best weights."""
        config = self._config
        ticks = range((self._plan.epochs - self._epoch) * self._steps)
        progress: Any = track(ticks, "training") if self._fabric.is_global_zero else (tick for tick in ticks)
        with closing(progress):
            for epoch in range(self._epoch, self._plan.epochs):
                started = time.perf_counter()
                losses = self._train_epoch(epoch, progress)
                self._epoch = epoch + 1
                if self._fabric.is_global_zero:
                    self._finish_epoch(losses, started)
                self._fabric.barrier()
        best = config.out / run_folder.BEST
        return Result(config.out, best, self._best["ap"], self._best["ap50"], int(self._best["epoch"]), self._plan.epochs)

    def _unfold(self) -> None:
        """Give the norms of a deployed checkpoint statistics that training can start from."""
        order = np.random.default_rng(self._config.seed).permutation(len(self._images))[:64]
        random = np.random.default_rng(self._config.seed)
        examples = (torch.from_numpy(self._images.plain(int(i), random).image)[None] for i in order)
        if count := unfold_norms(self._detector, (self._prepare(image) for image in examples)):
            say(f"gave {count} folded batch norms the statistics of {len(order)} training images")

    def _prepare(self, images: Tensor) -> Tensor:
        """(B, H, W, 3) uint8 to what the network takes, on its device; the memory stays channels-last."""
        return self._detector.normalize(images.to(self._fabric.device).permute(0, 3, 1, 2).float())

    def _batches(self, epoch: int) -> Iterator[Batch]:
        config, fabric = self._config, self._fabric
        plain = epoch >= self._plan.epochs - self._plan.plain_epochs
        return epoch_batches(
            self._images,
            self._images.plain if plain else self._images.augmented,
            batch=config.batch, seed=config.seed, epoch=epoch, workers=config.workers,
            rank=fabric.global_rank, world=fabric.world_size,
        )  # fmt: skip

    def _train_epoch(self, epoch: int, progress: Iterator[int]) -> dict[str, float]:
        """The mean loss terms of one epoch, and the last learning rate."""
        self._network.train()
        if self._config.norms == "frozen":
            freeze_norms(self._network)
        sums: dict[str, Tensor] = {}
        rate = 0.0
        for step, (batch, _) in enumerate(zip(self._batches(epoch), progress), start=epoch * self._steps):
            rate = self._schedule.learning_rate(step)
            for name, value in self._step(batch, rate).items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value
        losses = {name: float(value) / self._steps for name, value in sums.items()}
        if not np.isfinite(sum(losses.values())):
            raise UsageError(f"the loss is no longer finite in epoch {epoch + 1}; lower --lr (it was {self._plan.lr:g})")
        return {**losses, "lr": rate}

    def _step(self, batch: Batch, rate: float) -> dict[str, Tensor]:
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        device = self._fabric.device
        targets = [Target(target.boxes.to(device), target.labels.to(device)) for target in batch.targets]
        losses = self._detector.loss(self._network(self._prepare(batch.images)), targets)
        self._optimizer.zero_grad()
        self._fabric.backward(torch.stack(list(losses.values())).sum())
        self._fabric.clip_gradients(self._network, self._optimizer, max_norm=GRADIENT_NORM, error_if_nonfinite=False)
        self._optimizer.step()
        self._average.update(self._detector)
        return {name: value.detach() for name, value in losses.items()}

    def _finish_epoch(self, losses: dict[str, float], started: float) -> None:
        """Measure where it is due, then write everything the epoch leaves; the resume state comes last."""
        config, epoch = self._config, self._epoch
        due = epoch % max(self._plan.epochs // EVALUATIONS, 1) == 0 or epoch == self._plan.epochs
        scores = self._evaluate() if due else None
        seconds = time.perf_counter() - started
        row = {"epoch": epoch, **losses, "ap": scores and scores.ap, "ap50": scores and scores.ap50, "seconds": seconds}
        self._rows.append(row)
        say(_line(row, self._plan.epochs))
        spec = self._spec.with_provenance(epochs=epoch, **({"ap": scores.ap, "ap50": scores.ap50} if scores else {}))
        weights = self._average.detector.state_dict()
        checkpoint.save(config.out / run_folder.LAST, weights, spec)
        if scores and scores.ap > self._best["ap"]:
            self._best = {"ap": scores.ap, "ap50": scores.ap50, "epoch": epoch}
            checkpoint.save(config.out / run_folder.BEST, weights, spec)
        run_folder.write_metrics(config.out, self._rows)
        pictures.draw_curves(config.out / "curves.png", self._rows)
        run_folder.save_state(config.out, self._state())

    def _evaluate(self) -> Scores:
        """The averaged weights' scores on the validation images; the pictures are drawn anew."""
        config, samples = self._config, self._val_set.samples
        found = detect(self._average.detector, self._spec, samples, batch=config.batch)
        shown = list(itertools.islice(range(0, len(samples), max(len(samples) // PICTURED, 1)), PICTURED))
        pictures.draw_predictions(
            config.out / "predictions.png", [samples[i] for i in shown], [found[i] for i in shown], self._spec.classes
        )
        return evaluate(self._val_set, found)

    def _state(self) -> dict[str, Any]:
        return {
            "epoch": self._epoch,
            "best": self._best,
            "rows": self._rows,
            "spec": self._spec.to_json(),
            "detector": self._detector.state_dict(),
            "average": self._average.detector.state_dict(),
            "average_steps": self._average.steps,
            "optimizer": self._optimizer.state_dict(),
        }


def _line(row: dict[str, Any], epochs: int) -> str:
    terms = [name for name in row if name not in ("epoch", "lr", "ap", "ap50", "seconds")]
    losses = " ".join(f"{name} {row[name]:.3f}" for name in terms)
    scores = f"  AP {row['ap']:.3f} AP50 {row['ap50']:.3f}" if row["ap"] is not None else ""
    return f"epoch {row['epoch']}/{epochs}  {losses}  lr {row['lr']:.2e}{scores}  {row['seconds']:.1f} s"
