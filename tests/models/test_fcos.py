"""FCOS against torchvision's: heads, detections, losses; its files in every NMS mode against PyTorch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from agreement import as_rgb, assert_exports, assert_same_detections, detect, pictures, rows, settle, spread

from edgedet.classes import COCO_90
from edgedet.models import checkpoint, fcos, retinanet
from edgedet.models.base import Target
from edgedet.models.checkpoint import Checkpoint

SMALL_HW = (96, 160)
"""Sides that P6 and P7 round up: their points are 48 and 53, then 96 and 80 pixels apart."""
TINY = fcos.Variant(18, (64, 96), width=8, channels=64)


def parts(torchvision, variant: str, columns: int):
    """Torchvision's backbone and head of a variant."""
    from torchvision.models.detection import backbone_utils
    from torchvision.models.detection.fcos import FCOSHead

    body = getattr(torchvision.models, f"resnet{fcos.VARIANTS[variant].depth}")()
    extra = torchvision.ops.feature_pyramid_network.LastLevelP6P7(256, 256)
    return backbone_utils._resnet_fpn_extractor(body, 5, [2, 3, 4], extra), FCOSHead(256, 1, columns)


def reference(torchvision, variant: str, columns: int, size_hw: tuple[int, int]):
    """Torchvision's FCOS of a variant, random but sane: its scores are spread over [0, 1], a background never shows."""
    torch.manual_seed(0)
    backbone, head = parts(torchvision, variant, columns)
    sides = {"min_size": min(size_hw), "max_size": max(size_hw)}
    model = torchvision.models.detection.FCOS(backbone, columns, head=head, **sides)
    inputs = model.transform.normalize(as_rgb(pictures(SMALL_HW, 2)))
    settle(model.backbone, inputs)
    with torch.no_grad():
        features = list(model.backbone(inputs).values())
        logits = head.classification_head(features)
        box = [head.regression_head.bbox_reg(head.regression_head.conv(feature)) for feature in features]
        centerness = head.regression_head(features)[1]
    spread(head.classification_head.cls_logits, [logits], std=1.5, bias=-4.0)
    spread(head.regression_head.bbox_reg, box, std=1.0, bias=1.5)
    spread(head.regression_head.bbox_ctrness, [centerness], std=1.0, bias=0.0)
    with torch.no_grad():
        head.classification_head.cls_logits.weight[0] = 0
    return model.eval()


def loaded(model, path) -> Checkpoint:
    torch.save(model.state_dict(), path)
    return checkpoint.load(path)


def reference_detections(model, images):
    with torch.inference_mode():
        found = model(list(as_rgb(images)))
    return [rows(one["boxes"], one["scores"], one["labels"] - 1) for one in found]


def normalized(detector, images):
    return detector.normalize(torch.from_numpy(images).permute(0, 3, 1, 2).float())


def assert_same_heads(model, detector, images) -> None:
    """Every raw value agrees to 1e-4 of the largest."""
    with torch.inference_mode():
        features = model.backbone(model.transform(list(as_rgb(images)))[0].tensors)
        wanted = model.head(list(features.values()))
        found = fcos.flatten(detector(normalized(detector, images)))
    pairs = {"cls_logits": found.classes, "bbox_regression": found.box, "bbox_ctrness": found.centerness[..., None]}
    for name, values in pairs.items():
        torch.testing.assert_close(values, wanted[name], rtol=0, atol=1e-4 * wanted[name].abs().max().item())


def test_heads_and_detections_are_torchvisions(torchvision, tmp_path):
    model = reference(torchvision, "r18", 5, SMALL_HW)
    detector, spec = loaded(model, tmp_path / "f.pth")
    assert (spec.name, spec.classes) == ("fcos-r18", ("class_0", "class_1", "class_2", "class_3"))
    images = pictures(SMALL_HW, 2)
    assert_same_heads(model, detector, images)
    ours = detect(detector, replace(spec, size_hw=SMALL_HW), images)
    assert_same_detections(ours, reference_detections(model, images), floor=0.2, at_least=50)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_heads_and_detections_are_torchvisions_at_full_size_with_cocos_classes(torchvision, tmp_path):
    model = reference(torchvision, "r50", 91, (800, 1344))
    detector, spec = loaded(model, tmp_path / "f.pth")
    assert (spec.name, spec.classes, spec.size_hw) == ("fcos-r50", COCO_90, (800, 1344))
    images = pictures((800, 1344), 1)
    assert_same_heads(model, detector, images)
    assert_same_detections(detect(detector, spec, images), reference_detections(model, images), floor=0.2, at_least=100)


def test_the_parameter_count_is_the_published_one():
    """Torchvision froze the batch norms, whose 2·26560 numbers it therefore does not count."""
    with torch.device("meta"):
        detector = fcos.build("r50", 90)
    assert sum(p.numel() for p in detector.parameters()) == 32_269_600 + 2 * 26_560


@pytest.mark.parametrize("variant", fcos.VARIANTS)
def test_tensor_names_and_shapes_are_torchvisions(torchvision, variant):
    with torch.device("meta"):
        backbone, head = parts(torchvision, variant, 91)
        ours = fcos.build(variant, 90)
    shapes = {f"backbone.{name}": value.shape for name, value in backbone.state_dict().items()}
    shapes |= {f"head.{name}": value.shape for name, value in head.state_dict().items()}
    assert {name: value.shape for name, value in ours.state_dict().items()} == shapes


@pytest.mark.parametrize("variant", fcos.VARIANTS)
@pytest.mark.parametrize("classes", [1, 7])
def test_every_variant_and_class_count_is_recognised_from_its_tensors(variant, classes):
    with torch.device("meta"):
        state = fcos.build(variant, classes).state_dict()
        other = retinanet.build("r18", 3).state_dict()
    assert fcos.recognise(state) == (variant, classes)
    assert fcos.adapt(state) is state
    assert retinanet.adapt(state) is state
    assert (retinanet.recognise(state), fcos.recognise(other)) == (None, None)


def test_names_from_before_torchvision_0_13_are_known(tmp_path):
    torch.manual_seed(0)
    state = fcos.build("r18", 2).state_dict()
    old = {k.replace(".0.weight", ".weight").replace(".0.bias", ".bias") if "_blocks" in k else k: v for k, v in state.items()}
    assert "backbone.fpn.inner_blocks.2.bias" in old
    torch.save({"model": old}, tmp_path / "old.pth")
    detector, spec = checkpoint.load(tmp_path / "old.pth")
    assert spec.name == "fcos-r18"
    for name, value in detector.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=0, atol=0)


def test_a_point_answers_for_the_smallest_object_that_it_is_near_and_that_its_level_reaches():
    centers = torch.tensor([[32.0, 32], [40, 32], [32, 48], [32, 32]])
    points = fcos.Points(
        centers, torch.tensor([8.0, 8, 8, 16]), torch.tensor([0.0, 0, 0, 64]), torch.tensor([64.0, 64, 64, 128])
    )
    boxes = torch.tensor([[0.0, 0, 64, 64], [24, 24, 42, 42], [-60, -60, 124, 124]])
    # The first two are in both small boxes; the third is 16 px below the large one's centre, more than 1.5 · 8.
    assert fcos.assign(points, boxes).tolist() == [1, 1, -1, 2]
    assert fcos.assign(points, boxes[:0]).tolist() == [-1] * 4


def test_centerness_is_the_root_of_both_ratios():
    found = fcos.centerness_of(torch.tensor([[10.0, 10], [5, 10]]), torch.tensor([[0.0, 0, 20, 20], [0, 0, 20, 40]]))
    assert found.tolist() == pytest.approx([1, (5 / 15 * 10 / 30) ** 0.5])


def test_loss_terms_are_torchvisions_to_1e_5(torchvision, tmp_path):
    """An image of a large, an overlapping and a small object, and one of none."""
    model = reference(torchvision, "r18", 4, SMALL_HW)
    detector, _ = loaded(model, tmp_path / "f.pth")
    boxes = torch.tensor([[10.0, 8, 150, 90], [30, 20, 90, 60], [112, 66, 128, 82]])
    targets = [Target(boxes, torch.tensor([0, 2, 1])), Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))]
    images = pictures(SMALL_HW, 2)
    theirs = [{"boxes": target.boxes, "labels": target.labels + 1} for target in targets]
    model.training = model.transform.training = True  # its norms stay as they are
    with torch.no_grad():
        wanted = model(list(as_rgb(images)), theirs)
        found = detector.loss(detector(normalized(detector, images)), targets)
    names = {"classes": "classification", "box": "bbox_regression", "centerness": "bbox_ctrness"}
    assert found.keys() == names.keys()
    for ours, other in names.items():
        torch.testing.assert_close(found[ours], wanted[other], rtol=1e-5, atol=0)
    assert min(wanted.values()) > 0.1


def test_known_classes_keep_their_rows_and_the_background_its_own():
    old, new = fcos.FCOS("r18", 3, TINY), fcos.FCOS("r18", 2, TINY)
    with torch.no_grad():
        kept = checkpoint.transfer(new, old.state_dict(), old=("a", "b", "c"), new=("c", "d"))
    assert kept == []
    ours, theirs = (d.head.classification_head.cls_logits.weight for d in (new, old))
    torch.testing.assert_close(ours[:2], theirs[[0, 3]], rtol=0, atol=0)


def tiny() -> Checkpoint:
    """An FCOS of an eighth of the width, 64×96 pixels, three classes, random but sane."""
    torch.manual_seed(0)
    detector = fcos.FCOS("tiny", 3, TINY)
    inputs = normalized(detector, pictures((64, 96), 2))
    settle(detector, inputs)
    with torch.no_grad():
        raw = detector(inputs)
    spread(detector.head.classification_head.cls_logits, [level.classes for level in raw], std=1.5, bias=-2.0)
    spread(detector.head.regression_head.bbox_reg, [level.box for level in raw], std=1.0, bias=1.5)
    return Checkpoint(detector, checkpoint.describe(detector, ("a", "b", "c")))


@pytest.mark.parametrize("mode", ["onnx", *(pytest.param(mode, marks=pytest.mark.slow) for mode in ("matrix", "none"))])
def test_its_files_give_pytorchs_answers(mode, tmp_path):
    assert_exports(*tiny(), mode, tmp_path, at_least=50)
