"""SSD and SSDLite against torchvision's: priors, heads, detections, losses; and their tensors' names and numbers."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from agreement import as_rgb, assert_same_detections, detect, pictures, rows, settle, spread
from torch import nn

from edgedet.classes import COCO_90
from edgedet.errors import UsageError
from edgedet.models import checkpoint, ssd
from edgedet.models.base import Target

LITE = "lite-mobilenetv3"


def untrained(torchvision, variant: str, columns: int):
    """Torchvision's model of a variant. It has functions for two of them; the others are made of its parts."""
    from torchvision.models import detection
    from torchvision.models.detection import ssdlite

    if variant == "vgg16":
        return detection.ssd300_vgg16(weights=None, weights_backbone=None, num_classes=columns)
    model = detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=columns)
    if variant != LITE:
        norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.03)
        network = getattr(torchvision.models, f"mobilenet_v3_{ssd.VARIANTS[variant].mobilenet}")(norm_layer=norm)
        model.backbone = ssdlite._mobilenet_extractor(network, 6, norm)
        last = network.features[-1].out_channels
        channels = [{960: 672, 576: 288}[last], last, 512, 256, 256, 128]
        model.head = ssdlite.SSDLiteHead(channels, [6] * 6, columns, norm)
    return model


def last(layer: nn.Module) -> nn.Conv2d:
    """The convolution that gives a level's prediction."""
    return layer if isinstance(layer, nn.Conv2d) else layer[-1]


def feature_maps(model, images):
    """What torchvision's backbone makes of pixels of its own input size."""
    return list(model.backbone(model.transform(list(as_rgb(images)))[0].tensors).values())


def reference(torchvision, variant: str, columns: int):
    """Torchvision's model, random but sane: most priors are background, and the others' scores are spread over [0, 1]."""
    torch.manual_seed(0)
    model = untrained(torchvision, variant, columns)
    images = pictures(model.transform.fixed_size, 3)
    settle(model.backbone, model.transform(list(as_rgb(images)))[0].tensors)
    with torch.no_grad():
        features = feature_maps(model, images)
        settle(model.head, features)
        for norm in model.modules():
            if isinstance(norm, nn.BatchNorm2d):  # maps of one cell have next to no variance, which would magnify rounding
                norm.running_var.clamp_(min=0.02)
        for head, std in ((model.head.classification_head, 2.0), (model.head.regression_head, 1.0)):
            for layer, x in zip(head.module_list, features, strict=True):
                spread(last(layer), [layer(x)], std=std, bias=0.0)
        for layer in model.head.classification_head.module_list:
            last(layer).bias.view(-1, columns)[:, 0] = 6.0
    return model.eval()


def loaded(model, path):
    torch.save(model.state_dict(), path)
    return checkpoint.load(path)


def assert_same_heads(model, detector, images) -> None:
    """Every raw value agrees to 1e-4 of the largest."""
    with torch.inference_mode():
        wanted = model.head(feature_maps(model, images))
        raw = detector(detector.normalize(torch.from_numpy(images).permute(0, 3, 1, 2).float()))
    found = ssd.flatten(raw, detector.num_classes + 1)
    for name, values in zip(("bbox_regression", "cls_logits"), found, strict=True):
        torch.testing.assert_close(values, wanted[name], rtol=0, atol=1e-4 * wanted[name].abs().max().item())


def assert_same_as_torchvision(torchvision, variant, columns, path, count):
    model = reference(torchvision, variant, columns)
    detector, spec = loaded(model, path)
    assert (spec.name, len(spec.classes), spec.letterbox_anchor) == (f"ssd-{variant}", columns - 1, "stretch")
    images = pictures(spec.size_hw, count)
    assert_same_heads(model, detector, images)
    with torch.inference_mode():
        found = model(list(as_rgb(images)))
    theirs = [rows(one["boxes"], one["scores"], one["labels"] - 1) for one in found]
    most = spec.suppression.max_detections
    floor = spec.suppression.min_score
    assert_same_detections(detect(detector, spec, images), theirs, floor=floor, at_least=count * most)
    return spec


def test_heads_and_detections_of_the_small_one_are_torchvisions(torchvision, tmp_path):
    assert_same_as_torchvision(torchvision, LITE, 5, tmp_path / "lite.pth", 2)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ssd.VARIANTS)
def test_heads_and_detections_with_cocos_classes_are_torchvisions(torchvision, variant, tmp_path):
    spec = assert_same_as_torchvision(torchvision, variant, 91, tmp_path / "ssd.pth", 2)
    assert spec.classes == COCO_90


PUBLISHED = {"vgg16": (35_641_826, 71), "lite-mobilenetv3": (3_440_060, 476)}
"""Parameters and tensors of those that torchvision has weights of, with 91 columns."""


@pytest.mark.parametrize("variant", ssd.VARIANTS)
def test_tensor_names_shapes_and_counts_are_torchvisions(torchvision, variant):
    with torch.device("meta"):
        ours, theirs = ssd.build(variant, 90), untrained(torchvision, variant, 91)
    shapes = {name: value.shape for name, value in theirs.state_dict().items()}
    assert {name: value.shape for name, value in ours.state_dict().items()} == shapes
    counts = (sum(p.numel() for p in ours.parameters()), len(shapes))
    assert counts[0] == sum(p.numel() for p in theirs.parameters())
    assert counts == PUBLISHED.get(variant, counts)


@pytest.mark.parametrize("variant", ssd.VARIANTS)
@pytest.mark.parametrize("classes", [1, 20])
def test_every_variant_and_class_count_is_recognised_from_its_tensors(variant, classes):
    with torch.device("meta"):
        state = ssd.build(variant, classes).state_dict()
    assert ssd.recognise(state) == (variant, classes)
    assert ssd.recognise({name: value for name, value in state.items() if "regression_head" not in name}) is None
    assert ssd.recognise({name: value[..., 0] for name, value in state.items() if value.ndim == 4}) is None


def raw_heads(detector, side, *, batch=1, std=1.0):
    """Random raw heads for an input of that side, and their maps' sides."""
    sides = {300: (38, 19, 10, 5, 3, 1), 600: (75, 37, 19, 10, 8, 6), 320: (20, 10, 5, 3, 2, 1), 96: (6, 3, 2, 1, 1, 1)}[side]
    counts = zip(sides, detector.priors.per_cell(), strict=True)
    torch.manual_seed(1)
    return [
        ssd.HeadLevel(
            torch.randn(batch, 4 * count, side, side) * std,
            torch.randn(batch, (detector.num_classes + 1) * count, side, side) * std,
        )
        for side, count in counts
    ]


@pytest.fixture(params=["vgg16", LITE])
def detector(request):
    """A detector of three classes without weights: raw heads are made up."""
    with torch.device("meta"):
        return ssd.build(request.param, 3)


def their_priors(model, maps, side):
    from torchvision.models.detection.image_list import ImageList

    return model.anchor_generator(ImageList(torch.zeros(1, 3, side, side), [(side, side)]), maps)[0]


def test_priors_are_torchvisions_to_1e_4_px(torchvision, detector):
    with torch.device("meta"):
        model = untrained(torchvision, detector.variant, 4)
    side = detector.default_size_hw[0]
    raw = raw_heads(detector, side)
    ours, theirs = detector._prior_boxes(raw), their_priors(model, [level.boxes for level in raw], side)
    assert len(ours) == {"vgg16": 8732, LITE: 3234}[detector.variant]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_priors_of_ssd300_begin_and_end_where_the_published_scales_place_them():
    with torch.device("meta"):
        detector = ssd.build("vgg16", 3)
    boxes = detector._prior_boxes(raw_heads(detector, 300))
    assert boxes[0].tolist() == pytest.approx([4 - 10.5, 4 - 10.5, 4 + 10.5, 4 + 10.5])  # scale .07, cell of 8 pixels
    wide, high = 300 * 0.87 * 2**-0.5, 300 * 1.0  # scale .87, 1:2, its height cut at the input's
    assert boxes[-1].tolist() == pytest.approx([150 - wide / 2, 150 - high / 2, 150 + wide / 2, 150 + high / 2])


@pytest.mark.parametrize(("variant", "side"), [("vgg16", 300), ("vgg16", 600), (LITE, 320), (LITE, 96)])
def test_the_inputs_size_is_read_from_the_maps(variant, side):
    with torch.device("meta"):
        detector = ssd.build(variant, 3).eval()
        maps = detector(torch.zeros(1, 3, side, side))
    assert [level.boxes.shape for level in maps] == [level.boxes.shape for level in raw_heads(detector, side)]
    assert detector._size_hw(maps) == (side, side)
    assert detector._prior_boxes(raw_heads(detector, side)).max() < 1.5 * side


TRUTHS = [
    Target(torch.tensor([[20.0, 30, 110, 130], [60, 50, 160, 170], [197, 150, 203, 250]]), torch.tensor([0, 2, 1])),
    Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)),
    Target(torch.tensor([[5.0, 5, 290, 280], [7.0, 5, 290, 280]]), torch.tensor([1, 0])),
]
"""Large, overlapping and thin objects, the last its best prior's alone; none; and two that want the same prior."""


def test_loss_terms_are_torchvisions_to_1e_5(torchvision, detector):
    with torch.device("meta"):
        model = untrained(torchvision, detector.variant, 4)
    side = detector.default_size_hw[0]
    raw = raw_heads(detector, side, batch=3, std=2.0)
    offsets, logits = ssd.flatten(raw, 4)
    priors = their_priors(model, [level.boxes for level in raw], side)
    iou = torchvision.ops.box_iou
    matched = [model.proposal_matcher(iou(t.boxes, priors)) if len(t.boxes) else torch.full((len(priors),), -1) for t in TRUTHS]
    theirs = [{"boxes": t.boxes, "labels": t.labels + 1} for t in TRUTHS]
    wanted = model.compute_loss(theirs, {"bbox_regression": offsets, "cls_logits": logits}, [priors] * 3, matched)
    found = detector.loss(raw, TRUTHS)
    torch.testing.assert_close(found["box"], wanted["bbox_regression"], rtol=1e-5, atol=0)
    torch.testing.assert_close(found["classes"], wanted["classification"], rtol=1e-5, atol=0)
    assert [int((m >= 0).sum()) for m in matched] == [int((ssd.match(t.boxes, priors) >= 0).sum()) for t in TRUTHS]


def test_a_training_steps_loss_terms_are_torchvisions_to_1e_4(torchvision, tmp_path):
    model = reference(torchvision, LITE, 4)
    detector, _ = loaded(model, tmp_path / "lite.pth")
    images = pictures((320, 320), 3)
    theirs = [{"boxes": target.boxes, "labels": target.labels + 1} for target in TRUTHS]
    model.train(), detector.train()
    wanted = model(list(as_rgb(images)), theirs)
    found = detector.loss(detector(detector.normalize(torch.from_numpy(images).permute(0, 3, 1, 2).float())), TRUTHS)
    torch.testing.assert_close(found["box"], wanted["bbox_regression"], rtol=1e-4, atol=0)
    torch.testing.assert_close(found["classes"], wanted["classification"], rtol=1e-4, atol=0)
    assert all(term > 0.1 for term in found.values())


def test_the_hardest_negatives_are_three_for_each_positive_and_none_is_positive():
    entropy = torch.tensor([[5.0, 1, 4, 9, 3, 2], [1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6]])
    positive = torch.tensor([[0, 0, 0, 1, 0, 0], [1, 1, 1, 1, 0, 0], [0] * 6]).bool()
    chosen = ssd.hardest_negatives(entropy, positive)
    assert chosen.int().tolist() == [[1, 0, 1, 0, 1, 0], [0, 0, 0, 0, 1, 1], [0] * 6]


def test_loss_of_one_positive_prior_is_what_hand_computation_gives():
    """A truth of 40×8 pixels that only the prior of 3:1 in its cell overlaps by half, shifted by a twentieth of its width."""
    with torch.device("meta"):
        detector = ssd.build(LITE, 3)
    raw = [ssd.HeadLevel(boxes * 0, classes * 0) for boxes, classes in raw_heads(detector, 96)]
    width, height = 96 * 0.2 * 3**0.5, 96 * 0.2 / 3**0.5
    x, y = 40 + width / 20, 56
    found = detector.loss(raw, [Target(torch.tensor([[x - 20, y - 4.0, x + 20, y + 4]]), torch.tensor([1]))])
    assert found["classes"].item() == pytest.approx(4 * math.log(4))  # itself and three negatives of four equal columns
    offsets = [10 / 20, 0, 5 * math.log(40 / width), 5 * math.log(height / 8)]
    assert [offset < 1 for offset in offsets] == [True, True, True, False]
    expected = 0.5 * sum(offset**2 for offset in offsets[:3]) + offsets[3] - 0.5
    assert found["box"].item() == pytest.approx(expected, rel=1e-5)


def test_objects_without_area_take_no_prior_and_cost_nothing(detector):
    raw = raw_heads(detector, detector.default_size_hw[0])
    found = detector.loss(raw, [Target(torch.tensor([[50.0, 50, 50, 90]]), torch.tensor([1]))])
    assert {name: term.item() for name, term in found.items()} == {"box": 0, "classes": 0}


def test_known_classes_keep_their_rows_and_the_background_its_own():
    old, new = ssd.build(LITE, 3), ssd.build(LITE, 2)
    with torch.no_grad():
        kept = checkpoint.transfer(new, old.state_dict(), old=("a", "b", "c"), new=("c", "d"))
    assert kept == []
    ours, theirs = (last(d.head.classification_head.module_list[1]).weight.view(6, -1, 480) for d in (new, old))
    torch.testing.assert_close(ours[:, :2], theirs[:, [0, 3]], rtol=0, atol=0)


def test_one_image_a_step_is_refused_where_a_map_is_one_cell():
    """A batch norm has nothing to normalise a single value by."""
    with pytest.raises(UsageError, match="--batch 2"):
        ssd.build(LITE, 3)(torch.zeros(1, 3, 320, 320))


def test_a_step_down_the_gradient_lowers_the_loss():
    torch.manual_seed(0)
    detector = ssd.SSDVGG("tiny", 3, ssd.Variant(300, width=1 / 16)).train()
    images = detector.normalize(torch.from_numpy(pictures((300, 300), 3)).permute(0, 3, 1, 2).float())
    optimizer = torch.optim.AdamW(detector.parameters(), lr=2e-3)
    losses = []
    for _ in range(6):
        loss = sum(detector.loss(detector(images), TRUTHS).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
