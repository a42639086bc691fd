"""What a value in streams.toml may be: each function gives the value as it is used, or a Mistake that says what to write."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from edgedet.errors import UsageError
from edgedet.streaming.sinks.base import kinds as sink_kinds
from edgedet.streaming.sources.base import kind_of
from edgedet.tracking.base import names as tracker_names

Parse = Callable[[Any], Any]


class Mistake(Exception):
    """One thing that is wrong, and what mends it."""


def parse_size(text: str) -> tuple[int, int]:
    """Height and width in pixels of `1280x720`."""
    matched = re.fullmatch(r"(\d{2,4})x(\d{2,4})", text)
    if matched is None:
        raise UsageError(f"{text!r} is no size; write width and height, as in 1280x720")
    return int(matched[2]), int(matched[1])


def text(value: Any) -> str:
    """A text in one line, not blank."""
    if not isinstance(value, str) or not value.strip():
        raise Mistake(f"{value!r} is no text; write it in quotes")
    if not value.isprintable():
        raise Mistake(f"{value!r} has a character that cannot be seen; leave it out")
    return value


def texts(value: Any) -> tuple[str, ...]:
    """Texts, one at least."""
    if not isinstance(value, list) or not value:
        raise Mistake(f'{value!r} is no list of names; write it as ["person", "car"]')
    return tuple(map(text, value))


def number(least: float, most: float) -> Parse:
    """A reader of numbers within these bounds."""

    def parse(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
            raise Mistake(f"{value!r} is no number from {least:g} to {most:g}")
        return float(value)

    return parse


def whole(least: int) -> Parse:
    """A reader of whole numbers from `least` on."""

    def parse(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise Mistake(f"{value!r} is no whole number from {least} on")
        return value

    return parse


def source(value: Any) -> str:
    """An address of a kind that is read here; a camera's index may stand without quotes."""
    kind_of(str(value) if isinstance(value, int) and not isinstance(value, bool) else text(value))
    return str(value)


def tracker(value: Any) -> str:
    """A tracker's name."""
    if value not in tracker_names():
        raise Mistake(f"{value!r} is no tracker; there are: {', '.join(tracker_names())}")
    return str(value)


def sink_kind(value: Any) -> str:
    """A kind of sink that a thread may write to."""
    if value == "window":  # belongs to the main thread
        raise Mistake("'window' is for one stream on the command line: --show; serve the page to see many: --serve 8080")
    there = [kind for kind in sink_kinds() if kind != "window"]
    if value not in there:
        raise Mistake(f"{value!r} is no kind of sink; there are: {', '.join(there)}")
    return str(value)


def point(value: Any) -> tuple[float, float]:
    """A point in pixels: none lies above or left of the frame, whatever its size."""
    numbers = isinstance(value, list) and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in value)
    if not numbers or len(value) != 2:
        raise Mistake(f"{value!r} is no point; write [x, y] in pixels")
    if min(value) < 0:
        raise Mistake(f"{value!r} lies outside every frame; pixels count from 0, right and down from the upper left corner")
    return float(value[0]), float(value[1])


def points(value: Any) -> tuple[tuple[float, float], ...]:
    """The corners of a polygon."""
    if not isinstance(value, list) or len(value) < 3:
        raise Mistake(f"{value!r} is no polygon; write at least three points [x, y]")
    return tuple(map(point, value))


def min_score(value: Any) -> float | dict[str, float]:
    """A score for all classes, or one a class."""
    score = number(0, 1)
    if not isinstance(value, dict):
        return float(score(value))
    if not value:
        raise Mistake("names no class; write one number for all, or { person = 0.4, car = 0.6 }")
    found = {}
    for name, one in value.items():
        try:
            found[name] = float(score(one))
        except Mistake as error:
            raise Mistake(f"{name}: {error}") from error
    return found
