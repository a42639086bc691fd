"""RetinaNet: anchors on a feature pyramid, trained with the focal loss (Lin et al. 2017, arXiv:1708.02002).

    images (B, 3, H, W) RGB, ImageNet's mean and std
    ResNet, FPN  P3 … P7 (B, 256, h, w), h = ⌈H/s⌉ at s = 8, 16, 32, 64, 128 (edgedet/models/fpn.py)
    head         shared by the levels, two branches of four 3×3 convolutions:
                 classes (B, 9·(C+1), h, w), box (B, 9·4, h, w)
    anchors      a cell: 3 ratios × 3 sizes from 4·s, 9·Σ h·w in all (200 k at 800×1344)
    decode       a level's 1000 best pairs of anchor and class, K ≤ 5000; score = σ(class)

Tensor names are torchvision's, so its checkpoints load as they are, also those
from before 0.13, which name the pyramid and the head otherwise. `-v2` is its improved
recipe: group norm in the head, GIoU as box loss, P6 made from C5. As there, each
anchor has a column for a background class that nothing ever sets: the head
keeps it, `decode` leaves it out. Its frozen batch norms have eps 1e-5; only for its first COCO
weights (`retinanet_resnet50_fpn_coco`) torchvision sets eps 0, which
`checkpoint.load` makes up for, told by the file's digest.

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

from edgedet.models import anchors as priors
from edgedet.models import fpn, resnet
from edgedet.models.base import Candidates, Detector, Normalization, Target
from edgedet.models.losses import focal_loss, giou_loss, pairwise_iou
from edgedet.models.selection import best_pairs
from edgedet.spec import Suppression

ANCHOR_SIDES = (32, 64, 128, 256, 512)
RATIOS = (0.5, 1.0, 2.0)
"""Height over width."""
ANCHORS = 9
BEST_OF_LEVEL = 1000
CLASSES, BOX = "head.classification_head", "head.regression_head"


@dataclass(frozen=True)
class Variant:
    """The ResNet's depth and the default input; norm: group norm in the head, and with it what else `-v2` changes.

    width: the ResNet's channels after its stem. channels: of the pyramid and the head.
    """

    depth: int
    size_hw: tuple[int, int]
    norm: bool = False
    width: int = 64
    channels: int = 256


VARIANTS = {
    "r18": Variant(18, (512, 512)),
    "r34": Variant(34, (640, 640)),
    "r50": Variant(50, (800, 1344)),
    "r101": Variant(101, (800, 1344)),
    "r18-v2": Variant(18, (512, 512), norm=True),
    "r34-v2": Variant(34, (640, 640), norm=True),
    "r50-v2": Variant(50, (800, 1344), norm=True),
    "r101-v2": Variant(101, (800, 1344), norm=True),
}


class HeadLevel(NamedTuple):
    """One level's raw maps: classes (B, 9·(C+1), h, w) logits and box (B, 9·4, h, w) offsets, anchor by anchor."""

    classes: Tensor
    box: Tensor


class ClassificationHead(nn.Module):
    """(B, channels, h, w) to a logit for every anchor and class: (B, 9·columns, h, w)."""

    def __init__(self, channels: int, columns: int, *, norm: bool) -> None:
        super().__init__()
        self.conv = tower(channels, norm=norm)
        self.cls_logits = nn.Conv2d(channels, ANCHORS * columns, 3, 1, 1)

    def forward(self, feature: Tensor) -> Tensor:
        return self.cls_logits(self.conv(feature))


class RegressionHead(nn.Module):
    """(B, channels, h, w) to four offsets for every anchor: (B, 9·4, h, w)."""

    def __init__(self, channels: int, *, norm: bool) -> None:
        super().__init__()
        self.conv = tower(channels, norm=norm)
        self.bbox_reg = nn.Conv2d(channels, ANCHORS * 4, 3, 1, 1)

    def forward(self, feature: Tensor) -> Tensor:
        return self.bbox_reg(self.conv(feature))


class Head(nn.Module):
    """Both branches, the same weights on every level."""

    def __init__(self, channels: int, columns: int, *, norm: bool) -> None:
        super().__init__()
        self.classification_head = ClassificationHead(channels, columns, norm=norm)
        self.regression_head = RegressionHead(channels, norm=norm)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        # Start near a score of .01, so that the many empty anchors do not drown the loss (section 3.3).
        nn.init.constant_(self.classification_head.cls_logits.bias, -math.log(99.0))  # type: ignore[arg-type]

    def forward(self, features: Sequence[Tensor]) -> list[HeadLevel]:
        return [HeadLevel(self.classification_head(f), self.regression_head(f)) for f in features]


class RetinaNet(Detector):
    """RetinaNet of any variant; see the module's docstring for shapes."""

    family = "retinanet"
    normalization = Normalization("rgb", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
    candidate_order = "scores"
    # Torchvision's thresholds. An object lights up some ten anchors: 2000 pairs hold what 300 detections are chosen from.
    suppression = Suppression(iou_threshold=0.5, min_score=0.05, candidates=2000, max_detections=300)
    class_rows = 1

    def __init__(self, variant: str, num_classes: int, config: Variant) -> None:
        super().__init__(variant, num_classes, config.size_hw)
        self.norm = config.norm
        self.backbone = fpn.ResNetFPN(config.depth, config.width, config.channels, "c5" if config.norm else "p5")
        self.head = Head(config.channels, num_classes + 1, norm=config.norm)

    def forward(self, images: Tensor) -> list[HeadLevel]:
        return self.head(self.backbone(images))

    def decode(self, raw: list[HeadLevel]) -> Candidates:
        boxes = priors.clip(priors.decode(_offsets(raw), grid_anchors(raw)), fpn.size_of(raw[0].box))
        sizes = [level.box.shape[1] // 4 * level.box.shape[2] * level.box.shape[3] for level in raw]
        levels = [
            best_pairs(of_level, self._logits(level)[..., 1:], BEST_OF_LEVEL)
            for level, of_level in zip(raw, boxes.split(sizes, 1), strict=True)
        ]
        boxes, logits, labels = (torch.cat(parts, 1) for parts in zip(*levels, strict=True))
        return Candidates(boxes, logits.sigmoid(), labels)

    def loss(self, raw: list[HeadLevel], targets: list[Target]) -> dict[str, Tensor]:
        logits = torch.cat([self._logits(level) for level in raw], 1)
        offsets, anchors = _offsets(raw), grid_anchors(raw)
        images = zip(logits, offsets, targets, strict=True)
        terms = [self._image_loss(image, moves, anchors, target) for image, moves, target in images]
        classes, box = (torch.stack(values).mean() for values in zip(*terms, strict=True))
        return {"classes": classes, "box": box}

    def _logits(self, level: HeadLevel) -> Tensor:
        """(B, 9·h·w, C+1), the background first."""
        return by_anchor(level.classes, self.num_classes + 1)

    def _image_loss(self, logits: Tensor, offsets: Tensor, anchors: Tensor, target: Target) -> tuple[Tensor, Tensor]:
        """Focal loss of the classes and the boxes' loss, each over the number of anchors that answer for an object."""
        assigned = priors.assign(pairwise_iou(target.boxes, anchors), below=0.4, above=0.5, best_too=True)
        positive, counts = assigned >= 0, assigned != priors.IGNORED
        objects = assigned[positive]
        truth = torch.zeros_like(logits)
        truth[positive, target.labels[objects] + 1] = 1
        classes = focal_loss(logits[counts], truth[counts]).sum()
        box = self._box_loss(offsets[positive], anchors[positive], target.boxes[objects]).sum()
        return classes / max(len(objects), 1), box / max(len(objects), 1)

    def _box_loss(self, offsets: Tensor, anchors: Tensor, boxes: Tensor) -> Tensor:
        """GIoU (P,) where the head has norms, else the offsets' L1 (P, 4)."""
        if self.norm:
            return giou_loss(priors.decode(offsets, anchors), boxes)
        return (offsets - priors.encode(boxes, anchors)).abs()

    def classification_names(self) -> dict[str, str]:
        return {f"backbone.body.{name}": name for name in self.backbone.body.state_dict()}


def tower(channels: int, *, norm: bool) -> nn.Sequential:
    """Four 3×3 convolutions, each with ReLU, and with group norm instead of a bias where asked."""
    layers = []
    for _ in range(4):
        norms = [nn.GroupNorm(32, channels)] if norm else []
        layers.append(nn.Sequential(nn.Conv2d(channels, channels, 3, 1, 1, bias=not norm), *norms, nn.ReLU(inplace=True)))
    return nn.Sequential(*layers)


def by_anchor(values: Tensor, count: int) -> Tensor:
    """(B, 9·count, h, w) raw map to (B, h·w·9, count) float32: rows, columns, anchors."""
    return values.float().unflatten(1, (-1, count)).permute(0, 3, 4, 1, 2).flatten(1, 3)


def _offsets(raw: Sequence[HeadLevel]) -> Tensor:
    """(B, A, 4) of all levels."""
    return torch.cat([by_anchor(level.box, 4) for level in raw], 1)


def grid_anchors(raw: Sequence[HeadLevel]) -> Tensor:
    """The anchors of all levels (A, 4) float32 xyxy, input pixels, in the order of `by_anchor`.

    A cell's anchors are centred on its upper left corner and rounded to whole pixels, as in torchvision.
    """
    size_hw = fpn.size_of(raw[0].box)
    corners = [fpn.corners(level.box, size_hw).repeat(1, 2)[:, None] for level in raw]  # (h·w, 1, 4) each
    cells = [cell_anchors(side).to(raw[0].box.device) for side in ANCHOR_SIDES]
    return torch.cat([(corner + cell).view(-1, 4) for corner, cell in zip(corners, cells, strict=True)])


def cell_anchors(side: int) -> Tensor:
    """(9, 4) float32 xyxy around 0: ratio by ratio, the sizes `side`, ∛2·side and ∛4·side in whole pixels."""
    sides = torch.tensor([side, int(side * 2 ** (1 / 3)), int(side * 2 ** (2 / 3))], dtype=torch.float32)
    tall = torch.tensor(RATIOS).sqrt()[:, None]
    half = torch.stack([sides / tall, sides * tall], dim=-1).view(-1, 2) / 2  # (9, 2) width and height
    return torch.cat([-half, half], dim=1).round()


def build(variant: str, num_classes: int) -> RetinaNet:
    """A RetinaNet with random weights."""
    return RetinaNet(variant, num_classes, VARIANTS[variant])


def adapt(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Torchvision's names from before 0.13, `conv.2.weight` for `conv.1.0.weight`, as today's; other states unchanged."""
    if f"{CLASSES}.conv.2.weight" not in state:
        return state
    names = {f"{branch}.conv.{2 * i}.{kind}": f"{branch}.conv.{i}.0.{kind}"
             for branch in (CLASSES, BOX) for i in range(4) for kind in ("weight", "bias")}  # fmt: skip
    return {names.get(name, name): value for name, value in fpn.renamed(state).items()}


def recognise(state: Mapping[str, Tensor]) -> tuple[str, int] | None:
    """Variant and class count from the ResNet's blocks, the head's norms and its rows, or None where it is no RetinaNet."""
    classes, box = state.get(f"{CLASSES}.cls_logits.weight"), state.get(f"{BOX}.bbox_reg.weight")
    if classes is None or box is None or box.shape[:1] != (ANCHORS * 4,) or classes.ndim != 4:
        return None
    columns = classes.shape[0] // ANCHORS
    depth, norm = resnet.depth_of(state, "backbone.body."), f"{CLASSES}.conv.0.1.weight" in state
    known = (name for name, variant in VARIANTS.items() if (variant.depth, variant.norm) == (depth, norm))
    name = next(known, None)
    return (name, columns - 1) if name and columns > 1 else None
