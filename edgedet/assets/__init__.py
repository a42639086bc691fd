"""Files that come with the package."""

from __future__ import annotations

from pathlib import Path


def street_nano() -> Path:
    """A YOLOX-nano for person, bicycle, car, motorcycle, bus and truck; `street-nano.md` beside it is its card."""
    return Path(__file__).with_name("street-nano.safetensors")


def named(path: Path) -> Path:
    """The path itself, or the embedded checkpoint where nothing lies at the path and it is `street-nano`."""
    return street_nano() if str(path) == "street-nano" and not path.exists() else path
