"""Plain images: one file or a folder of them, without annotations."""

from __future__ import annotations

from pathlib import Path

from edgedet.data.records import Record, Source
from edgedet.errors import SplitAbsent
from edgedet.images import SUFFIXES, image_paths


def matches(path: Path) -> bool:
    """Whether the path is an image file or a folder with images somewhere below it."""
    return path.suffix.lower() in SUFFIXES if path.is_file() else bool(image_paths(path))


def read(path: Path, split: str | None) -> Source:
    """Every image; `split` names a subfolder."""
    folder = path if split is None else path / split
    if not folder.exists():
        raise SplitAbsent(f"{path}: plain images without a folder for the split {split!r}; leave the split out")
    images = [folder] if folder.is_file() else image_paths(folder)
    return Source((), [Record.empty(image, image_id) for image_id, image in enumerate(images)], annotated=False)
