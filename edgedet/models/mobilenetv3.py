"""MobileNetV3's feature layers (Howard et al. 2019, arXiv:1905.02244, tables 1 and 2).

    images (B, 3, H, W)                                                           Large   Small
    stem    3×3 stride 2, hard-swish                                (H/2,  W/2)     16      16
    blocks  1×1 expand, depthwise, squeeze-and-excite, 1×1 project  (H/32, W/32)   160      96
    last    1×1, hard-swish                                         (H/32, W/32)   960     576

Layers are numbered and named as in torchvision's `features`, so its weights load by name. A reduced tail has half the
channels from the last strided block on, as the paper does it for detection (table 6). Norms follow their batches by a tenth,
where torchvision's detectors follow by .03: on 160 steps of a small data set that leaves them at AP50 .04 instead of .97.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn

EPSILON = 1e-3
STEM = 16


@dataclass(frozen=True)
class Block:
    """One inverted residual. expanded: its inner channels; squeeze: whether it weighs them by the whole map."""

    kernel: int
    expanded: int
    outputs: int
    squeeze: bool
    activation: type[nn.Module]
    stride: int = 1


_R, _H = nn.ReLU, nn.Hardswish
BLOCKS = {
    "large": (
        Block(3, 16, 16, False, _R),
        Block(3, 64, 24, False, _R, 2),
        Block(3, 72, 24, False, _R),
        Block(5, 72, 40, True, _R, 2),
        Block(5, 120, 40, True, _R),
        Block(5, 120, 40, True, _R),
        Block(3, 240, 80, False, _H, 2),
        Block(3, 200, 80, False, _H),
        Block(3, 184, 80, False, _H),
        Block(3, 184, 80, False, _H),
        Block(3, 480, 112, True, _H),
        Block(3, 672, 112, True, _H),
        Block(5, 672, 160, True, _H, 2),
        Block(5, 960, 160, True, _H),
        Block(5, 960, 160, True, _H),
    ),
    "small": (
        Block(3, 16, 16, True, _R, 2),
        Block(3, 72, 24, False, _R, 2),
        Block(3, 88, 24, False, _R),
        Block(5, 96, 40, True, _H, 2),
        Block(5, 240, 40, True, _H),
        Block(5, 240, 40, True, _H),
        Block(5, 120, 48, True, _H),
        Block(5, 144, 48, True, _H),
        Block(5, 288, 96, True, _H, 2),
        Block(5, 576, 96, True, _H),
        Block(5, 576, 96, True, _H),
    ),
}


class SqueezeExcitation(nn.Module):
    """The map times a weight in [0, 1] a channel, which two layers make of the channels' means."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.activation = nn.ReLU()
        self.scale_activation = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale_activation(self.fc2(self.activation(self.fc1(self.avgpool(x)))))


class InvertedResidual(nn.Module):
    """Expand, depthwise, squeeze-and-excite, project; with a residual where the shape stays."""

    def __init__(self, inputs: int, block: Block) -> None:
        super().__init__()
        inner, activation = block.expanded, block.activation
        layers: list[nn.Module] = []
        if inner != inputs:
            layers.append(conv_norm(inputs, inner, 1, activation))
        layers.append(conv_norm(inner, inner, block.kernel, activation, stride=block.stride, groups=inner))
        if block.squeeze:
            layers.append(SqueezeExcitation(inner, _eighths(inner // 4)))
        layers.append(conv_norm(inner, block.outputs, 1, None))
        self.block = nn.Sequential(*layers)
        self.residual = block.stride == 1 and inputs == block.outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x) if self.residual else self.block(x)


def conv_norm(
    inputs: int, outputs: int, kernel: int, activation: type[nn.Module] | None, *, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Convolution, batch norm and the activation, if any, with padding that keeps the size at stride 1; tensors 0 and 1."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out")
    norm = nn.BatchNorm2d(outputs, eps=EPSILON)
    return nn.Sequential(convolution, norm, *([activation()] if activation else []))


def blocks(size: str, *, reduced_tail: bool) -> list[Block]:
    """The blocks of `large` or `small`."""
    found = list(BLOCKS[size])
    if reduced_tail:
        found[-3] = replace(found[-3], outputs=found[-3].outputs // 2)
        found[-2:] = [replace(b, expanded=b.expanded // 2, outputs=b.outputs // 2) for b in found[-2:]]
    return found


def layers(found: list[Block]) -> list[nn.Module]:
    """Stem, blocks and last layer."""
    inputs = [STEM, *(block.outputs for block in found)]
    inner = [InvertedResidual(count, block) for count, block in zip(inputs, found)]
    return [conv_norm(3, STEM, 3, nn.Hardswish, stride=2), *inner, conv_norm(inputs[-1], last_channels(found), 1, nn.Hardswish)]


def last_channels(found: list[Block]) -> int:
    """Of the last layer."""
    return 6 * found[-1].outputs


def _eighths(channels: int) -> int:
    """The nearest multiple of 8, and no more than a tenth below."""
    nearest = max((channels + 4) // 8 * 8, 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest
