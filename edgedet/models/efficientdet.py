"""EfficientDet: EfficientNet, BiFPN and two heads, scaled together (Tan et al. 2020, arXiv:1911.09070).

    images (B, 3, H, W) RGB, ImageNet's mean and deviation; sides in multiples of 32
    trunk        P3 (B, C3, H/8, W/8)  P4 (B, C4, H/16, W/16)  P5 (B, C5, H/32, W/32)
    BiFPN        P3 … P7 (D7x: P8) (B, C, H/2ˡ, W/2ˡ), rounded up
    heads        a level: classes (B, 9·K, h, w) logits, box (B, 9·4, h, w); convolutions shared, norms a level's own
    anchors      A = 9·Σ h·w, three sizes by three shapes a cell, in multiples of the stride
    decode       the best 3840 of A·K pairs: box from (ty, tx, th, tw), score = σ(classes)

Tensor names are effdet's, so published checkpoints load as they are, also out of
its benches and with the heads' norms sorted by level. 90 classes are COCO's ids 1 to 90.

Two trainings have left files, told apart by their biases before norms: `d0` to
`d7x` and `lite0` are Google's, ported from TensorFlow (`tf_efficientdet_…`), with
"SAME" padding; `d0-pt` to `d3-pt` are effdet's own (`efficientdet_d0`, …), with
symmetric padding and no such bias. d6 and d7 differ in the input and the anchors'
size only, which no tensor tells. Google's AdvProp files (`…_ap`) have d0 to d5's
tensors but want pixels normalised as lite0's, which no tensor tells either: they
would load as d0 to d5 and detect worse.

Departures from effdet. Of the pairs the best 3840 go into suppression, not 5000:
TensorRT's TopK gives no more; of the 100 detections that come out none is lost
unless each takes more than 38 with it. A box is at most 62 times its anchor.
The box loss counts offsets of exactly zero, which effdet takes for no target, and
an object that overlaps no anchor gets none, where effdet gives it the first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import huber_loss

from edgedet.models import anchors
from edgedet.models.base import Candidates, Detector, Normalization, Target
from edgedet.models.bifpn import BiFPN, Fusion, NeckLayers, SeparableConv
from edgedet.models.efficientnet import SCALES, EfficientNet, Layers, Padding
from edgedet.models.losses import focal_loss, pairwise_iou
from edgedet.models.selection import MOST, best_pairs
from edgedet.spec import Suppression

STRIDE = 8  # of the finest level
SHAPES = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))  # width and height
OCTAVES = (0, 1 / 3, 2 / 3)
ANCHORS = len(SHAPES) * len(OCTAVES)
MATCH_IOU = 0.5
ALPHA, GAMMA = 0.25, 1.5
HUBER_DELTA, BOX_WEIGHT = 0.1, 50.0
PRIOR = 0.01  # the score that training starts from


@dataclass(frozen=True)
class Variant:
    """size: side of the square default input. trunk: EfficientNet's width and depth. channels, cells: the BiFPN's.

    repeats: convolutions of a head. anchor: the anchors' side in strides. ported: whether the weights are Google's.
    """

    size: int
    trunk: tuple[float, float]
    channels: int
    cells: int
    repeats: int
    fusion: Fusion = "fast"
    levels: int = 5
    anchor: float = 4.0
    ported: bool = True
    lite: bool = False


_GOOGLES = {
    "d0": Variant(512, SCALES["b0"], 64, 3, 3),
    "d1": Variant(640, SCALES["b1"], 88, 4, 3),
    "d2": Variant(768, SCALES["b2"], 112, 5, 3),
    "d3": Variant(896, SCALES["b3"], 160, 6, 4),
    "d4": Variant(1024, SCALES["b4"], 224, 7, 4),
    "d5": Variant(1280, SCALES["b5"], 288, 7, 4),
    "d6": Variant(1280, SCALES["b6"], 384, 8, 5, "sum"),
    "d7": Variant(1536, SCALES["b6"], 384, 8, 5, "sum", anchor=5.0),
    "d7x": Variant(1536, SCALES["b7"], 384, 8, 5, "sum", levels=6),
    "lite0": Variant(320, SCALES["b0"], 64, 3, 3, "sum", anchor=3.0, lite=True),
}
VARIANTS = _GOOGLES | {f"{name}-pt": replace(_GOOGLES[name], ported=False) for name in ("d0", "d1", "d2", "d3")}
TWINS = {"d6": ("d7",)}
"""Variants whose tensors are those of another, which `recognise` names."""


class HeadLevel(NamedTuple):
    """One level's raw maps: classes (B, 9·K, h, w) logits; box (B, 36, h, w), ty tx th tw of each anchor."""

    classes: Tensor
    box: Tensor


class Head(nn.Module):
    """Separable convolutions over every level, with norms of the level's own."""

    def __init__(self, variant: Variant, outputs: int, layers: NeckLayers) -> None:
        super().__init__()
        channels, repeats = variant.channels, range(variant.repeats)
        self.conv_rep = nn.ModuleList(SeparableConv(channels, channels, layers, bias=layers.redundant_bias) for _ in repeats)
        self.bn_rep = nn.ModuleList(
            nn.ModuleList(nn.ModuleDict({"bn": layers.norm(channels)}) for _ in range(variant.levels)) for _ in repeats
        )
        self.act = layers.activation()
        self.predict = SeparableConv(channels, ANCHORS * outputs, layers, bias=True)
        self.apply(_initialise)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        outputs = []
        for level, x in enumerate(maps):
            for conv, norms in zip(self.conv_rep, self.bn_rep, strict=True):
                x = self.act(norms.get_submodule(f"{level}.bn")(conv(x)))
            outputs.append(self.predict(x))
        return outputs


class EfficientDet(Detector):
    """EfficientDet of any variant; see the module's docstring for shapes."""

    family = "efficientdet"
    normalization = Normalization("rgb", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
    candidate_order = "scores"
    suppression = Suppression(iou_threshold=0.5, candidates=MOST, max_detections=100)

    def __init__(self, variant: str, num_classes: int, config: Variant) -> None:
        super().__init__(variant, num_classes, (config.size, config.size))
        self.config = config
        padding: Padding = "same" if config.ported else "symmetric"
        activation = nn.ReLU6 if config.lite else nn.SiLU
        trunk = Layers(padding, 1e-3 if config.ported else 1e-5, activation)
        neck = NeckLayers(padding, 1e-3, activation, redundant_bias=config.ported)
        self.backbone = EfficientNet(*config.trunk, trunk, excite=not config.lite)
        self.fpn = BiFPN(self.backbone.channels, config.levels, config.channels, config.cells, neck, config.fusion)
        self.class_net = Head(config, num_classes, neck)
        self.box_net = Head(config, 4, neck)
        if (bias := self.class_net.predict.conv_pw.bias) is not None:
            nn.init.constant_(bias, -math.log((1 - PRIOR) / PRIOR))

    def forward(self, images: Tensor) -> list[HeadLevel]:
        maps = self.fpn(self.backbone(images))
        return [HeadLevel(*pair) for pair in zip(self.class_net(maps), self.box_net(maps), strict=True)]

    def decode(self, raw: list[HeadLevel]) -> Candidates:
        boxes = anchors.decode(_by_anchor([level.box for level in raw], 4)[..., [1, 0, 3, 2]], self.anchors(raw))
        # Chosen by logit: the order is that of the scores, and far fewer sigmoids are left to take.
        best = best_pairs(boxes, _by_anchor([level.classes for level in raw], self.num_classes), MOST)
        return best._replace(scores=best.scores.sigmoid())

    def loss(self, raw: list[HeadLevel], targets: list[Target]) -> dict[str, Tensor]:
        """Focal loss of all anchors and Huber's of the matched ones, both over the batch's matched anchors and one more."""
        logits = _by_anchor([level.classes for level in raw], self.num_classes)
        offsets = _by_anchor([level.box for level in raw], 4)[..., [1, 0, 3, 2]]
        priors = self.anchors(raw)
        assigned = torch.stack([assign(pairwise_iou(target.boxes, priors)) for target in targets])  # (B, A)
        image, anchor = (assigned >= 0).nonzero(as_tuple=True)
        objects = [(target, row[row >= 0]) for target, row in zip(targets, assigned, strict=True)]
        boxes, labels = (torch.cat([target[i][chosen] for target, chosen in objects]) for i in (0, 1))
        count = len(anchor) + 1
        truth = torch.zeros_like(logits)
        truth[image, anchor, labels] = 1
        wanted = anchors.encode(boxes, priors[anchor])
        box = huber_loss(offsets[image, anchor], wanted, reduction="sum", delta=HUBER_DELTA)
        return {
            "classes": focal_loss(logits, truth, alpha=ALPHA, gamma=GAMMA).sum() / count,
            "box": BOX_WEIGHT * box / (4 * count),
        }

    def anchors(self, raw: list[HeadLevel]) -> Tensor:
        """(A, 4) float32 xyxy, input pixels: by level, row, column, octave, shape."""
        finest = raw[0].box
        height, width = finest.shape[2] * STRIDE, finest.shape[3] * STRIDE
        levels = [_level_anchors(level.box, height, width, self.config.anchor) for level in raw]
        return torch.cat(levels).to(finest.device)

    def classification_names(self) -> dict[str, str]:
        prefix = "backbone."
        return {name: name.removeprefix(prefix) for name in self.state_dict() if name.startswith(prefix)}


class EfficientDetLite(EfficientDet):
    """The lite variants, whose pixels go from −1 to 1."""

    normalization = Normalization("rgb", (127.5, 127.5, 127.5), (127.5, 127.5, 127.5))


def assign(overlaps: Tensor) -> Tensor:
    """(A,) int64: the object that each anchor answers for, or BACKGROUND.

    overlaps: (N, A) IoU. The object an anchor overlaps most, from .5 on; but the anchor that an object overlaps most
    is that object's, the first's where several want it.
    """
    assigned = anchors.assign(overlaps, below=MATCH_IOU, above=MATCH_IOU, best_too=False)
    count = overlaps.shape[0]
    if count:
        most, best = overlaps.max(dim=1)  # (N,) each
        number = torch.where(most > 0, torch.arange(count, device=best.device), count)
        first = torch.full_like(assigned, count).scatter_reduce(0, best, number, "amin")
        assigned = torch.where(first < count, first, assigned)
    return assigned


def _level_anchors(level: Tensor, height: int, width: int, scale: float) -> Tensor:
    """(h·w·9, 4) anchors of one level's map (B, _, h, w); height, width: the input's, in pixels."""
    rows, columns = level.shape[-2:]
    stride_y, stride_x = height / rows, width / columns  # no whole number where halving rounded up
    ys, xs = torch.meshgrid((torch.arange(rows) + 0.5) * stride_y, (torch.arange(columns) + 0.5) * stride_x, indexing="ij")
    centres = torch.stack([xs, ys], dim=-1).view(rows, columns, 1, 2)
    sizes = [(scale * 2**octave * stride_x * x, scale * 2**octave * stride_y * y) for octave in OCTAVES for x, y in SHAPES]
    half = torch.tensor(sizes) / 2  # (9, 2)
    return torch.cat([centres - half, centres + half], dim=-1).view(-1, 4)


def _by_anchor(maps: list[Tensor], size: int) -> Tensor:
    """(B, A, size) float32 of maps (B, 9·size, h, w)."""
    return torch.cat([x.float().permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, size)) for x in maps], dim=1)


def _initialise(module: nn.Module) -> None:
    """Normal weights of variance 1 / fan-in."""
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def build(variant: str, num_classes: int) -> EfficientDet:
    """An EfficientDet with random weights."""
    config = VARIANTS[variant]
    kind = EfficientDetLite if config.lite else EfficientDet
    return kind(variant, num_classes, config)


def adapt(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The network out of effdet's benches (`model.…`, beside anchors), its heads' norms sorted by repeat, then level."""
    prefix = "model." if "model.class_net.predict.conv_pw.weight" in state else ""
    if f"{prefix}class_net.predict.conv_pw.weight" not in state:
        return state
    own = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    if f"{prefix}class_net.bn_rep.0.0.bn.weight" in state:
        return own
    return {_by_repeat(name): tensor for name, tensor in own.items()}


def _by_repeat(name: str) -> str:
    """`class_net.bn_rep.<level>.<repeat>.weight` under the other order's name; other names as they are."""
    parts = name.split(".")
    if parts[1:2] != ["bn_rep"]:
        return name
    head, _, level, repeat, value = parts
    return f"{head}.bn_rep.{repeat}.{level}.bn.{value}"


def recognise(state: Mapping[str, Tensor]) -> tuple[str, int] | None:
    """Variant and class count from the heads' shapes and how often what repeats, or None where it is no EfficientDet."""
    classes, box = (state.get(f"{head}.predict.conv_pw.weight") for head in ("class_net", "box_net"))
    if classes is None or box is None or classes.ndim != 4 or box.shape[0] != 4 * ANCHORS or classes.shape[0] % ANCHORS:
        return None
    found = (
        classes.shape[1],
        _count(state, "fpn.cell."),
        _count(state, "class_net.conv_rep."),
        _count(state, "class_net.bn_rep.0."),
        "class_net.conv_rep.0.conv_pw.bias" in state,
        "backbone.blocks.0.0.se.conv_reduce.weight" not in state,
    )
    for name, v in VARIANTS.items():
        if found == (v.channels, v.cells, v.repeats, v.levels, v.ported, v.lite):
            return name, classes.shape[0] // ANCHORS
    return None


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    """How many numbers follow the prefix in tensors' names."""
    return len({name[len(prefix) :].split(".")[0] for name in state if name.startswith(prefix)})
