"""The backbone DLA-34 against timm's, and how its way up begins."""

from __future__ import annotations

import importlib

import pytest
import torch

from edgedet.models.dla import DLA, IDAUp, fill_bilinear


@pytest.fixture(scope="module")
def timms(torchvision):
    """timm's DLA-34 with random weights and statistics, in evaluation mode; timm imports torchvision."""
    torch.manual_seed(0)
    network = importlib.import_module("timm").create_model("dla34").eval()
    for name, tensor in network.state_dict().items():
        if name.endswith(("running_mean", "running_var")):
            tensor.uniform_(0.5, 1.5)
    return network


def test_every_level_agrees_with_timms_to_1e_4(timms):
    state = {name: tensor for name, tensor in timms.state_dict().items() if not name.startswith("fc.")}
    ours = DLA().eval()
    ours.load_state_dict(state)
    images = torch.randn(2, 3, 64, 96)
    theirs, x = [], timms.base_layer(images)
    for i in range(6):
        x = getattr(timms, f"level{i}")(x)
        theirs.append(x)
    for level, wanted in zip(ours(images), theirs[2:], strict=True):
        torch.testing.assert_close(level, wanted, rtol=0, atol=1e-4 * float(wanted.detach().abs().max()))


def test_it_has_timms_parameters_less_the_classifier(timms):
    with torch.device("meta"):
        ours = DLA()
    assert sum(p.numel() for p in timms.parameters()) == 15_742_104  # timm's published 15.7 M
    assert sum(p.numel() for p in ours.parameters()) == 15_742_104 - (512 * 1000 + 1000)


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("factor", [2, 4])
def test_upsampling_begins_bilinear(factor, groups):
    up = torch.nn.ConvTranspose2d(3, 3, 2 * factor, factor, factor // 2, groups=groups, bias=False)
    fill_bilinear(up)
    x = torch.rand(1, 3, 5, 6)
    inside = (slice(None), slice(None), slice(factor, -factor), slice(factor, -factor))
    wanted = torch.nn.functional.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
    torch.testing.assert_close(up(x)[inside], wanted[inside])


def test_merging_brings_every_map_to_the_finest_ones_size():
    merge = IDAUp(8, (8, 12, 16), (1, 2, 4))
    maps = [torch.randn(1, 8, 16, 24), torch.randn(1, 12, 8, 12), torch.randn(1, 16, 4, 6)]
    assert [tuple(m.shape) for m in merge(maps)] == [(1, 8, 16, 24)] * 3
