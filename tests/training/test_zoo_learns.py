"""The small variant of every family learns sixteen pictures by heart, through the public way to train."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from edgedet.training import loop
from edgedet.training.config import TrainingConfig


@dataclass(frozen=True)
class Case:
    """What is enough for a family on two cores: side of the input in pixels, epochs, pictures a step, peak rate.

    precision: bf16-mixed halves the time of heavy heads where the CPU has bf16.
    """

    size: int
    epochs: int
    batch: int = 8
    lr: float = 1e-3
    precision: str = "32-true"


CASES: dict[str, Case] = {
    "retinanet-r18": Case(320, epochs=90, batch=2, precision="bf16-mixed"),
    "fcos-r18": Case(320, epochs=60, batch=2, precision="bf16-mixed"),
    "efficientdet-lite0": Case(320, epochs=110, batch=2, lr=2e-3),
    "centernet-r18": Case(256, epochs=130, batch=4),
    "yolov1-tiny": Case(448, epochs=80, batch=2, lr=5e-5),
    "ssd-lite-mobilenetv3": Case(128, epochs=50, batch=4),
    "yolov3-tiny": Case(256, epochs=80, batch=4),
    "yolov4-tiny": Case(256, epochs=70, batch=4),
}


@pytest.fixture
def sixteen(bccd, tmp_path):
    """A COCO file of the first sixteen training pictures of BCCD; its images stay where they are."""
    from edgedet.data.dataset import open_dataset

    dataset = open_dataset(bccd, split="train")
    images, annotations = [], []
    for number, sample in enumerate(dataset.samples[:16]):
        height, width = sample.read().shape[:2]
        images.append({"id": number, "file_name": str(sample.path), "height": height, "width": width})
        for (x1, y1, x2, y2), label in zip(sample.boxes.tolist(), sample.labels.tolist(), strict=True):
            box = [x1, y1, x2 - x1, y2 - y1]
            entry = {"id": len(annotations) + 1, "image_id": number, "category_id": label + 1, "bbox": box}
            annotations.append({**entry, "area": box[2] * box[3], "iscrowd": 0})
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(dataset.classes)]
    path = tmp_path / "sixteen.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("model", CASES)
def test_sixteen_pictures_are_learnt_by_heart(model, sixteen, tmp_path):
    case = CASES[model]
    config = TrainingConfig(
        data=sixteen, val=sixteen, model=model, out=tmp_path / "run", size=case.size,
        epochs=case.epochs, plain_epochs=case.epochs, batch=case.batch, lr=case.lr,
        precision=case.precision,
    )  # fmt: skip
    result = loop.train(config)
    assert result is not None
    assert result.ap50 >= 0.90
