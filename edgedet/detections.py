"""Detections: the objects found in one image."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Detections:
    """N objects in one image.

    boxes: (N, 4) float32 xyxy, original-image pixels. scores: (N,) float32 in
    [0, 1]. labels: (N,) int32, index into `ModelSpec.classes`. track_ids: (N,)
    int64, stable through time, where a tracker ran. masks: (N, H, W) uint8,
    where the family has them.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    track_ids: np.ndarray | None = None
    masks: np.ndarray | None = None

    def __post_init__(self) -> None:
        count = len(self.boxes)
        if self.boxes.shape != (count, 4):
            raise ValueError(f"boxes must be (N, 4), got {self.boxes.shape}")
        for name in ("scores", "labels", "track_ids", "masks"):
            value = getattr(self, name)
            if value is not None and len(value) != count:
                raise ValueError(f"{count} boxes but {len(value)} {name}")

    @classmethod
    def empty(cls) -> Detections:
        """No objects."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32))

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: np.ndarray | slice) -> Detections:
        """The objects at `index`: a boolean mask, integer indices or a slice."""
        arrays = {n: getattr(self, n) for n in ("boxes", "scores", "labels", "track_ids", "masks")}
        return replace(self, **{n: a[index] for n, a in arrays.items() if a is not None})
