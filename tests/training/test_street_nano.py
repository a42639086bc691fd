"""The embedded model: small, licensed, and as good as its base on photos that trained neither it nor its choice of epoch."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from edgedet.assets import street_nano
from edgedet.data.dataset import open_dataset
from edgedet.data.evaluation import evaluate
from edgedet.models import checkpoint
from edgedet.training.evaluation import detect


@pytest.fixture(scope="module")
def street():
    return checkpoint.load(street_nano())


def average_precision(model, coco_val, classes) -> float:
    dataset = open_dataset(coco_val, classes=classes)
    label = np.array([classes.index(name) if name in classes else -1 for name in model.spec.classes], np.int32)
    found = [replace(one, labels=label[one.labels]) for one in detect(model.detector, model.spec, dataset.samples, batch=8)]
    return evaluate(dataset, [one[one.labels >= 0] for one in found]).ap


def test_file_is_small_licensed_and_names_its_classes(street):
    assert street_nano().stat().st_size <= 2.5e6
    assert street.spec.classes == ("person", "bicycle", "car", "motorcycle", "bus", "truck")
    assert (street.spec.name, street.spec.size_hw, street.spec.weights_licence) == ("yolox-nano", (416, 416), "Apache-2.0")
    assert all(torch.isfinite(tensor).all() for tensor in street.detector.state_dict().values())


def test_average_precision_is_at_most_two_points_below_the_base_and_the_card_tells_both(street, coco_val, yolox_nano_pth):
    base = average_precision(checkpoint.load(yolox_nano_pth), coco_val, street.spec.classes)
    ours = average_precision(street, coco_val, street.spec.classes)
    assert ours >= base - 0.02
    card = street_nano().with_suffix(".md").read_text()
    for figure in (base, ours):
        assert f"{figure:.4f}".lstrip("0") in card
