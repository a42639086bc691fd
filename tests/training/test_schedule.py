"""Learning rate, averaged weights, and which weights decay."""

import pytest
import torch

from edgedet.models import checkpoint
from edgedet.training.schedule import AveragedWeights, Schedule, parameter_groups


def test_rate_rises_linearly_to_the_peak_and_falls_along_a_cosine_to_the_floor():
    schedule = Schedule(0.1, warmup=10, total=110, floor=0.1)
    assert schedule.learning_rate(0) == pytest.approx(0.01)
    assert schedule.learning_rate(9) == pytest.approx(0.1)
    assert schedule.learning_rate(60) == pytest.approx(0.1 * 0.55)  # half-way: the mean of peak and floor
    assert schedule.learning_rate(110) == pytest.approx(0.01)


def test_average_follows_its_formula_and_takes_statistics_along():
    detector = checkpoint.build("yolox-nano", 1)
    average = AveragedWeights(detector)
    name = "head.stems.0.bn.running_mean"
    expected = detector.state_dict()[name].clone()
    for step in range(1, 4):
        detector.state_dict()[name].add_(1.0)
        average.update(detector)
        decay = (1 + step) / (10 + step)
        expected = decay * expected + (1 - decay) * detector.state_dict()[name]
    torch.testing.assert_close(average.detector.state_dict()[name], expected)
    assert not average.detector.training


def test_only_kernels_decay():
    detector = checkpoint.build("yolox-nano", 1)
    kernels, vectors = parameter_groups(detector, weight_decay=0.05)
    assert kernels["weight_decay"] == 0.05
    assert vectors["weight_decay"] == 0
    assert all(p.ndim == 4 for p in kernels["params"])
    assert len(kernels["params"]) + len(vectors["params"]) == len(list(detector.parameters()))
