"""What changes from step to step: the learning rate, the averaged weights; and which weights decay."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import nn

from edgedet.models.base import Detector


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up to the peak, then half a cosine down to `floor` times the peak. Lengths in steps."""

    peak: float
    warmup: int
    total: int
    floor: float = 0.02

    def learning_rate(self, step: int) -> float:
        """The rate of this step, counted from 0."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        progress = min((step - self.warmup) / max(self.total - self.warmup, 1), 1.0)
        return self.peak * (self.floor + (1 - self.floor) * (1 + math.cos(math.pi * progress)) / 2)


class AveragedWeights:
    """An exponential moving average of a detector's weights and statistics: what is evaluated and saved.

    The decay grows as (1 + t) / (10 + t) up to its limit, so that the average
    spans about the last tenth of the steps so far.
    """

    def __init__(self, detector: Detector, *, limit: float = 0.9998) -> None:
        self.detector = copy.deepcopy(detector).eval().requires_grad_(False)
        self.steps = 0
        self._limit = limit

    @torch.no_grad()
    def update(self, detector: nn.Module) -> None:
        """Move the average towards the detector's present weights."""
        self.steps += 1
        decay = min(self._limit, (1 + self.steps) / (10 + self.steps))
        own, new = self.detector.state_dict(), detector.state_dict()
        floating = [name for name, value in own.items() if value.is_floating_point()]
        torch._foreach_lerp_([own[n] for n in floating], [new[n] for n in floating], 1 - decay)
        for name in own.keys() - set(floating):
            own[name].copy_(new[name])


def parameter_groups(network: nn.Module, *, weight_decay: float) -> list[dict[str, object]]:
    """Optimizer groups: kernels decay; biases and norms, being vectors, do not."""
    kernels = [p for p in network.parameters() if p.ndim > 1]
    vectors = [p for p in network.parameters() if p.ndim <= 1]
    return [{"params": kernels, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
