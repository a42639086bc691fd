"""MOTChallenge text, in and out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgedet.detections import Detections
from edgedet.errors import DataError
from edgedet.tracking import mot


def test_what_is_written_is_what_motmetrics_reads(tmp_path: Path):
    motmetrics = pytest.importorskip("motmetrics")
    boxes = np.array([[10.25, 20, 40, 80], [-5, 3, 12.5, 9]], np.float32)
    tracked = Detections(boxes, np.array([0.9, 0.25], np.float32), np.zeros(2, np.int32), np.array([7, 12]))
    (tmp_path / "mot.txt").write_text("\n".join(mot.lines(3, tracked)))
    table = motmetrics.io.loadtxt(str(tmp_path / "mot.txt"), fmt="mot15-2D")
    assert table.index.tolist() == [(3, 7), (3, 12)]
    np.testing.assert_allclose(table[["Width", "Height"]], [[29.75, 60], [17.5, 6]], atol=0.005)  # two decimals
    np.testing.assert_allclose(table["Confidence"], [0.9, 0.25], atol=1e-6)


def test_written_objects_are_read_again(tmp_path: Path):
    boxes = np.array([[10.25, 20, 40, 80], [-5, 3, 12.5, 9]], np.float32)
    tracked = Detections(boxes, np.array([0.9, 0.25], np.float32), np.zeros(2, np.int32), np.array([7, 12]))
    (tmp_path / "mot.txt").write_text("\n".join([*mot.lines(1, tracked), *mot.lines(4, tracked)]))
    again = mot.read(tmp_path / "mot.txt")
    assert list(again) == [1, 4]
    np.testing.assert_allclose(again[4].boxes, boxes, atol=0.01)
    np.testing.assert_allclose(again[4].scores, tracked.scores, atol=1e-6)


def test_a_score_of_minus_one_stands_for_none(tmp_path: Path):
    (tmp_path / "mot.txt").write_text("1,3,113.84,274.5,57.307,130.05,-1,-1,-1,-1\n\n")
    assert mot.read(tmp_path / "mot.txt")[1].scores.tolist() == [1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no object"),
        ("1,-1,10,20,30,60,0.9\n1 -1 10 20 30 60 0.9\n", "line 2: '1 -1 10 20 30 60 0.9' is not numbers between commas"),
        ("1,-1,10,20,30,60\n", "line 1: has 6 columns"),
        ("0,-1,10,20,30,60,0.9\n", "line 1: frame 0; frames are counted from 1"),
        ("1.5,-1,10,20,30,60,0.9\n", "line 1: frame 1.5; frames are counted from 1, in whole numbers"),
        ("1,-1,10,20,30,-60,0.9\n", "line 1: a box of 30x-60 pixels"),
        ("1,-1,nan,20,30,60,0.9\n", "line 1: '1,-1,nan,20,30,60,0.9' is not finite"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, text: str, message: str):
    (tmp_path / "det.txt").write_text(text)
    with pytest.raises(DataError, match=r"det\.txt") as raised:
        mot.read(tmp_path / "det.txt")
    assert message in str(raised.value)


def test_what_is_no_text_is_refused(tmp_path: Path):
    (tmp_path / "det.txt").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(DataError, match="is no text"):
        mot.read(tmp_path / "det.txt")
