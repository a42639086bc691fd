"""Batch norms that were folded into the convolutions before them, given their statistics back.

Published checkpoints at times carry identity norms: mean 0, variance 1, weight
1 (or √(1 + ε)), and a bias. In evaluation they are harmless. In training a norm divides by
the statistics of the batch, which are nothing like 0 and 1, and the pretrained
features are gone after one step. So the statistics are measured on images and
written in such a way that the function stays the same.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def folded_norms(network: nn.Module) -> dict[str, nn.BatchNorm2d]:
    """The norms, by name, that only add a bias: identities of a trained network (fresh ones have no bias either)."""
    return {name: norm for name, norm in network.named_modules() if isinstance(norm, nn.BatchNorm2d) and _is_folded(norm)}


def _is_folded(norm: nn.BatchNorm2d) -> bool:
    # The weight may be √(1 + ε), which makes the identity exact.
    near_one = (norm.weight - 1).abs().max() < 0.01
    return bool((norm.running_mean == 0).all() and (norm.running_var == 1).all() and near_one and (norm.bias != 0).any())


@torch.no_grad()
def unfold_norms(network: nn.Module, inputs: Iterable[Tensor]) -> int:
    """Give folded norms the statistics of their inputs, keeping the function; returns how many there were.

    inputs: batches (B, 3, H, W) as the network takes them. With scale g and
    offset o of the identity, y = g·x + o, and the measured mean m and variance v:
    weight = g·√(v + ε), bias = o + g·m, so that evaluation gives the same y.
    """
    norms = folded_norms(network)
    if not norms:
        return 0
    sums: dict[str, list[Tensor]] = {name: [] for name in norms}
    handles = [norm.register_forward_pre_hook(_collector(sums[name])) for name, norm in norms.items()]
    training = network.training
    network.eval()
    for images in inputs:
        network(images)
    network.train(training)
    for handle in handles:
        handle.remove()
    for name, norm in norms.items():
        mean, square = torch.stack(sums[name]).mean(0)  # each (C,)
        _rewrite(norm, mean, square - mean.square())
    return len(norms)


def _collector(found: list[Tensor]):
    def collect(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].double()
        found.append(torch.stack([x.mean((0, 2, 3)), x.square().mean((0, 2, 3))]))  # (2, C)

    return collect


def _rewrite(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> None:
    variance = variance.clamp(min=0)
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    offset = norm.bias.double() - norm.running_mean.double() * scale
    norm.weight.copy_(scale * (variance + norm.eps).sqrt())
    norm.bias.copy_(offset + scale * mean)
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
