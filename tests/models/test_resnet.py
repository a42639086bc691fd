"""ResNet against torchvision's: the same tensors give the same features."""

from __future__ import annotations

import pytest
import torch

from edgedet.models import resnet

PARAMETERS = {18: 11_689_512 - 513_000, 34: 21_797_672 - 513_000, 50: 25_557_032 - 2_049_000, 101: 44_549_160 - 2_049_000}
"""The published counts without the classifier of 1000 classes."""


@pytest.mark.parametrize("depth", resnet.DEPTHS)
def test_tensor_names_shapes_and_counts_are_torchvisions(torchvision, depth):
    with torch.device("meta"):
        ours, theirs = resnet.ResNet(depth), getattr(torchvision.models, f"resnet{depth}")()
    shapes = {name: value.shape for name, value in theirs.state_dict().items() if not name.startswith("fc.")}
    assert {name: value.shape for name, value in ours.state_dict().items()} == shapes
    assert sum(p.numel() for p in ours.parameters()) == PARAMETERS[depth]


@pytest.mark.parametrize("depth", [18, pytest.param(50, marks=pytest.mark.slow)])
def test_features_of_every_stage_agree_to_1e_5(torchvision, depth):
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, f"resnet{depth}")().eval()
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    ours = resnet.ResNet(depth).eval()
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")})
    images = torch.randn(2, 3, 64, 96)
    layers = {f"layer{i}": f"c{i + 1}" for i in (1, 2, 3, 4)}
    getter = torchvision.models._utils.IntermediateLayerGetter(theirs, layers)
    with torch.no_grad():
        wanted, found = getter(images), ours(images)
    assert [feature.shape[1] for feature in found] == list(ours.channels)
    for name, feature in zip(layers.values(), found, strict=True):
        torch.testing.assert_close(feature, wanted[name], rtol=1e-5, atol=1e-5 * wanted[name].abs().max().item())


@pytest.mark.parametrize("depth", resnet.DEPTHS)
def test_the_depth_is_read_from_the_tensors(depth):
    with torch.device("meta"):
        state = {f"backbone.body.{name}": value for name, value in resnet.ResNet(depth).state_dict().items()}
    assert resnet.depth_of(state, "backbone.body.") == depth
    assert resnet.depth_of({k: v for k, v in state.items() if ".layer4.1." not in k}, "backbone.body.") is None
    assert resnet.depth_of(state, "body.") is None
