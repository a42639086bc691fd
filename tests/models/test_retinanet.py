"""RetinaNet against torchvision's: heads, detections, losses; its files in every NMS mode against PyTorch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from agreement import as_rgb, assert_exports, assert_same_detections, detect, pictures, rows, settle, spread

from edgedet.classes import COCO_90
from edgedet.models import checkpoint, retinanet
from edgedet.models.base import Target
from edgedet.models.checkpoint import Checkpoint

SMALL_HW = (96, 160)
"""Sides that P6 and P7 round up: their strides are 48 and 53, then 96 and 80 pixels."""
SLOW = pytest.mark.slow
TINY = retinanet.Variant(18, (64, 96), width=8, channels=64)


def parts(torchvision, variant: str, columns: int):
    """Torchvision's backbone and head of a variant."""
    from torchvision.models.detection import backbone_utils
    from torchvision.models.detection import retinanet as theirs

    config = retinanet.VARIANTS[variant]
    body = getattr(torchvision.models, f"resnet{config.depth}")()
    inputs = body.fc.in_features if config.norm else 256
    extra = torchvision.ops.feature_pyramid_network.LastLevelP6P7(inputs, 256)
    norm = (lambda channels: torch.nn.GroupNorm(32, channels)) if config.norm else None
    head = theirs.RetinaNetHead(256, 9, columns, norm_layer=norm)
    head.regression_head._loss_type = "giou" if config.norm else "l1"
    return backbone_utils._resnet_fpn_extractor(body, 5, [2, 3, 4], extra), head


def reference(torchvision, variant: str, columns: int, size_hw: tuple[int, int]):
    """Torchvision's RetinaNet of a variant, random but sane: its scores are spread over [0, 1], a background never shows."""
    torch.manual_seed(0)
    backbone, head = parts(torchvision, variant, columns)
    sides = {"min_size": min(size_hw), "max_size": max(size_hw)}
    model = torchvision.models.detection.RetinaNet(backbone, columns, head=head, **sides)
    inputs = model.transform.normalize(as_rgb(pictures(SMALL_HW, 2)))
    settle(model.backbone, inputs, bias=2.0 if retinanet.VARIANTS[variant].depth >= 50 else 0.0)
    with torch.no_grad():
        raw = model.head(list(model.backbone(inputs).values()))
    logits, box = head.classification_head.cls_logits, head.regression_head.bbox_reg
    spread(logits, [raw["cls_logits"]], std=1.5, bias=-6.5)
    spread(box, [raw["bbox_regression"]], std=0.3, bias=0.0)
    with torch.no_grad():
        logits.weight.view(9, columns, -1)[:, 0] = 0
    return model.eval()


def loaded(model, path, classes=None) -> Checkpoint:
    torch.save(model.state_dict(), path)
    return checkpoint.load(path, classes=classes)


def reference_detections(model, images):
    with torch.inference_mode():
        found = model(list(as_rgb(images)))
    return [rows(one["boxes"], one["scores"], one["labels"] - 1) for one in found]


def assert_same_heads(model, detector, images) -> None:
    """Every raw value agrees to 1e-4 of the largest."""
    with torch.inference_mode():
        features = model.backbone(model.transform(list(as_rgb(images)))[0].tensors)
        wanted = model.head(list(features.values()))
        raw = detector(detector.normalize(torch.from_numpy(images).permute(0, 3, 1, 2).float()))
    found = {
        "cls_logits": torch.cat([retinanet.by_anchor(level.classes, detector.num_classes + 1) for level in raw], 1),
        "bbox_regression": torch.cat([retinanet.by_anchor(level.box, 4) for level in raw], 1),
    }
    for name, values in found.items():
        torch.testing.assert_close(values, wanted[name], rtol=0, atol=1e-4 * wanted[name].abs().max().item())


@pytest.mark.parametrize("variant", ["r18", "r18-v2", pytest.param("r101", marks=SLOW), pytest.param("r101-v2", marks=SLOW)])
def test_heads_and_detections_are_torchvisions(torchvision, variant, tmp_path):
    model = reference(torchvision, variant, 5, SMALL_HW)
    detector, spec = loaded(model, tmp_path / "r.pth")
    assert (spec.name, spec.classes) == (f"retinanet-{variant}", ("class_0", "class_1", "class_2", "class_3"))
    images = pictures(SMALL_HW, 2)
    assert_same_heads(model, detector, images)
    ours = detect(detector, replace(spec, size_hw=SMALL_HW), images)
    assert_same_detections(ours, reference_detections(model, images), floor=0.05, at_least=50)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("variant", ["r50", "r50-v2"])
def test_heads_and_detections_are_torchvisions_at_full_size_with_cocos_classes(torchvision, variant, tmp_path):
    model = reference(torchvision, variant, 91, (800, 1344))
    detector, spec = loaded(model, tmp_path / "r.pth")
    assert (spec.name, spec.classes, spec.size_hw) == (f"retinanet-{variant}", COCO_90, (800, 1344))
    images = pictures((800, 1344), 1)
    assert_same_heads(model, detector, images)
    assert_same_detections(detect(detector, spec, images), reference_detections(model, images), floor=0.05, at_least=300)


@pytest.mark.parametrize(("variant", "parameters"), [("r50", 34_014_999), ("r50-v2", 38_198_935)])
def test_parameter_counts_are_the_published_ones(variant, parameters):
    """Torchvision froze the first one's batch norms, whose 2·26560 numbers it therefore does not count."""
    with torch.device("meta"):
        detector = retinanet.build(variant, 90)
    frozen = 0 if detector.norm else 2 * 26_560
    assert sum(p.numel() for p in detector.parameters()) == parameters + frozen


@pytest.mark.parametrize("variant", retinanet.VARIANTS)
def test_tensor_names_and_shapes_are_torchvisions(torchvision, variant):
    with torch.device("meta"):
        backbone, head = parts(torchvision, variant, 91)
        ours = retinanet.build(variant, 90)
    shapes = {f"backbone.{name}": value.shape for name, value in backbone.state_dict().items()}
    shapes |= {f"head.{name}": value.shape for name, value in head.state_dict().items()}
    assert {name: value.shape for name, value in ours.state_dict().items()} == shapes


@pytest.mark.parametrize("variant", retinanet.VARIANTS)
@pytest.mark.parametrize("classes", [1, 7])
def test_every_variant_and_class_count_is_recognised_from_its_tensors(variant, classes):
    with torch.device("meta"):
        state = retinanet.build(variant, classes).state_dict()
    assert retinanet.recognise(state) == (variant, classes)
    assert retinanet.adapt(state) is state


def test_names_from_before_torchvision_0_13_are_known_and_batch_counters_may_be_absent(tmp_path):
    torch.manual_seed(0)
    state = retinanet.build("r18", 2).state_dict()
    old = {}
    for name, value in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        branch, _, rest = name.partition(".conv.")
        if name.startswith("head.") and rest:
            number, _, kind = rest.split(".")
            name = f"{branch}.conv.{2 * int(number)}.{kind}"
        old[name.replace(".0.weight", ".weight").replace(".0.bias", ".bias") if "_blocks" in name else name] = value
    assert {"head.regression_head.conv.6.weight", "backbone.fpn.inner_blocks.2.bias"} <= old.keys()
    torch.save({"model": old, "epoch": 3}, tmp_path / "old.pth")
    detector, spec = checkpoint.load(tmp_path / "old.pth")
    assert spec.name == "retinanet-r18"
    for name, value in detector.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(value, state[name], rtol=0, atol=0)


def test_anchors_are_rounded_and_centred_on_the_cells_corner():
    raw = [retinanet.HeadLevel(torch.zeros(1, 0, h, w), torch.zeros(1, 36, h, w))
           for h, w in [(100, 168), (50, 84), (25, 42), (13, 21), (7, 11)]]  # fmt: skip
    anchors = retinanet.grid_anchors(raw)
    assert len(anchors) == 9 * (100 * 168 + 50 * 84 + 25 * 42 + 13 * 21 + 7 * 11)
    assert anchors[0].tolist() == [-23, -11, 23, 11]
    assert anchors[9].tolist() == [-23 + 8, -11, 23 + 8, 11]
    p6 = anchors[9 * (100 * 168 + 50 * 84 + 25 * 42) :]
    assert p6[9].tolist() == [-181 + 64, -91, 181 + 64, 91]
    assert p6[9 * 21].tolist() == [-181, -91 + 61, 181, 91 + 61]


@pytest.mark.parametrize("variant", ["r18", "r18-v2"])
def test_loss_terms_are_torchvisions_to_1e_5(torchvision, variant, tmp_path):
    """An image of a large, an overlapping and a tiny object, which is only its best anchors', and one of none."""
    model = reference(torchvision, variant, 4, SMALL_HW)
    detector, _ = loaded(model, tmp_path / "r.pth")
    boxes = torch.tensor([[10.0, 8, 70, 80], [30, 20, 90, 60], [120, 70, 126, 77]])
    targets = [Target(boxes, torch.tensor([0, 2, 1])), Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))]
    images = pictures(SMALL_HW, 2)
    theirs = [{"boxes": target.boxes, "labels": target.labels + 1} for target in targets]
    model.training = model.transform.training = True  # its norms stay as they are
    with torch.no_grad():
        wanted = model(list(as_rgb(images)), theirs)
        found = detector.loss(detector(detector.normalize(torch.from_numpy(images).permute(0, 3, 1, 2).float())), targets)
    assert found.keys() == {"classes", "box"}
    torch.testing.assert_close(found["classes"], wanted["classification"], rtol=1e-5, atol=0)
    torch.testing.assert_close(found["box"], wanted["bbox_regression"], rtol=1e-5, atol=0)
    assert min(wanted.values()) > 0.1


def test_a_classification_checkpoint_becomes_the_backbone(torchvision, tmp_path):
    torch.manual_seed(1)
    classifier = torchvision.models.resnet18()
    torch.save(classifier.state_dict(), tmp_path / "resnet18.pth")
    detector = retinanet.build("r18", 3)
    assert checkpoint.load_backbone(detector, tmp_path / "resnet18.pth") == 100
    torch.testing.assert_close(detector.backbone.body.layer4[1].conv2.weight, classifier.layer4[1].conv2.weight)


def test_known_classes_keep_their_rows_and_the_background_its_own():
    old, new = retinanet.RetinaNet("r18", 3, TINY), retinanet.RetinaNet("r18", 2, TINY)
    with torch.no_grad():
        kept = checkpoint.transfer(new, old.state_dict(), old=("a", "b", "c"), new=("c", "d"))
    assert kept == []
    ours, theirs = (d.head.classification_head.cls_logits.weight.view(9, -1, TINY.channels, 3, 3) for d in (new, old))
    torch.testing.assert_close(ours[:, :2], theirs[:, [0, 3]], rtol=0, atol=0)


def tiny(*, norm: bool) -> Checkpoint:
    """A RetinaNet of an eighth of the width, 64×96 pixels, three classes, random but sane."""
    torch.manual_seed(0)
    detector = retinanet.RetinaNet("tiny", 3, replace(TINY, norm=norm))
    inputs = detector.normalize(torch.from_numpy(pictures((64, 96), 2)).permute(0, 3, 1, 2).float())
    settle(detector, inputs)
    with torch.no_grad():
        raw = detector(inputs)
    spread(detector.head.classification_head.cls_logits, [level.classes for level in raw], std=1.5, bias=-5.0)
    spread(detector.head.regression_head.bbox_reg, [level.box for level in raw], std=0.3, bias=0.0)
    return Checkpoint(detector, checkpoint.describe(detector, ("a", "b", "c")))


@pytest.mark.parametrize("norm", [False, pytest.param(True, marks=SLOW)], ids=["v1", "v2"])
@pytest.mark.parametrize("mode", ["onnx", pytest.param("matrix", marks=SLOW), pytest.param("none", marks=SLOW)])
def test_its_files_give_pytorchs_answers(norm, mode, tmp_path):
    assert_exports(*tiny(norm=norm), mode, tmp_path, at_least=50)
