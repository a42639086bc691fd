"""JSON lines: one object a frame."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from edgedet import artifact
from edgedet.detections import Detections
from edgedet.streaming.frame import Frame
from edgedet.streaming.overlay import class_name
from edgedet.streaming.sinks.base import PendingFile, Sink


class JsonLinesSink(Sink):
    """Writes one JSON object a frame; `record` says what is in it."""

    def __init__(self, path: Path, *, classes: Sequence[str]) -> None:
        self._classes = classes
        self._pending = PendingFile(path)
        self._file = self._pending.path.open("w", encoding="utf-8")

    def write(self, frame: Frame, detections: Detections) -> None:
        """Write the frame's line."""
        with artifact.output_errors(self._pending.target):
            self._file.write(json.dumps(record(frame, detections, self._classes)) + "\n")

    def __enter__(self) -> JsonLinesSink:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._file.closed:
            return
        with artifact.output_errors(self._pending.target):
            self._file.close()
            self._pending.finish(error)


def record(frame: Frame, detections: Detections, classes: Sequence[str]) -> dict[str, Any]:
    """What is known of one frame, as plain values.

    size: width and height, pixels. box: xyxy in original-image pixels, two
    decimals. label: index into the classes, class: its name. track_id: only
    where a tracker ran.
    """
    objects = [
        {
            "box": [round(float(v), 2) for v in detections.boxes[i]],
            "score": round(float(detections.scores[i]), 4),
            "label": int(detections.labels[i]),
            "class": class_name(classes, int(detections.labels[i])),
        }
        for i in range(len(detections))
    ]
    if detections.track_ids is not None:
        for entry, track_id in zip(objects, detections.track_ids, strict=True):
            entry["track_id"] = int(track_id)
    height, width = frame.image.shape[:2]
    return {
        "source": frame.source,
        "frame": frame.index,
        "time_s": round(frame.time_s, 4),
        "size": [width, height],
        "objects": objects,
    }
