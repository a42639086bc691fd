"""EfficientDet against effdet's: heads, detections, tensors, matching and loss."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from agreement import as_rgb, assert_same_detections, detect, pictures, rows, settle, spread

from edgedet.classes import COCO_90
from edgedet.errors import CheckpointError
from edgedet.export.graph import with_input
from edgedet.models import checkpoint, efficientdet
from edgedet.models.base import Target
from edgedet.models.checkpoint import Checkpoint
from edgedet.models.losses import pairwise_iou

SMALL_HW = (96, 160)
"""Sides that P6 and P7 round up: their strides are 48 and 53, then 96 and 80 pixels."""
SETTLING_HW = (256, 256)
"""Where the norms' statistics are of more than a few cells at P7."""
COUNTS = {
    "d0": (3_880_067, 784),
    "d1": (6_625_898, 1004),
    "d2": (8_097_039, 1076),
    "d3": (12_032_296, 1270),
    "d4": (20_723_675, 1474),
    "d5": (33_653_315, 1622),
    "d6": (51_871_782, 1818),
    "d7": (51_871_782, 1818),
    "d7x": (77_147_166, 2210),
    "lite0": (3_243_470, 696),
    "d0-pt": (3_877_763, 748),
    "d1-pt": (6_622_026, 960),
    "d2-pt": (8_091_215, 1024),
    "d3-pt": (12_022_376, 1208),
}
"""Parameters and tensors at 90 classes: effdet 0.4.1's; its README has 3.9, 6.6, 8.1, 12, 20.7, 33.7, 51.9, 51.9, 77.1 M."""

DEEP = ("d3", "d6", "d7", "d7x")
"""Their heads are compared in doubles: so many layers of chance magnify the last bit of a float32."""


def name_of(variant: str) -> str:
    """effdet's name of a variant."""
    return f"efficientdet_{variant.removesuffix('-pt')}" if variant.endswith("-pt") else f"tf_efficientdet_{variant}"


def normalised(images: np.ndarray, variant: str) -> torch.Tensor:
    """(B, 3, H, W) as effdet's data loader gives it: ImageNet's mean and deviation, for lite 0.5 and 0.5."""
    lite = variant.startswith("lite")
    mean, std = ((0.5,) * 3, (0.5,) * 3) if lite else ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    return (as_rgb(images) - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)


def network_for(effdet, variant: str, num_classes: int, size_hw: tuple[int, int]):
    """effdet's network, which takes one size only."""
    config = effdet.get_efficientdet_config(name_of(variant))
    config.image_size = size_hw
    config.num_classes = num_classes
    return effdet.EfficientDet(config, pretrained_backbone=False).eval()


def within(most: float, outputs: list[torch.Tensor]) -> float:
    """The standard deviation at which no output is further than `most` from the mean: scores of 1 have no order."""
    given = torch.cat([output.flatten() for output in outputs])
    return float(most * given.std() / (given - given.mean()).abs().max())


def reference(effdet, variant: str, num_classes: int, size_hw: tuple[int, int]):
    """effdet's network with weights of chance that detect a few hundred objects, its images and their pixels."""
    torch.manual_seed(0)
    settling_hw = max(size_hw, SETTLING_HW)
    network = network_for(effdet, variant, num_classes, settling_hw)
    for module in network.modules():
        if isinstance(module, effdet.efficientdet.FpnCombine) and module.edge_weights is not None:
            torch.nn.init.uniform_(module.edge_weights, -0.2, 1.0)
    images = normalised(pictures(settling_hw, 2), variant)
    settle(network, images, bias=2.0 if variant in DEEP else 0.0)
    with torch.no_grad():
        classes, boxes = network(images)
    spread(network.class_net.predict.conv_pw, classes, std=min(1.5, within(10, classes)), bias=-4.0)
    spread(network.box_net.predict.conv_pw, boxes, std=min(0.3, within(2, boxes)), bias=0.0)
    other = network_for(effdet, variant, num_classes, size_hw)
    other.load_state_dict(network.state_dict())
    pixels = pictures(size_hw, 2)
    return other, normalised(pixels, variant), pixels


def loaded(network, path, size_hw: tuple[int, int]) -> Checkpoint:
    torch.save(network.state_dict(), path)
    detector, spec = checkpoint.load(path)
    return Checkpoint(detector, with_input(spec, size_hw=size_hw, batch=None))


def assert_parity(effdet, variant: str, num_classes: int, size_hw: tuple[int, int], path) -> Checkpoint:
    """Raw heads to 1e-4 of their spread, detections to the project's floors, after a strict load of a file."""
    network, images, pixels = reference(effdet, variant, num_classes, size_hw)
    found = loaded(network, path, size_hw)
    assert (found.spec.name, len(found.spec.classes)) == (f"efficientdet-{variant}", num_classes)
    with torch.inference_mode():
        # Weights of chance make much of the last bit, so that both get the same pixels.
        normal = found.detector.normalize(torch.from_numpy(pixels).permute(0, 3, 1, 2).float())
        assert (normal - images).abs().max() <= 1e-6
        images = normal
        wanted = effdet.DetBenchPredict(network)(images)
        dtype = torch.float64 if variant in DEEP else torch.float32
        raw = copy.deepcopy(found.detector).to(dtype)(images.to(dtype))
        for level, classes, box in zip(raw, *network.to(dtype)(images.to(dtype)), strict=True):
            for ours, theirs in ((level.classes, classes), (level.box, box)):
                assert (ours - theirs).abs().max() <= 1e-4 * theirs.std()
    theirs = [rows(one[:, :4], one[:, 4], np.where(one[:, 4] > 0, one[:, 5] - 1, -1)) for one in wanted]
    assert_same_detections(detect(*found, pixels), theirs, floor=0.001, at_least=150)
    return found


@pytest.mark.parametrize("variant", ["d0", "lite0", "d0-pt"])
def test_heads_and_detections_of_a_small_input_are_effdets(variant, effdet, tmp_path):
    assert_parity(effdet, variant, 5, SMALL_HW, tmp_path / "any.pth")


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["d0", "lite0", "d1-pt", "d3"])
def test_heads_and_detections_at_full_size_are_effdets(variant, effdet, tmp_path):
    size = efficientdet.VARIANTS[variant].size
    found = assert_parity(effdet, variant, 90, (size, size), tmp_path / "any.pth")
    assert found.spec.classes == COCO_90
    assert found.spec.size_hw == (size, size)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["d6", "d7", "d7x"])
def test_sums_bigger_anchors_and_a_sixth_level_are_effdets(variant, effdet, tmp_path):
    assert_parity(effdet, variant, 3, (128, 128), tmp_path / f"{variant}.pth")


@pytest.mark.parametrize("variant", COUNTS)
def test_every_variant_has_the_reference_s_counts_and_is_recognised(variant):
    with torch.device("meta"):
        detector = efficientdet.build(variant, 90)
    state = detector.state_dict()
    assert (sum(p.numel() for p in detector.parameters()), len(state)) == COUNTS[variant]
    assert efficientdet.recognise(state) == ("d6" if variant == "d7" else variant, 90)


@pytest.mark.slow
@pytest.mark.parametrize("variant", COUNTS)
def test_every_variant_has_effdets_tensors(variant, effdet):
    with torch.device("meta"):
        network = effdet.EfficientDet(effdet.get_efficientdet_config(name_of(variant)), pretrained_backbone=False)
        detector = efficientdet.build(variant, 90)
    wanted = {name: tensor.shape for name, tensor in network.state_dict().items()}
    assert {name: tensor.shape for name, tensor in detector.state_dict().items()} == wanted


@pytest.fixture(scope="module")
def small(effdet):
    """effdet's D0 of five classes for small images, the images and their pixels."""
    return reference(effdet, "d0", 5, SMALL_HW)


def test_files_of_effdets_benches_and_of_norms_sorted_by_level_are_the_same_network(effdet, small, tmp_path):
    network, images, _ = small
    path = tmp_path / "x.pth"
    wanted = loaded(network, path, SMALL_HW).detector(images)
    try:
        network.toggle_head_bn_level_first()
        for bench in (network, effdet.DetBenchPredict(network), effdet.DetBenchTrain(network)):
            found = loaded(bench, path, SMALL_HW)
            assert found.spec.name == "efficientdet-d0"
            for ours, theirs in zip(found.detector(images), wanted, strict=True):
                assert torch.equal(ours.classes, theirs.classes)
                assert torch.equal(ours.box, theirs.box)
    finally:
        network.toggle_head_bn_level_first()


def test_other_families_and_other_anchors_are_left_alone():
    yolox = checkpoint.build("yolox-nano", 3).state_dict()
    assert efficientdet.adapt(yolox) is yolox
    assert efficientdet.recognise(yolox) is None
    state = efficientdet.build("d0", 3).state_dict()
    name = "box_net.predict.conv_pw.weight"
    assert efficientdet.recognise(state) == ("d0", 3)
    assert efficientdet.recognise({**state, name: state[name][:24]}) is None


def test_a_file_that_may_be_d6_or_d7_is_refused_without_its_name(tmp_path, monkeypatch):
    with torch.device("meta"):
        state = efficientdet.build("d7", 2).state_dict()
    monkeypatch.setattr(checkpoint, "read_state", lambda path: (state, None))
    with pytest.raises(CheckpointError, match="efficientdet-d6 and of efficientdet-d7 alike"):
        checkpoint.load(tmp_path / "best.pth")


def truth() -> list[Target]:
    """Two images: four objects, two of which want the same anchor; and none."""
    boxes = torch.tensor(
        [[10.1, 12.3, 70.7, 60.9], [60.1, 20.3, 110.7, 90.9], [61.3, 21.7, 111.1, 91.9], [100.3, 70.1, 104.9, 75.7]]
    )
    return [Target(boxes, torch.tensor([0, 3, 2, 4])), Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))]


def labelled(effdet, network, targets: list[Target]):
    """effdet's class targets, box targets and counts of positives."""
    anchors = effdet.anchors.Anchors.from_config(network.config)
    labeler = effdet.anchors.AnchorLabeler(anchors, network.config.num_classes)
    boxes = [target.boxes[:, [1, 0, 3, 2]] for target in targets]
    return labeler.batch_label_anchors(boxes, [target.labels + 1 for target in targets])


def test_anchors_answer_for_the_objects_that_effdet_gives_them(effdet, small):
    network, images, _ = small
    detector = efficientdet.build("d0", 5)
    wanted, _, positives = labelled(effdet, network, truth())
    overlaps = pairwise_iou(truth()[0].boxes, detector.anchors(detector(images)))
    found = efficientdet.assign(overlaps)
    labels = torch.where(found >= 0, truth()[0].labels[found.clamp(min=0)], -1)
    assert torch.equal(labels, torch.cat([level[0].flatten() for level in wanted]))
    assert int((found >= 0).sum()) == int(positives[0]) > 20
    assert {int(label) for label in labels} == {-1, 0, 2, 3, 4}


def test_no_object_and_an_object_beyond_all_anchors_are_answered_by_none():
    assert (efficientdet.assign(torch.zeros(0, 5)) == -1).all()
    assert efficientdet.assign(torch.tensor([[0.0, 0, 0], [0.1, 0.2, 0.0]])).tolist() == [-1, 1, -1]


def test_an_anchor_that_two_objects_want_most_is_the_first_s():
    overlaps = torch.tensor([[0.1, 0.4, 0.3], [0.2, 0.45, 0.1]])
    assert efficientdet.assign(overlaps).tolist() == [-1, 0, -1]


def test_the_loss_terms_are_effdets_to_1e_5(effdet, small):
    network, images, _ = small
    detector = efficientdet.build("d0", 5)
    detector.load_state_dict(network.state_dict())
    with torch.no_grad():
        ours = detector.eval().loss(detector(images), truth())
        _, classes, box = effdet.loss.DetectionLoss(network.config)(*network(images), *labelled(effdet, network, truth()))
    assert float(ours["classes"]) == pytest.approx(float(classes), rel=1e-5)
    assert float(ours["box"]) == pytest.approx(50 * float(box), rel=1e-5)
    assert float(box) > 0.01


def test_images_without_objects_give_a_finite_loss_and_gradient(small):
    _, images, _ = small
    detector = efficientdet.build("d0", 5)
    losses = detector.loss(detector(images), truth()[1:] * 2)
    sum(losses.values()).backward()
    assert losses["box"].item() == 0
    assert all(torch.isfinite(p.grad).all() for p in detector.parameters() if p.grad is not None)
