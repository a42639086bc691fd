"""YOLOv1: one network sees the whole picture, each cell of a grid tells its objects (Redmon et al. 2016, arXiv:1506.02640).

    images     (B, 3, 448, 448) RGB 0–1, stretched
    layers     7×7 conv 64 /2, max   (B, 64, 112, 112)    (figure 3 of the paper: 24 convolutions)
               3×3 192, max          (B, 192, 56, 56)
               1×1 128, 3×3 256, 1×1 256, 3×3 512, max         (B, 512, 28, 28)
               4 × (1×1 256, 3×3 512), 1×1 512, 3×3 1024, max  (B, 1024, 14, 14)
               2 × (1×1 512, 3×3 1024), 3×3 1024, /2           (B, 1024, 7, 7)
               2 × 3×3 1024          (B, 1024, 7, 7)
    ""         connected 4096, connected S·S·(C + 5·N): the paper's, S = 7 cells a side, N = 2 boxes a cell
    "local"    3×3 256 with weights of its own in every place, connected, N = 3: the published `yolov1.weights`
    "tiny"     8 convolutions of 3×3, 16 to 1024, six max between them, connected: the published `tiny-yolov1.weights`
    raw        (B, S·S·C + S·S·N + S·S·N·4) in Darknet's order: class probabilities, confidences, boxes
    decode     centre = (cell + t_xy)/S, size = t_wh² of the input; score = confidence · p(class), of every class

Weights are Darknet's own files (`edgedet.models.darknet`); classes are VOC's where there are 20. The connected layers take no
other input size. Convolutions have batch norm as in all the published files; the paper's own had none. Scores are held to
[0, 1], which Darknet's, products of two linear outputs, may leave.

Training is equation 3, divided by the pictures; a confidence is to tell its box's IoU (section 2). Where two objects share a
cell, a second box of it answers for the second, while Darknet drops that object. The last matrix has thousands of inputs, all
of which a step of AdamW moves: it wants a low rate, such as `--lr 5e-5`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgedet.classes import COCO, VOC
from edgedet.errors import UsageError
from edgedet.models import darknet, selection
from edgedet.models.base import Candidates, Detector, Normalization, Target
from edgedet.models.darknet_cfg import Cfg, Connected, Convolutional, Detection, Dropout, Layer, Local, Maxpool, convolution
from edgedet.models.darknet_layers import ACTIVATIONS, Convolution, Pool
from edgedet.models.losses import paired_iou
from edgedet.spec import Suppression

VARIANTS = {"": 2, "local": 3, "tiny": 2}
"""How many boxes a cell has."""
SIDE, CELLS = 448, 7
COORDINATES_WEIGHT, EMPTY_WEIGHT = 5.0, 0.5


class Predictions(NamedTuple):
    """What the M cells say, float32: classes (B, M, C), confidence (B, M, N), boxes (B, M, N, 4) as t_x, t_y, t_w, t_h."""

    classes: Tensor
    confidence: Tensor
    boxes: Tensor


class Objects(NamedTuple):
    """P objects, each with the box that answers for it: index of image, cell and box (P,), offsets (P, 4), label (P,)."""

    image: Tensor
    cell: Tensor
    box: Tensor
    offsets: Tensor
    label: Tensor


class FullyConnected(nn.Module):
    """A matrix for the whole map, activation: (B, …) → (B, n)."""

    def __init__(self, inputs: int, layer: Connected) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, layer.output)
        self.act = ACTIVATIONS[layer.activation]()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.linear(x.flatten(1)))


class LocallyConnected(nn.Module):
    """A convolution whose kernel differs from place to place, activation: (B, c, h, w) → (B, n, h, w)."""

    def __init__(self, before: tuple[int, int, int], layer: Local) -> None:
        super().__init__()
        channels, height, width = before
        self.size = layer.size
        self.weight = nn.Parameter(torch.empty(height * width, layer.filters, channels, layer.size, layer.size))
        self.bias = nn.Parameter(torch.zeros(layer.filters, height, width))
        self.act = ACTIVATIONS[layer.activation]()
        nn.init.normal_(self.weight, std=(2 / (channels * layer.size**2)) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        padded = functional.pad(x, [self.size // 2] * 4)
        shifts = [(i, j) for i in range(self.size) for j in range(self.size)]
        seen = torch.stack([padded[..., i : i + height, j : j + width] for i, j in shifts], dim=2)  # (B, c, k·k, h, w)
        places = seen.flatten(3).flatten(1, 2).permute(2, 1, 0)  # (h·w, c·k·k, B)
        found = (self.weight.flatten(2) @ places).permute(2, 1, 0)  # (B, n, h·w)
        return self.act(found.unflatten(2, (height, width)) + self.bias)


class YOLOv1(Detector):
    """YOLOv1 of any variant; see the module's docstring for shapes."""

    family = "yolov1"
    normalization = Normalization("rgb", std=(255.0, 255.0, 255.0))
    letterbox_anchor = "stretch"
    candidate_order = "scores"
    # Darknet's thresholds for VOC. 1000 pairs are ten classes for each of the 98 boxes.
    suppression = Suppression(iou_threshold=0.5, min_score=0.001, candidates=1000)
    size_multiple = SIDE
    known_classes = (VOC, COCO)

    def __init__(self, variant: str, cfg: Cfg) -> None:
        super().__init__(variant, cfg.classes, (cfg.height, cfg.width))
        detection = cfg.layers[-1]
        assert isinstance(detection, Detection)
        self.cells, self.boxes = detection.side, detection.num
        shapes = [(3, cfg.height, cfg.width), *darknet.output_shapes(cfg)]
        self.layers = nn.Sequential(*(_module(layer, before) for layer, before in zip(cfg.layers, shapes, strict=False)))

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[2:] != self.default_size_hw:
            wanted, given = ("x".join(map(str, size)) for size in (self.default_size_hw[::-1], images.shape[:1:-1]))
            raise UsageError(f"{self.family}'s connected layers take {wanted} pixels only, not {given}; leave --size out")
        return self.layers(images)

    def split(self, raw: Tensor) -> Predictions:
        """What the numbers of (B, S·S·(C + 5·N)) are."""
        count, cells = raw.shape[0], self.cells**2
        sizes = [cells * self.num_classes, cells * self.boxes, cells * self.boxes * 4]
        classes, confidence, boxes = raw.float().split(sizes, dim=1)
        shape = (count, cells, self.boxes)
        return Predictions(classes.reshape(count, cells, -1), confidence.reshape(shape), boxes.reshape(*shape, 4))

    def decode(self, raw: Tensor) -> Candidates:
        found = self.split(raw)
        height, width = self.default_size_hw
        corners = boxes_of(found.boxes, self.places(raw.device)[:, None], self.cells)
        boxes = corners * corners.new_tensor([width, height, width, height])
        scores = (found.confidence[..., None] * found.classes[:, :, None]).clamp(0, 1)  # (B, M, N, C)
        return selection.best_pairs(boxes.flatten(1, 2), scores.flatten(1, 2), selection.MOST)

    def places(self, device: torch.device) -> Tensor:
        """(M, 2) column and row of the cells, row by row."""
        return torch.cartesian_prod(*[torch.arange(self.cells, dtype=torch.float32, device=device)] * 2).flip(1)

    def loss(self, raw: Tensor, targets: list[Target]) -> dict[str, Tensor]:
        found = self.split(raw)
        objects = self.match(found.boxes, targets)
        answering = objects.image, objects.cell, objects.box
        offsets, place = found.boxes[answering], self.places(raw.device)[objects.cell]
        overlap = torch.zeros_like(found.confidence)
        overlap[answering] = paired_iou(
            boxes_of(offsets.detach(), place, self.cells), boxes_of(objects.offsets, place, self.cells)
        )
        weight = torch.full_like(overlap, EMPTY_WEIGHT)
        weight[answering] = 1.0
        present = torch.zeros_like(found.classes)
        present[objects.image, objects.cell, objects.label] = 1.0
        occupied = present.amax(dim=2, keepdim=True)
        terms = {
            "box": COORDINATES_WEIGHT * (offsets - objects.offsets).square().sum(),
            "objectness": (weight * (found.confidence - overlap).square()).sum(),
            "classes": (occupied * (found.classes - present).square()).sum(),
        }
        return {name: term / len(targets) for name, term in terms.items()}

    @torch.no_grad()
    def match(self, boxes: Tensor, targets: list[Target]) -> Objects:
        """The objects with the boxes that answer for them; those that come to a full cell are left out.

        boxes: (B, M, N, 4) offsets. Of the cell in which an object's centre lies, the
        free box with the largest IoU answers, or, where none overlaps, the nearest.
        """
        found = [self._match(image, boxes[image], target) for image, target in enumerate(targets)]
        return Objects(*(torch.cat(parts) for parts in zip(*found, strict=True)))

    def _match(self, image: int, boxes: Tensor, target: Target) -> Objects:
        height, width = self.default_size_hw
        sides = target.boxes.new_tensor([width, height])
        low, high = target.boxes[:, :2] / sides, target.boxes[:, 2:] / sides
        centre = (low + high) / 2 * self.cells
        column_row = centre.floor().clamp(0, self.cells - 1)
        cell = (column_row[:, 1] * self.cells + column_row[:, 0]).long()
        offsets = torch.cat([centre - column_row, (high - low).sqrt()], dim=1)
        predicted = boxes[cell]  # (objects, N, 4)
        corners = (boxes_of(each, column_row[:, None], self.cells) for each in (predicted, offsets[:, None]))
        overlap, apart = paired_iou(*corners), (predicted - offsets[:, None]).norm(dim=-1)
        box = cell.new_tensor(_first_free(cell.tolist(), torch.where(overlap > 0, overlap, -apart).tolist()))
        kept = (box >= 0).nonzero().squeeze(1)
        return Objects(torch.full_like(kept, image), cell[kept], box[kept], offsets[kept], target.labels[kept])


def _first_free(cells: list[int], ranks: list[list[float]]) -> list[int]:
    """For each object the best box of its cell that no object before it has, −1 where all are taken."""
    taken: set[tuple[int, int]] = set()
    chosen = []
    for cell, rank in zip(cells, ranks, strict=True):
        free = [box for box in range(len(rank)) if (cell, box) not in taken]
        chosen.append(max(free, key=rank.__getitem__) if free else -1)
        taken.add((cell, chosen[-1]))
    return chosen


def boxes_of(offsets: Tensor, place: Tensor, cells: int) -> Tensor:
    """(…, 4) xyxy boxes in parts of the input, of t_x, t_y, t_w, t_h (…, 4) in the cells at place (…, 2)."""
    centre, half = (offsets[..., :2] + place) / cells, offsets[..., 2:].square() / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def _module(layer: Layer, before: tuple[int, int, int]) -> nn.Module:
    match layer:
        case Convolutional():
            return Convolution(before[0], layer)
        case Maxpool():
            return Pool(layer)
        case Connected():
            return FullyConnected(math.prod(before), layer)
        case Local():
            return LocallyConnected(before, layer)
        case Dropout():
            return nn.Dropout(layer.probability)
    return nn.Identity()


def published_cfg(variant: str, num_classes: int) -> Cfg:
    """The published network, or the paper's, for so many classes."""
    count = VARIANTS[variant]
    before: dict[str, list[Layer]] = {
        "": [*_large(), Connected(4096, activation="leaky"), Dropout()],
        "local": [*_large(), Local(256, 3, pad=1, activation="leaky"), Dropout()],
        "tiny": _tiny(),
    }
    last = Connected(CELLS**2 * (num_classes + 5 * count), activation="linear")
    detection = Detection(num_classes, coords=4, side=CELLS, num=count, sqrt=1)
    return Cfg((*before[variant], last, detection), SIDE, SIDE)


def _large() -> list[Layer]:
    """Figure 3's convolutions."""
    half = Maxpool(2, 2)
    layers: list[Layer] = [convolution(64, 7, 2), half, convolution(192), half]
    layers += [convolution(128, 1), convolution(256), convolution(256, 1), convolution(512), half]
    layers += [*[convolution(256, 1), convolution(512)] * 4, convolution(512, 1), convolution(1024), half]
    layers += [convolution(512, 1), convolution(1024)] * 2
    return [*layers, convolution(1024), convolution(1024, 3, 2), convolution(1024), convolution(1024)]


def _tiny() -> list[Layer]:
    layers: list[Layer] = []
    for filters in (16, 32, 64, 128, 256, 512):
        layers += [convolution(filters), Maxpool(2, 2)]
    return [*layers, convolution(1024), convolution(256)]


def build(variant: str, num_classes: int) -> YOLOv1:
    """A YOLOv1 with random weights."""
    return YOLOv1(variant, published_cfg(variant, num_classes))


def recognise(state: Mapping[str, Tensor]) -> tuple[str, int] | None:
    """Variant and class count by the last connected layer: its number, and its matrix's shape; None where it is no YOLOv1."""
    for variant, count in VARIANTS.items():
        *_, (name, (_, inputs)) = darknet.shapes(published_cfg(variant, 1))
        last = state.get(name)
        if last is not None and last.ndim == 2 and last.shape[1] == inputs:
            classes, rest = divmod(last.shape[0] - 5 * count * CELLS**2, CELLS**2)
            if rest == 0 and classes > 0:
                return variant, classes
    return None
