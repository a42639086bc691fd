"""YOLO txt: one line an object, `class cx cy w h` in fractions of the image, or a polygon's corners after the class."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from edgedet.boxes import cxcywh_to_xyxy
from edgedet.data.records import Record, Source, read_lines
from edgedet.errors import DataError, ImageError, SplitAbsent
from edgedet.images import SUFFIXES, image_paths, image_size_hw

_CONFIGURATIONS = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
_NAME_FILES = ("classes.txt", "labels/classes.txt", "obj.names")


def matches(path: Path) -> bool:
    """Whether the path is a data.yaml, or a folder with one or with `images/` and `labels/`."""
    if path.is_file():
        return path.suffix.lower() in (".yaml", ".yml")
    return _configuration(path) is not None or any((path / "labels").rglob("*.txt"))


def read(path: Path, split: str | None) -> Source:
    """The images and boxes of one split, or of all."""
    file = path if path.is_file() else _configuration(path)
    if file is not None:
        settings = _load(file)
        classes, images = _classes(file, settings), _configured_images(file, settings, split)
    else:
        classes, images = _listed_classes(path), _folder_images(path, split)
    # dict.fromkeys keeps the order and drops an image that two lists name.
    unique = list(dict.fromkeys(images))
    records = [_record(image, image_id, classes) for image_id, image in enumerate(unique)]
    return Source(classes, records, unannotated=sum(not _label_file(image).is_file() for image in unique))


def _configuration(folder: Path) -> Path | None:
    return next((folder / name for name in _CONFIGURATIONS if (folder / name).is_file()), None)


def _load(file: Path) -> dict[str, Any]:
    try:
        import yaml
    except ImportError as error:
        raise DataError("reading a YOLO data.yaml needs PyYAML; run: pip install 'edgedet[eval]'") from error
    try:
        settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError, OSError) as error:
        raise DataError(f"{file}: not readable as YAML ({error})") from error
    if not isinstance(settings, dict) or not isinstance(settings.get("names"), (list, dict)) or not settings["names"]:
        raise DataError(f"{file}: has no `names`, the list of classes; add it")
    return settings


def _classes(file: Path, settings: dict[str, Any]) -> tuple[str, ...]:
    names = settings["names"]
    if isinstance(names, list):
        return tuple(str(name) for name in names)
    if set(names) != set(range(len(names))):
        raise DataError(f"{file}: the keys of `names` must be 0 to {len(names) - 1}, got {sorted(names, key=str)}")
    return tuple(str(names[index]) for index in range(len(names)))


def _listed_classes(folder: Path) -> tuple[str, ...]:
    file = next((folder / name for name in _NAME_FILES if (folder / name).is_file()), None)
    if file is None:
        raise DataError(f"{folder}: YOLO labels without class names; add classes.txt, one name a line, or a data.yaml")
    return tuple(read_lines(file))


def _configured_images(file: Path, settings: dict[str, Any], split: str | None) -> Iterable[Path]:
    """Images of the split that data.yaml names; of all its splits where none is asked for."""
    splits = {key: settings[key] for key in ("train", "val", "test") if settings.get(key)}
    if split is not None and split not in splits:
        raise SplitAbsent(f"{file}: has no split {split!r}; it has: {', '.join(splits) or 'none'}")
    root = file.parent / str(settings.get("path") or ".")
    roots = [root, file.parent]
    for value in splits.values() if split is None else [splits[split]]:
        for entry in map(str, value if isinstance(value, list) else [value]):
            # Some exporters write `../train/images` for a folder beside the file.
            tried = [place / name for place in roots for name in (entry, entry.removeprefix("../"))]
            found = next((place for place in tried if place.exists()), None)
            if found is None:
                raise DataError(
                    f"{file}: {entry} is absent; looked at {', '.join(str(place) for place in dict.fromkeys(tried))}"
                )
            yield from _listed_images(found) if found.is_file() else image_paths(found)


def _folder_images(folder: Path, split: str | None) -> Iterable[Path]:
    images = folder / "images" if (folder / "images").is_dir() else folder
    if split is None:
        return image_paths(images)
    if (images / split).is_dir():
        return image_paths(images / split)
    if (folder / f"{split}.txt").is_file():
        return _listed_images(folder / f"{split}.txt")
    there = sorted(p.name for p in images.iterdir() if p.is_dir()) + sorted(p.stem for p in folder.glob("*.txt"))
    raise SplitAbsent(
        f"{folder}: no split {split!r} (neither images/{split}/ nor {split}.txt); there are: {', '.join(there) or 'none'}"
    )


def _listed_images(file: Path) -> list[Path]:
    """The images a text file lists, relative to its folder."""
    return [file.parent / line for line in read_lines(file) if Path(line).suffix.lower() in SUFFIXES]


def _label_file(image: Path) -> Path:
    """`…/labels/a.txt` for `…/images/a.jpg`; beside the image where no folder is called images."""
    parts = list(image.with_suffix(".txt").parts)
    for index in reversed(range(len(parts) - 1)):
        if parts[index] == "images":
            return Path(*parts[:index], "labels", *parts[index + 1 :])
    return image.with_suffix(".txt")


def _record(image: Path, image_id: int, classes: tuple[str, ...]) -> Record:
    """One image's boxes in pixels; an image whose size cannot be read keeps none and is reported later."""
    file = _label_file(image)
    if not file.is_file():
        return Record.empty(image, image_id)
    rows = [_row(line, file, number) for number, line in enumerate(read_lines(file), 1)]
    try:
        height, width = image_size_hw(image)
    except ImageError:
        return Record.empty(image, image_id)
    boxes = np.array([box for _, box in rows], np.float64).reshape(len(rows), 4) * (width, height, width, height)
    names = tuple(classes[index] if 0 <= index < len(classes) else None for index, _ in rows)
    return Record(image, image_id, boxes, names, np.zeros(len(rows), bool), size_hw=(height, width))


def _row(line: str, file: Path, number: int) -> tuple[int, np.ndarray]:
    """Class index and xyxy box, in fractions of the image, of one line."""
    try:
        index, *rest = (float(field) for field in line.split())
        values = np.array(rest)
        if len(values) == 4:
            return int(index), cxcywh_to_xyxy(values)
        if len(values) >= 6 and len(values) % 2 == 0:
            corners = values.reshape(-1, 2)
            return int(index), np.concatenate([corners.min(axis=0), corners.max(axis=0)])
    except (ValueError, OverflowError):
        pass
    raise DataError(f"{file}:{number}: {line[:60]!r} is neither `class cx cy w h` nor a class and a polygon's corners")
