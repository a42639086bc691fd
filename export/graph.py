"""ExportGraph: pixels → boxes as one nn.Module. It runs eagerly as the reference and is what gets exported."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from edgedet.errors import ExportError
from edgedet.export import suppression
from edgedet.models.base import Candidates, Detector
from edgedet.spec import ModelSpec


class ExportGraph(nn.Module):
    """A detector from letterboxed pixels to detections, as its spec says: layout, size, suppression.

    images: (B, H, W, 3) uint8 BGR, or (B, 3, H, W) float32 BGR 0–255 where the
    layout is float32-nchw. Returns what the file returns: `boxes` (B, D, 4)
    float32 xyxy input pixels, `scores` (B, D) float32 descending, `labels`
    (B, D) int32; or all candidates where the suppression's mode is `none`.
    """

    def __init__(self, detector: Detector, spec: ModelSpec) -> None:
        super().__init__()
        suppression.check_mode(spec.suppression)
        check_size(detector, spec.size_hw)
        self.detector = detector.eval()
        self.spec = spec

    def forward(self, images: Tensor) -> Candidates:
        return self.finish(self.candidates(images))

    def candidates(self, images: Tensor) -> Candidates:
        """Every candidate (B, K), in the order that the spec says."""
        return self.detector.decode(self.raw(images))

    def raw(self, images: Tensor) -> Any:
        """The family's raw heads."""
        if self.spec.input_layout == "uint8-nhwc":
            # Cast first, transpose second: TensorRT refuses the other order.
            images = images.to(torch.float32).permute(0, 3, 1, 2)
        return self.detector(self.detector.normalize(images))

    def finish(self, candidates: Candidates) -> Candidates:
        """Detections of the candidates, or the candidates themselves where the mode is `none`."""
        if self.spec.suppression.mode == "none":
            return candidates
        return suppression.suppress(candidates, self.spec.suppression, num_classes=self.detector.num_classes)

    def example(self) -> Tensor:
        """An input of the right shape, all zero; two images where the batch is free, so that it is not taken for one."""
        height, width = self.spec.size_hw
        batch = self.spec.batch or 2
        if self.spec.input_layout == "uint8-nhwc":
            return torch.zeros(batch, height, width, 3, dtype=torch.uint8)
        return torch.zeros(batch, 3, height, width)


def check_size(detector: Detector, size_hw: tuple[int, int]) -> None:
    """Raise ExportError where the network cannot take the size; the message names the nearest that it can."""
    multiple = detector.size_multiple
    if any(side % multiple for side in size_hw):
        height, width = (max(round(side / multiple), 1) * multiple for side in size_hw)
        given = f"{size_hw[0]}x{size_hw[1]}"
        raise ExportError(f"input size {given} is no multiple of {multiple} each way; try --size {height}x{width}")


def with_input(spec: ModelSpec, *, size_hw: tuple[int, int] | None = None, batch: int | None = 1) -> ModelSpec:
    """The spec for another input size (height, width) or batch; None as batch means any number."""
    return replace(spec, size_hw=size_hw or spec.size_hw, batch=batch)
