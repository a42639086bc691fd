"""COCO instances JSON: read and write. Category ids may have holes; labels are their order."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgedet.artifact import write_text
from edgedet.boxes import area, xywh_to_xyxy, xyxy_to_xywh
from edgedet.data.records import Record, Source
from edgedet.errors import DataError, SplitAbsent

if TYPE_CHECKING:
    from edgedet.data.dataset import Dataset

_PATTERNS = (
    "instances_*.json",
    "annotations/instances_*.json",
    "_annotations.coco.json",
    "*/_annotations.coco.json",  # Roboflow: one folder a split
    "annotations/*.json",
)


def matches(path: Path) -> bool:
    """Whether the path is a JSON file or a folder that holds COCO annotations where they are usually kept."""
    return path.suffix.lower() == ".json" if path.is_file() else bool(_files(path))


def read(path: Path, split: str | None) -> Source:
    """The images and boxes of one annotation file; `split` chooses among a folder's."""
    file = _choose(path, split)
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
        return _parse(file, content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise DataError(f"{file}: not COCO instances JSON ({type(error).__name__}: {error}); name another file") from error


def write(dataset: Dataset, path: Path) -> None:
    """Write the data set as COCO instances JSON; category ids are labels + 1.

    Images below the file's folder are named relative to it, others by their whole path.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for sample in dataset.samples:
        height, width = sample.size_hw or sample.read().shape[:2]
        name = _relative(sample.path, path.parent)
        images.append({"id": sample.image_id, "file_name": name, "height": height, "width": width})
        areas = area(sample.boxes) if sample.areas is None else sample.areas
        for box, label, crowd, size in zip(xyxy_to_xywh(sample.boxes), sample.labels, sample.crowd, areas, strict=True):
            annotations.append({
                "id": len(annotations) + 1, "image_id": sample.image_id, "category_id": int(label) + 1,
                "bbox": [float(v) for v in box], "area": float(size), "iscrowd": int(crowd),
            })  # fmt: skip
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(dataset.classes)]
    write_text(path, json.dumps({"images": images, "annotations": annotations, "categories": categories}))


def _relative(image: Path, folder: Path) -> str:
    image, folder = image.resolve(), folder.resolve()
    return (image.relative_to(folder) if image.is_relative_to(folder) else image).as_posix()


def _files(folder: Path) -> list[Path]:
    """The annotation files of the first pattern that finds any."""
    return next((found for pattern in _PATTERNS if (found := sorted(folder.glob(pattern)))), [])


def _choose(path: Path, split: str | None) -> Path:
    if path.is_file():
        if split is not None:
            raise SplitAbsent(f"{path} is one annotation file, so it has no split {split!r}; name the folder that holds both")
        return path
    files = _files(path)
    chosen = [file for file in files if _split_name(file).startswith(split or "")]
    if len(chosen) == 1:
        return chosen[0]
    listed = ", ".join(str(file) for file in files)
    if split is None:
        raise DataError(f"{path} holds several COCO files; name one of: {listed}")
    error = DataError if chosen else SplitAbsent
    raise error(f"{path}: {len(chosen)} COCO files for the split {split!r}; there are: {listed}")


def _split_name(file: Path) -> str:
    """`val2017` of `instances_val2017.json`, `valid` of `valid/_annotations.coco.json`."""
    return file.parent.name if file.name == "_annotations.coco.json" else file.stem.removeprefix("instances_")


def _parse(file: Path, content: dict[str, Any]) -> Source:
    categories = sorted(content["categories"], key=lambda category: category["id"])
    names = {category["id"]: str(category["name"]) for category in categories}
    by_image = defaultdict(list)
    for annotation in content.get("annotations", []):
        by_image[annotation["image_id"]].append(annotation)
    roots = _image_roots(file)
    records = [
        _record(_locate(roots, image["file_name"]), image, by_image.pop(image["id"], []), names) for image in content["images"]
    ]
    absent = tuple(f"image id {image_id}" for image_id in by_image)
    return Source(tuple(names.values()), records, absent, annotated="annotations" in content)


def _record(path: Path, image: dict[str, Any], annotations: list[dict[str, Any]], names: dict[int, str]) -> Record:
    boxes = np.array([annotation["bbox"] for annotation in annotations], np.float64).reshape(len(annotations), 4)
    sides = boxes[:, 2] * boxes[:, 3]
    size_hw = (int(image["height"]), int(image["width"])) if image.get("height") and image.get("width") else None
    return Record(
        path=path,
        image_id=int(image["id"]),
        boxes=xywh_to_xyxy(boxes),
        names=tuple(names.get(annotation["category_id"]) for annotation in annotations),
        crowd=np.array([bool(annotation.get("iscrowd", 0)) for annotation in annotations], bool),
        areas=np.array([annotation.get("area", side) for annotation, side in zip(annotations, sides, strict=True)], np.float64),
        size_hw=size_hw,
    )


def _image_roots(file: Path) -> list[Path]:
    """Folders that `file_name` may be relative to, the likeliest first."""
    folder, split = file.parent, _split_name(file)
    bases = [folder / "images", folder, folder.parent / "images", folder.parent]
    return [root for base in bases for root in (base, base / split) if root.is_dir()] or [folder]


def _locate(roots: list[Path], name: str) -> Path:
    """The image below the first root that has it; below the first root where none has."""
    return next((root / name for root in roots if (root / name).is_file()), roots[0] / name)
