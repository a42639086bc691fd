"""OpenCV and FFmpeg kept from printing: what goes wrong is told once, by the caller's error."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from edgedet.images import OPENCV_LOG, SILENT

_FFMPEG_QUIET = "-8"  # AV_LOG_QUIET
_lock = threading.Lock()
_levels: list[int] = []
"""What OpenCV's level was, once for each `with` that is in progress: the level is the process's, the captures many threads'."""


@contextmanager
def quiet_opencv() -> Iterator[None]:
    """Nothing printed while a capture or a writer is opened.

    FFmpeg reads its level once a process, when the first of them is opened; a
    program that has opened one before keeps the level it had.
    """
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", _FFMPEG_QUIET)
    with _lock:
        _levels.append(_levels[0] if _levels else OPENCV_LOG.getLogLevel())
        OPENCV_LOG.setLogLevel(SILENT)
    try:
        yield
    finally:
        with _lock:
            level = _levels.pop()
            if not _levels:
                OPENCV_LOG.setLogLevel(level)
