"""YOLOv3 and YOLOv3-tiny: anchors on two or three scales, several classes a box (Redmon and Farhadi 2018, arXiv:1804.02767).

    images (B, 3, H, W) RGB 0–1
    ""      Darknet-53 to layer 74; detection layers 82 (B, A·(5 + C), H/32, W/32), 94 (H/16, W/16), 106 (H/8, W/8)
    "tiny"  seven convolutions with maxima between them; detection layers 16 (H/32, W/32) and 23 (H/16, W/16)
    A = 3 anchors a cell; boxes and scores as in `edgedet.models.anchor_grid`

Weights are Darknet's own files (`edgedet.models.darknet`), whose anchors, classes and input size count.

Training follows the paper: the anchor whose shape overlaps an object most answers for it, and a prediction that overlaps an
object by more than .7 (the cfg's value; the paper's is .5) without answering for one is not told to be empty. For centres
Darknet passes on σ(t) − t*, the gradient of cross-entropy, which stands here in place of the squared error. We divide by the
number of objects, where Darknet divides by the pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from edgedet.models.anchor_grid import AnchorGridDetector, grid, predictions, recognised
from edgedet.models.anchor_loss import class_loss, match, offset_loss
from edgedet.models.base import Target
from edgedet.models.darknet53 import darknet53
from edgedet.models.darknet_cfg import Cfg, Layer, Maxpool, Route, Upsample, convolution, detections, resolved

VARIANTS = {"": 416, "tiny": 416}
"""The side of the square default input in pixels: the paper's usual one."""
ANCHORS = (10.0, 13, 16, 30, 33, 23, 30, 61, 62, 45, 59, 119, 116, 90, 156, 198, 373, 326)
TINY_ANCHORS = (10.0, 14, 23, 27, 37, 58, 81, 82, 135, 169, 344, 319)

ONE_ANCHOR = 1.0
"""No overlap is above it, so that no anchor but the best answers for an object."""


class YOLOv3(AnchorGridDetector):
    """YOLOv3 of either variant; see the module's docstring for shapes."""

    family = "yolov3"
    backbone_layers: ClassVar = {"": 75, "tiny": 11}
    letterbox_anchor = "center"
    letterbox_fill = 128

    def loss(self, raw: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
        found, places = predictions(raw, self.heads), grid(raw, self.heads, self.strides)
        matches, objectness = match(found, places, targets, enough=ONE_ANCHOR)
        size_hw = (raw[0].shape[2] * self.strides[0], raw[0].shape[3] * self.strides[0])
        return {"box": offset_loss(matches, size_hw), "objectness": objectness, "classes": class_loss(matches)}


def published_cfg(variant: str, num_classes: int) -> Cfg:
    """The published network, for so many classes."""
    layers = _tiny(num_classes) if variant else _large(num_classes)
    return Cfg(resolved(layers), VARIANTS[variant], VARIANTS[variant])


def _large(num_classes: int) -> list[Layer]:
    def scale(filters: int, anchors: tuple[float, ...]) -> list[Layer]:
        return [*[convolution(filters, 1), convolution(2 * filters)] * 3, *detections(anchors, num_classes)]

    def finer(filters: int, beside: int) -> list[Layer]:
        return [Route((-4,)), convolution(filters, 1), Upsample(), Route((-1, beside))]

    scales = [*scale(512, ANCHORS[12:]), *finer(256, 61), *scale(256, ANCHORS[6:12]), *finer(128, 36)]
    return [*darknet53(), *scales, *scale(128, ANCHORS[:6])]


def _tiny(num_classes: int) -> list[Layer]:
    layers: list[Layer] = []
    for filters in (16, 32, 64, 128, 256, 512):
        layers += [convolution(filters), Maxpool(2, 1 if filters == 512 else 2)]
    layers += [convolution(1024), convolution(256, 1), convolution(512), *detections(TINY_ANCHORS[6:], num_classes)]
    layers += [Route((-4,)), convolution(128, 1), Upsample(), Route((-1, 8))]
    return [*layers, convolution(256), *detections(TINY_ANCHORS[:6], num_classes)]


def build(variant: str, num_classes: int) -> YOLOv3:
    """A YOLOv3 with random weights."""
    return YOLOv3(variant, published_cfg(variant, num_classes))


def recognise(state: Mapping[str, Tensor]) -> tuple[str, int] | None:
    """Variant and class count, or None where it is no YOLOv3."""
    return recognised(state, VARIANTS, published_cfg)
