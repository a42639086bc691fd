"""YOLOX: an anchor-free YOLO with a decoupled head (Ge et al. 2021, arXiv:2107.08430).

    images (B, 3, H, W) BGR 0–255, neither mean nor std
    CSPDarknet   dark3 (B, 256w, H/8, W/8)  dark4 (B, 512w, H/16, W/16)  dark5 (B, 1024w, H/32, W/32)
    PAFPN        the same three shapes, top-down then bottom-up
    head         a level: box (B, 4, h, w), objectness (B, 1, h, w), classes (B, C, h, w)
    decode       K = Σ h·w candidates; centre = (t_xy + cell)·stride, size = exp(t_wh)·stride,
                 score = σ(objectness)·max σ(class)

Tensor names are Megvii's, so published checkpoints load as they are. Batch
norms use eps 1e-3, which the files do not store.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from edgedet.models.base import Candidates, Detector, Target
from edgedet.models.layers import ConvNormAct
from edgedet.models.simota import simota_loss


@dataclass(frozen=True)
class Variant:
    """depth multiplies the bottlenecks, width the channels; size is the side of the square default input."""

    depth: float
    width: float
    size: int
    depthwise: bool = False


VARIANTS = {
    "nano": Variant(0.33, 0.25, 416, depthwise=True),
    "tiny": Variant(0.33, 0.375, 416),
    "s": Variant(0.33, 0.50, 640),
    "m": Variant(0.67, 0.75, 640),
    "l": Variant(1.00, 1.00, 640),
    "x": Variant(1.33, 1.25, 640),
}


class HeadLevel(NamedTuple):
    """One pyramid level's raw maps: box (B, 4, h, w) offsets, objectness (B, 1, h, w) and classes (B, C, h, w) logits."""

    box: Tensor
    objectness: Tensor
    classes: Tensor


class DepthwiseConv(nn.Module):
    """A depthwise convolution and a pointwise one, each with norm and activation."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.dconv = ConvNormAct(inputs, inputs, kernel, stride, groups=inputs)
        self.pconv = ConvNormAct(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.pconv(self.dconv(x))


class Focus(nn.Module):
    """Space to depth by two, then a convolution: (B, 3, H, W) → (B, C, H/2, W/2)."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.conv = ConvNormAct(12, outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        top, bottom = x[..., ::2, :], x[..., 1::2, :]
        return self.conv(torch.cat([top[..., ::2], bottom[..., ::2], top[..., 1::2], bottom[..., 1::2]], dim=1))


class Bottleneck(nn.Module):
    """1×1 then 3×3, with a residual where asked."""

    def __init__(self, channels: int, conv: type[nn.Module], *, residual: bool) -> None:
        super().__init__()
        self.conv1 = ConvNormAct(channels, channels, 1)
        self.conv2 = conv(channels, channels, 3)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.conv1(x))
        return x + y if self.residual else y


class CSPLayer(nn.Module):
    """Cross-stage partial block: half the channels through bottlenecks, half past them."""

    def __init__(self, inputs: int, outputs: int, count: int, conv: type[nn.Module], *, residual: bool) -> None:
        super().__init__()
        hidden = outputs // 2
        self.conv1 = ConvNormAct(inputs, hidden, 1)
        self.conv2 = ConvNormAct(inputs, hidden, 1)
        self.conv3 = ConvNormAct(2 * hidden, outputs, 1)
        self.m = nn.Sequential(*(Bottleneck(hidden, conv, residual=residual) for _ in range(count)))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(torch.cat([self.m(self.conv1(x)), self.conv2(x)], dim=1))


class SPPBottleneck(nn.Module):
    """Spatial pyramid pooling at 5, 9 and 13 cells."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = channels // 2
        self.conv1 = ConvNormAct(channels, hidden, 1)
        self.m = nn.ModuleList(nn.MaxPool2d(k, 1, k // 2) for k in (5, 9, 13))
        self.conv2 = ConvNormAct(hidden * 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        return self.conv2(torch.cat([x, *(pool(x) for pool in self.m)], dim=1))


class CSPDarknet(nn.Module):
    """The backbone: features at strides 8, 16 and 32."""

    def __init__(self, variant: Variant, conv: type[nn.Module]) -> None:
        super().__init__()
        base = int(variant.width * 64)
        count = max(round(variant.depth * 3), 1)
        csp = partial(CSPLayer, conv=conv, residual=True)
        self.stem = Focus(base)
        self.dark2 = nn.Sequential(conv(base, base * 2, 3, 2), csp(base * 2, base * 2, count))
        self.dark3 = nn.Sequential(conv(base * 2, base * 4, 3, 2), csp(base * 4, base * 4, count * 3))
        self.dark4 = nn.Sequential(conv(base * 4, base * 8, 3, 2), csp(base * 8, base * 8, count * 3))
        self.dark5 = nn.Sequential(
            conv(base * 8, base * 16, 3, 2),
            SPPBottleneck(base * 16),
            CSPLayer(base * 16, base * 16, count, conv, residual=False),
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        p3 = self.dark3(self.dark2(self.stem(images)))
        p4 = self.dark4(p3)
        return p3, p4, self.dark5(p4)


class PAFPN(nn.Module):
    """Path aggregation: top-down, then bottom-up; tensor names are Megvii's."""

    def __init__(self, variant: Variant, conv: type[nn.Module]) -> None:
        super().__init__()
        c3, c4, c5 = (int(c * variant.width) for c in (256, 512, 1024))
        count = round(3 * variant.depth)
        csp = partial(CSPLayer, count=count, conv=conv, residual=False)
        self.backbone = CSPDarknet(variant, conv)
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.lateral_conv0 = ConvNormAct(c5, c4, 1)
        self.C3_p4 = csp(2 * c4, c4)
        self.reduce_conv1 = ConvNormAct(c4, c3, 1)
        self.C3_p3 = csp(2 * c3, c3)
        self.bu_conv2 = conv(c3, c3, 3, 2)
        self.C3_n3 = csp(2 * c3, c4)
        self.bu_conv1 = conv(c4, c4, 3, 2)
        self.C3_n4 = csp(2 * c4, c5)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        p3, p4, p5 = self.backbone(images)
        top = self.lateral_conv0(p5)
        middle = self.reduce_conv1(self.C3_p4(torch.cat([self.upsample(top), p4], dim=1)))
        out3 = self.C3_p3(torch.cat([self.upsample(middle), p3], dim=1))
        out4 = self.C3_n3(torch.cat([self.bu_conv2(out3), middle], dim=1))
        out5 = self.C3_n4(torch.cat([self.bu_conv1(out4), top], dim=1))
        return out3, out4, out5


class DecoupledHead(nn.Module):
    """Class and box branches of two 3×3 convolutions each, a level with its own weights."""

    def __init__(self, variant: Variant, num_classes: int, conv: type[nn.Module]) -> None:
        super().__init__()
        hidden = int(256 * variant.width)
        inputs = [int(c * variant.width) for c in (256, 512, 1024)]
        branch = lambda: nn.Sequential(conv(hidden, hidden, 3), conv(hidden, hidden, 3))  # noqa: E731
        self.stems = nn.ModuleList(ConvNormAct(c, hidden, 1) for c in inputs)
        self.cls_convs = nn.ModuleList(branch() for _ in inputs)
        self.reg_convs = nn.ModuleList(branch() for _ in inputs)
        self.cls_preds = nn.ModuleList(nn.Conv2d(hidden, num_classes, 1) for _ in inputs)
        self.reg_preds = nn.ModuleList(nn.Conv2d(hidden, 4, 1) for _ in inputs)
        self.obj_preds = nn.ModuleList(nn.Conv2d(hidden, 1, 1) for _ in inputs)
        for prediction in (*self.cls_preds, *self.obj_preds):
            # Start near a score of .01, so that the many empty cells do not drown the loss (Lin et al. 2017).
            nn.init.constant_(prediction.bias, -math.log(99.0))

    def forward(self, features: tuple[Tensor, ...]) -> list[HeadLevel]:
        levels = []
        for i, feature in enumerate(features):
            x = self.stems[i](feature)
            box = self.reg_convs[i](x)
            levels.append(HeadLevel(self.reg_preds[i](box), self.obj_preds[i](box), self.cls_preds[i](self.cls_convs[i](x))))
        return levels


class YOLOX(Detector):
    """YOLOX of any variant; see the module's docstring for shapes."""

    family = "yolox"
    strides = (8, 16, 32)

    def __init__(self, variant: str, num_classes: int) -> None:
        config = VARIANTS[variant]
        super().__init__(variant, num_classes, (config.size, config.size))
        conv = DepthwiseConv if config.depthwise else ConvNormAct
        self.backbone = PAFPN(config, conv)
        self.head = DecoupledHead(config, num_classes, conv)

    def forward(self, images: Tensor) -> list[HeadLevel]:
        return self.head(self.backbone(images))

    def decode(self, raw: list[HeadLevel]) -> Candidates:
        boxes, scores, labels = [], [], []
        for level, stride in zip(raw, self.strides, strict=True):
            boxes.append(decode_boxes(level.box, stride))
            best, label = level.classes.float().sigmoid().flatten(2).max(dim=1)
            scores.append(best * level.objectness.float().sigmoid().flatten(1))
            labels.append(label.int())
        return Candidates(torch.cat(boxes, 1), torch.cat(scores, 1), torch.cat(labels, 1))

    def loss(self, raw: list[HeadLevel], targets: list[Target]) -> dict[str, Tensor]:
        return simota_loss(raw, self.strides, targets)


def decode_boxes(box: Tensor, stride: int) -> Tensor:
    """(B, h·w, 4) float32 xyxy boxes in input pixels of one level's (B, 4, h, w) raw box map."""
    height, width = box.shape[-2:]
    ys, xs = torch.meshgrid(
        torch.arange(height, device=box.device, dtype=torch.float32),
        torch.arange(width, device=box.device, dtype=torch.float32),
        indexing="ij",
    )
    cells = torch.stack([xs, ys], dim=-1).view(1, height * width, 2)
    values = box.float().flatten(2).transpose(1, 2)  # (B, h·w, 4)
    centre, half = (values[..., :2] + cells) * stride, values[..., 2:].exp() * (stride / 2)
    return torch.cat([centre - half, centre + half], dim=-1)


def build(variant: str, num_classes: int) -> YOLOX:
    """A YOLOX with random weights."""
    return YOLOX(variant, num_classes)


def recognise(state: Mapping[str, Tensor]) -> tuple[str, int] | None:
    """Variant and class count from the stem's width, the depth of dark3 and the head, or None where it is no YOLOX."""
    stem, classes = state.get("backbone.backbone.stem.conv.conv.weight"), state.get("head.cls_preds.0.weight")
    if stem is None or classes is None or stem.ndim != 4 or classes.ndim != 4:
        return None
    depthwise = "backbone.backbone.dark2.0.dconv.conv.weight" in state
    depth = len({k.split(".")[5] for k in state if k.startswith("backbone.backbone.dark3.1.m.")})
    for name, variant in VARIANTS.items():
        same_depth = max(round(variant.depth * 3), 1) * 3 == depth
        if int(variant.width * 64) == stem.shape[0] and same_depth and variant.depthwise == depthwise:
            return name, classes.shape[0]
    return None
