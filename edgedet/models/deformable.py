"""Modulated deformable convolution (Zhu et al. 2018, arXiv:1811.11168) in operators that run and export everywhere.

    x                  (B, I, H, W)
    conv_offset_mask   3×3: Δy, Δx of tap 0, of tap 1, … 8, then the nine masks before their sigmoid   (B, 27, H, W)
    samples            x at p₀ + p_k + Δp_k times mask k, bilinear, zero outside                    (B, I, 3H, 3W)
    output             3×3 with stride 3: y(p₀) = Σ_k w_k · samples_k + b                            (B, O, H, W)

Each pixel's nine samples lie as a 3×3 tile, so that what is left to do is an ordinary convolution with the weights as
they are, which is compiled and quantised like any other. The samples are taken by GridSample: ONNX has DeformConv too, but
TensorRT does not read it. Tensor names are those of CenterNet's DCN.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, grid_sample, pixel_shuffle

TAPS = 9


class DeformableConv(nn.Module):
    """3×3, stride 1, padding 1, offsets that all channels share: (B, inputs, H, W) → (B, outputs, H, W).

    Untrained, nothing is displaced and every mask is σ(0): half of what an ordinary convolution gives.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs * TAPS)
        self.weight = nn.Parameter(torch.empty(outputs, inputs, 3, 3).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.conv_offset_mask = nn.Conv2d(inputs, 3 * TAPS, 3, 1, 1)
        for parameter in self.conv_offset_mask.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        offsets, masks = self.conv_offset_mask(x).split([2 * TAPS, TAPS], dim=1)
        return deformable_conv(x, offsets, masks.sigmoid(), self.weight, self.bias)


def deformable_conv(x: Tensor, offsets: Tensor, masks: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(B, O, H, W) of x (B, I, H, W): what `torchvision.ops.deform_conv2d` gives with padding 1.

    offsets: (B, 18, H, W) pixels, Δy before Δx for each tap, row by row. masks: (B, 9, H, W).
    weight: (O, I, 3, 3). bias: (O,).
    """
    batch, _, height, width = x.shape
    apart = offsets.view(batch, TAPS, 2, height, width).transpose(1, 2).reshape(batch, 2 * TAPS, height, width)
    down, right = pixel_shuffle(apart, 3).unbind(1)  # (B, 3H, 3W) each
    down = _undisplaced(height, down).unsqueeze(1) + down * (2 / height)
    right = _undisplaced(width, right) + right * (2 / width)
    samples = grid_sample(x, torch.stack([right, down], -1), mode="bilinear", padding_mode="zeros", align_corners=False)
    return conv2d(samples * pixel_shuffle(masks, 3), weight, bias, stride=3)


def _undisplaced(length: int, like: Tensor) -> Tensor:
    """(3·length,) where the three taps of each pixel lie without offsets; −1 and 1 are the border pixels' outer edges."""
    tap = torch.arange(3 * length, device=like.device)
    pixel = tap // 3 + tap % 3 - 1
    return ((2 * pixel + 1) / length - 1).to(like.dtype)
