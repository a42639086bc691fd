"""The values of `edgedet export`'s options: classes, sizes, batches; and what a file is called after them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgedet.errors import UsageError

if TYPE_CHECKING:
    from edgedet.spec import ModelSpec

Target = Literal["onnx", "openvino", "tensorrt"]
Precision = Literal["fp32", "fp16", "int8", "int8+fp16"]
MOST_PIXELS, MOST_IMAGES = 8192, 1024
"""Input side and batch beyond which no memory holds the activations."""


def chosen(option: str, values: Sequence[str], known: tuple[Any, ...]) -> list[Any]:
    """The values without repetition; UsageError where one is unknown."""
    for value in values:
        if value not in known:
            raise UsageError(f"{option} {value!r} is not one of {', '.join(known)}")
    return list(dict.fromkeys(values))


def read_classes(text: str) -> list[str]:
    """Class names out of `a,b,c`, out of a file with one a line, or the one name that is given."""
    if "," not in text and os.path.isfile(text):  # noqa: PTH113 (Path.is_file raises where a name is too long)
        try:
            lines = Path(text).read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise UsageError(
                f"--classes {text}: is no text in UTF-8 ({error.reason} at byte {error.start}); save it so"
            ) from error
    else:
        lines = text.split(",")
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise UsageError(f"--classes {text} holds no names; give a file of names, one a line, or names as in a,b,c")
    return names


def parse_size(text: str) -> tuple[int, int]:
    """Height and width in pixels of `416` or `384x640`."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(_is_number(part, most=MOST_PIXELS) for part in parts):
        raise UsageError(
            f"--size {text!r} is no input size up to {MOST_PIXELS}; give pixels as in 416, or height and width as in 384x640"
        )
    return int(parts[0]), int(parts[-1])


def parse_batch(text: str) -> tuple[int | None, tuple[int, int, int] | None]:
    """Images at once, None for any number, and the least, usual and largest number that TensorRT is to serve."""
    if text == "dynamic":
        return None, None
    numbers = text.split(",")
    if not all(_is_number(number, most=MOST_IMAGES) for number in numbers) or len(numbers) not in (1, 3):
        raise UsageError(
            f"--batch {text!r} is neither a number from 1 to {MOST_IMAGES}, nor `dynamic`, nor MIN,OPT,MAX as in 1,4,8"
        )
    if len(numbers) == 1:
        return int(text), None
    least, usual, most = map(int, numbers)
    if not least <= usual <= most:
        raise UsageError(f"--batch {text}: MIN,OPT,MAX must not fall, as in 1,4,8")
    return None, (least, usual, most)


def _is_number(text: str, *, most: int) -> bool:
    """Whether the text is a whole number in [1, most]."""
    return text.isdecimal() and len(text) <= len(str(most)) and 1 <= int(text) <= most


def file_stem(spec: ModelSpec, precision: Precision) -> str:
    """What a file is called: family, variant, size and precision, and whatever is not the default."""
    height, width = spec.size_hw
    parts = [spec.name, str(height) if height == width else f"{height}x{width}", precision]
    if spec.encoding == "tensorrt":
        parts.append("tensorrt")
    if spec.suppression.mode != "onnx":
        parts.append(spec.suppression.mode)
    if spec.batch != 1:
        parts.append(f"b{spec.batch}" if spec.batch else "dynamic")
    if spec.input_layout != "uint8-nhwc":
        parts.append(spec.input_layout)
    return "-".join(parts)
