"""CenterNet's files give PyTorch's answers, and TensorRT-RTX compiles them: GridSample in float, the rest as asked for."""

from __future__ import annotations

from dataclasses import replace

import compiled
import onnx
import pytest
import torch
from agreement import assert_exports, pictures, settle, spread

from edgedet.calibration.lint import lint
from edgedet.export.graph import with_input
from edgedet.export.to_onnx import to_onnx
from edgedet.models import centernet, checkpoint
from edgedet.models.checkpoint import Checkpoint
from edgedet.models.deformable import DeformableConv

CLASSES = ("a", "b", "c")
TINY = {"r18": centernet.Variant("resnet", 8, 8), "dla34": centernet.Variant("dla", 4, 8)}


def random_detector(variant: str, size_hw: tuple[int, int], *, bias: float = 0.0) -> Checkpoint:
    """Weights of chance: taps displaced by about a pixel, scores all over the scale."""
    torch.manual_seed(0)
    detector = centernet.build(variant, len(CLASSES))
    images = detector.normalize(torch.from_numpy(pictures((128, 128), 2)).permute(0, 3, 1, 2).float())
    for layer in detector.modules():
        if isinstance(layer, DeformableConv):
            torch.nn.init.normal_(layer.conv_offset_mask.weight, std=layer.weight.shape[1] ** -0.5 / 3)
    settle(detector, images, bias=bias)
    with torch.no_grad():
        raw = detector(images)
    for head, maps, std, bias in ((detector.hm, raw.heat, 2.0, 0.0), (detector.wh, raw.size, 1.0, 8.0)):
        spread(head[2], [maps], std=std, bias=bias)
    return Checkpoint(detector, with_input(checkpoint.describe(detector, CLASSES), size_hw=size_hw))


@pytest.fixture
def tiny(monkeypatch):
    """Makes a narrow network; its 8 by 16 cells have fewer peaks than are kept, so that no runtime chooses others."""

    def make(variant: str) -> Checkpoint:
        monkeypatch.setitem(centernet.VARIANTS, variant, TINY[variant])
        return random_detector(variant, (32, 64))

    return make


def test_a_file_gives_pytorchs_answers(tiny, tmp_path):
    assert_exports(*tiny("r18"), "onnx", tmp_path, at_least=40)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["onnx", "matrix", "none"])
@pytest.mark.parametrize("variant", TINY)
def test_files_of_every_nms_mode_give_pytorchs_answers(tiny, variant, mode, tmp_path):
    assert_exports(*tiny(variant), mode, tmp_path, at_least=40)


@pytest.mark.slow
@pytest.mark.parametrize("variant", TINY)
def test_files_of_the_variants_give_pytorchs_answers(variant, tmp_path):
    assert_exports(*random_detector(variant, (96, 128), bias=2.0), "onnx", tmp_path, at_least=30)


def strides(node: onnx.NodeProto) -> list[int]:
    return next(list(attribute.ints) for attribute in node.attribute if attribute.name == "strides")


@pytest.mark.slow
def test_deformable_convolutions_are_quantised_behind_their_samples(tiny, tmp_path):
    detector, spec = tiny("r18")
    model = onnx.load(compiled.quantised(to_onnx(detector, replace(spec, batch=1), tmp_path / "m.onnx")))
    maker = {output: node for node in model.graph.node for output in node.output}
    sampled = [node for node in model.graph.node if node.op_type == "GridSample"]
    assert len(sampled) == 3
    for node in sampled:
        assert all(maker[name].op_type != "DequantizeLinear" for name in node.input)
    strided = [node for node in model.graph.node if node.op_type == "Conv" and strides(node) == [3, 3]]
    assert lint(model, "tensorrt") == []
    assert [[maker[name].op_type for name in node.input[:2]] for node in strided] == [["DequantizeLinear"] * 2] * 3


@pytest.mark.slow
@pytest.mark.parametrize("precision", compiled.PRECISIONS)
@pytest.mark.parametrize("variant", TINY)
def test_tensorrt_builds_every_precision(tiny, variant, precision, tmp_path):
    loaded = tiny(variant)
    built = {layer.name: layer.built for layer in compiled.layers(loaded, precision, tmp_path)}
    taken = [name for name, layer in loaded.detector.named_modules() if isinstance(layer, DeformableConv)]
    wanted = {"fp32": "f32", "fp16": "f16"}.get(precision, "int8")
    assert taken
    assert [built[name] for name in taken] == [wanted] * len(taken)
