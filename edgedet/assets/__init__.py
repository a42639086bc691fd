"""Files that go by a name: those that come with the package, and those that their makers publish."""

from __future__ import annotations

from pathlib import Path

from edgedet import published


def street_nano() -> Path:
    """A YOLOX-nano for person, bicycle, car, motorcycle, bus and truck; `street-nano.md` beside it is its card."""
    return Path(__file__).with_name("street-nano.safetensors")


def named(path: Path) -> Path:
    """The path itself, or, where nothing lies there, what it names: `street-nano`, or published weights (`yolox-nano@coco`)."""
    name = str(path)
    if path.exists():
        return path
    if name == "street-nano":
        return street_nano()
    return published.fetch(name) if published.is_name(name) else path
