"""ExportGraph: layouts, normalisation, sizes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from edgedet.errors import ExportError
from edgedet.export.graph import ExportGraph, with_input


def pixels(spec, batch: int = 1) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (batch, *spec.size_hw, 3), np.uint8)


def test_both_input_layouts_give_the_same_detections(small):
    images = torch.from_numpy(pixels(small.spec))
    planes = images.permute(0, 3, 1, 2).float()
    as_bytes = ExportGraph(*small)(images)
    as_floats = ExportGraph(small.detector, replace(small.spec, input_layout="float32-nchw"))(planes)
    assert (as_bytes.labels >= 0).sum() > 10
    for one, other in zip(as_bytes, as_floats, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_pixels_are_normalised_in_the_familys_colour_order(small):
    images = pixels(small.spec)
    rgb = images[..., ::-1].astype(np.float32)
    by_hand = (rgb - [10, 20, 30]) / [50, 60, 70]
    with torch.inference_mode():
        raw = small.detector(torch.from_numpy(by_hand.astype(np.float32).transpose(0, 3, 1, 2).copy()))
        ours = ExportGraph(*small).raw(torch.from_numpy(images))
    torch.testing.assert_close(ours["box"], raw["box"], rtol=1e-5, atol=1e-5)


def test_a_batch_gives_what_its_images_give_alone(small):
    images = torch.from_numpy(pixels(small.spec, batch=3))
    graph = ExportGraph(*small)
    together = graph(images)
    for row in range(3):
        for one, other in zip(together, graph(images[row : row + 1]), strict=True):
            torch.testing.assert_close(one[row], other[0], rtol=1e-5, atol=1e-5)


def test_mode_none_gives_every_candidate_in_the_order_of_the_anchors(small):
    spec = replace(small.spec, suppression=replace(small.spec.suppression, mode="none"))
    graph, images = ExportGraph(small.detector, spec), torch.from_numpy(pixels(spec))
    assert graph(images).boxes.shape == (1, 8 * 12, 4)
    torch.testing.assert_close(graph(images).boxes, graph.candidates(images).boxes, rtol=0, atol=0)


def test_a_size_the_network_cannot_take_names_the_nearest(small):
    with pytest.raises(ExportError, match=r"400x100 is no multiple of 32 each way; try --size 384x96"):
        ExportGraph(small.detector, with_input(small.spec, size_hw=(400, 100)))
