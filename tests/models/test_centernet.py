"""CenterNet against the paper's definitions and the official checkpoints' tensors: parity, decode, losses, recognition."""

from __future__ import annotations

import importlib
import math

import numpy as np
import pytest
import torch
from agreement import assert_same_detections, detect, pictures, rows
from centernet_reference import Reference, objects, official_state

from edgedet.classes import COCO
from edgedet.export.graph import ExportGraph, with_input
from edgedet.models import centernet, checkpoint
from edgedet.models.base import Target

OFFICIAL = {"r18": (14_437_349, 177), "dla34": (20_188_892, 400)}
"""Parameters and tensors of the published networks for 80 classes."""
UNREAD = {"r18": (0, 0), "dla34": (512 * 1000 + 1000 + 64 * 128 + 2 * 128 + 128 * 256 + 2 * 256, 14)}
"""How many of them nothing reads."""


@pytest.fixture(scope="module")
def bases(torchvision):
    """The published networks' backbones, by variant."""
    timm = importlib.import_module("timm")
    return {"r18": torchvision.models.resnet18, "dla34": lambda: timm.create_model("dla34")}


@pytest.fixture
def published(bases, torchvision, tmp_path):
    """Makes a random checkpoint in the official form and the reference network with the same tensors."""

    def make(variant: str, classes: int):
        base = bases[variant]()
        state = official_state(base, variant, classes)
        path = tmp_path / f"ctdet_{variant}.pth"
        torch.save({"epoch": 140, "state_dict": state}, path)
        return path, Reference(torchvision, base, state)

    return make


def standardised(pictures: np.ndarray) -> torch.Tensor:
    """(B, H, W, 3) uint8 BGR as the official code gives it to the network: (pixel / 255 − mean) / std."""
    mean, std = np.array([0.408, 0.447, 0.470]), np.array([0.289, 0.274, 0.278])
    return torch.from_numpy(((pictures / 255 - mean) / std).transpose(0, 3, 1, 2)).float()


def check_parity(published, variant: str, classes: int, size_hw: tuple[int, int]) -> None:
    """Raw heads to 1e-4 of their size; detections: matched ≥ .999, box ≤ .05 px, score ≤ 1e-4."""
    path, reference = published(variant, classes)
    detector, spec = checkpoint.load(path)
    spec = with_input(spec, size_hw=size_hw, batch=2)
    images = pictures(size_hw, 2)
    theirs = reference(standardised(images))
    with torch.inference_mode():
        ours = ExportGraph(detector, spec).raw(torch.from_numpy(images))
    for head, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(head, wanted, rtol=0, atol=1e-4 * float(wanted.abs().max()))
    wanted = [rows(*objects(*(head[i].double().numpy() for head in theirs))) for i in range(2)]
    # The hundredth and what comes after it may change places by a rounding.
    floor = max(float(found.scores.min()) for found in wanted)
    assert_same_detections(detect(detector, spec, images), wanted, floor=floor, at_least=150)


@pytest.mark.parametrize("variant", centernet.VARIANTS)
def test_it_is_the_published_network_on_a_small_input(published, variant):
    check_parity(published, variant, 5, (96, 128))


@pytest.mark.slow
@pytest.mark.parametrize("variant", centernet.VARIANTS)
def test_it_is_the_published_network_at_full_size(published, variant):
    check_parity(published, variant, 80, (512, 512))


@pytest.mark.parametrize("variant", centernet.VARIANTS)
def test_parameters_and_tensors_are_the_published_ones_less_what_nothing_reads(bases, variant):
    with torch.device("meta"):
        ours = centernet.build(variant, 80)
    state = official_state(bases[variant](), variant, 80)
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    theirs = sum(tensor.numel() for name, tensor in state.items() if not name.endswith(statistics)), len(state)
    assert theirs == OFFICIAL[variant]
    less = UNREAD[variant]
    assert sum(p.numel() for p in ours.parameters()) == OFFICIAL[variant][0] - less[0]
    assert len(ours.state_dict()) == OFFICIAL[variant][1] - less[1]


@pytest.mark.parametrize("variant", centernet.VARIANTS)
def test_published_checkpoints_are_recognised_with_their_classes(bases, variant):
    state = official_state(bases[variant](), variant, 7)
    assert centernet.recognise(centernet.adapt(state)) == (variant, 7)


@pytest.mark.parametrize("variant", centernet.VARIANTS)
@pytest.mark.parametrize("classes", [1, 7])
def test_our_checkpoints_are_recognised_as_they_are(variant, classes):
    with torch.device("meta"):
        state = centernet.build(variant, classes).state_dict()
    assert centernet.recognise(state) == (variant, classes)
    assert centernet.adapt(state).keys() == state.keys()


def test_other_families_tensors_are_left_alone(yolox_nano_pth):
    state, _ = checkpoint.read_state(yolox_nano_pth)
    assert centernet.adapt(state) is state
    assert centernet.recognise(state) is None


def test_eighty_classes_are_cocos(published):
    assert checkpoint.load(published("r18", 80)[0]).spec.classes == COCO


@pytest.mark.parametrize("variant", centernet.VARIANTS)
def test_a_classification_checkpoint_gives_the_whole_backbone(bases, variant, tmp_path):
    base = bases[variant]()
    torch.save(base.state_dict(), tmp_path / "imagenet.pth")
    detector = centernet.build(variant, 3)
    wanted = [name for name in base.state_dict() if not name.startswith("fc.") and not name.endswith("tracked")]
    assert checkpoint.load_backbone(detector, tmp_path / "imagenet.pth") == len(wanted)
    for name in wanted:
        assert torch.equal(detector.base.state_dict()[name], base.state_dict()[name])


def empty(classes: int = 2, height: int = 6, width: int = 8) -> centernet.Heads:
    """Maps of one image with no object in them."""
    return centernet.Heads(
        torch.full((1, classes, height, width), -9.0), torch.zeros(1, 2, height, width), torch.zeros(1, 2, height, width)
    )


def test_a_peaks_box_lies_around_cell_and_offset_and_is_as_large_as_its_size():
    raw = empty()
    raw.heat[0, 1, 2, 3] = 3.0  # class 1, row 2, column 3
    raw.offset[0, :, 2, 3] = torch.tensor([0.25, 0.5])
    raw.size[0, :, 2, 3] = torch.tensor([2.0, 4.0])
    boxes, scores, labels = centernet.build("r18", 2).decode(raw)
    assert boxes[0, 0].tolist() == [4 * (3.25 - 1), 4 * (2.5 - 2), 4 * (3.25 + 1), 4 * (2.5 + 2)]
    assert scores[0, 0].item() == pytest.approx(1 / (1 + math.exp(-3)))
    assert labels[0, 0].item() == 1
    assert labels.dtype == torch.int32


def test_a_cell_with_a_higher_neighbour_of_its_class_is_no_peak():
    raw = empty()
    raw.heat[0, 0, 2, 3], raw.heat[0, 0, 3, 4] = 2.0, 1.0
    raw.heat[0, 1, 2, 2] = 0.5  # another class
    _, scores, labels = centernet.build("r18", 2).decode(raw)
    kept = [(round(float(torch.logit(s)), 4), int(label)) for s, label in zip(scores[0], labels[0], strict=True) if s > 0.5]
    assert kept == [(2.0, 0), (0.5, 1)]


def test_a_hundred_of_all_classes_peaks_are_kept():
    raw = empty(3, 32, 32)
    raw.heat[:, :, ::2, ::2] = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    candidates = centernet.build("r18", 3).decode(raw)
    assert candidates.boxes.shape == (1, 100, 4)
    wanted = raw.heat.sigmoid().flatten().sort(descending=True).values[:100]
    assert torch.equal(candidates.scores[0], wanted)


def moved_ious(width: float, height: float, radius: float) -> list[float]:
    """IoUs of a box with itself when both corners move by the radius: the same way, inwards, outwards."""
    area = width * height
    both = (width - radius) * (height - radius)
    same = both / (2 * area - both)
    inwards = (width - 2 * radius) * (height - 2 * radius) / area
    return [same, inwards, area / ((width + 2 * radius) * (height + 2 * radius))]


def test_a_box_with_both_corners_off_by_the_radius_keeps_an_iou_of_seven_tenths():
    sizes = torch.tensor([[1.0, 1.0], [3.0, 20.0], [12.0, 5.0], [40.0, 40.0], [128.0, 2.0]], dtype=torch.float64)
    for (width, height), radius in zip(sizes.tolist(), centernet.gaussian_radius(sizes).tolist(), strict=True):
        assert min(moved_ious(width, height, radius)) == pytest.approx(0.7, abs=1e-9)


def test_gaussians_are_one_at_the_cell_and_end_at_the_radius():
    cell, radius = torch.tensor([[3.0, 2.0], [5.0, 2.0], [0.0, 0.0]]), torch.tensor([2.0, 1.0, 0.0])
    heat = centernet.draw_gaussians(cell, radius, torch.tensor([1, 1, 0]), 2, (6, 9))
    wanted = np.zeros((2, 6, 9), np.float32)
    wanted[0, 0, 0] = 1
    for x, y in np.ndindex(9, 6):
        if max(abs(x - 3), abs(y - 2)) <= 2:
            wanted[1, y, x] = math.exp(-((x - 3) ** 2 + (y - 2) ** 2) / (2 * (5 / 6) ** 2))
        if max(abs(x - 5), abs(y - 2)) <= 1:
            wanted[1, y, x] = max(wanted[1, y, x], math.exp(-((x - 5) ** 2 + (y - 2) ** 2) / (2 * (3 / 6) ** 2)))
    np.testing.assert_allclose(heat, wanted, atol=1e-6)


def test_the_truth_of_a_box_is_its_cell_size_and_offset():
    target = Target(torch.tensor([[8.0, 4.0, 22.0, 28.0], [3.0, 5.0, 3.0, 9.0]]), torch.tensor([1, 0]))
    truth = centernet.truth_of(target, 2, (8, 10))
    assert truth.cell.tolist() == [4 * 10 + 3]  # centre (3.75, 4), row 4, column 3; the second box has no area
    assert truth.size.tolist() == [[3.5, 6.0]]
    assert truth.offset.tolist() == [[0.75, 0.0]]
    assert truth.heat[1, 4, 3] == 1
    assert truth.heat[0].max() == 0


def test_boxes_beyond_the_input_are_clipped_to_it():
    target = Target(torch.tensor([[-40.0, 8.0, 8.0, 16.0], [36.0, 24.0, 80.0, 90.0]]), torch.tensor([0, 0]))
    truth = centernet.truth_of(target, 1, (8, 10))
    assert truth.size.tolist() == [[2.0, 2.0], [1.0, 2.0]]
    assert truth.cell.tolist() == [3 * 10 + 1, 7 * 10 + 9]


def test_the_heats_loss_is_the_penalty_reduced_focal_loss():
    logits = torch.tensor([[[[2.0, -1.0], [0.5, -3.0]]]])
    truth = torch.tensor([[[[1.0, 0.6], [1.0, 0.0]]]])
    p = [1 / (1 + math.exp(-v)) for v in (2.0, -1.0, 0.5, -3.0)]
    centres = (1 - p[0]) ** 2 * math.log(p[0]) + (1 - p[2]) ** 2 * math.log(p[2])
    elsewhere = 0.4**4 * p[1] ** 2 * math.log(1 - p[1]) + p[3] ** 2 * math.log(1 - p[3])
    assert centernet.heat_loss(logits, truth).item() == pytest.approx(-(centres + elsewhere) / 2)


def test_without_objects_only_the_heat_has_a_loss():
    raw = empty()
    losses = centernet.build("r18", 2).loss(raw, [Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))])
    p = 1 / (1 + math.exp(9))
    assert losses["heat"].item() == pytest.approx(-2 * 48 * p**2 * math.log(1 - p))
    assert losses["size"] == losses["offset"] == 0


def test_sizes_weigh_a_tenth_of_offsets_and_only_centres_count():
    raw = empty()
    raw.size[0, :, 2, 3] = torch.tensor([2.0, 1.0])
    raw.offset[0, :, 2, 3] = torch.tensor([0.5, 0.5])
    raw.size[0, :, 0, 0] = 99.0  # no object there
    target = Target(torch.tensor([[8.0, 4.0, 20.0, 16.0]]), torch.tensor([0]))  # centre (3.5, 2.5), 3 by 3 cells
    losses = centernet.build("r18", 2).loss(raw, [target])
    assert losses["size"].item() == pytest.approx(0.1 * (1.0 + 2.0) / 2)
    assert losses["offset"].item() == pytest.approx(0.0)


def test_the_loss_of_a_batch_is_over_all_its_objects():
    torch.manual_seed(0)
    raw = centernet.Heads(torch.randn(2, 2, 6, 8), torch.rand(2, 2, 6, 8), torch.rand(2, 2, 6, 8))
    targets = [
        Target(torch.tensor([[8.0, 4.0, 20.0, 16.0], [0.0, 0.0, 9.0, 9.0]]), torch.tensor([0, 1])),
        Target(torch.tensor([[2.0, 2.0, 30.0, 20.0]]), torch.tensor([1])),
    ]
    detector = centernet.build("r18", 2)
    whole = detector.loss(raw, targets)
    each = [detector.loss(centernet.Heads(*(head[i : i + 1] for head in raw)), [targets[i]]) for i in range(2)]
    for name in whole:
        assert whole[name].item() == pytest.approx((2 * each[0][name].item() + each[1][name].item()) / 3, rel=1e-5)


def test_a_step_down_the_gradient_lowers_the_loss(monkeypatch):
    torch.manual_seed(0)
    for name, base in (("r", "resnet"), ("d", "dla")):
        monkeypatch.setitem(centernet.VARIANTS, name, centernet.Variant(base, 8 if base == "resnet" else 4, 8))
        detector = centernet.build(name, 2).train()
        images = torch.randn(2, 3, 64, 64)
        targets = [
            Target(torch.tensor([[10.0, 10, 40, 50]]), torch.tensor([1])),
            Target(torch.zeros(0, 4), torch.zeros(0).long()),
        ]
        optimizer = torch.optim.AdamW(detector.parameters(), lr=2e-3)
        losses = []
        for _ in range(12):
            loss = sum(detector.loss(detector(images), targets).values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.8 * losses[0]
