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


def test_files_of_every_hand_are_read_alike(tmp_path: Path):
    """Lines in any order and of seven columns or ten, spaces, Windows' line ends and mark, empty lines, exponents."""
    plain = "1,-1,10,20,30,60,0.5,-1,-1,-1\n1,-1,50,20,30,60,0.25,-1,-1,-1\n12,-1,-4.5,20,30,60,1,-1,-1,-1\n"
    other = "\ufeff12 , -1, -4.5, 20, 30, 60, 1\r\n\r\n1,-1,1e1,2.0e+1,30,60,5e-1\r\n 1,-1,50,20,30,60,0.25,-1,-1,-1\r\n\r\n"
    (tmp_path / "plain.txt").write_bytes(plain.encode())
    (tmp_path / "other.txt").write_bytes(other.encode())
    expected, found = mot.read(tmp_path / "plain.txt"), mot.read(tmp_path / "other.txt")
    assert list(found) == list(expected) == [1, 12]
    for frame in expected:
        assert found[frame].boxes.tolist() == expected[frame].boxes.tolist()
        assert found[frame].scores.tolist() == expected[frame].scores.tolist()


def test_boxes_without_area_are_left_out_and_those_beyond_the_picture_stay_whole(tmp_path: Path):
    (tmp_path / "det.txt").write_text("1,-1,-20,-30,25,60,0.9\n1,-1,10,20,0,60,0.9\n2,-1,10,20,30,0,0.9\n")
    found = mot.read(tmp_path / "det.txt")
    assert list(found) == [1]
    assert found[1].boxes.tolist() == [[-20, -30, 5, 30]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no object"),
        ("1,-1,10,20,0,0,0.9\n", "holds no object"),
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
