"""Calibration images: what a model's ranges are taken from, held to their hygiene before they are believed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from edgedet import artifact
from edgedet.console import track
from edgedet.data.dataset import READERS, Dataset, open_dataset
from edgedet.errors import DataError, ImageError, SplitAbsent
from edgedet.images import read_image

MIN_IMAGES = 32
THUMBNAIL_HW = (32, 32)
SAME_GREY = 8
"""Grey levels, of 255, that no cell of two thumbnails of one picture differs by.

Measured: a JPEG written again at quality 30 moves a cell by 4 at most (128 COCO
photos, 292 of BCCD); the two most similar different pictures of BCCD differ by
24 in one cell, of COCO by 100. A copy of another size may go unnoticed.
"""
BLANK_RANGE = 8
"""Grey levels between the darkest and the brightest cell of a blank picture; photos of COCO and BCCD have 63 at least."""
CANDIDATES = 4  # frames looked at for every one wanted of a video
_SEEK_BEYOND = 250  # frames; a shorter way is decoded through, which is exact and no slower

Item = TypeVar("Item")


@dataclass(frozen=True)
class CalibrationImages:
    """Images to iterate, any number of times: (H, W, 3) uint8 BGR, read one at a time, sizes may differ.

    name: of the folder, file or data set. sha256: of the images' own digests in
    order, the same wherever they lie. skipped: one message an image that cannot
    be read, or about the damaged end of a video. objections: what is wrong with the rest and was forced; none otherwise.
    paths: of the images' files; none of a video's frames.
    """

    name: str
    sha256: str
    count: int
    skipped: tuple[str, ...]
    objections: tuple[str, ...]
    paths: tuple[Path, ...]
    _read: Callable[[], Iterator[np.ndarray]] = field(repr=False, compare=False)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[np.ndarray]:
        return self._read()


def open_images(source: Path, *, limit: int | None = 128, force: bool = False) -> CalibrationImages:
    """The images of a folder, a data set or a video: `limit` at most, spread evenly, each looked at once.

    Of a data set with a `train` split, that one: what accuracy is measured on is
    not calibrated on. Of a video, frames that differ. Fewer than MIN_IMAGES,
    blank or duplicate images are a DataError, or with `force` objections.
    """
    if not (source.is_dir() or source.is_file()):
        raise DataError(f"{source}: no such file or folder; name a folder of images, a data set or a video")
    is_video = source.is_file() and not any(reader.matches(source) for reader in READERS)
    images = _from_video(source, limit) if is_video else _from_files(source, limit)
    if images.objections and not force:
        raise DataError(f"{source}: {'; '.join(images.objections)}; give other images, or take these as they are with --force")
    return images


def _from_files(source: Path, limit: int | None) -> CalibrationImages:
    dataset = _training_images(source)
    skipped = list(dataset.problems.unreadable)
    paths, digests, thumbnails = [], [], []
    for sample in track(_spread(dataset.samples, limit), f"checking {dataset.name}"):
        try:
            thumbnails.append(_thumbnail(read_image(sample.path)))
        except ImageError as error:
            skipped.append(str(error))
            continue
        paths.append(sample.path)
        digests.append(artifact.sha256(sample.path))
    if not paths:
        raise DataError(f"{source}: none of its {len(skipped)} images can be read; {_listed(skipped)}")
    root = source if source.is_dir() else source.parent
    names = [path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name for path in paths]
    objections = [*_too_few(len(paths), len(skipped)), *_blank_or_duplicate(names, np.stack(thumbnails))]
    read = partial(map, read_image, paths)
    name, sha256 = source.resolve().name, _digest(digests)
    return CalibrationImages(name, sha256, len(paths), tuple(skipped), tuple(objections), tuple(paths), read)


def _training_images(source: Path) -> Dataset:
    try:
        return open_dataset(source, split="train")
    except SplitAbsent:
        return open_dataset(source)


def _from_video(source: Path, limit: int | None) -> CalibrationImages:
    count = _frame_count(source)
    candidates = _spread(range(count), None if limit is None else CANDIDATES * limit)
    frames = track(_frames_at(source, candidates), f"choosing frames of {source.name}", total=len(candidates))
    thumbnails = {index: _thumbnail(frame) for index, frame in frames}
    indices = _differing(thumbnails, limit)
    if not indices:
        what = "every frame is blank" if thumbnails else "holds no frame that can be decoded"
        raise DataError(f"{source}: {what}; name another video or a folder of images")
    skipped = []
    if len(thumbnails) < len(candidates):
        skipped.append(f"{source}: gives no frame after {max(thumbnails)} of the {count} it states")
    sha256 = artifact.sha256(source)
    digest = _digest(f"{sha256}:{index}" for index in indices)
    objections, read = _too_few(len(indices)), partial(_reread, source, indices)
    return CalibrationImages(source.resolve().name, digest, len(indices), tuple(skipped), tuple(objections), (), read)


def _differing(thumbnails: dict[int, np.ndarray], limit: int | None) -> list[int]:
    """Ascending indices of up to `limit` frames, none blank and no two alike, spread over all those given.

    They are tried coarse to fine: however many are taken, they lie evenly (van der Corput's sequence).
    """
    indices, grey = list(thumbnails), np.array(list(thumbnails.values()))
    coarse_to_fine = sorted(range(len(indices)), key=lambda position: f"{position:032b}"[::-1])
    taken: list[int] = []
    for position in coarse_to_fine:
        if len(taken) == limit:
            break
        if not _is_blank(grey[position]) and not _alike(grey[position], grey[taken]).any():
            taken.append(position)
    return [indices[position] for position in sorted(taken)]


def _too_few(count: int, skipped: int = 0) -> list[str]:
    if count >= MIN_IMAGES:
        return []
    unreadable = f" ({skipped} more unreadable)" if skipped else ""
    return [f"usable images: {count}{unreadable}, where ranges need {MIN_IMAGES} that differ"]


def _blank_or_duplicate(names: Sequence[str], thumbnails: np.ndarray) -> list[str]:
    """What is wrong with which images; thumbnails: (N, h, w) int16 grey. A blank one is no duplicate of another."""
    blank = [index for index, thumbnail in enumerate(thumbnails) if _is_blank(thumbnail)]
    rest, duplicates = [index for index in range(len(names)) if index not in blank], []
    for place, index in enumerate(rest):
        same = np.flatnonzero(_alike(thumbnails[index], thumbnails[rest[:place]]))
        if len(same):
            duplicates.append(f"{names[index]} is {names[rest[same[0]]]} again")
    objections = []
    if blank:
        objections.append(f"blank images: {len(blank)} ({_listed(names[index] for index in blank)})")
    if duplicates:
        objections.append(f"duplicate images: {len(duplicates)} ({_listed(duplicates)})")
    return objections


def _thumbnail(frame: np.ndarray) -> np.ndarray:
    """(32, 32) int16 mean grey of each cell of a BGR frame, 0 to 255."""
    grey = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
    return cv2.resize(grey, THUMBNAIL_HW[::-1], interpolation=cv2.INTER_AREA).astype(np.int16)


def _alike(thumbnail: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(N,) bool, which of N thumbnails show the same picture: every cell, so that one moved object is a difference."""
    return (np.abs(others - thumbnail) <= SAME_GREY).all(axis=(1, 2))


def _is_blank(thumbnail: np.ndarray) -> bool:
    return bool(np.ptp(thumbnail) <= BLANK_RANGE)


def _spread(items: Sequence[Item], limit: int | None) -> list[Item]:
    """Up to `limit` items, evenly spaced."""
    count = len(items) if limit is None else min(limit, len(items))
    return [items[place * len(items) // count] for place in range(count)]


def _digest(digests: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _listed(names: Iterable[str], limit: int = 5) -> str:
    """The first names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


@contextmanager
def _video(source: Path) -> Iterator[cv2.VideoCapture]:
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # quiet: the one error is raised here
    capture = cv2.VideoCapture(str(source))
    try:
        # FFmpeg draws the letters of a text file and calls that a video of the codec `ansi`.
        if not capture.isOpened() or int(capture.get(cv2.CAP_PROP_FOURCC)) == cv2.VideoWriter.fourcc(*"ansi"):
            size = source.stat().st_size
            raise DataError(f"{source}: no video OpenCV can open ({size} bytes); name a video, a data set or a folder")
        yield capture
    finally:
        capture.release()


def _frame_count(source: Path) -> int:
    """How many frames the video states, or has where it states none; the last stated ones may not decode."""
    with _video(source) as capture:
        stated = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        return stated if stated > 0 else sum(1 for _ in iter(capture.grab, False))


def _frames_at(source: Path, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
    """The frames at ascending indices, with these, as far as the video can be decoded."""
    with _video(source) as capture:
        at = 0
        for index in indices:
            if index - at > _SEEK_BEYOND:
                capture.set(cv2.CAP_PROP_POS_FRAMES, index)
                at = index
            while at < index and capture.grab():
                at += 1
            there, frame = capture.read()
            if not there:
                return
            at += 1
            yield index, frame


def _reread(source: Path, indices: Sequence[int]) -> Iterator[np.ndarray]:
    count = 0
    for _, frame in _frames_at(source, indices):
        count += 1
        yield frame
    if count < len(indices):
        raise DataError(f"{source}: gave {len(indices)} frames when it was opened, {count} now; is it being written to?")
