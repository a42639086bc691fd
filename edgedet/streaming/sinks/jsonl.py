"""JSON lines: one object a frame, one an event."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from edgedet.detections import Detections
from edgedet.streaming.frame import Event, Frame
from edgedet.streaming.overlay import class_name
from edgedet.streaming.sinks.base import Sink
from edgedet.streaming.sinks.output import OutputFile


def open(target: str, *, classes: Sequence[str], fps: float | None, live: bool = False) -> JsonLinesSink:
    """A sink that writes JSON lines to the file `target`."""
    return JsonLinesSink(Path(target), classes=classes, live=live)


class JsonLinesSink(Sink):
    """Writes one JSON object a frame and one an event; `record` and `event_record` say what is in them."""

    def __init__(self, path: Path, *, classes: Sequence[str], live: bool = False) -> None:
        self._classes = classes
        self._output = OutputFile(path, live=live)

    def write(self, frame: Frame, detections: Detections) -> None:
        """Write the frame's line."""
        self._output.write(json.dumps(record(frame, detections, self._classes)).encode() + b"\n")

    def notice(self, event: Event) -> None:
        """Write the event's line."""
        self._output.write(json.dumps(event_record(event)).encode() + b"\n")

    def __enter__(self) -> JsonLinesSink:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._output.finish(error)


def record(frame: Frame, detections: Detections, classes: Sequence[str]) -> dict[str, Any]:
    """What is known of one frame, as plain values.

    stream: its name, as events have it. size: width and height, pixels. box: xyxy in original-image pixels, two
    decimals. label: index into the classes, class: its name. track_id: only
    where a tracker ran.
    """
    boxes, scores = detections.boxes.astype(float).round(2).tolist(), detections.scores.astype(float).round(4).tolist()
    objects = [
        {"box": box, "score": score, "label": label, "class": class_name(classes, label)}
        for box, score, label in zip(boxes, scores, detections.labels.tolist(), strict=True)
    ]
    if detections.track_ids is not None:
        for entry, track_id in zip(objects, detections.track_ids.tolist(), strict=True):
            entry["track_id"] = track_id
    height, width = frame.image.shape[:2]
    return {
        "stream": frame.stream,
        "source": frame.source,
        "frame": frame.index,
        "time_s": round(frame.time_s, 4),
        "size": [width, height],
        "objects": objects,
    }


def event_record(event: Event) -> dict[str, Any]:
    """What is known of one event, as plain values; `event` is its kind, which no frame's record has."""
    return {"event": event.kind, "stream": event.stream, "time_s": round(event.time_s, 4), "detail": dict(event.detail)}
