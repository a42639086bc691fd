"""Batches of training images: read once, augmented in threads ahead of the loop, the same for the same seed and epoch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from edgedet.data.dataset import Dataset
from edgedet.letterbox import Letterbox
from edgedet.models.base import Target
from edgedet.training.augmentation import Augmentation, Example, compose_mosaic, jitter_color, mirror, mix, warp

CACHE_BYTES = 2 << 30
BATCHES_AHEAD = 2

Maker = Callable[[int, np.random.Generator], Example]  # index of an image, its random numbers → what training sees


@dataclass(frozen=True)
class Batch:
    """images: (B, H, W, 3) uint8 BGR, letterboxed. targets: one an image."""

    images: Tensor
    targets: list[Target]


class TrainingImages:
    """A data set's images at the input's scale, kept in memory while they fit, and what training makes of them."""

    def __init__(self, dataset: Dataset, letterbox: Letterbox, augmentation: Augmentation) -> None:
        self._samples = dataset.samples
        self._letterbox = letterbox
        self._augmentation = augmentation
        height, width = letterbox.size_hw
        self._room = CACHE_BYTES // (height * width * 3)
        self._cache: dict[int, Example] = {}

    def __len__(self) -> int:
        return len(self._samples)

    def augmented(self, index: int, random: np.random.Generator) -> Example:
        """The image in a mosaic, moved and recoloured."""
        config = self._augmentation
        example = self._moved(index, random)
        if random.random() < config.mixup:
            example = mix(example, self._moved(int(random.integers(len(self))), random))
        return example._replace(image=jitter_color(example.image, config, random))

    def plain(self, index: int, random: np.random.Generator) -> Example:
        """The image as inference sees it, at times mirrored: what the last epochs train on."""
        example = self._resized(index)
        if random.random() < self._augmentation.flip:
            example = mirror(example)
        image, placement = self._letterbox.apply(example.image)
        return Example(image, placement.boxes_to_input(example.boxes), example.labels)

    def _moved(self, index: int, random: np.random.Generator) -> Example:
        size, fill = self._letterbox.size_hw[0], self._letterbox.fill
        example = self._resized(index)
        if random.random() < self._augmentation.mosaic:
            others = [self._resized(int(i)) for i in random.integers(len(self), size=3)]
            example = compose_mosaic([example, *others], size, fill, random)
        return warp(example, size, fill, self._augmentation, random)

    def _resized(self, index: int) -> Example:
        """The image at the size the letterbox gives it, without padding; crowds are left out."""
        if index in self._cache:
            return self._cache[index]
        sample = self._samples[index]
        frame = sample.read()
        placement = self._letterbox.place((frame.shape[0], frame.shape[1]))
        height, width = placement.inner_hw
        image = cv2.resize(frame, (width, height), interpolation=cv2.INTER_LINEAR)
        boxes = placement.boxes_to_input(sample.boxes) - np.array(placement.offset_xy * 2, np.float32)
        example = Example(image, boxes[~sample.crowd], sample.labels[~sample.crowd])
        if len(self._cache) < self._room:
            self._cache[index] = example
        return example


def batches_per_epoch(images: int, batch: int, world: int) -> int:
    """How many full batches every process takes, so that all images are seen."""
    return -(-images // (batch * world))


def epoch_batches(
    images: TrainingImages, make: Maker, *, batch: int, seed: int, epoch: int, workers: int, rank: int = 0, world: int = 1
) -> Iterator[Batch]:
    """This process's batches of one epoch, shuffled; the last one is filled up from the start of the shuffled order."""
    order = np.random.default_rng((seed, epoch)).permutation(len(images))
    count = batches_per_epoch(len(images), batch, world)
    order = np.resize(order, count * batch * world)
    places = np.arange(len(order)).reshape(count, world, batch)[:, rank]  # (count, B)

    def example(place: int) -> Example:
        return make(int(order[place]), np.random.default_rng((seed, epoch, place)))

    with ThreadPoolExecutor(max(workers, 1)) as pool:
        waiting: deque = deque()
        try:
            for row in places:
                waiting.append([pool.submit(example, int(place)) for place in row])
                if len(waiting) > BATCHES_AHEAD:
                    yield _collate([future.result() for future in waiting.popleft()])
            while waiting:
                yield _collate([future.result() for future in waiting.popleft()])
        finally:
            pool.shutdown(cancel_futures=True)


def _collate(examples: list[Example]) -> Batch:
    images = torch.from_numpy(np.stack([example.image for example in examples]))
    targets = [Target(torch.from_numpy(e.boxes).float(), torch.from_numpy(e.labels).long()) for e in examples]
    return Batch(images, targets)
