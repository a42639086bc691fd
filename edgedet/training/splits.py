"""Which images train and which measure."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from edgedet.console import say, track
from edgedet.data.dataset import Dataset, Sample, open_dataset
from edgedet.errors import DataError, ImageError, SplitAbsent
from edgedet.training.config import TrainingConfig

HELD_OUT = 0.1


def open_splits(config: TrainingConfig) -> tuple[Dataset, Dataset]:
    """The training and the validation images; without a validation set a seeded tenth is held out, and said so.

    Every image is read once, so that one that is damaged inside is left out
    here, by name, and does not end the run hours later; a large set takes as
    long for it as for one epoch's reading.
    """
    train = _split(config, "train", config.classes)
    val = _split(config, "val", train.classes) if train and not config.val else None
    train = train or open_dataset(config.data, classes=config.classes)
    if config.val:
        val = open_dataset(config.val, classes=train.classes)
    if val is None:
        train, val = _hold_out(train, config.seed)
    _require_objects(train, config.classes or ())
    train, val = _readable(train, config.workers), _readable(val, config.workers)
    for part in (train, val):
        _check(part)
    return train, val


def _require_objects(dataset: Dataset, classes: Sequence[str]) -> None:
    """Refuse classes asked for that nothing can be learned of, such as misspelt ones."""
    there = {int(label) for sample in dataset.samples for label in sample.labels}
    if absent := [name for label, name in enumerate(classes) if label not in there]:
        raise DataError(f"{dataset.name} has no object of --classes {', '.join(absent)}; correct or leave out the name")


def _readable(dataset: Dataset, workers: int) -> Dataset:
    """The data set without the images that cannot be read, which are added to its problems."""
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        faults = list(track(pool.map(_fault, dataset.samples), f"checking {dataset.name}", total=len(dataset)))
    if not any(faults):
        return dataset
    samples = tuple(sample for sample, fault in zip(dataset.samples, faults, strict=True) if not fault)
    unreadable = (*dataset.problems.unreadable, *filter(None, faults))
    return replace(dataset, samples=samples, problems=replace(dataset.problems, unreadable=unreadable))


def _fault(sample: Sample) -> str | None:
    try:
        sample.read()
    except ImageError as error:
        return str(error)
    return None


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
