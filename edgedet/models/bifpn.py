"""BiFPN: a pyramid fused top-down and bottom-up, several times over (Tan et al. 2020, arXiv:1911.09070, section 3).

    P3, P4, P5       (B, C_l, H/2ˡ, W/2ˡ) from the trunk
    P6, P7, …        (B, C, H/2ˡ, W/2ˡ) made from P5, each half of the one before, rounded up
    a cell           for L levels 2·(L − 1) nodes: top-down from the last but one to the finest, then bottom-up to the coarsest
    a node           (B, C, h, w) = separable 3×3 convolution of activation of Σ w_i·resampled input_i
    result           L maps (B, C, H/2ˡ, W/2ˡ)

Equation 2's fast fusion has w_i = relu(e_i) / (Σ relu(e_j) + 1e-4); D6 and above
add without weights. Tensor names are effdet's. Networks ported from TensorFlow
have a bias before every norm, which the norm makes needless.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d

from edgedet.models.efficientnet import Layers

Fusion = Literal["fast", "sum"]


@dataclass(frozen=True)
class NeckLayers(Layers):
    """Layers of the pyramid and the heads. redundant_bias: whether convolutions before a norm have one."""

    redundant_bias: bool


class ConvNorm(nn.Module):
    """A 1×1 convolution and its norm."""

    def __init__(self, inputs: int, outputs: int, layers: NeckLayers) -> None:
        super().__init__()
        self.conv = layers.conv(inputs, outputs, 1, bias=layers.redundant_bias)
        self.bn = layers.norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


class SeparableConv(nn.Module):
    """A depthwise 3×3 convolution and a 1×1 one with a bias."""

    def __init__(self, inputs: int, outputs: int, layers: NeckLayers, *, bias: bool) -> None:
        super().__init__()
        self.conv_dw = layers.conv(inputs, inputs, 3, groups=inputs)
        self.conv_pw = layers.conv(inputs, outputs, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_pw(self.conv_dw(x))


class SeparableConvNorm(SeparableConv):
    """The same with a norm."""

    def __init__(self, channels: int, layers: NeckLayers) -> None:
        super().__init__(channels, channels, layers, bias=layers.redundant_bias)
        self.bn = layers.norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(super().forward(x))


class Resample(nn.Module):
    """A map with the pyramid's channels, at another level's size."""

    def __init__(self, inputs: int, outputs: int, layers: NeckLayers) -> None:
        super().__init__()
        self.conv = ConvNorm(inputs, outputs, layers) if inputs != outputs else nn.Identity()
        self.padding = layers.padding

    def forward(self, x: Tensor, size_hw: tuple[int, int]) -> Tensor:
        """(B, C, *size_hw) of a map of the same level, the next finer or the next coarser one."""
        x = self.conv(x)
        height, width = x.shape[-2:]
        if height > size_hw[0] or width > size_hw[1]:
            return self._halve(x)
        if height < size_hw[0] or width < size_hw[1]:
            return interpolate(x, scale_factor=2, mode="nearest")[..., : size_hw[0], : size_hw[1]]
        return x

    def _halve(self, x: Tensor) -> Tensor:
        """3×3 maxima at stride 2. "Same" padding stands at the right and the bottom of even sizes, around odd ones."""
        if self.padding == "symmetric":
            return max_pool2d(x, 3, 2, padding=1)
        # Every second maximum of all: padding at two sides only would be an operator of its own, which runtimes fold wrongly.
        return max_pool2d(x, 3, 1, padding=1)[..., 1 - x.shape[2] % 2 :: 2, 1 - x.shape[3] % 2 :: 2]


class Combine(nn.Module):
    """The weighted sum of several maps at one size. inputs: their places among all maps so far, and their channels."""

    def __init__(self, inputs: Sequence[tuple[int, int]], channels: int, layers: NeckLayers, fusion: Fusion) -> None:
        super().__init__()
        self.resample = nn.ModuleDict({str(place): Resample(c, channels, layers) for place, c in inputs})
        self.edge_weights = nn.Parameter(torch.ones(len(inputs))) if fusion == "fast" else None

    def forward(self, maps: Sequence[Tensor], size_hw: tuple[int, int]) -> Tensor:
        nodes = [resample(maps[int(place)], size_hw) for place, resample in self.resample.items()]
        if self.edge_weights is not None:
            weights = self.edge_weights.relu()
            weights = weights / (weights.sum() + 1e-4)
            nodes = [node * weight for node, weight in zip(nodes, weights.unbind(), strict=True)]
        total = nodes[0]
        for node in nodes[1:]:
            total = total + node
        return total


class Node(nn.Module):
    """One new map of a cell."""

    def __init__(self, inputs: Sequence[tuple[int, int]], channels: int, layers: NeckLayers, fusion: Fusion) -> None:
        super().__init__()
        self.combine = Combine(inputs, channels, layers, fusion)
        self.after_combine = nn.Sequential()
        self.after_combine.add_module("act", layers.activation())
        self.after_combine.add_module("conv", SeparableConvNorm(channels, layers))

    def forward(self, maps: Sequence[Tensor], size_hw: tuple[int, int]) -> Tensor:
        return self.after_combine(self.combine(maps, size_hw))


class Cell(nn.Module):
    """One pass down and up. inputs: the channels of the L maps that come in, finest first."""

    def __init__(self, inputs: Sequence[int], channels: int, layers: NeckLayers, fusion: Fusion) -> None:
        super().__init__()
        self.wiring = wiring(len(inputs))
        known = [*inputs, *(channels for _ in self.wiring)]
        self.fnode = nn.ModuleList(
            Node([(place, known[place]) for place in places], channels, layers, fusion) for _, places in self.wiring
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        grown = list(maps)
        for (level, _), node in zip(self.wiring, self.fnode, strict=True):
            height, width = maps[level].shape[-2:]
            grown.append(node(grown, (height, width)))
        return grown[-len(maps) :]


def wiring(levels: int) -> list[tuple[int, list[int]]]:
    """Of each node of a cell its level, and where its inputs stand among the cell's inputs and the nodes before it."""
    places = {level: [level] for level in range(levels)}
    nodes: list[tuple[int, list[int]]] = []
    for level in range(levels - 2, -1, -1):
        nodes.append((level, [places[level][-1], places[level + 1][-1]]))
        places[level].append(levels + len(nodes) - 1)
    for level in range(1, levels):
        nodes.append((level, [*places[level], places[level - 1][-1]]))
        places[level].append(levels + len(nodes) - 1)
    return nodes


class BiFPN(nn.Module):
    """The pyramid: maps of the trunk to `levels` maps of `channels` each."""

    def __init__(
        self, inputs: Sequence[int], levels: int, channels: int, cells: int, layers: NeckLayers, fusion: Fusion
    ) -> None:
        super().__init__()
        known = [*inputs, *(channels for _ in range(len(inputs), levels))]
        self.resample = nn.ModuleDict({str(i): Resample(known[i - 1], channels, layers) for i in range(len(inputs), levels)})
        first = Cell(known, channels, layers, fusion)
        self.cell = nn.Sequential(first, *(Cell([channels] * levels, channels, layers, fusion) for _ in range(1, cells)))
        self.apply(_initialise)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        maps = list(features)
        for resample in self.resample.values():
            height, width = maps[-1].shape[-2:]
            maps.append(resample(maps[-1], ((height + 1) // 2, (width + 1) // 2)))
        return self.cell(maps)


def _initialise(module: nn.Module) -> None:
    """Uniform weights of variance 2 / (fan-in + fan-out)."""
    if isinstance(module, nn.Conv2d):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
