"""Pictures that the embedded street detector sees much in."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def street_photos(coco_val: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The five photos with the most persons, bicycles, cars and motorcycles, in a folder."""
    folder, truth = tmp_path_factory.mktemp("photos"), json.loads(coco_val.read_text())
    counts = {image["file_name"]: 0 for image in truth["images"]}
    names = {image["id"]: image["file_name"] for image in truth["images"]}
    for annotation in truth["annotations"]:
        counts[names[annotation["image_id"]]] += annotation["category_id"] in (1, 2, 3, 4)
    for name in sorted(counts, key=lambda name: -counts[name])[:5]:
        shutil.copy(coco_val.parent / "images" / name, folder)
    return folder
