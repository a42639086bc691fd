"""A camera of this machine, by its index, or by a link to it such as those in /dev/v4l/by-id."""

from __future__ import annotations

import re
from pathlib import Path

from edgedet.errors import SourceError
from edgedet.streaming.sources.base import Camera, Timeouts, open_capture

LIVE = True
_ADDRESS = re.compile(r"(?:/dev/video)?(\d{1,3})")


def accepts(address: str) -> bool:
    """Whether the address is an index such as 0, /dev/video0, or a link to one."""
    return _index(address) is not None


def open(address: str, timeouts: Timeouts) -> Camera:
    """The camera, its first frame taken."""
    index = _index(address)
    if index is None:
        raise SourceError(f"{address}: no camera index; give a number such as 0")
    capture = open_capture(index)
    if not capture.isOpened():
        if Path(f"/dev/video{index}").exists():
            raise SourceError(
                f"camera {index}: /dev/video{index} gives no pictures to this user; is it in use, no camera, "
                "or is the user not in the group `video`?"
            )
        raise SourceError(f"camera {index}: there is none with this index; try 0, or list them with `ls /dev/video*`")
    return Camera(f"camera {index}", capture, no_frame="opens but gives no frame; is another program using it?")


def _index(address: str) -> int | None:
    """The camera's number. A link is followed anew each time: a camera that was unplugged may come back under another."""
    target = str(Path(address).resolve()) if address.startswith("/") else address
    matched = _ADDRESS.fullmatch(target)
    return int(matched[1]) if matched else None
