"""Image files: read to BGR, with one clear error for a file that is not a whole image."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np

from edgedet.errors import ImageError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})

OPENCV_LOG = getattr(cv2.utils, "logging", cv2)  # has setLogLevel and getLogLevel; in Debian's OpenCV 4.6 cv2 itself has
SILENT = 0

if "OPENCV_LOG_LEVEL" not in os.environ:
    # OpenCV writes its own complaint about every bad file to stderr; the errors raised here say it once.
    OPENCV_LOG.setLogLevel(SILENT)

_JPEG, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_PNG, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND"


def read_image(path: Path, *, annotated_hw: tuple[int, int] | None = None) -> np.ndarray:
    """The image as (H, W, 3) uint8 BGR, turned upright by its EXIF tag.

    Greyscale, alpha and 16-bit files are converted. annotated_hw: the size the
    annotations were drawn on; where only the unturned picture has it, that one
    is returned, because its boxes would lie elsewhere otherwise.
    """
    data = _read_bytes(path)
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


def check_image(path: Path) -> None:
    """Raise ImageError where the file is clearly no whole image, from its first and last bytes; nothing is decoded."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - 4096, 0))
            tail = file.read()
            file.seek(0)
            head = file.read(8)
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror}") from error
    if size and not cv2.haveImageReader(str(path)):
        raise ImageError(f"{path}: not an image OpenCV can decode ({size} bytes); remove or replace it")
    end = _JPEG_END if head.startswith(_JPEG) else _PNG_END if head == _PNG else b""
    if not size or end not in tail:
        _check_whole(path, _read_bytes(path))


def image_size_hw(path: Path) -> tuple[int, int]:
    """Height and width of what `read_image` returns, decoding only where the header does not settle it.

    A file with an EXIF block may be turned when read, so such a one is decoded.
    """
    data = _read_bytes(path)
    _check_whole(path, data)
    size_hw = None
    if data.startswith(_JPEG) and b"Exif\0" not in data:
        size_hw = _jpeg_size_hw(data)
    elif data.startswith(_PNG) and b"eXIf" not in data:
        size_hw = int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big")
    if size_hw is not None and min(size_hw) > 0:
        return size_hw
    height, width = read_image(path).shape[:2]
    return height, width


def image_paths(folder: Path) -> list[Path]:
    """Every image file below the folder, in name order."""
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())


def _jpeg_size_hw(data: bytes) -> tuple[int, int] | None:
    """Height and width from the frame header of a JPEG (ITU T.81, B.2.2), or None where none is found."""
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return int.from_bytes(data[at + 5 : at + 7], "big"), int.from_bytes(data[at + 7 : at + 9], "big")
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror}") from error


def _check_whole(path: Path, data: bytes) -> None:
    """Refuse the truncated files that OpenCV decodes to a half-grey picture without an error."""
    if not data:
        raise ImageError(f"{path}: is empty (0 bytes)")
    if data.startswith(_JPEG) and data.rfind(_JPEG_END, len(data) // 2) < 0:
        raise ImageError(f"{path}: JPEG is truncated (no end marker in {len(data)} bytes); copy it again")
    if data.startswith(_PNG) and data.rfind(_PNG_END) < 0:
        raise ImageError(f"{path}: PNG is truncated (no IEND chunk in {len(data)} bytes); copy it again")
