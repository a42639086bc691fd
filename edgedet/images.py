"""Image files: read to BGR, with one clear error for a file that is not a whole image."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from edgedet.errors import ImageError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})


def read_image(path: Path, *, annotated_hw: tuple[int, int] | None = None) -> np.ndarray:
    """The image as (H, W, 3) uint8 BGR, turned upright by its EXIF tag.

    Greyscale, alpha and 16-bit files are converted. annotated_hw: the size the
    annotations were drawn on; where only the unturned picture has it, that one
    is returned, because its boxes would lie elsewhere otherwise.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror}") from error
    _check_whole(path, data)
    buffer = np.frombuffer(data, np.uint8)
    image = cv2.imdecode(buffer, cv2.IMREAD_COLOR)
    if image is None:
        raise ImageError(f"{path}: not an image OpenCV can decode ({len(data)} bytes); remove or replace it")
    if annotated_hw is None or image.shape[:2] == annotated_hw:
        return image
    unturned = cv2.imdecode(buffer, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if unturned is not None and unturned.shape[:2] == annotated_hw:
        return unturned
    (height, width), (want_h, want_w) = image.shape[:2], annotated_hw
    raise ImageError(f"{path}: is {width}x{height} but its annotations say {want_w}x{want_h}; correct the annotation file")


def _check_whole(path: Path, data: bytes) -> None:
    """Refuse the truncated files that OpenCV decodes to a half-grey picture without an error."""
    if not data:
        raise ImageError(f"{path}: is empty (0 bytes)")
    if data[:2] == b"\xff\xd8" and data.rfind(b"\xff\xd9", len(data) // 2) < 0:
        raise ImageError(f"{path}: JPEG is truncated (no end marker in {len(data)} bytes); copy it again")
    if data[:8] == b"\x89PNG\r\n\x1a\n" and data.rfind(b"IEND") < 0:
        raise ImageError(f"{path}: PNG is truncated (no IEND chunk in {len(data)} bytes); copy it again")


def image_paths(folder: Path) -> list[Path]:
    """Every image file below the folder, in name order."""
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
