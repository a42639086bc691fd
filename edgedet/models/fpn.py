"""Feature pyramids on a ResNet: the backbone of RetinaNet and FCOS (Lin et al. 2017, arXiv:1612.03144 and 1708.02002).

    ResNet   C3 (B, ·, H/8, W/8)  C4 (B, ·, H/16, W/16)  C5 (B, ·, H/32, W/32)
    inner    1×1 to 256 channels, and from the top each added to the next, twice as large
    P3 P4 P5 3×3 of those, (B, 256, h, w) at strides 8, 16 and 32
    P6 P7    3×3 stride 2 of P5 (or C5) and of P6: sides are halved and rounded up

Tensor names are torchvision's (`inner_blocks.i.0`, `layer_blocks.i.0`,
`extra_blocks.p6`). P2 is left out: it would give too many anchors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from edgedet.models.resnet import ResNet

STRIDE = 8
"""Of the finest level, P3."""


class FPN(nn.Module):
    """P3 to P7 of C3, C4 and C5. inputs: their channels. p6_from: which map the coarse levels go on from."""

    def __init__(self, inputs: Sequence[int], channels: int, p6_from: Literal["p5", "c5"]) -> None:
        super().__init__()
        self.p6_from = p6_from
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.inner_blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(c, channels, 1)) for c in inputs)
        self.layer_blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(channels, channels, 3, 1, 1)) for _ in inputs)
        p6 = nn.Conv2d(inputs[-1] if p6_from == "c5" else channels, channels, 3, 2, 1)
        self.extra_blocks = nn.ModuleDict({"p6": p6, "p7": nn.Conv2d(channels, channels, 3, 2, 1)})
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.kaiming_uniform_(module.weight, a=1)
                nn.init.zeros_(module.bias)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        inner = [block(feature) for block, feature in zip(self.inner_blocks, features, strict=True)]
        for i in reversed(range(len(inner) - 1)):
            inner[i] = inner[i] + self.upsample(inner[i + 1])
        levels = [block(x) for block, x in zip(self.layer_blocks, inner, strict=True)]
        p6 = self.extra_blocks["p6"](features[-1] if self.p6_from == "c5" else levels[-1])
        return [*levels, p6, self.extra_blocks["p7"](p6.relu())]


class ResNetFPN(nn.Module):
    """P3 to P7 (B, channels, h, w) of images (B, 3, H, W); width: the ResNet's channels after its stem."""

    def __init__(self, depth: int, width: int, channels: int, p6_from: Literal["p5", "c5"]) -> None:
        super().__init__()
        self.body = ResNet(depth, width)
        self.fpn = FPN(self.body.channels[1:], channels, p6_from)

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.fpn(self.body(images)[1:])


def size_of(finest: Tensor) -> tuple[int, int]:
    """Height and width of the input, in pixels, that P3 (B, ·, h, w) is a map of."""
    return finest.shape[-2] * STRIDE, finest.shape[-1] * STRIDE


def corners(level: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """(h·w, 2) int64 x and y of the cells' upper left corners, input pixels, of a level (B, ·, h, w): row by row.

    Cells are whole pixels wide, as in torchvision: where a side was rounded up
    they are a little less than the power of two: P6 of 800×1344 has 61 and 64.
    """
    height, width = level.shape[-2:]
    rows = torch.arange(height, device=level.device) * (size_hw[0] // height)
    columns = torch.arange(width, device=level.device) * (size_hw[1] // width)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([x, y], dim=-1).view(-1, 2)


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under today's names: torchvision before 0.13 wrote `inner_blocks.i.weight` without the `.0`."""
    return {re.sub(r"(fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)$", r"\1.0.\2", name): v for name, v in state.items()}
