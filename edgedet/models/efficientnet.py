"""EfficientNet's trunk: inverted bottlenecks scaled in width and depth together (Tan & Le 2019, arXiv:1905.11946).

    images       (B, 3, H, W), sides in multiples of 32
    stem         (B, 32w, H/2, W/2)
    blocks.0–1   (B, 16w, H/2, W/2)    (B, 24w, H/4, W/4)
    blocks.2     (B, 40w, H/8, W/8)                             → P3
    blocks.3–4   (B, 80w, H/16, W/16)  (B, 112w, H/16, W/16)    → P4
    blocks.5–6   (B, 192w, H/32, W/32) (B, 320w, H/32, W/32)    → P5

Tensor names are timm's, so that its classification files load. Two things that
files do not tell depend on who trained them: Google's networks pad as
TensorFlow's "SAME" and have norms with an eps of 1e-3, timm's own pad alike on
all sides and have 1e-5. The lite network has ReLU6 for SiLU and no
squeeze-and-excitation, which integer hardware lacks. Stochastic depth is left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn.functional import pad

STEM = 32
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""Of each stage the blocks, their kernel, the first one's stride, the expansion, the output channels: B0's."""
PYRAMID = (2, 4, 6)
"""The stages that end a stride: P3, P4, P5."""
SCALES = {
    "b0": (1.0, 1.0), "b1": (1.0, 1.1), "b2": (1.1, 1.2), "b3": (1.2, 1.4),
    "b4": (1.4, 1.8), "b5": (1.6, 2.2), "b6": (1.8, 2.6), "b7": (2.0, 3.1),
}  # fmt: skip
"""Width and depth as multiples of B0's."""
MOMENTUM = 0.1
"""How fast the norms' statistics follow the batches. effdet's .01 outside the trunk wants thousands of steps."""

Padding = Literal["same", "symmetric"]


class SameConv2d(nn.Conv2d):
    """A convolution of stride 2 padded as TensorFlow's "SAME" pads even sizes: more at the right and the bottom."""

    def forward(self, x: Tensor) -> Tensor:
        before, after = (self.kernel_size[0] - 2) // 2, (self.kernel_size[0] - 1) // 2
        return super().forward(pad(x, (before, after, before, after)))


@dataclass(frozen=True)
class Layers:
    """How a network makes its layers. padding: at stride 2, where the two kinds differ. eps: of the norms."""

    padding: Padding
    eps: float
    activation: type[nn.Module]

    def conv(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, *, groups: int = 1, bias: bool = False
    ) -> nn.Conv2d:
        """A convolution that gives ⌈size / stride⌉ cells."""
        if stride > 1 and self.padding == "same":
            return SameConv2d(inputs, outputs, kernel, stride, groups=groups, bias=bias)
        return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=bias)

    def norm(self, channels: int) -> nn.BatchNorm2d:
        """A batch norm."""
        return nn.BatchNorm2d(channels, eps=self.eps, momentum=MOMENTUM)


class SqueezeExcite(nn.Module):
    """Channels weighted by what the whole map holds: (B, C, h, w) → the same shape."""

    def __init__(self, channels: int, reduced: int, activation: type[nn.Module]) -> None:
        super().__init__()
        self.conv_reduce = nn.Conv2d(channels, reduced, 1)
        self.act1 = activation()
        self.conv_expand = nn.Conv2d(reduced, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        squeezed = self.act1(self.conv_reduce(x.mean((2, 3), keepdim=True)))  # (B, reduced, 1, 1)
        return x * self.conv_expand(squeezed).sigmoid()


class DepthwiseSeparable(nn.Module):
    """The first stage's block: depthwise, squeeze and excite, 1×1."""

    def __init__(self, inputs: int, outputs: int, kernel: int, layers: Layers, *, excite: bool) -> None:
        super().__init__()
        self.conv_dw = layers.conv(inputs, inputs, kernel, groups=inputs)
        self.bn1 = layers.norm(inputs)
        self.act = layers.activation()
        self.se = SqueezeExcite(inputs, inputs // 4, layers.activation) if excite else nn.Identity()
        self.conv_pw = layers.conv(inputs, outputs, 1)
        self.bn2 = layers.norm(outputs)
        self.residual = inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv_pw(self.se(self.act(self.bn1(self.conv_dw(x))))))
        return x + y if self.residual else y


class InvertedResidual(nn.Module):
    """1×1 that widens, depthwise, squeeze and excite, 1×1 that narrows; a residual where the shape stays."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int, layers: Layers, *, excite: bool
    ) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.conv_pw = layers.conv(inputs, hidden, 1)
        self.bn1 = layers.norm(hidden)
        self.conv_dw = layers.conv(hidden, hidden, kernel, stride, groups=hidden)
        self.bn2 = layers.norm(hidden)
        self.act = layers.activation()
        self.se = SqueezeExcite(hidden, inputs // 4, layers.activation) if excite else nn.Identity()
        self.conv_pwl = layers.conv(hidden, outputs, 1)
        self.bn3 = layers.norm(outputs)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.bn1(self.conv_pw(x)))
        y = self.bn3(self.conv_pwl(self.se(self.act(self.bn2(self.conv_dw(y))))))
        return x + y if self.residual else y


class EfficientNet(nn.Module):
    """The trunk without its classifier; `channels` are those of P3, P4 and P5."""

    def __init__(self, width: float, depth: float, layers: Layers, *, excite: bool) -> None:
        super().__init__()
        inputs = _scaled(STEM, width)
        self.conv_stem = layers.conv(3, inputs, 3, 2)
        self.bn1 = layers.norm(inputs)
        self.act = layers.activation()
        stages, ends = [], []
        for count, kernel, stride, expansion, channels in STAGES:
            outputs = _scaled(channels, width)
            blocks: list[nn.Module] = []
            for _ in range(math.ceil(count * depth)):
                blocks.append(
                    DepthwiseSeparable(inputs, outputs, kernel, layers, excite=excite)
                    if expansion == 1
                    else InvertedResidual(inputs, outputs, kernel, stride, expansion, layers, excite=excite)
                )
                inputs, stride = outputs, 1
            stages.append(nn.Sequential(*blocks))
            ends.append(outputs)
        self.blocks = nn.Sequential(*stages)
        self.channels = tuple(ends[i] for i in PYRAMID)
        self.apply(_initialise)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.act(self.bn1(self.conv_stem(images)))
        features = []
        for i, stage in enumerate(self.blocks):
            x = stage(x)
            if i in PYRAMID:
                features.append(x)
        return features


def _scaled(channels: int, width: float) -> int:
    """The nearest multiple of eight to channels·width, but no more than a tenth below it."""
    wanted = channels * width
    rounded = max(int(wanted + 4) // 8 * 8, 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded


def _initialise(module: nn.Module) -> None:
    """Normal weights of variance 2 / fan-out."""
    if isinstance(module, nn.Conv2d):
        fan_out = module.out_channels // module.groups * math.prod(module.kernel_size)
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
