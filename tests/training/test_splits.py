"""Which images train: what is wrong in a split is said, never worked around in silence."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
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


def test_images_damaged_inside_or_of_another_size_are_left_out_by_name(both, capsys):
    for name, change in {"train/2": lambda data: data[:60] + bytes(20) + data[80:], "val/1": None}.items():
        file = both / f"images/{name}.png"
        if change:
            file.write_bytes(change(file.read_bytes()))
        else:
            cv2.imwrite(str(file), cv2.imread(str(file))[:40])
    train, val = open_splits(config(both))
    assert [sample.path.stem for sample in train.samples] == ["1", "3", "4", "5", "6", "7", "8"]
    assert [sample.path.stem for sample in val.samples] == ["2", "3", "4"]
    said = capsys.readouterr().err
    assert "2.png" in said
    assert "1.png: is 64x40 but its annotations say 64x64" in said
