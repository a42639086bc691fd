"""Which images train: what is wrong in a split is said, never worked around in silence."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edgedet.errors import DataError
from edgedet.training.config import TrainingConfig
from edgedet.training.splits import open_splits


@pytest.fixture
def both(squares, tmp_path) -> Path:
    """A folder with a train and a val split."""
    for file in squares:
        shutil.copytree(file.parent / "images", tmp_path / "images" / file.parent.name)
        shutil.copy(file, tmp_path)
    return tmp_path


def config(data: Path, **changes) -> TrainingConfig:
    return TrainingConfig(**{"data": data, "out": data / "run", "model": "yolox-nano", **changes})


def test_both_splits_of_a_folder_are_found(both):
    train, val = open_splits(config(both))
    assert (len(train), len(val)) == (8, 4)


def test_a_broken_validation_split_is_an_error_not_a_reason_to_hold_out(both):
    (both / "instances_val.json").write_text("{")
    with pytest.raises(DataError, match=r"instances_val\.json: not COCO"):
        open_splits(config(both))
