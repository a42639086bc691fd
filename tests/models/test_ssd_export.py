"""SSD's files against PyTorch in every NMS mode; and what TensorRT-RTX compiles of them, without a GPU."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from agreement import assert_exports, pictures, settle, spread
from torch import nn

from edgedet.calibration.encode import encode, float_by_rule
from edgedet.calibration.lint import lint
from edgedet.calibration.network import Network
from edgedet.calibration.table import ImageSet, Range, RangeTable, fingerprints
from edgedet.export import onnx_file
from edgedet.export.preflight import preflight
from edgedet.export.suppression import MATRIX_ROUNDS
from edgedet.export.to_fp16 import to_fp16
from edgedet.export.to_onnx import to_onnx
from edgedet.export.to_tensorrt import BuildOptions, to_tensorrt
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


def quantised(path: Path, encoding: str) -> Path:
    """The file in INT8, ranges of −6 to 6 everywhere: what is compiled does not depend on them."""
    model, spec = onnx_file.read(path)
    network = Network(model)
    left = float_by_rule(network.layers(), encoding)
    ranges = dict.fromkeys(network.activations(), Range(-6, 6, 6, -6, 6))
    table = RangeTable(fingerprints(model, spec), ImageSet("none", "0" * 64, 1), "minmax", ranges, {})
    spec = replace(spec, precision="int8", encoding=encoding).with_provenance(calibration={"left_float": left})
    return onnx_file.write(path.with_name("int8.onnx"), encode(model, table, encoding=encoding, left_float=left), spec)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int8+fp16"])
@pytest.mark.parametrize("variant", SIZES)
def test_tensorrt_rtx_builds_what_is_written(variant, precision, tmp_path):
    """In INT8 all but depthwise convolutions, predictions and the first, which reads pixels."""
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed; pip install -e '.[dev]'")
    detector, spec = random_detector(variant)
    spec = replace(spec, batch=1, suppression=replace(spec.suppression, mode="matrix"))
    path = to_onnx(detector, spec, tmp_path / "a.onnx")
    path = quantised(path, "tensorrt") if precision.startswith("int8") else path
    path = to_fp16(path, tmp_path / "narrow.onnx") if precision.endswith("fp16") else path
    model, _ = onnx_file.read(path)
    assert lint(model, "tensorrt") == []
    for platform in ("jetpack6", "jetpack7", "tensorrt11", "rtx"):
        assert preflight(model, platform, batch=None) == []
    facts = to_tensorrt(path, tmp_path / "m.engine", BuildOptions(targets=("SM86", "SM89")))
    built = Counter(layer.built for layer in facts.layers)
    built["f16"] -= MATRIX_ROUNDS  # one matrix product each, of zeros and ones
    convolutions = [module for module in detector.modules() if isinstance(module, nn.Conv2d)]
    kept = sum(module.groups > 1 for module in convolutions) + 2 * len(detector.priors.ratios) + 1
    wide = "f16" if precision.endswith("fp16") else "f32"
    wanted = {"int8": len(convolutions) - kept, wide: kept} if precision.startswith("int8") else {wide: len(convolutions)}
    assert +built == Counter(wanted)
