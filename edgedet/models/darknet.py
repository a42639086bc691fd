"""Darknet's files: a network as `.cfg`, its numbers as `.weights` (Redmon's and Bochkovskiy's programs write the same).

    .weights       int32 major, minor, revision; images seen, int64 (int32 before version 0.2); float32 to the end
    convolutional  with batch norm bias, weight, mean, variance (n each), else bias (n); then the kernel (n, c/groups, k, k)
    connected      bias (n), matrix (n, inputs), transposed from version 1000 on; with batch norm weight, mean, variance
    local          bias (n, h, w), then a kernel (n, c, k, k) for each of the h·w places
    others         nothing

Tensors are called after the layer's number, which Darknet prints: `layers.0.conv.weight`, `layers.0.bn.running_mean`. What a
detection layer has in the cfg becomes tensors too, so that a checkpoint saved in another format keeps it.

A family takes part with `published_cfg(variant, num_classes) -> Cfg`: its network, whose layers a file's cfg must have. A
file without a cfg is the known network that has as many numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from edgedet import plugins
from edgedet.errors import CheckpointError
from edgedet.models.darknet_cfg import Cfg, Connected, Convolutional, Layer, Local, Maxpool, Route, Upsample, Yolo, parse

PACKAGE = "edgedet.models"
MOST_CLASSES = 2000
"""A small network of more classes could have the size of a large one of few."""

Shape = tuple[int, int, int]  # channels, height, width


class Known(NamedTuple):
    """A Darknet network that edgedet has."""

    family: str
    variant: str

    @property
    def name(self) -> str:
        """As in `yolov3-tiny`, or `yolov3`."""
        return f"{self.family}-{self.variant}".removesuffix("-")

    def published(self, num_classes: int) -> Cfg:
        """The network as it was published, but for the classes."""
        return plugins.find(PACKAGE, self.family).published_cfg(self.variant, num_classes)


class Weights(NamedTuple):
    """What a `.weights` file is: a known network, its tensors, and the cfg beside it, if there is one."""

    network: Known
    state: dict[str, Tensor]
    cfg: Cfg | None


def read(path: Path) -> Weights:
    """The tensors of a `.weights` file, its network told by the cfg beside it or by how many numbers it holds."""
    numbers, transposed = _numbers(path)
    beside = _cfg_beside(path)
    if beside is None:
        network, cfg = _of_size(path, numbers.size)
        return Weights(network, tensors(cfg, numbers, transposed=transposed), None)
    cfg = parse(beside)
    network = _of_layers(beside, cfg)
    if numbers.size != (wanted := size(cfg)):
        fault = "is cut short" if numbers.size < wanted else "is of another network than its cfg"
        raise CheckpointError(
            f"{path} {fault}: it holds {numbers.size} numbers, but {beside.name} needs {wanted}; "
            "copy both again from where they belong together"
        )
    return Weights(network, tensors(cfg, numbers, transposed=transposed), cfg)


def read_first_layers(path: Path) -> dict[str, Tensor]:
    """The tensors of a file as `darknet53.conv.74`, which holds the first 74 layers of a network: what training starts from."""
    numbers, transposed = _numbers(path)
    count = int(path.suffix[1:])
    for network in known():
        cfg = network.published(1)
        first = replace(cfg, layers=cfg.layers[:count])
        if size(first) == numbers.size:
            return tensors(first, numbers, transposed=transposed)
    raise CheckpointError(
        f"{path}: its {numbers.size} numbers are not the first {count} layers of a network edgedet knows; copy it again"
    )


def tensors(cfg: Cfg, numbers: np.ndarray, *, transposed: bool = False) -> dict[str, Tensor]:
    """The network's tensors by name, out of the file's numbers, (N,) float32, and of its detection layers.

    transposed: whether the matrices of connected layers lie with the inputs first.
    """
    state, start = {}, 0
    for name, shape in shapes(cfg):
        end = start + math.prod(shape)
        values = torch.from_numpy(numbers[start:end])
        turned = transposed and name.endswith("linear.weight")
        state[name] = values.view(*shape[::-1]).T.contiguous() if turned else values.view(*shape)
        start = end
    for number, layer in enumerate(cfg.layers):
        if isinstance(layer, Yolo):
            state[f"layers.{number}.anchors"] = torch.tensor(layer.anchors).view(-1, 2)
            state[f"layers.{number}.scale"] = torch.tensor(layer.scale_x_y)
    return state


def size(cfg: Cfg) -> int:
    """How many numbers the network's file holds."""
    return sum(math.prod(shape) for _, shape in shapes(cfg))


def shapes(cfg: Cfg) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every tensor in the order of the file."""
    before = (3, cfg.height, cfg.width)
    for number, (layer, after) in enumerate(zip(cfg.layers, output_shapes(cfg), strict=True)):
        for name, shape in _tensors_of(layer, before, after):
            yield f"layers.{number}.{name}", shape
        before = after


def output_shapes(cfg: Cfg) -> list[Shape]:
    """What every layer gives."""
    outputs: list[Shape] = []
    for layer in cfg.layers:
        outputs.append(_output_shape(layer, outputs[-1] if outputs else (3, cfg.height, cfg.width), outputs))
    return outputs


def _output_shape(layer: Layer, before: Shape, outputs: list[Shape]) -> Shape:
    """What a layer gives; outputs: what all layers before it give."""
    channels, height, width = before
    match layer:
        case Convolutional():
            around = 2 * layer.padding - layer.size
            return layer.filters, (height + around) // layer.stride + 1, (width + around) // layer.stride + 1
        case Local():
            least = 1 if layer.pad else layer.size
            return layer.filters, (height - least) // layer.stride + 1, (width - least) // layer.stride + 1
        case Connected():
            return layer.output, 1, 1
        case Maxpool():
            return channels, (height - 1) // layer.stride + 1, (width - 1) // layer.stride + 1
        case Upsample():
            return channels, height * layer.stride, width * layer.stride
        case Route():
            _, height, width = outputs[layer.layers[0]]
            return sum(outputs[i][0] for i in layer.layers) // layer.groups, height, width
    return before


def _tensors_of(layer: Layer, before: Shape, after: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of one layer's tensors."""
    norm = ("bn.weight", "bn.running_mean", "bn.running_var")
    match layer:
        case Convolutional(filters=n):
            yield ("bn.bias" if layer.batch_normalize else "conv.bias"), (n,)
            yield from ((name, (n,)) for name in norm if layer.batch_normalize)
            yield "conv.weight", (n, before[0] // layer.groups, layer.size, layer.size)
        case Connected(output=n):
            yield ("bn.bias" if layer.batch_normalize else "linear.bias"), (n,)
            yield "linear.weight", (n, math.prod(before))
            yield from ((name, (n,)) for name in norm if layer.batch_normalize)
        case Local(filters=n):
            yield "bias", after
            yield "weight", (after[1] * after[2], n, before[0], layer.size, layer.size)


def _numbers(path: Path) -> tuple[np.ndarray, bool]:
    """The numbers behind the header, (N,) float32, and whether connected matrices lie transposed."""
    content = path.read_bytes()
    major, minor = np.frombuffer(content[:8].ljust(8, b"\0"), "<i4").tolist()
    start = 20 if major * 10 + minor >= 2 and major < 1000 and minor < 1000 else 16
    if len(content) <= start or (len(content) - start) % 4:
        raise CheckpointError(
            f"{path} is cut short: its {len(content)} bytes end within the header or within a number; copy it again"
        )
    return np.frombuffer(bytearray(content[start:]), "<f4"), major > 1000 or minor > 1000


def _cfg_beside(path: Path) -> Path | None:
    """The cfg of the same name, else the only one in the folder."""
    if (same := path.with_suffix(".cfg")).is_file():
        return same
    found = sorted(path.parent.glob("*.cfg"))
    return found[0] if len(found) == 1 else None


def known() -> list[Known]:
    """Every Darknet network that edgedet has."""
    modules = {family: plugins.find(PACKAGE, family) for family in plugins.names(PACKAGE)}
    families = {family: module for family, module in modules.items() if hasattr(module, "published_cfg")}
    return [Known(family, variant) for family, module in families.items() for variant in module.VARIANTS]


def _of_size(path: Path, count: int) -> tuple[Known, Cfg]:
    """The known network of so many numbers."""
    found, sizes = [], {}
    for network in known():
        one, two = (size(network.published(classes)) for classes in (1, 2))
        further, rest = divmod(count - one, two - one)
        if rest == 0 and 0 <= further < MOST_CLASSES:
            found.append((network, network.published(further + 1)))
        sizes[network.name] = one + 79 * (two - one)
    if len(found) == 1:
        return found[0]
    nearest = min(sizes, key=lambda name: abs(sizes[name] - count))
    fitting = " or ".join(f"{network.name} of {cfg.classes}" for network, cfg in found)
    reason = f"which fits {fitting} classes" if found else f"where {nearest} of 80 classes has {sizes[nearest]}"
    raise CheckpointError(f"{path}: holds {count} numbers, {reason}; lay {path.with_suffix('.cfg').name} beside it")


def _of_layers(path: Path, cfg: Cfg) -> Known:
    """The known network with the cfg's layers."""
    nearest, most, difference = "", -1, ""
    for network in known():
        layers = network.published(max(cfg.classes, 1)).layers
        if layers == cfg.layers:
            return network
        same = [ours == theirs for ours, theirs in zip(layers, cfg.layers, strict=False)]
        if sum(same) > most:
            at = same.index(False) if False in same else len(same)
            its, ours = (repr(among[at]) if at < len(among) else "absent" for among in (cfg.layers, layers))
            nearest, most, difference = network.name, sum(same), f"layer {at} is {its} instead of {ours}"
    raise CheckpointError(
        f"{path}: is of no network edgedet knows; the nearest is {nearest}, but {difference}; `edgedet models` lists the known"
    )
