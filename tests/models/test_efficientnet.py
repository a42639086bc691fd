"""EfficientNet's trunk against timm's: features, tensors, classification files."""

from __future__ import annotations

import importlib

import pytest
import torch
from agreement import settle
from torch import nn

from edgedet.models import checkpoint
from edgedet.models.efficientnet import SCALES, EfficientNet, Layers

SAME = Layers("same", 1e-3, nn.SiLU)
REFERENCES = {
    "tf_efficientnet_b0": ("b0", SAME),
    "efficientnet_b0": ("b0", Layers("symmetric", 1e-5, nn.SiLU)),
    "tf_efficientnet_lite0": ("b0", Layers("same", 1e-3, nn.ReLU6)),
}


@pytest.fixture(scope="module")
def timm(torchvision):
    """timm, the reference of EfficientNet."""
    return importlib.import_module("timm")


def ours(scale: str, layers: Layers) -> EfficientNet:
    return EfficientNet(*SCALES[scale], layers, excite=layers.activation is not nn.ReLU6).eval()


@pytest.mark.parametrize("name", REFERENCES)
def test_features_of_chance_weights_are_timms_to_1e_4(name, timm):
    torch.manual_seed(0)
    reference = timm.create_model(name, features_only=True, out_indices=(2, 3, 4))
    images = torch.randn(2, 3, 64, 96)
    settle(reference, images)
    trunk = ours(*REFERENCES[name])
    trunk.load_state_dict(reference.state_dict())
    with torch.inference_mode():
        pairs = list(zip(trunk(images), reference(images), strict=True))
    assert tuple(theirs.shape[1] for _, theirs in pairs) == trunk.channels
    for found, wanted in pairs:
        assert wanted.std() > 0.1
        assert (found - wanted).abs().max() <= 1e-4 * wanted.abs().max()


@pytest.mark.parametrize("scale", SCALES)
def test_every_scale_has_timms_tensors(scale, timm):
    with torch.device("meta"):
        reference = timm.create_model(f"tf_efficientnet_{scale}", features_only=True, out_indices=(2, 3, 4))
        trunk = ours(scale, SAME)
    wanted = {name: tensor.shape for name, tensor in reference.state_dict().items()}
    assert {name: tensor.shape for name, tensor in trunk.state_dict().items()} == wanted


def test_timms_classification_file_fills_the_trunk(timm, tmp_path):
    torch.manual_seed(0)
    classifier = timm.create_model("tf_efficientnet_b0")
    torch.save(classifier.state_dict(), tmp_path / "tf_efficientnet_b0.pth")
    detector = checkpoint.build("efficientdet-d0", 3)
    count = checkpoint.load_backbone(detector, tmp_path / "tf_efficientnet_b0.pth")
    own = detector.state_dict()
    trunk = {name for name in own if name.startswith("backbone.") and not name.endswith("num_batches_tracked")}
    assert count == len(trunk)
    for name in trunk:
        assert torch.equal(own[name], classifier.state_dict()[name.removeprefix("backbone.")])
    assert checkpoint.load_backbone(checkpoint.build("efficientdet-d2", 3), tmp_path / "tf_efficientnet_b0.pth") is None
