"""FCOS: a box from every point inside an object, without anchors (Tian et al. 2019, arXiv:1904.01355 and 2006.09214).

    images (B, 3, H, W) RGB, ImageNet's mean and std
    ResNet, FPN  P3 … P7 (B, 256, h, w), h = ⌈H/s⌉ at s = 8, 16, 32, 64, 128 (edgedet/models/fpn.py)
    head         shared by the levels, two branches of four 3×3 convolutions with group norm:
                 classes (B, C+1, h, w); box (B, 4, h, w), centerness (B, 1, h, w)
    decode       a point a cell; ReLU(box)·s reaches from it to the left, upper, right and lower side;
                 a level's 1000 best pairs of point and class, K ≤ 5000; score = √(σ(class)·σ(centerness))

Tensor names are torchvision's, so its checkpoints load as they are. As there,
the points are the cells' upper left corners, the classes have a column for a background
that nothing ever sets (the head keeps it, `decode` leaves it out), and the score is a root, which
the first paper's is not.

Departures from torchvision: boxes are clipped to the whole input and not to the
picture in it, which the way back to the frame does; and of the up to 5000 pairs of
all levels only the best go into suppression (`suppression` says how many).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from edgedet.models import anchors, fpn, resnet
from edgedet.models.base import Candidates, Detector, Normalization, Target
from edgedet.models.losses import focal_loss, giou_loss
from edgedet.models.selection import best_pairs
from edgedet.spec import Suppression

SIDES = (8, 16, 32, 64, 128)
"""The unit of a level's distances, input pixels."""
REACH = 4, 8
"""A level takes objects whose farthest side is between so many units away; the first also nearer, the last also farther."""
CENTER_RADIUS = 1.5
"""Units around an object's centre within which a point may answer for it."""
BEST_OF_LEVEL = 1000
CLASSES, BOX = "head.classification_head", "head.regression_head"


@dataclass(frozen=True)
class Variant:
    """The ResNet's depth and the default input. width: its channels after the stem. channels: of the pyramid and the head."""

    depth: int
    size_hw: tuple[int, int]
    width: int = 64
    channels: int = 256


VARIANTS = {"r18": Variant(18, (512, 512)), "r50": Variant(50, (800, 1344))}


class HeadLevel(NamedTuple):
    """One level's raw maps: classes (B, C+1, h, w) and centerness (B, 1, h, w) logits, box (B, 4, h, w) before its ReLU."""

    classes: Tensor
    box: Tensor
    centerness: Tensor


class Heads(NamedTuple):
    """All levels' values, P points: classes (B, P, C+1), box (B, P, 4) units from the point, centerness (B, P); float32."""

    classes: Tensor
    box: Tensor
    centerness: Tensor


class Points(NamedTuple):
    """Where the P points of all levels are. centers: (P, 2) x and y. sides, nearest, farthest: (P,); all float32 input pixels.

    The farthest side of an object that a point answers for is between `nearest` and `farthest` away.
    """

    centers: Tensor
    sides: Tensor
    nearest: Tensor
    farthest: Tensor


class ClassificationHead(nn.Module):
    """(B, channels, h, w) to a logit for every class: (B, columns, h, w)."""

    def __init__(self, channels: int, columns: int) -> None:
        super().__init__()
        self.conv = tower(channels)
        self.cls_logits = nn.Conv2d(channels, columns, 3, 1, 1)

    def forward(self, feature: Tensor) -> Tensor:
        return self.cls_logits(self.conv(feature))


class RegressionHead(nn.Module):
    """(B, channels, h, w) to the four distances (B, 4, h, w) and the centerness (B, 1, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = tower(channels)
        self.bbox_reg = nn.Conv2d(channels, 4, 3, 1, 1)
        self.bbox_ctrness = nn.Conv2d(channels, 1, 3, 1, 1)

    def forward(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        feature = self.conv(feature)
        return self.bbox_reg(feature), self.bbox_ctrness(feature)


class Head(nn.Module):
    """Both branches, the same weights on every level."""

    def __init__(self, channels: int, columns: int) -> None:
        super().__init__()
        self.classification_head = ClassificationHead(channels, columns)
        self.regression_head = RegressionHead(channels)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)
        # Start near a score of .01, so that the many empty points do not drown the loss (Lin et al. 2017).
        nn.init.constant_(self.classification_head.cls_logits.bias, -math.log(99.0))  # type: ignore[arg-type]

    def forward(self, features: Sequence[Tensor]) -> list[HeadLevel]:
        return [HeadLevel(self.classification_head(f), *self.regression_head(f)) for f in features]


class FCOS(Detector):
    """FCOS of any variant; see the module's docstring for shapes."""

    family = "fcos"
    normalization = Normalization("rgb", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
    candidate_order = "scores"
    # Torchvision's thresholds. Above a score of .2 there are few: 1000 pairs hold what 100 detections are chosen from.
    suppression = Suppression(iou_threshold=0.6, min_score=0.2, candidates=1000, max_detections=100)
    class_rows = 1

    def __init__(self, variant: str, num_classes: int, config: Variant) -> None:
        super().__init__(variant, num_classes, config.size_hw)
        self.backbone = fpn.ResNetFPN(config.depth, config.width, config.channels, "p5")
        self.head = Head(config.channels, num_classes + 1)

    def forward(self, images: Tensor) -> list[HeadLevel]:
        return self.head(self.backbone(images))

    def decode(self, raw: list[HeadLevel]) -> Candidates:
        heads = flatten(raw)
        boxes = anchors.clip(boxes_of(heads.box, grid_points(raw)), fpn.size_of(raw[0].box))
        scores = (heads.classes[..., 1:].sigmoid() * heads.centerness.sigmoid().unsqueeze(-1)).sqrt()
        sizes = [level.box.shape[2] * level.box.shape[3] for level in raw]
        of_levels = zip(boxes.split(sizes, 1), scores.split(sizes, 1), strict=True)
        best = [best_pairs(*of_level, BEST_OF_LEVEL) for of_level in of_levels]
        return Candidates(*(torch.cat(parts, 1) for parts in zip(*best, strict=True)))

    def loss(self, raw: list[HeadLevel], targets: list[Target]) -> dict[str, Tensor]:
        """Focal loss, GIoU and the centerness's cross-entropy, each over the number of points that answer for an object."""
        heads, points = flatten(raw), grid_points(raw)
        assigned = torch.stack([assign(points, target.boxes) for target in targets])  # (B, P)
        image, point = (assigned >= 0).nonzero(as_tuple=True)  # (N,) each, image by image
        objects = [rows[rows >= 0] for rows in assigned]
        boxes = torch.cat([target.boxes[rows] for target, rows in zip(targets, objects, strict=True)])  # (N, 4)
        labels = torch.cat([target.labels[rows] for target, rows in zip(targets, objects, strict=True)])
        truth = torch.zeros_like(heads.classes)
        truth[image, point, labels + 1] = 1
        wanted = centerness_of(points.centers[point], boxes)
        count = max(len(boxes), 1)
        return {
            "classes": focal_loss(heads.classes, truth).sum() / count,
            "box": giou_loss(boxes_of(heads.box, points)[image, point], boxes).sum() / count,
            "centerness": binary_cross_entropy_with_logits(heads.centerness[image, point], wanted, reduction="sum") / count,
        }

    def classification_names(self) -> dict[str, str]:
        return {f"backbone.body.{name}": name for name in self.backbone.body.state_dict()}


def tower(channels: int) -> nn.Sequential:
    """Four 3×3 convolutions, each with group norm and ReLU."""
    layers = [(nn.Conv2d(channels, channels, 3, 1, 1), nn.GroupNorm(32, channels), nn.ReLU(inplace=True)) for _ in range(4)]
    return nn.Sequential(*(module for layer in layers for module in layer))


def flatten(raw: Sequence[HeadLevel]) -> Heads:
    """The values of all levels, point by point, distances after their ReLU."""
    classes, box, centerness = (
        torch.cat([values.float().flatten(2) for values in maps], 2).transpose(1, 2) for maps in zip(*raw, strict=True)
    )
    return Heads(classes, box.relu(), centerness.squeeze(2))


def grid_points(raw: Sequence[HeadLevel]) -> Points:
    """The points of all levels, in the order of `flatten`."""
    size_hw = fpn.size_of(raw[0].box)
    centers = [fpn.corners(level.box, size_hw) for level in raw]
    nearest = [0, *(side * REACH[0] for side in SIDES[1:])]
    farthest = [*(side * REACH[1] for side in SIDES[:-1]), math.inf]
    of_levels = ([torch.full_like(c[:, 0], v, dtype=torch.float32) for c, v in zip(centers, values, strict=True)]
                 for values in (SIDES, nearest, farthest))  # fmt: skip
    return Points(torch.cat(centers).float(), *map(torch.cat, of_levels))


def boxes_of(distances: Tensor, points: Points) -> Tensor:
    """(B, P, 4) xyxy, input pixels, of the distances (B, P, 4) to the left, upper, right and lower side, in units."""
    pixels = distances * points.sides[:, None]
    return torch.cat([points.centers - pixels[..., :2], points.centers + pixels[..., 2:]], dim=-1)


def distances_of(centers: Tensor, boxes: Tensor) -> Tensor:
    """How far (…, 4) the left, upper, right and lower side of boxes (…, 4) are from points (…, 2), input pixels."""
    return torch.cat([centers - boxes[..., :2], boxes[..., 2:] - centers], dim=-1)


def assign(points: Points, boxes: Tensor) -> Tensor:
    """(P,) int64: which of the N boxes each point answers for, or −1.

    The point is inside the box, near its centre, and the farthest side is in the
    level's reach; of several boxes the smallest.
    """
    if not len(boxes):
        return torch.full((len(points.centers),), -1, device=boxes.device)
    distances = distances_of(points.centers[:, None], boxes)  # (P, N, 4)
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    near = (points.centers[:, None] - middle).abs().amax(2) < CENTER_RADIUS * points.sides[:, None]
    farthest = distances.amax(2)
    fits = (farthest > points.nearest[:, None]) & (farthest < points.farthest[:, None])
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    smallest, box = torch.where(near & fits & (distances.amin(2) > 0), area, math.inf).min(1)
    return torch.where(smallest < math.inf, box, -1)


def centerness_of(centers: Tensor, boxes: Tensor) -> Tensor:
    """√(min(l, r)/max(l, r) · min(t, b)/max(t, b)) (N,) of points (N, 2) in boxes (N, 4) (equation 3)."""
    left, top, right, bottom = distances_of(centers, boxes).unbind(1)
    across = torch.minimum(left, right) / torch.maximum(left, right)
    return (across * torch.minimum(top, bottom) / torch.maximum(top, bottom)).sqrt()


def build(variant: str, num_classes: int) -> FCOS:
    """An FCOS with random weights."""
    return FCOS(variant, num_classes, VARIANTS[variant])


def adapt(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Torchvision's names from before 0.13 as today's; other states unchanged."""
    if f"{BOX}.bbox_ctrness.weight" not in state or "backbone.fpn.inner_blocks.0.weight" not in state:
        return state
    return fpn.renamed(state)


def recognise(state: Mapping[str, Tensor]) -> tuple[str, int] | None:
    """Variant and class count from the ResNet's blocks and the head's rows, or None where it is no FCOS."""
    classes = state.get(f"{CLASSES}.cls_logits.weight")
    if f"{BOX}.bbox_ctrness.weight" not in state or classes is None or classes.ndim != 4 or classes.shape[0] < 2:
        return None
    depth = resnet.depth_of(state, "backbone.body.")
    return next(((name, classes.shape[0] - 1) for name, variant in VARIANTS.items() if variant.depth == depth), None)
