"""Darknet's `.cfg`: a network as a list of layers (Redmon's and Bochkovskiy's programs read the same).

What concerns training only is passed over. In a `Cfg` the numbers of other layers are absolute, however they were written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from edgedet.errors import CheckpointError


@dataclass(frozen=True)
class Convolutional:
    filters: int = 1
    size: int = 1
    stride: int = 1
    padding: int = 0
    groups: int = 1
    batch_normalize: int = 0
    activation: str = "logistic"


@dataclass(frozen=True)
class Connected:
    output: int = 1
    batch_normalize: int = 0
    activation: str = "logistic"


@dataclass(frozen=True)
class Local:
    filters: int = 1
    size: int = 1
    stride: int = 1
    pad: int = 0
    activation: str = "logistic"


@dataclass(frozen=True)
class Maxpool:
    size: int = 1
    stride: int = 1


@dataclass(frozen=True)
class Upsample:
    stride: int = 2


@dataclass(frozen=True)
class Route:
    """The maps of the given layers one behind the other, of each the group `group_id` of `groups`."""

    layers: tuple[int, ...] = ()
    groups: int = 1
    group_id: int = 0


@dataclass(frozen=True)
class Shortcut:
    """The layer before plus the one numbered `source`."""

    source: int = 0
    activation: str = "linear"


@dataclass(frozen=True)
class Dropout:
    probability: float = field(default=0.5, compare=False)


@dataclass(frozen=True)
class Yolo:
    """YOLOv3's and v4's detections. anchors: widths and heights in input pixels, those of the mask, one pair after another."""

    anchors: tuple[float, ...] = field(default=(), compare=False)
    scale_x_y: float = field(default=1.0, compare=False)
    count: int = 3
    classes: int = 20
    new_coords: int = 0


@dataclass(frozen=True)
class Detection:
    """YOLOv1's detections."""

    classes: int = 1
    coords: int = 1
    side: int = 7
    num: int = 1
    softmax: int = 0
    sqrt: int = 0


Layer = Convolutional | Connected | Local | Maxpool | Upsample | Route | Shortcut | Dropout | Yolo | Detection
KINDS = {
    kind.__name__.lower(): kind
    for kind in (Convolutional, Connected, Local, Maxpool, Upsample, Route, Shortcut, Dropout, Yolo, Detection)
}


@dataclass(frozen=True)
class Cfg:
    """A network. letter_box: 1 where frames keep their aspect ratio, None where the cfg leaves it to the program."""

    layers: tuple[Layer, ...]
    width: int
    height: int
    letter_box: int | None = None

    @property
    def classes(self) -> int:
        """How many classes its detection layers tell apart."""
        return next((layer.classes for layer in reversed(self.layers) if isinstance(layer, Yolo | Detection)), 0)


def parse(path: Path) -> Cfg:
    """The network that a cfg file describes; what is for training only is passed over."""
    try:
        sections = _sections(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: is no text, so no cfg; copy it again") from error
    if not sections or sections[0][0] not in ("net", "network"):
        raise CheckpointError(f"{path}: no cfg, because it does not begin with [net]; copy it again")
    try:
        net = {key: int(value) for key, value in sections[0][1].items() if key in ("width", "height", "channels", "letter_box")}
        layers = resolved([_layer(kind, options) for kind, options in sections[1:]])
    except (ValueError, IndexError, KeyError) as error:
        raise CheckpointError(f"{path}: a value in it cannot be used ({error}); correct it") from error
    if net.get("channels", 3) != 3:
        raise CheckpointError(f"{path}: wants pictures of {net['channels']} channels; edgedet has networks for 3 only")
    return Cfg(layers, net.get("width", 416), net.get("height", 416), net.get("letter_box"))


def _sections(text: str) -> list[tuple[str, dict[str, str]]]:
    """Kind and options of every section in order."""
    sections: list[tuple[str, dict[str, str]]] = []
    for line in (line.strip() for line in text.splitlines()):
        if line.startswith("["):
            sections.append((line.strip("[]").lower(), {}))
        elif "=" in line and line[0] not in "#;" and sections:
            key, _, value = line.partition("=")
            sections[-1][1][key.strip()] = value.partition("#")[0].strip()
    return sections


def _layer(kind: str, options: Mapping[str, str]) -> Layer:
    """The layer of a section, numbers of other layers as they stand there."""
    if kind not in KINDS:
        raise ValueError(f"a [{kind}]")
    defaults: dict[str, Any] = {entry.name: entry.default for entry in fields(KINDS[kind])}
    plain = [name for name, default in defaults.items() if name in options and isinstance(default, int | float | str)]
    values: dict[str, Any] = {name: type(defaults[name])(options[name]) for name in plain}
    if kind == "convolutional" and int(options.get("pad", 0)):
        values["padding"] = int(options.get("size", 1)) // 2
    elif kind == "maxpool":
        values["size"] = int(options.get("size", options.get("stride", 1)))
    elif kind == "route":
        values["layers"] = tuple(int(i) for i in options["layers"].split(","))
    elif kind == "shortcut":
        values["source"] = int(options["from"])
    elif kind == "yolo":
        sizes = [float(value) for value in options["anchors"].split(",")]
        mask = [int(i) for i in options["mask"].split(",")] if "mask" in options else range(len(sizes) // 2)
        values["anchors"] = tuple(sizes[2 * i + axis] for i in mask for axis in (0, 1))
        values["count"] = len(mask)
    return KINDS[kind](**values)


def resolved(layers: Iterable[Layer]) -> tuple[Layer, ...]:
    """The layers with absolute numbers where they count back from their own by negative ones."""
    absolute: list[Layer] = []
    for number, layer in enumerate(layers):
        if isinstance(layer, Route):
            layer = replace(layer, layers=tuple(i + number if i < 0 else i for i in layer.layers))
        elif isinstance(layer, Shortcut) and layer.source < 0:
            layer = replace(layer, source=layer.source + number)
        absolute.append(layer)
    return tuple(absolute)


def convolution(filters: int, size: int = 3, stride: int = 1, activation: str = "leaky") -> Convolutional:
    """A convolution with batch norm that keeps the size at stride 1."""
    return Convolutional(filters, size, stride, size // 2, batch_normalize=1, activation=activation)


def detections(anchors: tuple[float, ...], num_classes: int, scale_x_y: float = 1.0) -> tuple[Convolutional, Yolo]:
    """The convolution to 5 + classes rows for each anchor, and their meaning."""
    count = len(anchors) // 2
    return Convolutional(count * (5 + num_classes), activation="linear"), Yolo(anchors, scale_x_y, count, num_classes)
