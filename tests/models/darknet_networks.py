"""Darknet's published networks as cfg text, written anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

V3_ANCHORS = "10,13,  16,30,  33,23,  30,61,  62,45,  59,119,  116,90,  156,198,  373,326"
V4_ANCHORS = "12, 16, 19, 36, 40, 28, 36, 75, 76, 55, 72, 146, 142, 110, 192, 243, 459, 401"
TINY_ANCHORS = "10,14,  23,27,  37,58,  81,82,  135,169,  344,319"
PUBLISHED_BYTES = {"yolov3": 248007048, "yolov3-tiny": 35434956, "yolov4": 257717640, "yolov4-tiny": 24251276}
"""Sizes of the files that the authors publish, of COCO's 80 classes."""


class Text:
    """A cfg being written; `narrow` divides the channels."""

    def __init__(self, side: int, classes: int, *, narrow: int = 1, net: str = "") -> None:
        self.lines = [f"[net]\n# Testing\nbatch=1\nwidth={side}\nheight={side}\nchannels=3\nmomentum=0.9\n{net}"]
        self._classes, self._narrow = classes, narrow

    def conv(self, filters: int, size: int = 3, stride: int = 1, activation: str = "leaky") -> None:
        self.lines.append(
            f"[convolutional]\nbatch_normalize=1\nfilters={filters // self._narrow}\nsize={size}\nstride={stride}\npad=1\n"
            f"activation={activation}\n"
        )

    def section(self, kind: str, **options: Any) -> None:
        self.lines.append("\n".join([f"[{kind}]", *(f"{key.rstrip('_')} = {value}" for key, value in options.items()), ""]))

    def yolo(self, mask: str, anchors: str, **options: Any) -> None:
        filters = (5 + self._classes) * len(mask.split(","))
        self.section("convolutional", size=1, stride=1, pad=1, filters=filters, activation="linear")
        count = len(anchors.split(",")) // 2
        self.section("yolo", mask=mask, anchors=anchors, classes=self._classes, num=count, jitter=0.3, **options)

    def __str__(self) -> str:
        return "\n".join(self.lines)


def yolov3(side: int = 416, classes: int = 80, **options: Any) -> str:
    text = Text(side, classes, **options)
    text.conv(32)
    for filters, blocks in ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4)):
        text.conv(filters, 3, 2)
        for _ in range(blocks):
            text.conv(filters // 2, 1)
            text.conv(filters)
            text.section("shortcut", from_=-3, activation="linear")
    for filters, mask, beside in ((512, "6,7,8", None), (256, "3,4,5", 61), (128, "0,1,2", 36)):
        if beside:
            text.section("route", layers="-4")
            text.conv(filters, 1)
            text.section("upsample", stride=2)
            text.section("route", layers=f"-1, {beside}")
        for _ in range(3):
            text.conv(filters, 1)
            text.conv(2 * filters)
        text.yolo(mask, V3_ANCHORS, ignore_thresh=0.7)
    return str(text)


def yolov3_tiny(side: int = 416, classes: int = 80, **options: Any) -> str:
    text = Text(side, classes, **options)
    for filters in (16, 32, 64, 128, 256, 512):
        text.conv(filters)
        text.section("maxpool", size=2, stride=1 if filters == 512 else 2)
    text.conv(1024)
    text.conv(256, 1)
    text.conv(512)
    text.yolo("3,4,5", TINY_ANCHORS)
    text.section("route", layers="-4")
    text.conv(128, 1)
    text.section("upsample", stride=2)
    text.section("route", layers="-1, 8")
    text.conv(256)
    text.yolo("0,1,2", TINY_ANCHORS)
    return str(text)


def yolov4(side: int = 608, classes: int = 80, **options: Any) -> str:
    text = Text(side, classes, **options)
    text.conv(32, activation="mish")
    for filters, half, inner, blocks in (
        (64, 64, 32, 1), (128, 64, 64, 2), (256, 128, 128, 8), (512, 256, 256, 8), (1024, 512, 512, 4)
    ):  # fmt: skip
        text.conv(filters, 3, 2, "mish")
        text.conv(half, 1, activation="mish")
        text.section("route", layers="-2")
        text.conv(half, 1, activation="mish")
        for _ in range(blocks):
            text.conv(inner, 1, activation="mish")
            text.conv(half, activation="mish")
            text.section("shortcut", from_=-3, activation="linear")
        text.conv(half, 1, activation="mish")
        text.section("route", layers={1: "-1,-7", 2: "-1,-10", 8: "-1,-28", 4: "-1,-16"}[blocks])
        text.conv(filters, 1, activation="mish")
    _turns(text, 512, 3)
    for size, back in ((5, "-2"), (9, "-4"), (13, "-1,-3,-5,-6")):
        text.section("maxpool", stride=1, size=size)
        text.section("route", layers=back)
    _turns(text, 512, 3)
    for filters, beside in ((256, "85"), (128, "54")):
        text.conv(filters, 1)
        text.section("upsample", stride=2)
        text.section("route", layers=beside)
        text.conv(filters, 1)
        text.section("route", layers="-1, -3")
        _turns(text, filters, 5)
    text.conv(256)
    text.yolo("0,1,2", V4_ANCHORS, scale_x_y=1.2, iou_thresh=0.213)
    for filters, beside, mask, scale in ((256, -16, "3,4,5", 1.1), (512, -37, "6,7,8", 1.05)):
        text.section("route", layers="-4")
        text.conv(filters, 3, 2)
        text.section("route", layers=f"-1, {beside}")
        _turns(text, filters, 6)
        text.yolo(mask, V4_ANCHORS, scale_x_y=scale, iou_thresh=0.213)
    return str(text)


def _turns(text: Text, filters: int, count: int) -> None:
    for turn in range(count):
        text.conv(filters * (1 + turn % 2), 1 + 2 * (turn % 2))


def yolov4_tiny(side: int = 416, classes: int = 80, **options: Any) -> str:
    text = Text(side, classes, **options)
    text.conv(32, 3, 2)
    text.conv(64, 3, 2)
    for filters in (64, 128, 256):
        text.conv(filters)
        text.section("route", layers=-1, groups=2, group_id=1)
        text.conv(filters // 2)
        text.conv(filters // 2)
        text.section("route", layers="-1,-2")
        text.conv(filters, 1)
        text.section("route", layers="-6,-1")
        text.section("maxpool", size=2, stride=2)
    text.conv(512)
    text.conv(256, 1)
    text.conv(512)
    text.yolo("3,4,5", TINY_ANCHORS, scale_x_y=1.05)
    text.section("route", layers="-4")
    text.conv(128, 1)
    text.section("upsample", stride=2)
    text.section("route", layers="-1, 23")
    text.conv(256)
    text.yolo("1,2,3", TINY_ANCHORS, scale_x_y=1.05)
    return str(text)


NETWORKS: dict[str, Callable[..., str]] = {
    "yolov3": yolov3,
    "yolov3-tiny": yolov3_tiny,
    "yolov4": yolov4,
    "yolov4-tiny": yolov4_tiny,
}
