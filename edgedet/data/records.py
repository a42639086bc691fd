"""What a reader finds in a data set, before anything is judged: paths, boxes and class names as written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgedet.errors import DataError


@dataclass(frozen=True)
class Record:
    """One image as its annotation file tells it.

    path: where the image should be; it may be absent. boxes: (N, 4) float64
    xyxy, original-image pixels, unchecked. names: N class names, None where the
    file names no known class. crowd: (N,) bool. areas: (N,) float64 square
    pixels of the object's mask, where annotated. size_hw: as written, or None.
    """

    path: Path
    image_id: int
    boxes: np.ndarray
    names: tuple[str | None, ...]
    crowd: np.ndarray
    areas: np.ndarray | None = None
    size_hw: tuple[int, int] | None = None

    @classmethod
    def empty(cls, path: Path, image_id: int) -> Record:
        """An image without objects."""
        return cls(path, image_id, np.zeros((0, 4)), (), np.zeros(0, bool))


@dataclass(frozen=True)
class Source:
    """What a reader returns: class names in label order, one record an image, and what it could not place.

    absent: names of images that have annotations but no file or no entry.
    unannotated: images in an annotated set that have no annotation file of their own.
    annotated: False for plain images.
    """

    classes: tuple[str, ...]
    records: Sequence[Record]
    absent: tuple[str, ...] = ()
    unannotated: int = 0
    annotated: bool = True


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not blank, stripped; a file that is not text is a DataError."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text ({error})") from error
    return [line.strip() for line in text.splitlines() if line.strip()]
