"""VGG-16 against torchvision's: numbering, numbers, features; and its classification weights in a detector."""

from __future__ import annotations

import torch
from torch import nn

from edgedet.models import checkpoint, ssd, vgg
from edgedet.models.ssd_features import unit_norm


def test_the_layers_are_torchvisions_without_the_last_pool(torchvision):
    with torch.device("meta"):
        ours, theirs = nn.Sequential(*vgg.layers()), torchvision.models.vgg16()
    assert [type(layer) for layer in ours] == [type(layer) for layer in theirs.features[:-1]]
    assert [i for i, layer in enumerate(ours) if isinstance(layer, nn.MaxPool2d)] == list(vgg.POOLS)
    shapes = {name: value.shape for name, value in theirs.features.state_dict().items()}
    assert {name: value.shape for name, value in ours.state_dict().items()} == shapes
    # The published 138 357 544 without the classifier's three layers.
    classifier = (512 * 7 * 7 + 1) * 4096 + 4097 * 4096 + 4097 * 1000
    assert sum(p.numel() for p in ours.parameters()) == 138_357_544 - classifier


def test_a_classification_checkpoint_becomes_the_backbone_and_gives_torchvisions_features(torchvision, tmp_path):
    torch.manual_seed(0)
    features = torchvision.models.vgg16(init_weights=False).features
    state = {f"features.{name}": value for name, value in features.state_dict().items()}
    torch.save({**state, "classifier.0.weight": torch.zeros(8, 8)}, tmp_path / "vgg16.pth")
    detector = ssd.build("vgg16", 3)
    assert checkpoint.load_backbone(detector, tmp_path / "vgg16.pth") == 26
    images = torch.randn(1, 3, 64, 96)
    backbone = detector.backbone
    with torch.no_grad():
        wanted = features[:-1](images)
        found = backbone.extra[0][:-1](backbone.features(images))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5 * wanted.abs().max().item())


def test_a_map_is_divided_by_its_norm_in_float16_too_where_the_squares_are_beyond_it():
    torch.manual_seed(0)
    x = torch.rand(1, 512, 3, 2) * 3000
    x[..., 0, 0] = 0  # as where every channel is dead
    wanted = nn.functional.normalize(x)
    assert not torch.isfinite(x.half().square()).all()
    torch.testing.assert_close(unit_norm(x), wanted, rtol=1e-5, atol=0)
    torch.testing.assert_close(unit_norm(x.half()).float(), wanted, rtol=3e-3, atol=1e-4)
