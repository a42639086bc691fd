"""Detections: the objects found in one image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgedet.errors import RuntimeUnavailable, UsageError

if TYPE_CHECKING:
    import supervision


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
        arrays = ("scores", self.scores), ("labels", self.labels), ("track_ids", self.track_ids), ("masks", self.masks)
        for name, value in arrays:
            if value is not None and len(value) != count:
                raise ValueError(f"{count} boxes but {len(value)} {name}")

    @classmethod
    def empty(cls) -> Detections:
        """No objects."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32))

    @classmethod
    def from_supervision(cls, objects: supervision.Detections) -> Detections:
        """The same objects out of supervision's form; what it has in `data` and `metadata` is left behind."""
        for name in ("confidence", "class_id"):
            if getattr(objects, name) is None:
                raise UsageError(
                    f"these {len(objects)} objects have no {name}; set `detections.{name}`, an array of one value each"
                )
        return cls(
            np.asarray(objects.xyxy, np.float32).reshape(-1, 4),
            np.asarray(objects.confidence, np.float32),
            np.asarray(objects.class_id, np.int32),
            None if objects.tracker_id is None else np.asarray(objects.tracker_id, np.int64),
            None if objects.mask is None else np.asarray(objects.mask, np.uint8),
        )

    def to_supervision(self, classes: Sequence[str] | None = None) -> supervision.Detections:
        """The same objects in the form of the library supervision, for its annotators, zones and metrics.

        classes: names by label, which its captions then show.
        """
        try:
            import supervision
        except ImportError as error:
            raise RuntimeUnavailable("this needs supervision, which is not installed; pip install supervision") from error
        return supervision.Detections(
            xyxy=self.boxes,
            mask=None if self.masks is None else self.masks.astype(bool),
            confidence=self.scores,
            class_id=self.labels.astype(np.int64),
            tracker_id=self.track_ids,
            data={} if classes is None else {"class_name": np.array([classes[label] for label in self.labels], dtype=str)},
        )

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: np.ndarray | slice) -> Detections:
        """The objects at `index`: a boolean mask, integer indices or a slice."""
        ids = None if self.track_ids is None else self.track_ids[index]
        masks = None if self.masks is None else self.masks[index]
        return Detections(self.boxes[index], self.scores[index], self.labels[index], ids, masks)
