"""MOTChallenge text: one line an object, as trackers are scored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from edgedet.detections import Detections
from edgedet.streaming.frame import Frame
from edgedet.streaming.sinks.base import Sink
from edgedet.streaming.sinks.output import OutputFile, require_suffix


def check(target: str) -> None:
    """Refuse a file name of another kind."""
    require_suffix(target, ".txt", "MOTChallenge text is")


def open(target: str, *, classes: Sequence[str], fps: float | None, live: bool = False) -> MotSink:
    """A sink that writes MOTChallenge lines to the file `target`."""
    return MotSink(Path(target), live=live)


class MotSink(Sink):
    """Writes `frame, id, left, top, width, height, score, -1, -1, -1` for each object.

    Frames count from 1, so a dropped frame leaves a gap. Pixels count from 0,
    as in every result that SORT and its successors write. id: -1 where no
    tracker ran. The format knows no classes: choose one for a score.
    """

    def __init__(self, path: Path, *, live: bool = False) -> None:
        check(str(path))
        self._output = OutputFile(path, live=live)

    def write(self, frame: Frame, detections: Detections) -> None:
        """Write a line for each object."""
        ids = [-1] * len(detections) if detections.track_ids is None else detections.track_ids
        lines = []
        for track_id, (left, top, right, bottom), score in zip(ids, detections.boxes, detections.scores, strict=True):
            box = f"{left:.2f},{top:.2f},{right - left:.2f},{bottom - top:.2f}"
            lines.append(f"{frame.index + 1},{track_id},{box},{score:.4f},-1,-1,-1\n")
        self._output.write("".join(lines).encode())

    def __enter__(self) -> MotSink:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._output.finish(error)
