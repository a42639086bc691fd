"""The contact sheet: twelve frames from all over a stream of any length."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from edgedet.detections import Detections
from edgedet.errors import UsageError
from edgedet.streaming.frame import Frame
from edgedet.streaming.sinks.contact_sheet import COLUMNS, GAP, ROWS, TILE_WIDTH, ContactSheetSink

HEIGHT = TILE_WIDTH // 2


def sheet_of(path: Path, count: int) -> np.ndarray:
    """The sheet of a stream whose frame number i is a grey of 250 · i / count."""
    with ContactSheetSink(path, classes=["thing"]) as sink:
        for i in range(count):
            image = np.full((100, 200, 3), 250 * i // count, np.uint8)
            sink.write(Frame(image=image, index=i, time_s=i / 10, source="test"), Detections.empty())
    return cv2.imread(str(path))


def greys(sheet: np.ndarray, count: int) -> list[int]:
    """The grey at the middle of each tile, row by row."""
    rows, columns = np.divmod(np.arange(count), COLUMNS)
    ys, xs = rows * (HEIGHT + GAP) + GAP + HEIGHT // 2, columns * (TILE_WIDTH + GAP) + GAP + TILE_WIDTH // 2
    return sheet[ys, xs, 0].tolist()


@pytest.mark.parametrize("count", [12, 23, 24, 25, 100, 1000])
def test_frames_come_from_all_over_the_stream(tmp_path: Path, count: int):
    """Tolerance: a tile lies within a tenth of the stream from where even spacing would put it."""
    tiles = ROWS * COLUMNS
    found = greys(sheet_of(tmp_path / "sheet.png", count), tiles)
    assert found == sorted(found)
    np.testing.assert_allclose(found, np.linspace(0, 250, tiles), atol=25)


def test_a_short_stream_shows_every_frame_once(tmp_path: Path):
    sheet = sheet_of(tmp_path / "sheet.png", 4)
    assert sheet.shape[0] == 2 * (HEIGHT + GAP) + GAP
    assert greys(sheet, 4) == [0, 62, 125, 187]


def test_only_png_is_written(tmp_path: Path):
    with pytest.raises(UsageError, match=r"\.png"):
        ContactSheetSink(tmp_path / "sheet.jpg", classes=["thing"])


def test_nothing_is_left_when_no_frame_came(tmp_path: Path):
    with ContactSheetSink(tmp_path / "sheet.png", classes=["thing"]):
        pass
    assert list(tmp_path.iterdir()) == []
