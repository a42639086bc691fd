"""SSD: boxes and classes from six feature maps (Liu et al. 2016, arXiv:1512.02325), on VGG-16 or, as SSDLite, MobileNetV3.

    images     (B, 3, 300, 300) RGB − mean                (B, 3, 320, 320) RGB in [−1, 1]
    backbone   VGG-16, fc6 and fc7 as convolutions        MobileNetV3 (arXiv:1905.02244, section 6.3)
    maps       conv4_3 (512, 38, 38), rescaled            the last strided block, expanded (672, 20, 20)
               fc7 (1024, 19, 19)                         the last layer (480, 10, 10); of the full tail 960
               512 at 10, then 256 at 5, 3, 1             512 at 5, 256 at 3, 256 at 2, 128 at 1
    priors     4, 6, 6, 6, 4, 4 a cell: 8732              6 a cell: 3234
    head       a level: boxes (B, A·4, h, w), classes (B, A·(C + 1), h, w) with the background as column 0, by
               3×3 convolutions                           depthwise 3×3 and 1×1 (arXiv:1801.04381, section 6.2)
    decode     softmax; of the best 400 (300) of each class the best 1000

Tensor names are torchvision's, so its checkpoints load as they are. From them come the priors' scales of .07, .15 … .87; the
paper's general rule says .1, .2 … .9. Ours departs in four points: conv4_3 is divided by its largest channel before its norm,
so that no square leaves float16's range; an object without area takes no prior, where torchvision refuses it; hard negatives
are never positives, not even where there are too few; and only the best 3840 (box, class) pairs go into suppression, which
changes something only where they are of less than 200 (300) objects, and then the faintest. Sizes are multiples of 300 (32).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, smooth_l1_loss

from edgedet.errors import UsageError
from edgedet.models import anchors, selection
from edgedet.models.base import Candidates, Detector, Normalization, Target
from edgedet.models.losses import pairwise_iou
from edgedet.models.mobilenetv3 import conv_norm
from edgedet.models.ssd_features import MobileNetFeatures, VGGFeatures, initialise, mobilenet_channels, vgg_channels
from edgedet.spec import Suppression

OFFSET_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
OVERLAP = 0.5
"""From which on a prior answers for an object."""
NEGATIVES = 3
"""Priors of the background that count in the loss, for each that answers for an object."""


@dataclass(frozen=True)
class Variant:
    """size: the side of the square default input. mobilenet: `large`, `small`, or None for VGG-16.

    reduced_tail: half the channels of MobileNetV3 from its last strided block on. width multiplies VGG-16's channels.
    """

    size: int
    mobilenet: str | None = None
    reduced_tail: bool = False
    width: float = 1.0


VARIANTS = {
    "vgg16": Variant(300),
    "lite-mobilenetv3": Variant(320, "large", reduced_tail=True),
    "lite-mobilenetv3-full": Variant(320, "large"),
    "lite-mobilenetv3-small": Variant(320, "small"),
}


@dataclass(frozen=True)
class Priors:
    """The boxes that predictions are offsets from, centred on the cells of each level.

    scales: side of a level's square over the input's, and one more. ratios: for each level those of width to height
    besides 1. steps: pixels from cell to cell of the first levels; of the others it is the input's side over the cells.
    """

    scales: tuple[float, ...]
    ratios: tuple[tuple[int, ...], ...]
    steps: tuple[int, ...] = ()

    def per_cell(self) -> list[int]:
        """How many priors a cell of each level has."""
        return [2 + 2 * len(ratios) for ratios in self.ratios]

    def sizes(self, level: int) -> Tensor:
        """(A, 2) width and height over the input's, at most 1: a square, a larger one, and two for each ratio."""
        scale, larger = self.scales[level], math.sqrt(self.scales[level] * self.scales[level + 1])
        roots = [math.sqrt(ratio) for ratio in self.ratios[level]]
        oblong = itertools.chain.from_iterable([(scale * r, scale / r), (scale / r, scale * r)] for r in roots)
        return torch.tensor([(scale, scale), (larger, larger), *oblong]).clamp(max=1)

    def boxes(self, maps: Sequence[tuple[int, int]], size_hw: tuple[int, int]) -> Tensor:
        """(A, 4) float32 xyxy in input pixels, of all levels. maps: height and width of each."""
        height, width = size_hw
        found = []
        for level, (rows, columns) in enumerate(maps):
            steps = [self.steps[level]] * 2 if level < len(self.steps) else [height / rows, width / columns]
            ys, xs = ((torch.arange(count) + 0.5) * step for count, step in zip((rows, columns), steps))
            centre = torch.stack(torch.meshgrid(ys, xs, indexing="ij")[::-1], dim=-1).view(-1, 1, 2)  # (h·w, 1, 2)
            half = self.sizes(level) * torch.tensor([width, height]) / 2
            found.append(torch.cat([centre - half, centre + half], dim=-1).view(-1, 4))
        return torch.cat(found)


class HeadLevel(NamedTuple):
    """One level's raw maps, A priors a cell: boxes (B, A·4, h, w) offsets, classes (B, A·(C + 1), h, w) logits."""

    boxes: Tensor
    classes: Tensor


class Predictions(nn.Module):
    """Predictions of one kind at every level."""

    def __init__(self, levels: Sequence[nn.Module]) -> None:
        super().__init__()
        self.module_list = nn.ModuleList(levels)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        return [predict(x) for predict, x in zip(self.module_list, maps, strict=True)]


class Head(nn.Module):
    """Boxes and classes at every level.

    levels: channels and priors a cell of each. predictor: makes the layers from so many channels to so many.
    """

    def __init__(self, levels: Sequence[tuple[int, int]], columns: int, predictor: Callable[[int, int], nn.Module]) -> None:
        super().__init__()
        self.classification_head = Predictions([predictor(channels, count * columns) for channels, count in levels])
        self.regression_head = Predictions([predictor(channels, count * 4) for channels, count in levels])

    def forward(self, maps: Sequence[Tensor]) -> list[HeadLevel]:
        return [HeadLevel(*level) for level in zip(self.regression_head(maps), self.classification_head(maps))]


class SSD(Detector):
    """What both forms share. stride: pixels a cell of the finest map. of_class: best candidates of a class."""

    family = "ssd"
    letterbox_anchor = "stretch"
    candidate_order = "scores"
    class_rows = 1
    priors: ClassVar[Priors]
    stride: ClassVar[int]
    of_class: ClassVar[int]
    backbone: VGGFeatures | MobileNetFeatures
    head: Head

    def _make_head(self, predictor: Callable[[int, int], nn.Module]) -> Head:
        levels = list(zip(self.backbone.channels, self.priors.per_cell(), strict=True))
        return Head(levels, self.num_classes + 1, predictor)

    def forward(self, images: Tensor) -> list[HeadLevel]:
        return self.head(self.backbone(images))

    def decode(self, raw: list[HeadLevel]) -> Candidates:
        offsets, logits = flatten(raw, self.num_classes + 1)
        boxes = anchors.decode(offsets, self._prior_boxes(raw), OFFSET_WEIGHTS)
        boxes = anchors.clip(boxes, self._size_hw(raw))
        scores = logits.softmax(dim=-1)[..., 1:]
        return selection.best_of_each_class(boxes, scores, self.of_class, self.suppression.candidates)

    def loss(self, raw: list[HeadLevel], targets: list[Target]) -> dict[str, Tensor]:
        """`box`: smooth L1 of the offsets of the priors that answer for an object. `classes`: cross-entropy of these
        and of the hardest of the background. Both are sums over the batch, divided by the former's number.
        """
        offsets, logits = flatten(raw, self.num_classes + 1)
        priors = self._prior_boxes(raw)
        with torch.no_grad():
            objects = torch.stack([match(target.boxes, priors) for target in targets])  # (B, A)
        positive = objects >= 0
        chosen = [(t, o[p]) for t, o, p in zip(targets, objects, positive, strict=True)]
        wanted = anchors.encode(
            torch.cat([target.boxes[index] for target, index in chosen]),
            priors.expand(len(targets), -1, -1)[positive],
            OFFSET_WEIGHTS,
        )
        columns = torch.zeros_like(objects)
        columns[positive] = torch.cat([target.labels[index] for target, index in chosen]) + 1
        entropy = cross_entropy(logits.transpose(1, 2), columns, reduction="none")  # (B, A)
        count = positive.sum().clamp(min=1)
        return {
            "box": smooth_l1_loss(offsets[positive], wanted, reduction="sum") / count,
            "classes": entropy[positive | hardest_negatives(entropy, positive)].sum() / count,
        }

    def classification_names(self) -> dict[str, str]:
        return {f"backbone.{own}": other for own, other in self.backbone.classification_names().items()}

    def _size_hw(self, raw: list[HeadLevel]) -> tuple[int, int]:
        """The input's height and width, which the finest map may round up."""
        height, width = (side * self.stride // self.size_multiple * self.size_multiple for side in raw[0].boxes.shape[-2:])
        return height, width

    def _prior_boxes(self, raw: list[HeadLevel]) -> Tensor:
        maps = [(level.boxes.shape[-2], level.boxes.shape[-1]) for level in raw]
        return self.priors.boxes(maps, self._size_hw(raw)).to(raw[0].boxes.device)


class SSDVGG(SSD):
    """SSD300 on VGG-16."""

    normalization = Normalization("rgb", (0.48235 * 255, 0.45882 * 255, 0.40784 * 255))
    suppression = Suppression(iou_threshold=0.45, min_score=0.01, candidates=1000, max_detections=200)
    size_multiple = 300
    priors = Priors((0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05), ((2,), *[(2, 3)] * 3, (2,), (2,)), (8, 16, 32, 64))
    stride = 8
    of_class = 400

    def __init__(self, variant: str, num_classes: int, config: Variant) -> None:
        super().__init__(variant, num_classes, (config.size, config.size))
        self.backbone = VGGFeatures(config.width)
        self.head = self._make_head(lambda inputs, outputs: nn.Conv2d(inputs, outputs, 3, padding=1))
        initialise((self.head,), nn.init.xavier_uniform_)


class SSDLite(SSD):
    """SSDLite on MobileNetV3."""

    normalization = Normalization("rgb", (127.5,) * 3, (127.5,) * 3)
    suppression = Suppression(iou_threshold=0.55, min_score=0.001, candidates=1000, max_detections=300)
    priors = Priors((0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 1.0), ((2, 3),) * 6)
    stride = 16
    of_class = 300

    def __init__(self, variant: str, num_classes: int, config: Variant) -> None:
        super().__init__(variant, num_classes, (config.size, config.size))
        assert config.mobilenet is not None
        self.backbone = MobileNetFeatures(config.mobilenet, reduced_tail=config.reduced_tail)
        self.head = self._make_head(_lite_predictor)

    def forward(self, images: Tensor) -> list[HeadLevel]:
        if self.training and len(images) == 1:
            raise UsageError("SSDLite's last map is one cell, on which alone no batch norm can train; use --batch 2 or more")
        return super().forward(images)


def _lite_predictor(inputs: int, outputs: int) -> nn.Sequential:
    last = nn.Conv2d(inputs, outputs, 1)
    initialise((last,), partial(nn.init.normal_, std=0.03))
    return nn.Sequential(conv_norm(inputs, inputs, 3, nn.ReLU6, groups=inputs), last)


def flatten(raw: list[HeadLevel], columns: int) -> tuple[Tensor, Tensor]:
    """Offsets (B, A, 4) and logits (B, A, C + 1) of all levels' priors, float32, cell by cell."""

    def join(maps: list[Tensor], width: int) -> Tensor:
        # (B, A·width, h, w) → (B, h·w·A, width)
        return torch.cat([x.float().permute(0, 2, 3, 1).reshape(x.shape[0], -1, width) for x in maps], dim=1)

    return join([level.boxes for level in raw], 4), join([level.classes for level in raw], columns)


def match(boxes: Tensor, priors: Tensor) -> Tensor:
    """(A,) int64: which of the boxes (N, 4) each prior answers for, or −1: the nearest from OVERLAP on.

    Every box also takes the one prior that it overlaps most, though that may overlap another one more.
    """
    overlaps = pairwise_iou(boxes, priors)  # (N, A)
    found = anchors.assign(overlaps, below=OVERLAP, above=OVERLAP, best_too=False)
    most, nearest = overlaps.max(dim=1)
    has_area = most > 0
    found[nearest[has_area]] = has_area.nonzero().squeeze(1)
    return found


def hardest_negatives(entropy: Tensor, positive: Tensor) -> Tensor:
    """(B, A) bool: priors of the background with the greatest cross-entropy, so many an image for each positive one."""
    order = entropy.detach().masked_fill(positive, -torch.inf).argsort(dim=1, descending=True)
    rank = order.argsort(dim=1)
    return (rank < NEGATIVES * positive.sum(dim=1, keepdim=True)) & ~positive


def build(variant: str, num_classes: int) -> SSD:
    """An SSD with random weights."""
    config = VARIANTS[variant]
    return (SSDLite if config.mobilenet else SSDVGG)(variant, num_classes, config)


def recognise(state: Mapping[str, Tensor]) -> tuple[str, int] | None:
    """Variant and class count from the first two levels' predictions: their channels and how many there are a prior."""
    for name, config in VARIANTS.items():
        last = ".1.weight" if config.mobilenet else ".weight"
        classes, finer, boxes = (
            state.get(f"head.{kind}_head.module_list.{level}{last}")
            for kind, level in (("classification", 1), ("classification", 0), ("regression", 0))
        )
        if classes is None or finer is None or boxes is None or {classes.ndim, finer.ndim, boxes.ndim} != {4}:
            continue
        columns = 4 * finer.shape[0] // max(boxes.shape[0], 1)
        if [finer.shape[1], classes.shape[1]] == _channels(config)[:2] and columns > 1:
            return name, columns - 1
    return None


def _channels(config: Variant) -> list[int]:
    if config.mobilenet:
        return mobilenet_channels(config.mobilenet, reduced_tail=config.reduced_tail)
    return vgg_channels(config.width)
