"""SimOTA against a slow reference written cell by cell, and the loss against hand-computed values."""

import math

import pytest
import torch
from torch.nn.functional import binary_cross_entropy

from edgedet.models import simota
from edgedet.models.base import Target
from edgedet.models.losses import pairwise_iou
from edgedet.models.yolox import HeadLevel, decode_boxes

STRIDES = (8, 16, 32)
CLASSES = 3


def random_heads(seed: int, side: int = 96, batch: int = 1) -> list[HeadLevel]:
    random = torch.Generator().manual_seed(seed)
    levels = []
    for stride in STRIDES:
        shape = (side // stride, side // stride)
        box = torch.randn(batch, 4, *shape, generator=random) * 0.4
        box[:, 2:] += 0.8
        rest = (torch.randn(batch, n, *shape, generator=random) for n in (1, CLASSES))
        levels.append(HeadLevel(box, *rest))
    return levels


def random_target(seed: int, count: int, side: int = 96) -> Target:
    random = torch.Generator().manual_seed(seed)
    center = torch.rand(count, 2, generator=random) * side
    half = 3 + torch.rand(count, 2, generator=random) * 25
    boxes = torch.cat([center - half, center + half], 1).clamp(0, side)
    return Target(boxes, torch.randint(CLASSES, (count,), generator=random))


def slow_assignment(raw: list[HeadLevel], target: Target) -> dict[int, int]:
    """Cell → object, one cell and one object at a time, as the paper's section 2.1 tells it."""
    boxes = torch.cat([decode_boxes(level.box, stride) for level, stride in zip(raw, STRIDES)], 1)[0]
    objectness = torch.cat([level.objectness.flatten(1) for level in raw], 1)[0].sigmoid()
    scores = torch.cat([level.classes.flatten(2) for level in raw], 2)[0].T.sigmoid()
    centers = [
        ((column + 0.5) * stride, (row + 0.5) * stride, stride)
        for level, stride in zip(raw, STRIDES)
        for row in range(level.box.shape[2])
        for column in range(level.box.shape[3])
    ]
    overlaps = pairwise_iou(target.boxes, boxes)
    candidates, both = [], {}
    for cell, (x, y, stride) in enumerate(centers):
        seen = False
        for thing, (left, top, right, bottom) in enumerate(target.boxes.tolist()):
            inside = left < x < right and top < y < bottom
            near = abs(x - (left + right) / 2) < 2.5 * stride and abs(y - (top + bottom) / 2) < 2.5 * stride
            both[thing, cell] = inside and near
            seen = seen or inside or near
        if seen:
            candidates.append(cell)
    wanted: dict[int, list[tuple[float, int]]] = {}
    for thing, label in enumerate(target.labels.tolist()):
        costs = []
        for cell in candidates:
            joint = (scores[cell] * objectness[cell]).sqrt()
            truth = torch.nn.functional.one_hot(torch.tensor(label), CLASSES).float()
            cost = binary_cross_entropy(joint, truth, reduction="sum").item()
            cost -= 3 * math.log(overlaps[thing, cell].item() + 1e-8)
            costs.append((cost + (0 if both[thing, cell] else 1e5), cell))
        best = sorted((overlaps[thing, cell].item() for cell in candidates), reverse=True)[:10]
        for cost, cell in sorted(costs)[: max(int(sum(best)), 1)]:
            wanted.setdefault(cell, []).append((cost, thing))
    return {cell: min(claims)[1] for cell, claims in wanted.items()}


def fast_assignment(raw: list[HeadLevel], target: Target) -> dict[int, int]:
    cells = simota._cells(raw, STRIDES)
    assignment = simota.assign(simota._flatten(raw, cells), 0, cells, target)
    return dict(zip(assignment.cells.tolist(), assignment.objects.tolist(), strict=True))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("count", [1, 4, 15])
def test_assignment_equals_the_slow_reference(seed, count):
    raw, target = random_heads(seed), random_target(seed + 100, count)
    assert fast_assignment(raw, target) == slow_assignment(raw, target)


def test_boxes_of_the_loss_are_the_boxes_of_decode():
    raw = random_heads(3)
    cells = simota._cells(raw, STRIDES)
    decoded = torch.cat([decode_boxes(level.box, stride) for level, stride in zip(raw, STRIDES)], 1)
    torch.testing.assert_close(simota._flatten(raw, cells).boxes, decoded, atol=1e-4, rtol=1e-5)


def test_offsets_that_the_l1_term_wants_decode_to_the_truth():
    raw, target = random_heads(4), random_target(5, 6)
    cells = simota._cells(raw, STRIDES)
    found = simota.assign(simota._flatten(raw, cells), 0, cells, target)
    boxes = target.boxes[found.objects]
    center, stride = cells.centers[found.cells], cells.strides[found.cells][:, None]
    offsets = simota._encode(boxes, cells.centers[found.cells], cells.strides[found.cells])
    middle = center - stride / 2 + offsets[:, :2] * stride
    half = offsets[:, 2:].exp() * stride / 2
    torch.testing.assert_close(torch.cat([middle - half, middle + half], 1), boxes, atol=1e-3, rtol=1e-5)


def one_cell_heads() -> list[HeadLevel]:
    """An 8×8 image of one cell whose box is 4,4 ± 4, exactly the image; all logits 0."""
    box = torch.tensor([0.5, 0.5, 0.0, 0.0]).view(1, 4, 1, 1)
    return [HeadLevel(box, torch.zeros(1, 1, 1, 1), torch.zeros(1, 2, 1, 1))]


def test_loss_of_one_cell_is_what_hand_computation_gives():
    target = Target(torch.tensor([[0.0, 0.0, 8.0, 4.0]]), torch.tensor([1]))  # half the cell's box: IoU .5
    losses = simota.simota_loss(one_cell_heads(), (8,), [target])
    assert losses["box"].item() == pytest.approx(5 * (1 - 0.25))
    assert losses["objectness"].item() == pytest.approx(math.log(2))
    assert losses["classes"].item() == pytest.approx(2 * math.log(2))  # targets 0 and .5 at probability .5
    assert losses["l1"].item() == pytest.approx(0.25 + math.log(2))  # centre 2 px of 8 off, height halved


def test_an_image_without_objects_costs_only_objectness():
    empty = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
    losses = simota.simota_loss(one_cell_heads(), (8,), [empty])
    assert losses["objectness"].item() == pytest.approx(math.log(2))
    assert losses["box"].item() == losses["classes"].item() == losses["l1"].item() == 0


def test_terms_are_divided_by_the_positive_cells_of_the_whole_batch():
    target = Target(torch.tensor([[0.0, 0.0, 8.0, 4.0]]), torch.tensor([1]))
    one = simota.simota_loss(one_cell_heads(), (8,), [target])
    twice = [HeadLevel(*(t.repeat(2, 1, 1, 1) for t in level)) for level in one_cell_heads()]
    two = simota.simota_loss(twice, (8,), [target, target])
    assert {k: v.item() for k, v in two.items()} == pytest.approx({k: v.item() for k, v in one.items()})


def test_gradients_are_finite_and_reach_every_head():
    raw = [HeadLevel(*(t.requires_grad_() for t in level)) for level in random_heads(7, batch=2)]
    losses = simota.simota_loss(raw, STRIDES, [random_target(1, 5), random_target(2, 0)])
    sum(losses.values()).backward()
    for level in raw:
        assert all(torch.isfinite(tensor.grad).all() for tensor in level)
    assert sum(tensor.grad.abs().sum() for level in raw for tensor in level) > 0
