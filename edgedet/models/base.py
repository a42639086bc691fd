"""What every detector family gives: raw heads, a loss, and candidates.

A family is one module of this package, named as users name it, with

    VARIANTS: dict[str, Variant]                          # "nano" → its widths and defaults
    build(variant, num_classes) -> Detector
    recognise(state) -> (variant, num_classes) | None     # from a checkpoint's tensors alone
    adapt(state) -> state                                 # only where files of other makers or times name them otherwise
    TWINS: dict[str, tuple[str, ...]]                     # only where variants' tensors are those of the recognised one
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from edgedet.classes import COCO, COCO_90
from edgedet.letterbox import Anchor
from edgedet.spec import CandidateOrder, Suppression


class Candidates(NamedTuple):
    """Boxes before suppression, one class each, static shapes, always float32.

    boxes: (B, K, 4) xyxy, input pixels. scores: (B, K) in [0, 1]. labels: (B, K) int32.
    Either every box with its best class, in the order of the anchors, or the
    best of all (box, class) pairs (`candidate_order`, `edgedet.models.selection`).
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor


class Target(NamedTuple):
    """The truth of one image. boxes: (N, 4) float32 xyxy, input pixels. labels: (N,) int64."""

    boxes: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Normalization:
    """From BGR pixels 0–255 to what the network was trained on: (pixel − mean) / std, in the given colour order."""

    order: Literal["bgr", "rgb"] = "bgr"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)


class Detector(nn.Module):
    """Base of every family: pixels normalised outside, raw heads, loss and decode inside.

    size_multiple: what both sides of the input are multiples of.
    class_rows: how the tensors that grow with the classes are laid out: for each anchor so many rows of
    other use come first, then a row a class. known_classes: whose names a checkpoint of so many classes gets.
    """

    family: ClassVar[str]
    normalization: ClassVar[Normalization] = Normalization()
    letterbox_anchor: ClassVar[Anchor] = "top-left"
    letterbox_fill: ClassVar[int] = 114
    candidate_order: ClassVar[CandidateOrder] = "anchors"
    suppression: ClassVar[Suppression] = Suppression()
    size_multiple: ClassVar[int] = 32
    class_rows: ClassVar[int] = 0
    known_classes: ClassVar[tuple[tuple[str, ...], ...]] = (COCO, COCO_90)

    def __init__(self, variant: str, num_classes: int, size_hw: tuple[int, int]) -> None:
        super().__init__()
        self.variant = variant
        self.num_classes = num_classes
        self.default_size_hw = size_hw

    @abstractmethod
    def forward(self, images: Tensor) -> Any:
        """Raw heads of (B, 3, H, W) float32 normalised images."""

    @abstractmethod
    def loss(self, raw: Any, targets: list[Target]) -> dict[str, Tensor]:
        """Named scalar loss terms, already weighted; their sum is what training minimises."""

    @abstractmethod
    def decode(self, raw: Any) -> Candidates:
        """Candidates of the raw heads, in float32 whatever the heads' precision."""

    def classification_names(self) -> dict[str, str]:
        """The backbone's tensors, by their names here, and what the ecosystem's classification checkpoints call each."""
        return {}

    def normalize(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) float BGR 0–255 to the network's own scale and colour order, same shape."""
        if self.normalization.order == "rgb":
            images = images.flip(1)
        if self.normalization == Normalization(order=self.normalization.order):
            return images
        mean = torch.tensor(self.normalization.mean, dtype=images.dtype, device=images.device).view(1, 3, 1, 1)
        std = torch.tensor(self.normalization.std, dtype=images.dtype, device=images.device).view(1, 3, 1, 1)
        return (images - mean) / std
