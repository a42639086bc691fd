"""MobileNetV3 against torchvision's: numbering, numbers, features; and its classification weights in a detector."""

from __future__ import annotations

import pytest
import torch
from agreement import settle
from torch import nn

from edgedet.models import checkpoint, mobilenetv3, ssd

PUBLISHED = {"large": 5_483_032, "small": 2_542_856}
"""Of the whole classifier of 1000 classes."""
LAST = {"large": 1280, "small": 1024}
"""Its hidden channels."""


def features(size: str, *, reduced_tail: bool) -> nn.Sequential:
    return nn.Sequential(*mobilenetv3.layers(mobilenetv3.blocks(size, reduced_tail=reduced_tail)))


@pytest.mark.parametrize("reduced_tail", [False, True])
@pytest.mark.parametrize("size", mobilenetv3.BLOCKS)
def test_tensor_names_shapes_and_counts_are_torchvisions(torchvision, size, reduced_tail):
    with torch.device("meta"):
        ours = features(size, reduced_tail=reduced_tail)
        theirs = getattr(torchvision.models, f"mobilenet_v3_{size}")(reduced_tail=reduced_tail)
    shapes = {name: value.shape for name, value in theirs.features.state_dict().items()}
    assert {name: value.shape for name, value in ours.state_dict().items()} == shapes
    if not reduced_tail:
        channels = ours[-1][0].out_channels
        classifier = (channels + 1) * LAST[size] + (LAST[size] + 1) * 1000
        assert sum(p.numel() for p in ours.parameters()) + classifier == PUBLISHED[size]


@pytest.mark.parametrize("size", mobilenetv3.BLOCKS)
def test_a_classification_checkpoint_becomes_the_backbone_and_gives_torchvisions_features(torchvision, size, tmp_path):
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, f"mobilenet_v3_{size}")()
    images = torch.randn(2, 3, 64, 96)
    settle(theirs, images)
    torch.save(theirs.state_dict(), tmp_path / "classifier.pth")
    detector = ssd.build({"large": "lite-mobilenetv3-full", "small": "lite-mobilenetv3-small"}[size], 3).eval()
    count = sum(not name.endswith("num_batches_tracked") for name in theirs.features.state_dict())
    assert checkpoint.load_backbone(detector, tmp_path / "classifier.pth") == count
    with torch.no_grad():
        wanted, found = theirs.features(images), detector.backbone.features(images)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5 * wanted.abs().max().item())


def test_a_reduced_tail_takes_no_classification_checkpoint(torchvision, tmp_path):
    torch.save(torchvision.models.mobilenet_v3_large().state_dict(), tmp_path / "classifier.pth")
    assert checkpoint.load_backbone(ssd.build("lite-mobilenetv3", 3), tmp_path / "classifier.pth") is None
