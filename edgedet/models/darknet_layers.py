"""Darknet's layers as PyTorch modules that are called by their numbers: `layers.0.conv.weight`, `layers.0.bn.weight`.

Batch norm has eps 1e-5, as in Darknet's GPU code; its CPU code adds 1e-6 to the deviation instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from edgedet.models.darknet import output_shapes
from edgedet.models.darknet_cfg import Cfg, Convolutional, Layer, Maxpool, Route, Shortcut, Upsample, Yolo

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "linear": nn.Identity,
    "leaky": partial(nn.LeakyReLU, 0.1),
    "mish": nn.Mish,
}


class Convolution(nn.Module):
    """A convolution, batch norm where asked, activation."""

    def __init__(self, inputs: int, layer: Convolutional) -> None:
        super().__init__()
        size, bias = layer.size, not layer.batch_normalize
        self.conv = nn.Conv2d(inputs, layer.filters, size, layer.stride, layer.padding, groups=layer.groups, bias=bias)
        self.bn = nn.Identity() if bias else nn.BatchNorm2d(layer.filters)
        self.act = ACTIVATIONS[layer.activation]()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


class Pool(nn.Module):
    """The maximum over size × size cells, with size − 1 cells of padding: half of them before, the rest behind."""

    def __init__(self, layer: Maxpool) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(layer.size, layer.stride, layer.size // 2 if layer.stride == 1 else 0)
        self.one_too_many = layer.stride == 1 and layer.size % 2 == 0

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(x)
        return x[..., 1:, 1:] if self.one_too_many else x


class Anchors(nn.Module):
    """What a detection layer of YOLOv3 and v4 is told: anchors (A, 2), widths and heights in input pixels, and scale_x_y ()."""

    anchors: Tensor
    scale: Tensor

    def __init__(self, layer: Yolo) -> None:
        super().__init__()
        self.register_buffer("anchors", torch.tensor(layer.anchors).view(-1, 2))
        self.register_buffer("scale", torch.tensor(layer.scale_x_y))


def modules(cfg: Cfg) -> nn.ModuleList:
    """A module for each layer, an empty one where `run` needs none."""
    shapes = [(3, cfg.height, cfg.width), *output_shapes(cfg)]
    return nn.ModuleList(_module(layer, shape[0]) for layer, shape in zip(cfg.layers, shapes, strict=False))


def _module(layer: Layer, inputs: int) -> nn.Module:
    match layer:
        case Convolutional():
            return Convolution(inputs, layer)
        case Maxpool():
            return Pool(layer)
        case Upsample():
            return nn.Upsample(scale_factor=layer.stride, mode="nearest")
        case Yolo():
            return Anchors(layer)
    return nn.Identity()


def run(layers: Sequence[Layer], modules: nn.ModuleList, x: Tensor) -> list[Tensor]:
    """The maps that the detection layers get, in their order, of (B, 3, H, W) images."""
    called = {i for layer in layers if isinstance(layer, Route) for i in layer.layers}
    called |= {layer.source for layer in layers if isinstance(layer, Shortcut)}
    kept: dict[int, Tensor] = {}
    detections = []
    for number, (layer, module) in enumerate(zip(layers, modules, strict=True)):
        match layer:
            case Route():
                x = _joined([kept[i] for i in layer.layers], layer)
            case Shortcut():
                x = x + kept[layer.source]
            case Yolo():
                detections.append(x)
            case _:
                x = module(x)
        if number in called:
            kept[number] = x
    return detections


def _joined(maps: list[Tensor], route: Route) -> Tensor:
    parts = [x.chunk(route.groups, 1)[route.group_id] if route.groups > 1 else x for x in maps]
    return torch.cat(parts, 1) if len(parts) > 1 else parts[0]
