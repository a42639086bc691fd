"""CenterNet: objects as points (Zhou et al. 2019, arXiv:1904.07850), with ResNet-18 or DLA-34.

    images (B, 3, H, W) BGR, standardised
    r18      ResNet's C5 (B, 512, H/32, W/32), then three times a deformable 3×3 and a 4×4 transposed convolution of
             stride 2, to 256, 128 and 64 channels                                          (B, 64, H/4, W/4)
    dla34    DLA, DLAUp and IDAUp, whose last map is the feature                            (B, 64, H/4, W/4)
    heads    3×3, ReLU, 1×1: heat (B, C, H/4, W/4) logits, size and offset (B, 2, H/4, W/4) in cells
    decode   a peak is a cell of σ(heat) that none of its eight neighbours exceeds; the 100 best of all classes;
             centre = cell + offset, box = (centre ± size/2)·4 (equation 4); no suppression

The heads' names and the neck's are the official ones, of `ctdet_coco_resdcn18.pth` (`resnet_dcn.py`; the plain
`msra_resnet.py` without deformable convolutions was never published) and of `ctdet_coco_dla_*.pth`; the ResNet's get
`base.` in front, as the DLA's have. What the DLA files hold besides and the official network never reads, `base.fc` and
two `project`s, is left out. The official one resizes so that the longer side fits, in the centre of black, and so does
the letterbox; it takes pixels at their corners where the letterbox takes their centres.

Two departures in the loss, without effect on it where scores are within 1e-4 and 1 − 1e-4: log σ is computed from
logits, where the official code clamps σ, which has no gradient beyond; and boxes are clipped to the map's edges, not to
its last cell.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss, logsigmoid, max_pool2d

from edgedet.models import resnet
from edgedet.models.base import Candidates, Detector, Normalization, Target
from edgedet.models.deformable import DeformableConv
from edgedet.models.dla import DLA, DLAUp, IDAUp, fill_bilinear
from edgedet.models.selection import best_pairs
from edgedet.spec import Suppression

STRIDE = 4
DETECTIONS = 100
LEAST_OVERLAP = 0.7
"""The IoU that a box keeps whose corners are off by the gaussian's radius (CornerNet, arXiv:1808.01244, section 3.2)."""
SIZE_WEIGHT = 0.1


@dataclass(frozen=True)
class Variant:
    """width: channels of the backbone's first layer. hidden: channels inside the heads."""

    base: Literal["resnet", "dla"]
    width: int
    hidden: int
    size: int = 512


VARIANTS = {"r18": Variant("resnet", 64, 64), "dla34": Variant("dla", 16, 256)}


class Heads(NamedTuple):
    """Raw maps: heat (B, C, h, w) logits, size (B, 2, h, w) width and height, offset (B, 2, h, w) x and y, in cells."""

    heat: Tensor
    size: Tensor
    offset: Tensor


class Truth(NamedTuple):
    """What one image's maps should be. heat: (C, h, w) in [0, 1], 1 at centres. Of each of N objects: cell (N,), its place
    in the flattened map, size (N, 2) and offset (N, 2) in cells."""

    heat: Tensor
    cell: Tensor
    size: Tensor
    offset: Tensor


class CenterNet(Detector):
    """CenterNet without its features, which a backbone with its way up gives; see the module's docstring for shapes."""

    family = "centernet"
    normalization = Normalization("bgr", (104.04, 113.985, 119.85), (73.695, 69.87, 70.89))
    letterbox_anchor = "center"
    letterbox_fill = 0
    candidate_order = "scores"
    # The official code has no floor; this one keeps cells out that are no peak.
    suppression = Suppression(min_score=0.001, candidates=DETECTIONS, max_detections=DETECTIONS, needed=False)

    def __init__(self, variant: str, num_classes: int, channels: int) -> None:
        config = VARIANTS[variant]
        super().__init__(variant, num_classes, (config.size, config.size))
        self.hm = _head(channels, config.hidden, num_classes)
        self.wh = _head(channels, config.hidden, 2)
        self.reg = _head(channels, config.hidden, 2)
        # Start near a score of .1, so that the many empty cells do not drown the loss (Lin et al. 2017).
        nn.init.constant_(self.hm.get_parameter("2.bias"), -2.19)

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """(B, channels, H/4, W/4)."""

    def forward(self, images: Tensor) -> Heads:
        features = self.features(images)
        return Heads(self.hm(features), self.wh(features), self.reg(features))

    def decode(self, raw: Heads) -> Candidates:
        heat = raw.heat.float().sigmoid()
        peaks = torch.where(heat == max_pool2d(heat, 3, 1, 1), heat, 0.0)
        scores = peaks.flatten(2).transpose(1, 2)  # (B, h·w, C)
        return best_pairs(decode_boxes(raw.size.float(), raw.offset.float()), scores, DETECTIONS)

    def loss(self, raw: Heads, targets: list[Target]) -> dict[str, Tensor]:
        raw = Heads(*(head.float() for head in raw))
        _, classes, height, width = raw.heat.shape
        truths = [truth_of(target, classes, (height, width)) for target in targets]
        heat = torch.stack([truth.heat for truth in truths])
        sizes, offsets = (
            torch.cat([values.flatten(1)[:, truth.cell].T for values, truth in zip(head, truths, strict=True)])
            for head in (raw.size, raw.offset)
        )
        return {
            "heat": heat_loss(raw.heat, heat),
            "size": SIZE_WEIGHT * _distance(sizes, torch.cat([truth.size for truth in truths])),
            "offset": _distance(offsets, torch.cat([truth.offset for truth in truths])),
        }

    def classification_names(self) -> dict[str, str]:
        return {name: name.removeprefix("base.") for name in self.state_dict() if name.startswith("base.")}


class ResNetCenterNet(CenterNet):
    """On ResNet-18 and three deformable convolutions, each followed by an upsampling."""

    def __init__(self, variant: str, num_classes: int) -> None:
        width = VARIANTS[variant].width
        super().__init__(variant, num_classes, width)
        self.base = resnet.ResNet(18, width)
        channels = (width * 8, width * 4, width * 2, width)
        steps = (_up(channels[i], channels[i + 1]) for i in range(3))
        self.deconv_layers = nn.Sequential(*(layer for step in steps for layer in step))

    def features(self, images: Tensor) -> Tensor:
        return self.deconv_layers(self.base(images)[-1])


class DLACenterNet(CenterNet):
    """On DLA-34 and its way up."""

    def __init__(self, variant: str, num_classes: int) -> None:
        base = DLA(VARIANTS[variant].width)
        channels = base.channels[:3]
        super().__init__(variant, num_classes, channels[0])
        self.base = base
        self.dla_up = DLAUp(base.channels)
        self.ida_up = IDAUp(channels[0], channels, (1, 2, 4))

    def features(self, images: Tensor) -> Tensor:
        return self.ida_up(self.dla_up(self.base(images)))[-1]


def decode_boxes(size: Tensor, offset: Tensor) -> Tensor:
    """(B, h·w, 4) float32 xyxy boxes in input pixels, one a cell, of (B, 2, h, w) sizes and offsets in cells."""
    height, width = size.shape[2:]
    ys, xs = torch.meshgrid(
        torch.arange(height, device=size.device, dtype=torch.float32),
        torch.arange(width, device=size.device, dtype=torch.float32),
        indexing="ij",
    )
    centre = torch.stack([xs, ys]) + offset
    return (torch.cat([centre - size / 2, centre + size / 2], dim=1) * STRIDE).flatten(2).transpose(1, 2)


def truth_of(target: Target, classes: int, size_hw: tuple[int, int]) -> Truth:
    """What the maps, of so many cells each way, should be for one image; boxes without area are left out."""
    height, width = size_hw
    edge = target.boxes.new_tensor([width, height, width, height])
    boxes = (target.boxes / STRIDE).clamp(min=0).minimum(edge)
    size = boxes[:, 2:] - boxes[:, :2]
    whole = (size > 0).all(dim=1)
    boxes, size, labels = boxes[whole], size[whole], target.labels[whole]
    centre = boxes[:, :2] + size / 2
    cell = centre.floor().minimum(edge[:2] - 1)
    heat = draw_gaussians(cell, gaussian_radius(size.ceil()).floor(), labels, classes, size_hw)
    return Truth(heat, (cell[:, 1] * width + cell[:, 0]).long(), size, centre - cell)


def draw_gaussians(cell: Tensor, radius: Tensor, labels: Tensor, classes: int, size_hw: tuple[int, int]) -> Tensor:
    """(classes, h, w) in [0, 1]: each object's gaussian around its cell, the greatest where those of a class meet.

    cell: (N, 2) x, y. radius: (N,) cells; a gaussian is cut off at this distance in x or y, and σ is a third of it,
    (2·radius + 1) / 6. labels: (N,).
    """
    height, width = size_hw
    x = torch.arange(width, device=cell.device) - cell[:, :1]  # (N, w)
    y = torch.arange(height, device=cell.device) - cell[:, 1:]  # (N, h)
    spread = 2 * ((2 * radius + 1) / 6).square().unsqueeze(1)
    along = [torch.exp(-d.square() / spread) * (d.abs() <= radius.unsqueeze(1)) for d in (y, x)]
    gaussians = along[0].unsqueeze(2) * along[1].unsqueeze(1)  # (N, h, w)
    empty = gaussians.new_zeros(classes, height, width)
    return empty.scatter_reduce_(0, labels.view(-1, 1, 1).expand_as(gaussians), gaussians, "amax")


def gaussian_radius(size: Tensor) -> Tensor:
    """(N,) by how much both corners of boxes (N, 2) may be off, in the worst direction, for an IoU of LEAST_OVERLAP.

    The least of three: both corners moved the same way, both inwards, both outwards; each a root of a quadratic.
    """
    total, area = size.sum(dim=1), size.prod(dim=1)
    least = LEAST_OVERLAP
    same = total - (total.square() - 4 * area * (1 - least) / (1 + least)).sqrt()
    inwards = total - (total.square() - 4 * area * (1 - least)).sqrt()
    outwards = (total.square() + 4 * area * (1 - least) / least).sqrt() - total
    return torch.stack([same / 2, inwards / 4, outwards / 4]).amin(dim=0)


def heat_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """The penalty-reduced focal loss of maps (B, C, h, w), α = 2 and β = 4 (equation 1), over the number of centres.

    −(1 − p)² log p at centres, where truth is 1, and −(1 − truth)⁴ p² log(1 − p) elsewhere.
    """
    probability = logits.sigmoid()
    centres = truth == 1
    at_centres = (1 - probability).square() * logsigmoid(logits)
    elsewhere = (1 - truth).pow(4) * probability.square() * logsigmoid(-logits)
    return -torch.where(centres, at_centres, elsewhere).sum() / centres.sum().clamp(min=1)


def _distance(predicted: Tensor, truth: Tensor) -> Tensor:
    """The mean of |difference| over all coordinates (the official code's; equations 2 and 3 have twice that); 0 of none."""
    return l1_loss(predicted, truth, reduction="sum") / max(truth.numel(), 1)


def _head(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, hidden, 3, 1, 1), nn.ReLU(inplace=True), nn.Conv2d(hidden, outputs, 1))


def _up(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    """A deformable convolution, then twice the size."""
    up = nn.ConvTranspose2d(outputs, outputs, 4, 2, 1, bias=False)
    fill_bilinear(up)
    norms = (nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs))
    return DeformableConv(inputs, outputs), norms[0], nn.ReLU(inplace=True), up, norms[1], nn.ReLU(inplace=True)


def build(variant: str, num_classes: int) -> CenterNet:
    """A CenterNet with random weights."""
    kinds = {"resnet": ResNetCenterNet, "dla": DLACenterNet}
    return kinds[VARIANTS[variant].base](variant, num_classes)


def adapt(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The official checkpoints' tensors under the names here, without those that the official networks never read."""
    if not _is_ours(state):
        return state
    own = ("base.", "deconv_layers.", "dla_up.", "ida_up.", "hm.", "wh.", "reg.")
    unread = ("base.fc.", "base.level3.project.", "base.level4.project.")
    named = {name if name.startswith(own) else f"base.{name}": tensor for name, tensor in state.items()}
    return {name: tensor for name, tensor in named.items() if not name.startswith(unread)}


def recognise(state: Mapping[str, Tensor]) -> tuple[str, int] | None:
    """Variant and class count from the neck, the backbone's first layer and the heat's head; None where it is no CenterNet."""
    heat = state.get("hm.2.weight")
    if heat is None or heat.ndim != 4 or not _is_ours(state):
        return None
    if resnet.depth_of(state, "base.") == 18:
        base, first = "resnet", state.get("base.conv1.weight")
    else:
        base, first = "dla", state.get("base.base_layer.0.weight")
    if first is None:
        return None
    found = (name for name, variant in VARIANTS.items() if (variant.base, variant.width) == (base, len(first)))
    return next(((name, heat.shape[0]) for name in found), None)


def _is_ours(state: Mapping[str, Tensor]) -> bool:
    return "deconv_layers.0.conv_offset_mask.weight" in state or "dla_up.ida_0.proj_1.conv.conv_offset_mask.weight" in state
