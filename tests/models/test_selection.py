"""The best pairs against all pairs sorted; names for files that carry none; rows of classes that survive a transfer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from edgedet.models import selection


@pytest.mark.parametrize("count", [1, 7, 60, 500])
def test_the_best_pairs_are_the_first_of_all_pairs_sorted(count):
    random = np.random.default_rng(0)
    boxes = torch.from_numpy(random.random((2, 40, 4), np.float32))
    scores = torch.from_numpy(random.permutation(2 * 40 * 5).reshape(2, 40, 5).astype(np.float32))
    found = selection.best_pairs(boxes, scores, count)
    for row in range(2):
        order = np.argsort(-scores[row].flatten().numpy())[:count]
        np.testing.assert_array_equal(found.scores[row], scores[row].flatten()[order])
        np.testing.assert_array_equal(found.boxes[row], boxes[row][order // 5])
        np.testing.assert_array_equal(found.labels[row], order % 5)


def test_no_class_gives_more_than_its_share():
    random = np.random.default_rng(1)
    boxes = torch.from_numpy(random.random((1, 30, 4), np.float32))
    scores = torch.from_numpy(random.permutation(30 * 3).reshape(1, 30, 3).astype(np.float32))
    scores[..., 1] += 100  # without the limit the best were all of class 1
    found = selection.best_of_each_class(boxes, scores, 4, 10)
    np.testing.assert_array_equal(np.bincount(found.labels[0])[1], 4)
    for score, label, box in zip(found.scores[0], found.labels[0], found.boxes[0], strict=True):
        anchor = int((scores[0, :, label] == score).nonzero())
        np.testing.assert_array_equal(box, boxes[0, anchor])
        assert (scores[0, :, label] > score).sum() < 4
    assert (found.scores[0].diff() < 0).all()


@pytest.mark.parametrize(
    "choose", [lambda b, s: selection.best_pairs(b, s, 6), lambda b, s: selection.best_of_each_class(b, s, 3, 6)]
)
def test_the_choice_exports_as_it_runs(choose, tmp_path):
    import onnxruntime

    class Choice(nn.Module):
        def forward(self, boxes, scores):
            return choose(boxes, scores)

    random = np.random.default_rng(2)
    inputs = (torch.from_numpy(random.random((2, 9, 4), np.float32)), torch.from_numpy(random.random((2, 9, 3), np.float32)))
    torch.onnx.export(Choice(), inputs, tmp_path / "c.onnx", dynamo=True, opset_version=19, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "c.onnx", providers=["CPUExecutionProvider"])
    feeds = {entry.name: value.numpy() for entry, value in zip(session.get_inputs(), inputs, strict=True)}
    for ours, theirs in zip(choose(*inputs), session.run(None, feeds), strict=True):
        np.testing.assert_array_equal(ours, theirs)
