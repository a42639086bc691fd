"""A folder of images, or one image, as a stream: in name order, sizes may differ."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from edgedet import images
from edgedet.errors import SourceError
from edgedet.streaming.frame import Frame
from edgedet.streaming.sources.base import Timeouts

LIVE = False
FPS = 25.0  # images state no times; this only spaces them


def accepts(address: str) -> bool:
    """Whether the address is a folder or an image file."""
    # Not pathlib's: they raise where an address is too long for a name, as some with tokens are.
    image = Path(address).suffix.lower() in images.SUFFIXES and os.path.isfile(address)  # noqa: PTH113
    return image or os.path.isdir(address)  # noqa: PTH112


def open(address: str, timeouts: Timeouts) -> ImageFolder:
    """The folder's images, or the one image."""
    return ImageFolder(Path(address))


class ImageFolder:
    """The images below a folder in name order; each frame's source is its own file."""

    live = False
    fps: float | None = FPS

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._paths = images.image_paths(path) if path.is_dir() else [path]
        self.frame_count: int | None = len(self._paths)
        if not self._paths:
            raise SourceError(f"{path}: no image in this folder; it takes {', '.join(sorted(images.SUFFIXES))}")

    def __iter__(self) -> Iterator[Frame]:
        for index, path in enumerate(self._paths):
            yield Frame(images.read_image(path), index, index / FPS, str(path))

    def __enter__(self) -> ImageFolder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass
