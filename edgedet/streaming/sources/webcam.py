"""A camera of this machine, by its index."""

from __future__ import annotations

import re

from edgedet.errors import SourceError
from edgedet.streaming.sources.base import Camera, Timeouts, open_capture

LIVE = True
_ADDRESS = re.compile(r"(?:/dev/video)?(\d+)")


def accepts(address: str) -> bool:
    """Whether the address is an index such as 0, or /dev/video0."""
    return _ADDRESS.fullmatch(address) is not None


def open(address: str, timeouts: Timeouts) -> Camera:
    """The camera, its first frame taken."""
    matched = _ADDRESS.fullmatch(address)
    if matched is None:
        raise SourceError(f"{address}: no camera index; give a number such as 0")
    index = int(matched[1])
    capture = open_capture(index)
    if not capture.isOpened():
        raise SourceError(f"camera {index}: there is none with this index; try 0, or list them with `ls /dev/video*`")
    return Camera(f"camera {index}", capture, no_frame="opens but gives no frame; is another program using it?")
