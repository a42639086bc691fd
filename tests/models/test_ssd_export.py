"""SSD's files against PyTorch in every NMS mode; and what TensorRT-RTX compiles of them, without a GPU."""

from __future__ import annotations

from dataclasses import replace

import compiled
import pytest
import torch
from agreement import assert_exports, pictures, settle, spread
from torch import nn

from edgedet.models import checkpoint, ssd
from edgedet.models.checkpoint import Checkpoint

SIZES = {"vgg16": (300, 300), "lite-mobilenetv3": (96, 160)}


def random_detector(variant: str) -> Checkpoint:
    """VGG-16 of a sixteenth of the width, or MobileNetV3 on small pictures; weights of chance that detect a few hundred."""
    torch.manual_seed(0)
    detector = ssd.SSDVGG("vgg16", 3, ssd.Variant(300, width=1 / 16)) if variant == "vgg16" else ssd.build(variant, 3)
    inputs = detector.normalize(torch.from_numpy(pictures(SIZES[variant], 3)).permute(0, 3, 1, 2).float())
    settle(detector, inputs)
    with torch.no_grad():
        for module in detector.modules():
            if isinstance(module, nn.BatchNorm2d):  # maps of one cell have next to no variance, which would magnify rounding
                module.running_var.clamp_(min=0.02)
        maps = detector.backbone(inputs)
        for head, std in ((detector.head.classification_head, 2.0), (detector.head.regression_head, 1.0)):
            for layer, x in zip(head.module_list, maps, strict=True):
                last = layer if isinstance(layer, nn.Conv2d) else layer[-1]
                spread(last, [layer(x)], std=std, bias=0.0)
        for layer in detector.head.classification_head.module_list:
            last = layer if isinstance(layer, nn.Conv2d) else layer[-1]
            last.bias.view(-1, 4)[:, 0] = 6.0
    spec = checkpoint.describe(detector.eval(), ("a", "b", "c"), size_hw=SIZES[variant])
    return Checkpoint(detector, replace(spec, batch=1))


SLOW = pytest.mark.slow


@pytest.mark.parametrize("variant", ["vgg16", pytest.param("lite-mobilenetv3", marks=SLOW)])
@pytest.mark.parametrize("mode", ["matrix", pytest.param("onnx", marks=SLOW), pytest.param("none", marks=SLOW)])
def test_its_files_give_pytorchs_answers(variant, mode, tmp_path):
    assert_exports(*random_detector(variant), mode, tmp_path, at_least=150)


@pytest.mark.slow
@pytest.mark.parametrize("precision", compiled.PRECISIONS)
@pytest.mark.parametrize("variant", SIZES)
def test_tensorrt_rtx_builds_what_is_written(variant, precision, tmp_path):
    """In INT8 all but depthwise convolutions and predictions."""
    loaded = random_detector(variant)
    convolutions = [module for module in loaded.detector.modules() if isinstance(module, nn.Conv2d)]
    left = sum(module.groups > 1 for module in convolutions) + 2 * len(loaded.detector.priors.ratios)
    layers = compiled.layers(loaded, precision, tmp_path)
    compiled.assert_built(layers, precision, convolutions=len(convolutions), left=left)
