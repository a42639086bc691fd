"""CSV: one row an object, one an event."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from edgedet.detections import Detections
from edgedet.streaming.frame import Event, Frame
from edgedet.streaming.sinks.base import Sink
from edgedet.streaming.sinks.jsonl import record
from edgedet.streaming.sinks.output import OutputFile, require_suffix

COLUMNS = (
    "kind",
    "stream",
    "source",
    "frame",
    "time_s",
    "track_id",
    "label",
    "class",
    "score",
    "x1",
    "y1",
    "x2",
    "y2",
    "detail",
)


def check(target: str) -> None:
    """Refuse a file name of another kind."""
    require_suffix(target, ".csv", "a table is")


def open(target: str, *, classes: Sequence[str], fps: float | None, live: bool = False) -> CsvSink:
    """A sink that writes rows to the file `target`."""
    return CsvSink(Path(target), classes=classes, live=live)


class CsvSink(Sink):
    """Writes a row an object, of kind `object`, and a row an event, of the event's kind.

    A frame without objects has no row. Boxes are in original-image pixels. An
    event's row has its detail as JSON.
    """

    def __init__(self, path: Path, *, classes: Sequence[str], live: bool = False) -> None:
        check(str(path))
        self._classes = classes
        self._output = OutputFile(path, live=live)
        self._headed = False

    def write(self, frame: Frame, detections: Detections) -> None:
        """Write a row for each object."""
        found = record(frame, detections, self._classes)
        shared = {"kind": "object", **{name: found[name] for name in ("stream", "source", "frame", "time_s")}}
        corners = ("x1", "y1", "x2", "y2")
        self._write([{**shared, **entry, **dict(zip(corners, entry["box"], strict=True))} for entry in found["objects"]])

    def notice(self, event: Event) -> None:
        """Write the event's row."""
        detail = json.dumps(dict(event.detail))
        self._write([{"kind": event.kind, "stream": event.stream, "time_s": round(event.time_s, 4), "detail": detail}])

    def _write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        text = io.StringIO()
        table = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
        if not self._headed:
            table.writeheader()
        table.writerows(rows)
        self._output.write(text.getvalue().encode())
        self._headed = True

    def __enter__(self) -> CsvSink:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._output.finish(error)
