"""Box overlaps as tensors, against hand-computed values and the NumPy implementation."""

import numpy as np
import pytest
import torch

from edgedet import boxes
from edgedet.models.losses import iou_loss, paired_iou, pairwise_iou


def test_overlap_of_two_squares_that_share_a_quarter_is_one_seventh():
    iou = pairwise_iou(torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[5.0, 5, 15, 15], [20, 20, 30, 30]]))
    assert iou[0].tolist() == pytest.approx([25 / 175, 0])


def test_tensors_and_arrays_give_the_same_overlaps_to_1e_6():
    corners = np.random.default_rng(0).uniform(0, 100, (40, 4)).astype(np.float32)
    some = np.concatenate([np.minimum(corners[:, :2], corners[:, 2:]), np.maximum(corners[:, :2], corners[:, 2:])], 1)
    ours = pairwise_iou(torch.from_numpy(some), torch.from_numpy(some[::2]))
    np.testing.assert_allclose(ours.numpy(), boxes.iou_matrix(some, some[::2]), atol=1e-6)


def test_box_loss_is_one_minus_the_squared_overlap():
    predicted = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10]])
    truth = torch.tensor([[0.0, 0, 10, 10], [5, 5, 15, 15]])
    assert paired_iou(predicted, truth).tolist() == pytest.approx([1, 1 / 7])
    assert iou_loss(predicted, truth).tolist() == pytest.approx([0, 1 - 1 / 49])


def test_a_box_without_area_gives_a_finite_gradient():
    predicted = torch.tensor([[5.0, 5, 5, 5]], requires_grad=True)
    iou_loss(predicted, torch.tensor([[0.0, 0, 10, 10]])).sum().backward()
    assert torch.isfinite(predicted.grad).all()
