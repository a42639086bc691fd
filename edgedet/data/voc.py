"""Pascal VOC: one XML file an image, splits as lists of names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgedet.data.records import Record, Source, read_lines
from edgedet.errors import DataError, SplitAbsent
from edgedet.images import SUFFIXES

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_ANNOTATIONS = ("Annotations", "annotations")
_IMAGES = ("JPEGImages", "images")
_SPLITS = (".", "ImageSets/Main")


def matches(path: Path) -> bool:
    """Whether the path is a folder with XML files in `annotations/`."""
    return _annotation_folder(path) is not None


def read(path: Path, split: str | None) -> Source:
    """The images and boxes of a folder; classes are all names in its XML files, in alphabetical order.

    Coordinates are taken as written, as the edges of the box: labelling tools
    write them so. (The VOC challenge's own files count pixels from 1, which puts
    their left and top edges one pixel further in.)
    """
    annotations = _annotation_folder(path)
    if annotations is None:
        raise DataError(f"{path}: no XML files in {' or '.join(_ANNOTATIONS)}/")
    images = {image.stem: image for image in _images(path)}
    # All files are read, whatever the split: the label of a class must not depend on it.
    parsed = {file.stem: _parse(file) for file in sorted(annotations.glob("*.xml"))}
    records, absent, unannotated = [], [], 0
    for image_id, stem in enumerate(parsed if split is None else _split_stems(path, split)):
        image = images.get(stem)
        if image is None:
            absent.append(stem)
        elif stem in parsed:
            records.append(replace(parsed[stem], path=image, image_id=image_id))
        else:
            records.append(Record.empty(image, image_id))
            unannotated += 1
    classes = {name for record in parsed.values() for name in record.names if name is not None}
    return Source(tuple(sorted(classes)), records, tuple(absent), unannotated)


def _annotation_folder(path: Path) -> Path | None:
    return next((path / name for name in _ANNOTATIONS if any((path / name).glob("*.xml"))), None)


def _images(path: Path) -> Iterator[Path]:
    """Image files in the image folder, or beside the XML files where there is none."""
    folders = [path / name for name in _IMAGES if (path / name).is_dir()] or [path / name for name in _ANNOTATIONS]
    return (file for folder in folders for file in folder.glob("*") if file.suffix.lower() in SUFFIXES)


def _split_stems(path: Path, split: str) -> list[str]:
    files = [path / folder / f"{split}.txt" for folder in _SPLITS]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        there = sorted({found.stem for folder in _SPLITS for found in (path / folder).glob("*.txt")})
        raise SplitAbsent(f"{path}: no split {split!r} ({split}.txt is absent); there are: {', '.join(there) or 'none'}")
    lines = (Path(line) for line in read_lines(file))
    return [line.stem if line.suffix.lower() in {*SUFFIXES, ".xml"} else line.name for line in lines]


def _parse(file: Path) -> Record:
    """The XML file's content, without following entities; its path still that of the XML."""
    try:
        from defusedxml.ElementTree import ParseError, parse
    except ImportError as error:
        raise DataError("reading Pascal VOC needs defusedxml; run: pip install 'edgedet[eval]'") from error
    try:
        return _record(file, parse(file).getroot())
    except (ParseError, ValueError, OverflowError, OSError) as error:  # defusedxml's refusals are ValueErrors
        raise DataError(f"{file}: not Pascal VOC XML ({type(error).__name__}: {error})") from error


def _record(file: Path, root: Element) -> Record:
    items = list(root.iter("object"))
    corners = [[float(_text(item, f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")] for item in items]
    height, width = (int(float(root.findtext(f"size/{side}") or 0)) for side in ("height", "width"))
    return Record(
        path=file,
        image_id=0,
        boxes=np.array(corners, np.float64).reshape(len(items), 4),
        names=tuple(_text(item, "name") for item in items),
        crowd=np.array([(item.findtext("difficult") or "0").strip() == "1" for item in items], bool),
        size_hw=(height, width) if height and width else None,
    )


def _text(item: Element, tag: str) -> str:
    text = item.findtext(tag)
    if not text or not text.strip():
        raise ValueError(f"an object has no {tag}")
    return text.strip()
