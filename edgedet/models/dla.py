"""DLA-34: a backbone of trees of residual blocks, and its way back up (Yu et al. 2018, arXiv:1707.06484).

    images (B, 3, H, W)
    base_layer   7×7   (B, 16, H, W)        level0   3×3   (B, 16, H, W)        level1   3×3   (B, 32, H/2, W/2)
    level2   one pair of blocks (B, 64, H/4, W/4)      level3   two pairs (B, 128, H/8, W/8)
    level4   two pairs (B, 256, H/16, W/16)            level5   one pair  (B, 512, H/32, W/32)
    DLAUp    features of strides 4, 8 and 16, of 64, 128 and 256 channels, each with all coarser ones in it

A root is a 1×1 convolution over the outputs of its tree's blocks and whatever the trees above hand down (hierarchical
aggregation); IDAUp adds one stride after the other, from fine to coarse (iterative aggregation). As in CenterNet
(arXiv:1904.07850, figure 6) the convolutions on the way up are deformable and each upsampling is a transposed convolution.

Tensor names are those of CenterNet and, for the backbone, of the DLA-34 classification checkpoints. The original also has
`project` weights at level3 and level4, whose result nothing reads: they are left out here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgedet.models.deformable import DeformableConv


class Block(nn.Module):
    """Two 3×3 convolutions beside a shortcut of the output's shape: (B, inputs, H, W) → (B, outputs, H/stride, W/stride)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + shortcut)


class Root(nn.Module):
    """All branches of a tree in one 1×1 convolution: (B, Σ inputs, H, W) → (B, outputs, H, W)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, *branches: Tensor) -> Tensor:
        return self.relu(self.bn(self.conv(torch.cat(branches, dim=1))))


class Pair(nn.Module):
    """Two blocks and a root over them and `handed` further channels: (B, inputs, H, W) → (B, outputs, H/stride, W/stride)."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, handed: int) -> None:
        super().__init__()
        self.tree1 = Block(inputs, outputs, stride)
        self.tree2 = Block(outputs, outputs, 1)
        self.root = Root(2 * outputs + handed, outputs)
        self.downsample = nn.MaxPool2d(stride) if stride > 1 else nn.Identity()
        same = inputs == outputs
        self.project = nn.Identity() if same else nn.Sequential(*_conv_norm(inputs, outputs, 1, 1))

    def forward(self, x: Tensor, *handed: Tensor) -> Tensor:
        first = self.tree1(x, self.project(self.downsample(x)))
        second = self.tree2(first, first)
        return self.root(second, first, *handed)


class TwoPairs(nn.Module):
    """A pair behind a pair; the second's root gets the first's output and what is handed to both. Shapes as of a pair."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, handed: int) -> None:
        super().__init__()
        self.tree1 = Pair(inputs, outputs, stride, handed=0)
        self.tree2 = Pair(outputs, outputs, 1, handed=handed + outputs)

    def forward(self, x: Tensor, *handed: Tensor) -> Tensor:
        first = self.tree1(x)
        return self.tree2(first, *handed, first)


class DLA(nn.Module):
    """DLA-34 without its classifier. width: channels of the first layer; channels: of levels 2 to 5."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        fine, half, *self.channels = (width * 2**i for i in range(6))
        c2, c3, c4, c5 = self.channels
        self.base_layer = nn.Sequential(*_conv_norm(3, width, 7, 1), nn.ReLU(inplace=True))
        self.level0 = nn.Sequential(*_conv_norm(width, fine, 3, 1), nn.ReLU(inplace=True))
        self.level1 = nn.Sequential(*_conv_norm(fine, half, 3, 2), nn.ReLU(inplace=True))
        self.level2 = Pair(half, c2, 2, handed=0)
        self.level3 = TwoPairs(c2, c3, 2, handed=c2)
        self.level4 = TwoPairs(c3, c4, 2, handed=c3)
        self.level5 = Pair(c4, c5, 2, handed=c4)
        self.pool = nn.MaxPool2d(2)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        c2 = self.level2(self.level1(self.level0(self.base_layer(images))))
        c3 = self.level3(c2, self.pool(c2))
        c4 = self.level4(c3, self.pool(c3))
        return c2, c3, c4, self.level5(c4, self.pool(c4))


class DeformableConvNormAct(nn.Module):
    """Deformable 3×3, batch norm, ReLU: (B, inputs, H, W) → (B, outputs, H, W)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = DeformableConv(inputs, outputs)
        self.actf = nn.Sequential(nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        return self.actf(self.conv(x))


class IDAUp(nn.Module):
    """Each map brought to the finest one's size and channels and merged with what came of the one before.

    channels: of the maps, from fine to coarse. factors: how many times coarser than the first each is.
    """

    def __init__(self, outputs: int, channels: Sequence[int], factors: Sequence[int]) -> None:
        super().__init__()
        for i, (inputs, factor) in enumerate(zip(channels[1:], factors[1:], strict=True), start=1):
            up = nn.ConvTranspose2d(outputs, outputs, 2 * factor, factor, factor // 2, groups=outputs, bias=False)
            fill_bilinear(up)
            self.add_module(f"proj_{i}", DeformableConvNormAct(inputs, outputs))
            self.add_module(f"up_{i}", up)
            self.add_module(f"node_{i}", DeformableConvNormAct(outputs, outputs))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        merged = [maps[0]]
        for i, coarse in enumerate(maps[1:], start=1):
            project, up, node = (self.get_submodule(f"{name}_{i}") for name in ("proj", "up", "node"))
            merged.append(node(up(project(coarse)) + merged[-1]))
        return merged


class DLAUp(nn.Module):
    """Levels 2 to 5 of the backbone, merged from the coarsest on: features of strides 4, 8 and 16.

    ida_0 merges level 5 into 4, ida_1 both into 3, ida_2 all three into 2; the last map of each is a feature.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        c2, c3, c4, c5 = channels
        self.ida_0 = IDAUp(c4, (c4, c5), (1, 2))
        self.ida_1 = IDAUp(c3, (c3, c4, c4), (1, 2, 2))
        self.ida_2 = IDAUp(c2, (c2, c3, c3, c3), (1, 2, 2, 2))

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        c2, c3, c4, c5 = levels
        of_16 = self.ida_0([c4, c5])
        of_8 = self.ida_1([c3, *of_16])
        of_4 = self.ida_2([c2, *of_8])
        return [of_4[-1], of_8[-1], of_16[-1]]


def fill_bilinear(up: nn.ConvTranspose2d) -> None:
    """Let a transposed convolution begin as bilinear upsampling, channel by channel."""
    side, factor = up.kernel_size[0], up.stride[0]
    ramp = 1 - (torch.arange(side) - (side - 1) / 2).abs() / factor
    each = torch.arange(up.weight.shape[0])
    with torch.no_grad():
        up.weight.zero_()
        up.weight[each, each % up.weight.shape[1]] = torch.outer(ramp, ramp)


def _conv_norm(inputs: int, outputs: int, kernel: int, stride: int) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """A convolution that keeps the size at stride 1, and its batch norm."""
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs)
