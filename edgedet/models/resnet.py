"""ResNet-18, 34, 50 and 101: residual backbones (He et al. 2015, arXiv:1512.03385).

    images (B, 3, H, W)
    stem     7×7 stride 2, 3×3 max-pool stride 2            (B, 64, H/4, W/4)
    layer1   C2 (B, 64e, H/4, W/4)     layer2   C3 (B, 128e, H/8, W/8)
    layer3   C4 (B, 256e, H/16, W/16)  layer4   C5 (B, 512e, H/32, W/32)

e is 1 for basic blocks (18, 34) and 4 for bottlenecks (50, 101). Tensor names
are torchvision's, so its classification checkpoints load as they are. As there,
a bottleneck's stride is in its 3×3 and not, as in the paper, in its first 1×1.
Batch norms have eps 1e-5.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut: (B, inputs, H, W) → (B, width, H/stride, W/stride)."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 beside a shortcut: (B, inputs, H, W) → (B, 4·width, H/stride, W/stride)."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inputs, width * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


DEPTHS: dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
}
"""Depth → the block and how many of it each of the four stages has."""


class ResNet(nn.Module):
    """The network without its classifier. channels: of C2, C3, C4 and C5. width: channels after the stem."""

    def __init__(self, depth: int, width: int = 64) -> None:
        super().__init__()
        block, counts = DEPTHS[depth]
        self.channels = tuple(width * 2**i * block.expansion for i in range(4))
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = _stage(block, width, width, counts[0], stride=1)
        self.layer2 = _stage(block, self.channels[0], width * 2, counts[1], stride=2)
        self.layer3 = _stage(block, self.channels[1], width * 4, counts[2], stride=2)
        self.layer4 = _stage(block, self.channels[2], width * 8, counts[3], stride=2)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        c2 = self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(images)))))
        c3 = self.layer2(c2)
        c4 = self.layer3(c3)
        return c2, c3, c4, self.layer4(c4)


def depth_of(state: Mapping[str, Tensor], prefix: str) -> int | None:
    """Which ResNet's tensors begin with the prefix, as in `backbone.body.`; None where they are of none known here."""
    blocks = {tuple(k.removeprefix(prefix).split(".", 2)[:2]) for k in state if k.startswith(f"{prefix}layer")}
    counts = tuple(sum(layer == f"layer{i}" for layer, _ in blocks) for i in (1, 2, 3, 4))
    kind = Bottleneck if f"{prefix}layer1.0.conv3.weight" in state else BasicBlock
    return next((depth for depth, layout in DEPTHS.items() if layout == (kind, counts)), None)


def _stage(block: type[BasicBlock] | type[Bottleneck], inputs: int, width: int, count: int, *, stride: int) -> nn.Sequential:
    """So many blocks, the first of which changes channels and size."""
    rest = (block(width * block.expansion, width, 1) for _ in range(count - 1))
    return nn.Sequential(block(inputs, width, stride), *rest)


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    """1×1 convolution and norm where the block changes the shape; else None, the identity."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
