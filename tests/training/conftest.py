"""A tiny data set that training can learn: coloured squares on grey."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

COLORS = {"red": (40, 40, 220), "green": (60, 200, 60)}


def write_squares(folder: Path, count: int, *, side: int = 64, seed: int = 0) -> Path:
    """COCO data of `count` images in the folder; returns the annotation file."""
    random = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for image_id in range(1, count + 1):
        picture = np.full((side, side, 3), 110, np.uint8)
        label = int(random.integers(2))
        width, height = (int(v) for v in random.integers(16, 30, 2))
        x, y = int(random.integers(side - width)), int(random.integers(side - height))
        cv2.rectangle(picture, (x, y), (x + width - 1, y + height - 1), list(COLORS.values())[label], -1)
        cv2.imwrite(str(folder / "images" / f"{image_id}.png"), picture)
        images.append({"id": image_id, "file_name": f"{image_id}.png", "height": side, "width": side})
        annotations.append({"id": image_id, "image_id": image_id, "category_id": label + 1, "bbox": [x, y, width, height]})
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(COLORS)]
    file = folder / f"instances_{folder.name}.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return file


@pytest.fixture(scope="session")
def squares(tmp_path_factory) -> tuple[Path, Path]:
    """Annotation files of 8 training and 4 validation images, 64×64."""
    folder = tmp_path_factory.mktemp("squares")
    return write_squares(folder / "train", 8), write_squares(folder / "val", 4, seed=1)
