"""YOLOv3's and v4's predictions: A anchors in every cell of every map, and what their numbers mean.

    raw        a detection layer: (B, A·(5 + C), h, w); for each anchor t_x, t_y, t_w, t_h, objectness, classes
    boxes      centre = (cell + s·σ(t_xy) − (s − 1)/2)·stride, size = anchor·exp(t_wh); s is scale_x_y
    score      σ(objectness)·σ(class), of every class: a box may be of several

YOLOv3 has s = 1 (arXiv:1804.02767, section 2.1); with s > 1 YOLOv4 reaches the cell's edges (arXiv:2004.10934, section 3.4).
All K predictions of an image stand by detection layer, anchor, row and column.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from edgedet.models import darknet, darknet_layers, selection
from edgedet.models.base import Candidates, Detector, Normalization
from edgedet.models.darknet_cfg import Cfg, Yolo
from edgedet.models.darknet_layers import Anchors
from edgedet.spec import Suppression

CANDIDATES = 1000
"""Of the (box, class) pairs, into suppression. Darknet takes all above .005: a few hundred on a photo."""


class Grid(NamedTuple):
    """Where the K predictions of an image lie, in input pixels.

    corners: (K, 2) of the cells. strides: (K, 1). anchors: (K, 2). scales: (K, 1), scale_x_y.
    """

    corners: Tensor
    strides: Tensor
    anchors: Tensor
    scales: Tensor


def grid(raw: Sequence[Tensor], heads: Sequence[Anchors], strides: Sequence[int]) -> Grid:
    """The grid of raw maps."""
    levels = [_level(maps, head, stride) for maps, head, stride in zip(raw, heads, strides, strict=True)]
    return Grid(*(torch.cat(parts) for parts in zip(*levels, strict=True)))


def _level(maps: Tensor, head: Anchors, stride: int) -> Grid:
    height, width = maps.shape[-2:]
    count = head.anchors.shape[0]
    ys, xs = torch.meshgrid(
        torch.arange(height, device=maps.device, dtype=torch.float32),
        torch.arange(width, device=maps.device, dtype=torch.float32),
        indexing="ij",
    )
    corners = torch.stack([xs, ys], dim=-1).view(height * width, 2).repeat(count, 1) * stride
    ones = torch.ones_like(corners[:, :1])
    anchors = head.anchors.float().repeat_interleave(height * width, dim=0)
    return Grid(corners, ones * stride, anchors, ones * head.scale.float())


def predictions(raw: Sequence[Tensor], heads: Sequence[Anchors]) -> Tensor:
    """(B, K, 5 + C) float32 of the raw maps."""
    levels = [maps.float().unflatten(1, (head.anchors.shape[0], -1)) for maps, head in zip(raw, heads, strict=True)]
    return torch.cat([level.permute(0, 1, 3, 4, 2).flatten(1, 3) for level in levels], dim=1)


def boxes_of(offsets: Tensor, places: Grid) -> Tensor:
    """(…, K, 4) xyxy boxes in input pixels of t_x, t_y, t_w, t_h (…, K, 4)."""
    within = offsets[..., :2].sigmoid() * places.scales - (places.scales - 1) / 2
    centre, half = places.corners + within * places.strides, offsets[..., 2:].exp() * places.anchors / 2
    return torch.cat([centre - half, centre + half], dim=-1)


class AnchorGridDetector(Detector):
    """A Darknet network whose detection layers are [yolo]; a family adds its loss.

    backbone_layers: how many layers of each variant come from a classifier.
    """

    backbone_layers: ClassVar[Mapping[str, int]]
    normalization = Normalization("rgb", std=(255.0, 255.0, 255.0))
    candidate_order = "scores"
    suppression = Suppression(iou_threshold=0.45, min_score=0.005, candidates=CANDIDATES)
    class_rows = 5

    def __init__(self, variant: str, cfg: Cfg) -> None:
        super().__init__(variant, cfg.classes, (cfg.height, cfg.width))
        self._cfg = cfg
        self.layers = darknet_layers.modules(cfg)
        numbers = [number for number, layer in enumerate(cfg.layers) if isinstance(layer, Yolo)]
        shapes = darknet.output_shapes(cfg)
        self.strides = [cfg.height // shapes[number][1] for number in numbers]
        for last, head in zip([self.layers[number - 1] for number in numbers], self.heads, strict=True):
            _start(last, head)

    @property
    def heads(self) -> list[Anchors]:
        """The detection layers, in the order of the raw maps."""
        return [module for module in self.layers if isinstance(module, Anchors)]

    def forward(self, images: Tensor) -> list[Tensor]:
        return darknet_layers.run(self._cfg.layers, self.layers, images)

    def decode(self, raw: list[Tensor]) -> Candidates:
        found = predictions(raw, self.heads)
        boxes = boxes_of(found[..., :4], grid(raw, self.heads, self.strides))
        scores = found[..., 4:5].sigmoid() * found[..., 5:].sigmoid()
        return selection.best_pairs(boxes, scores, CANDIDATES)

    def classification_names(self) -> dict[str, str]:
        count = self.backbone_layers[self.variant]
        names = (f"layers.{name}" for name in self.layers[:count].state_dict())
        return {name: name for name in names}  # Darknet's classifiers are numbered alike


def _start(last: nn.Module, head: Anchors) -> None:
    """Begin near an objectness of .01, so that the many empty cells do not drown the loss (Lin et al. 2017)."""
    with torch.no_grad():
        bias = last.get_parameter("conv.bias").zero_()
        bias.view(head.anchors.shape[0], -1)[:, 4] = -math.log(99.0)


def recognised(
    state: Mapping[str, Tensor], variants: Iterable[str], published_cfg: Callable[[str, int], Cfg]
) -> tuple[str, int] | None:
    """Variant and class count, told by the numbers of the detection layers and the rows before them."""
    found = sorted(int(name.split(".")[1]) for name in state if name.startswith("layers.") and name.endswith(".anchors"))
    for variant in variants if found else ():
        layers = published_cfg(variant, 1).layers
        heads = {number: layer for number, layer in enumerate(layers) if isinstance(layer, Yolo)}
        rows = state.get(f"layers.{found[0] - 1}.conv.bias")
        if list(heads) == found and rows is not None and rows.ndim == 1:
            classes = len(rows) // heads[found[0]].count - 5
            return (variant, classes) if classes > 0 else None
    return None
