"""Darknet-53 and CSPDarknet-53, the backbones of YOLOv3 and v4, as Darknet's layers 0–74 and 0–104.

    stem     (B, 32, H, W)
    stage i  (B, 2^(5+i), H/2^i, W/2^i), i = 1 … 5: a convolution of stride 2, then 1, 2, 8, 8, 4 residual blocks

In Darknet-53 (Redmon and Farhadi 2018, arXiv:1804.02767, table 1) the blocks of a stage stand one behind the other; in
CSPDarknet-53 (Wang et al. 2019, arXiv:1911.11929; Bochkovskiy et al. 2020, arXiv:2004.10934) half the channels go past them.
Their layers and negative numbers are those of the published cfg files.
"""

from __future__ import annotations

from functools import partial

from edgedet.models.darknet_cfg import Layer, Route, Shortcut, convolution

STAGES = ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4))
"""Channels of a stage and its residual blocks."""


def darknet53() -> list[Layer]:
    """Leaky ReLUs throughout; strides 8, 16 and 32 end at the layers 36, 61 and 74."""
    layers: list[Layer] = [convolution(32)]
    for filters, blocks in STAGES:
        block: list[Layer] = [convolution(filters // 2, 1), convolution(filters), Shortcut(-3)]
        layers += [convolution(filters, stride=2), *block * blocks]
    return layers


def cspdarknet53() -> list[Layer]:
    """Mish throughout; strides 8, 16 and 32 end at the layers 54, 85 and 104."""
    mish = partial(convolution, activation="mish")
    layers: list[Layer] = [mish(32)]
    for filters, blocks in STAGES:
        half = max(filters // 2, 64)  # the first stage does not divide its channels
        block: list[Layer] = [mish(filters // 2, 1), mish(half), Shortcut(-3)]
        layers += [mish(filters, stride=2), mish(half, 1), Route((-2,)), mish(half, 1), *block * blocks]
        layers += [mish(half, 1), Route((-1, -4 - 3 * blocks)), mish(filters, 1)]
    return layers
