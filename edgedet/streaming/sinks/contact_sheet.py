"""A contact sheet: frames from all over a stream, with their objects, on one PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from edgedet.detections import Detections
from edgedet.errors import OutputError
from edgedet.letterbox import Letterbox
from edgedet.streaming.frame import Frame
from edgedet.streaming.overlay import draw
from edgedet.streaming.sinks.base import Sink
from edgedet.streaming.sinks.output import OutputFile, require_suffix

COLUMNS, ROWS, GAP = 3, 4, 6
TILE_WIDTH = 480


def check(target: str) -> None:
    """Refuse a file name of another kind."""
    require_suffix(target, ".png", "a contact sheet is")


def open(target: str, *, classes: Sequence[str], fps: float | None, live: bool = False) -> ContactSheetSink:
    """A sink that writes the picture `target` at the stream's end."""
    return ContactSheetSink(Path(target), classes=classes)


class ContactSheetSink(Sink):
    """Writes twelve annotated frames, evenly spaced over however long the stream was, as one PNG at its end.

    Tiles have the shape of the first frame; frames of another shape are fitted into it.
    """

    def __init__(self, path: Path, *, classes: Sequence[str]) -> None:
        check(str(path))
        self._classes = classes
        self._output = OutputFile(path, live=False)
        self._fit: Letterbox | None = None
        self._tiles: list[np.ndarray] = []
        self._step, self._seen = 1, 0

    def write(self, frame: Frame, detections: Detections) -> None:
        """Keep every `step`-th frame; where too many are kept, drop every second one and keep half as many from then on."""
        if self._seen % self._step == 0:
            image = draw(frame.image, detections, self._classes, lines=[f"{frame.time_s:.1f} s"])
            if self._fit is None:
                height = TILE_WIDTH * image.shape[0] // image.shape[1]
                self._fit = Letterbox((max(height, 1), TILE_WIDTH), "center", 255)
            self._tiles.append(self._fit.apply(image)[0])
            if len(self._tiles) == 2 * COLUMNS * ROWS:
                self._tiles = self._tiles[::2]
                self._step *= 2
        self._seen += 1

    def __enter__(self) -> ContactSheetSink:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._tiles and not isinstance(error, Exception):
            self._output.write(self._png())
        self._tiles = []
        self._output.finish(error)

    def _png(self) -> bytes:
        chosen = np.linspace(0, len(self._tiles) - 1, min(COLUMNS * ROWS, len(self._tiles))).round().astype(int)
        tiles = [self._tiles[i] for i in chosen]
        columns = min(COLUMNS, len(tiles))
        inner_h, inner_w = tiles[0].shape[:2]
        height, width = inner_h + GAP, inner_w + GAP
        sheet = np.full((-(-len(tiles) // columns) * height + GAP, columns * width + GAP, 3), 255, np.uint8)
        for i, tile in enumerate(tiles):
            top, left = i // columns * height + GAP, i % columns * width + GAP
            sheet[top : top + inner_h, left : left + inner_w] = tile
        done, data = cv2.imencode(".png", sheet)
        if not done:
            raise OutputError(f"{self._output.target}: the contact sheet could not be encoded as PNG")
        return data.tobytes()
