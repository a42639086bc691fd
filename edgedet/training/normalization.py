"""Batch norms that were folded into the convolutions before them, given their statistics back.

Published checkpoints at times carry identity norms: mean 0, variance 1, weight
1 (or √(1 + ε)), and a bias. In evaluation they are harmless. In training a norm
divides by the statistics of the batch, which are nothing like 0 and 1, and the
pretrained features are gone after one step. So the statistics are measured on
images and written in such a way that the function stays the same. Folding also
left kernels of any magnitude, down to 10⁻⁵, which one step of the optimizer
would swamp; each is brought to the magnitude of a fresh one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from edgedet.models.layers import ConvNormAct


def folded_blocks(network: nn.Module) -> dict[str, ConvNormAct]:
    """The blocks, by name, whose norm only adds a bias: identities of a trained network (fresh ones have no bias either)."""
    return {name: block for name, block in network.named_modules() if isinstance(block, ConvNormAct) and _is_folded(block.bn)}


def _is_folded(norm: nn.BatchNorm2d) -> bool:
    # The weight may be √(1 + ε), which makes the identity exact.
    near_one = (norm.weight - 1).abs().max() < 0.01
    mean, variance = _statistics(norm)
    return bool((mean == 0).all() and (variance == 1).all() and near_one and (norm.bias != 0).any())


def _statistics(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """The running mean and variance themselves, each (C,)."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean, norm.running_var


@torch.no_grad()
def unfold_norms(network: nn.Module, inputs: Iterable[Tensor]) -> int:
    """Give folded norms the statistics of their inputs, keeping the function; returns how many there were.

    inputs: batches (B, 3, H, W) as the network takes them.
    """
    blocks = folded_blocks(network)
    if not blocks:
        return 0
    sums: dict[str, list[Tensor]] = {name: [] for name in blocks}
    handles = [block.bn.register_forward_pre_hook(_collector(sums[name])) for name, block in blocks.items()]
    training = network.training
    network.eval()
    for images in inputs:
        network(images)
    network.train(training)
    for handle in handles:
        handle.remove()
    for name, block in blocks.items():
        mean, square = torch.stack(sums[name]).mean(0)  # each (C,)
        _rewrite(block, mean, (square - mean.square()).clamp(min=0))
    return len(blocks)


def _collector(found: list[Tensor]) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def collect(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].double()
        found.append(torch.stack([x.mean((0, 2, 3)), x.square().mean((0, 2, 3))]))  # (2, C)

    return collect


def _rewrite(block: ConvNormAct, mean: Tensor, variance: Tensor) -> None:
    """Write the same function y = g·x + o with the kernel scaled by s and the statistics m and v of its output x.

    mean, variance: (C,) float64. Norm of s·x: mean s·m, variance s²·v, weight
    (g / s)·√(s²·v + ε), bias o + g·m.
    """
    kernel, norm = block.conv.weight, block.bn
    fan_in = kernel[0].numel()
    scale = 1 / (math.sqrt(3 * fan_in) * kernel.double().flatten(1).square().mean(1).sqrt().clamp(min=1e-8))
    own_mean, own_variance = _statistics(norm)
    gain = norm.weight.double() / (own_variance.double() + norm.eps).sqrt()
    offset = norm.bias.double() - own_mean.double() * gain
    kernel.mul_(scale.view(-1, 1, 1, 1))
    own_mean.copy_(scale * mean)
    own_variance.copy_(scale.square() * variance)
    norm.weight.copy_(gain / scale * (scale.square() * variance + norm.eps).sqrt())
    norm.bias.copy_(offset + gain * mean)


def freeze_norms(network: nn.Module) -> None:
    """Let every batch norm use its running statistics and leave them as they are, also while the rest trains."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
