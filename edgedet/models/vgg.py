"""VGG-16's convolutions (Simonyan and Zisserman 2014, arXiv:1409.1556, configuration D).

    images (B, 3, H, W)
    stages  64 (H, W) · 128 (H/2) · 256 (H/4) · 512 (H/8) · 512 (H/16): 2, 2, 3, 3, 3 convolutions 3×3, each with ReLU,
            and a max pool of 2 between stages

Layers are numbered as in torchvision's `features`, so its weights load by name; the last pool and the classifier are left
to whoever uses them.
"""

from __future__ import annotations

from torch import nn

STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Channels and number of convolutions."""
POOLS = (4, 9, 16, 23)
"""Which layers are the pools after the first four stages."""


def layers(width: float = 1.0) -> list[nn.Module]:
    """The 30 layers up to the fifth stage's last ReLU, seeded as He et al. 2015 do; width multiplies the channels."""
    found: list[nn.Module] = []
    inputs = 3
    for stage, (channels, count) in enumerate(STAGES):
        if stage:
            found.append(nn.MaxPool2d(2))
        for _ in range(count):
            outputs = int(channels * width)
            found += [_convolution(inputs, outputs), nn.ReLU(inplace=True)]
            inputs = outputs
    return found


def _convolution(inputs: int, outputs: int) -> nn.Conv2d:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    assert convolution.bias is not None
    nn.init.zeros_(convolution.bias)
    return convolution
