"""Which images train and which measure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from edgedet.console import say
from edgedet.data.dataset import Dataset, open_dataset
from edgedet.errors import DataError, SplitAbsent
from edgedet.training.config import TrainingConfig

HELD_OUT = 0.1


def open_splits(config: TrainingConfig) -> tuple[Dataset, Dataset]:
    """The training and the validation images; without a validation set a seeded tenth is held out, and said so."""
    train = _split(config, "train", config.classes)
    val = _split(config, "val", train.classes) if train and not config.val else None
    train = train or open_dataset(config.data, classes=config.classes)
    if config.val:
        val = open_dataset(config.val, classes=train.classes)
    if val is None:
        train, val = _hold_out(train, config.seed)
    for part in (train, val):
        _check(part)
    return train, val


def _split(config: TrainingConfig, split: str, classes: Sequence[str] | None) -> Dataset | None:
    """One split, or None, with the reason said, where the data has none."""
    if config.data.suffix.lower() == ".json":  # one annotation file is all there is
        return None
    try:
        return open_dataset(config.data, split=split, classes=classes)
    except SplitAbsent as error:
        say(f"no {split} split: {error}")
        return None


def _hold_out(dataset: Dataset, seed: int) -> tuple[Dataset, Dataset]:
    """The data set in two parts, the second a tenth of the images; one image is both."""
    order = np.random.default_rng(seed).permutation(len(dataset))
    count = min(max(round(len(dataset) * HELD_OUT), 1), len(dataset) - 1)
    if count == 0:
        say(f"{dataset.name} has a single image: it is trained on and measured on, so the scores mean nothing")
        return dataset, dataset
    say(f"holding out {count} of {len(dataset)} images for validation (seed {seed}); --val names a set of your own")
    held, kept = ([dataset.samples[i] for i in sorted(part)] for part in (order[:count], order[count:]))
    name = dataset.name
    return replace(dataset, samples=tuple(kept), name=f"{name}:train"), replace(
        dataset, samples=tuple(held), name=f"{name}:held-out"
    )


def _check(dataset: Dataset) -> None:
    if dataset.problems:
        say(f"{dataset.name}: {dataset.problems}")
    if not any((~sample.crowd).any() for sample in dataset.samples):
        why = "is plain images" if not dataset.annotated else "has no annotated object"
        raise DataError(f"{dataset.name} {why} ({len(dataset)} images); training and validation need boxes")
