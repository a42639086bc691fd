"""Batches: the same for the same seed and epoch, each image once an epoch, and at the end what inference sees."""

import numpy as np
import pytest
import torch

from edgedet.data.dataset import open_dataset
from edgedet.letterbox import Letterbox
from edgedet.training.augmentation import Augmentation
from edgedet.training.batches import TrainingImages, batches_per_epoch, epoch_batches

BOX = Letterbox((64, 64))


@pytest.fixture
def images(squares) -> TrainingImages:
    return TrainingImages(open_dataset(squares[0]), BOX, Augmentation())


def epoch(images, *, number=0, workers=2, seed=0, batch=4, rank=0, world=1, plain=False):
    make = images.plain if plain else images.augmented
    return list(epoch_batches(images, make, batch=batch, seed=seed, epoch=number, workers=workers, rank=rank, world=world))


def same(first, second) -> bool:
    return all(torch.equal(a.images, b.images) for a, b in zip(first, second, strict=True))


def test_batches_depend_on_seed_and_epoch_but_not_on_the_number_of_threads(images):
    assert same(epoch(images, workers=1), epoch(images, workers=3))
    assert not same(epoch(images), epoch(images, number=1))
    assert not same(epoch(images), epoch(images, seed=1))


def test_the_last_epochs_see_exactly_what_inference_sees(squares):
    dataset = open_dataset(squares[0])
    images = TrainingImages(dataset, Letterbox((96, 96)), Augmentation(flip=0))
    for index, sample in enumerate(dataset.samples):
        seen = images.plain(index, np.random.default_rng(0))
        expected, placement = Letterbox((96, 96)).apply(sample.read())
        assert np.array_equal(seen.image, expected)
        np.testing.assert_allclose(seen.boxes, placement.boxes_to_input(sample.boxes), atol=1e-4)


def test_every_image_is_seen_once_and_the_last_batch_is_filled_up(images):
    batches = epoch(images, batch=3, plain=True)
    assert [len(batch.images) for batch in batches] == [3, 3, 3]
    assert batches_per_epoch(8, 3, 1) == 3


def test_processes_share_the_images_of_an_epoch(squares):
    dataset = open_dataset(squares[0])
    images = TrainingImages(dataset, BOX, Augmentation(flip=0))
    seen = [
        tuple(image.flatten().tolist())
        for rank in (0, 1)
        for b in epoch(images, batch=2, rank=rank, world=2, plain=True)
        for image in b.images
    ]
    assert len(seen) == len(set(seen)) == 8


def test_leaving_an_epoch_early_stops_its_threads(images):
    batches = epoch_batches(images, images.augmented, batch=1, seed=0, epoch=0, workers=1)
    next(batches)
    batches.close()


def test_images_are_uint8_and_targets_float_boxes_with_long_labels(images):
    batch = epoch(images)[0]
    assert batch.images.shape == (4, 64, 64, 3)
    assert batch.images.dtype == torch.uint8
    assert all(t.boxes.dtype == torch.float32 and t.labels.dtype == torch.int64 for t in batch.targets)
