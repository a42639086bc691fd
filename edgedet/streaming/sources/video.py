"""A video file: every frame once, at its own time."""

from __future__ import annotations

import os
from pathlib import Path

import cv2

from edgedet import images
from edgedet.errors import SourceError
from edgedet.streaming.sources.base import Clip, Timeouts, one_thread, open_capture

LIVE = False
SMALL = 1280 * 720
"""Pixels up to which one thread decodes faster than an engine detects (1500 a second of 768x432), in a fifth less CPU time."""


def accepts(address: str) -> bool:
    """Whether the address is a file that is no image."""
    # Not pathlib's is_file: it raises where an address is too long for a name, as some with tokens are.
    return os.path.isfile(address) and Path(address).suffix.lower() not in images.SUFFIXES  # noqa: PTH113


def open(address: str, timeouts: Timeouts) -> Clip:
    """The video file, its first frame decoded."""
    path = Path(address)
    size = path.stat().st_size
    if size == 0:
        raise SourceError(f"{path}: is empty (0 bytes); copy it again")
    capture = open_capture(str(path))
    # FFmpeg draws the letters of a text file and calls that a video of the codec `ansi`.
    if not capture.isOpened() or int(capture.get(cv2.CAP_PROP_FOURCC)) == cv2.VideoWriter.fourcc(*"ansi"):
        raise SourceError(f"{path}: not a video OpenCV can open ({size} bytes); is it truncated or no video?")
    if capture.get(cv2.CAP_PROP_FRAME_WIDTH) * capture.get(cv2.CAP_PROP_FRAME_HEIGHT) <= SMALL:
        alone = open_capture(str(path), backend=cv2.CAP_FFMPEG, options=one_thread())
        capture = alone if alone.isOpened() else capture  # not FFmpeg's, as it is
    return Clip(
        str(path), capture, no_frame="holds no frame that can be decoded; it is truncated, or its codec is not supported"
    )
