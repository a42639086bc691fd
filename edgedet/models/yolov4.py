"""YOLOv4 and YOLOv4-tiny: CSPDarknet-53, SPP and PAN under YOLOv3's detections (Bochkovskiy et al. 2020, arXiv:2004.10934).

    images (B, 3, H, W) RGB 0–1
    ""      CSPDarknet-53 (Mish) to layer 104; SPP, maxima over 5, 9 and 13 cells, 105–116; top-down 117–136, bottom-up to
            161; detection layers 139 (B, A·(5 + C), H/8, W/8), 150 (H/16, W/16), 161 (H/32, W/32), scale_x_y 1.2, 1.1, 1.05
    "tiny"  three stages of which half the channels go twice through convolutions (Wang et al. 2020, arXiv:2011.08036);
            detection layers 30 (H/32, W/32) and 37 (H/16, W/16), scale_x_y 1.05
    A = 3 anchors a cell; boxes and scores as in `edgedet.models.anchor_grid`

Weights are Darknet's own files (`edgedet.models.darknet`), whose anchors, classes, scale_x_y and input size count. Frames are
stretched, as Bochkovskiy's program does unless the cfg says letter_box=1. Suppression is greedy, as in the cfg files
(`nms_kind=greedynms`); the paper's DIoU-NMS is not offered.

Training: CIoU for boxes, every anchor whose shape overlaps the object by more than .213 and the best one, smoothed class
labels, and no blame for an empty prediction that overlaps an object by more than .7. Of the paper's other freebies mosaic,
changed colours and the cosine schedule are in edgedet's training of every family; CutMix, DropBlock, cross mini-batch
normalisation and self-adversarial training are left out. We divide by the anchors that answer for an object, where Darknet
divides by the pictures, and weight the box loss by 5 for that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from edgedet.models.anchor_grid import AnchorGridDetector, boxes_of, grid, predictions, recognised
from edgedet.models.anchor_loss import class_loss, match
from edgedet.models.base import Target
from edgedet.models.darknet53 import cspdarknet53
from edgedet.models.darknet_cfg import Cfg, Layer, Maxpool, Route, Upsample, convolution, detections, resolved
from edgedet.models.losses import ciou_loss

VARIANTS = {"": 608, "tiny": 416}
"""The side of the square default input in pixels: the published cfg's."""
ANCHORS = (12.0, 16, 19, 36, 40, 28, 36, 75, 76, 55, 72, 146, 142, 110, 192, 243, 459, 401)
TINY_ANCHORS = (10.0, 14, 23, 27, 37, 58, 81, 82, 135, 169, 344, 319)

ENOUGH = 0.213
"""Overlap of shapes from which an anchor answers for an object beside the best one: the cfg's iou_thresh."""
SMOOTHING = 0.1
BOX_WEIGHT = 5.0


class YOLOv4(AnchorGridDetector):
    """YOLOv4 of either variant; see the module's docstring for shapes."""

    family = "yolov4"
    backbone_layers: ClassVar = {"": 105, "tiny": 27}
    letterbox_anchor = "stretch"

    def loss(self, raw: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
        found, places = predictions(raw, self.heads), grid(raw, self.heads, self.strides)
        matches, objectness = match(found, places, targets, enough=ENOUGH)
        boxes = ciou_loss(boxes_of(matches.values[:, :4], matches.places), matches.boxes).sum() / matches.divisor
        classes = class_loss(matches, smoothing=SMOOTHING)
        return {"box": BOX_WEIGHT * boxes, "objectness": objectness, "classes": classes}


def published_cfg(variant: str, num_classes: int) -> Cfg:
    """The published network, for so many classes."""
    layers = _tiny(num_classes) if variant else _large(num_classes)
    return Cfg(resolved(layers), VARIANTS[variant], VARIANTS[variant])


def _alternating(filters: int, count: int) -> list[Layer]:
    """So many convolutions, 1×1 to `filters` and 3×3 to twice as many by turns."""
    return [convolution(2 * filters) if turn % 2 else convolution(filters, 1) for turn in range(count)]


def _large(num_classes: int) -> list[Layer]:
    pools: list[Layer] = [Maxpool(5), Route((-2,)), Maxpool(9), Route((-4,)), Maxpool(13), Route((-1, -3, -5, -6))]

    def up(filters: int, beside: int) -> list[Layer]:
        higher: list[Layer] = [convolution(filters, 1), Upsample()]
        return [*higher, Route((beside,)), convolution(filters, 1), Route((-1, -3)), *_alternating(filters, 5)]

    def down(filters: int, beside: int) -> list[Layer]:
        return [Route((-4,)), convolution(filters, stride=2), Route((-1, beside)), *_alternating(filters, 6)]

    layers = [*cspdarknet53(), *_alternating(512, 3), *pools, *_alternating(512, 3), *up(256, 85), *up(128, 54)]
    layers += [convolution(256), *detections(ANCHORS[:6], num_classes, 1.2)]
    layers += [*down(256, -16), *detections(ANCHORS[6:12], num_classes, 1.1)]
    return [*layers, *down(512, -37), *detections(ANCHORS[12:], num_classes, 1.05)]


def _tiny(num_classes: int) -> list[Layer]:
    layers: list[Layer] = [convolution(32, stride=2), convolution(64, stride=2)]
    for filters in (64, 128, 256):
        layers += [convolution(filters), Route((-1,), groups=2, group_id=1), *[convolution(filters // 2)] * 2]
        layers += [Route((-1, -2)), convolution(filters, 1), Route((-6, -1)), Maxpool(2, 2)]
    layers += [convolution(512), convolution(256, 1), convolution(512), *detections(TINY_ANCHORS[6:], num_classes, 1.05)]
    layers += [Route((-4,)), convolution(128, 1), Upsample(), Route((-1, 23))]
    return [*layers, convolution(256), *detections(TINY_ANCHORS[2:8], num_classes, 1.05)]


def build(variant: str, num_classes: int) -> YOLOv4:
    """A YOLOv4 with random weights."""
    return YOLOv4(variant, published_cfg(variant, num_classes))


def recognise(state: Mapping[str, Tensor]) -> tuple[str, int] | None:
    """Variant and class count, or None where it is no YOLOv4."""
    return recognised(state, VARIANTS, published_cfg)
