"""CSV and MOTChallenge text, read back by other programs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgedet.detections import Detections
from edgedet.streaming.frame import Event, Frame
from edgedet.streaming.sinks.base import open_sink

IMAGE = np.zeros((120, 160, 3), np.uint8)
TWO = Detections(
    np.float32([[10.126, 20, 50.5, 60], [0, 1, 2.25, 3]]), np.float32([0.87654, 0.5]), np.int32([1, 0]), np.array([3, 12])
)
WITHOUT_IDS = Detections(TWO.boxes, TWO.scores, TWO.labels)


def frame(index: int) -> Frame:
    return Frame(IMAGE, index, index / 10, "front, door", stream="cam1")


def test_csv_is_read_by_pandas_as_it_was_found(tmp_path: Path):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed: pip install pandas")
    with open_sink("csv", str(tmp_path / "out.csv"), classes=["cat", 'a "dog"'], fps=None) as sink:
        sink.write(frame(0), Detections.empty())
        sink.write(frame(7), TWO)
        sink.notice(Event("cross", "cam1", 0.75, {"line": "gate", "track_id": 3}))
        sink.write(frame(8), WITHOUT_IDS)
    table = pandas.read_csv(tmp_path / "out.csv")
    assert table["kind"].tolist() == ["object", "object", "cross", "object", "object"]
    objects = table[table["kind"] == "object"]
    assert objects["frame"].tolist() == [7, 7, 8, 8]
    assert objects["time_s"].tolist() == [0.7, 0.7, 0.8, 0.8]
    assert table["stream"].unique().tolist() == ["cam1"]
    assert objects["source"].unique().tolist() == ["front, door"]
    assert objects["class"].tolist() == ['a "dog"', "cat"] * 2
    assert objects["label"].tolist() == [1, 0] * 2
    np.testing.assert_array_equal(objects["track_id"], [3, 12, np.nan, np.nan])
    np.testing.assert_allclose(objects[["x1", "y1", "x2", "y2"]], np.tile(TWO.boxes, (2, 1)), atol=0.0051)  # two decimals
    np.testing.assert_allclose(objects["score"], np.tile(TWO.scores, 2), atol=5.1e-5)
    event = table[table["kind"] == "cross"].iloc[0]
    assert (event["stream"], event["time_s"]) == ("cam1", 0.75)
    assert json.loads(event["detail"]) == {"line": "gate", "track_id": 3}


def test_a_stream_without_objects_still_gives_a_table(tmp_path: Path):
    with open_sink("csv", str(tmp_path / "out.csv"), classes=[], fps=None) as sink:
        sink.write(frame(0), Detections.empty())
        sink.write(frame(1), Detections.empty())
    assert (tmp_path / "out.csv").read_text().count("\n") == 1  # its heading


def test_mot_text_is_read_by_motmetrics_as_it_was_found(tmp_path: Path):
    motmetrics = pytest.importorskip("motmetrics", reason="motmetrics is not installed: pip install motmetrics")
    with open_sink("mot", str(tmp_path / "out.txt"), classes=[], fps=None) as sink:
        for index in (0, 2):  # a frame was dropped
            sink.write(frame(index), TWO)
        sink.write(frame(3), Detections.empty())
    table = motmetrics.io.loadtxt(str(tmp_path / "out.txt"), fmt="mot15-2D").reset_index()
    assert table["FrameId"].tolist() == [1, 1, 3, 3]  # frames count from 1
    assert table["Id"].tolist() == [3, 12, 3, 12]
    corners = table[["X", "Y"]].to_numpy() + 1  # motmetrics takes 1 away, for files that count pixels from 1
    np.testing.assert_allclose(corners, np.tile(TWO.boxes[:, :2], (2, 1)), atol=0.0051)
    sides = np.tile(TWO.boxes[:, 2:] - TWO.boxes[:, :2], (2, 1))
    np.testing.assert_allclose(table[["Width", "Height"]], sides, atol=0.0051)
    np.testing.assert_allclose(table["Confidence"], np.tile(TWO.scores, 2), atol=5.1e-5)


def test_mot_text_without_a_tracker_has_no_ids_and_ten_columns(tmp_path: Path):
    with open_sink("mot", str(tmp_path / "out.txt"), classes=[], fps=None) as sink:
        sink.write(frame(0), WITHOUT_IDS)
    assert (tmp_path / "out.txt").read_text().splitlines() == [
        "1,-1,10.13,20.00,40.37,40.00,0.8765,-1,-1,-1",
        "1,-1,0.00,1.00,2.25,2.00,0.5000,-1,-1,-1",
    ]


def test_json_lines_tell_events_apart_from_frames(tmp_path: Path):
    with open_sink("jsonl", str(tmp_path / "out.jsonl"), classes=[], fps=None) as sink:
        sink.notice(Event("online", "cam1", 0.0))
        sink.write(frame(0), TWO)
        sink.notice(Event("offline", "cam1", 0.25, {"reason": "no frame for 5 s"}))
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line.get("event") for line in lines] == ["online", None, "offline"]
    assert lines[2] == {"event": "offline", "stream": "cam1", "time_s": 0.25, "detail": {"reason": "no frame for 5 s"}}
