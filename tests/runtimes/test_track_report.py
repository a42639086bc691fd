"""What the report tells of tracks: in JSON, in the table and on the page."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from edgedet.detections import Detections
from edgedet.errors import OutputError
from edgedet.runtimes import report, track_report
from edgedet.runtimes.track_parity import Tracked, TrackGates, TrackReport, compare

FRAMES = 60


@pytest.fixture
def tracks() -> TrackReport:
    """One object that never moves; the other model gives it a new id every second frame, and sees none in the last ten."""
    once = Detections(np.float32([[0, 0, 40, 40]]), np.ones(1, np.float32), np.zeros(1, np.int32), np.int64([1]))
    renamed = [Detections(once.boxes, once.scores, once.labels, np.int64([1 + i // 2])) for i in range(FRAMES - 10)]
    gone = Detections(once.boxes[:0], once.scores[:0], once.labels[:0], np.zeros(0, np.int64))
    reference = Tracked("a.onnx", "onnxruntime", {"device": "cpu", "precision": "f32"}, {"a.onnx": "0" * 64}, [once] * FRAMES)
    other = Tracked("<b>.xml", "openvino", {"device": "cpu"}, {"b.xml": "1" * 64, "b.bin": "2" * 64}, renamed + [gone] * 10)
    times_s = [index / 10 for index in range(FRAMES)]
    comparison = compare(reference, other, times_s, TrackGates(max_id_switches=3, max_count_error=0.5))
    return TrackReport("clip.mp4", times_s, "bytetrack", 0.3, ("person",), reference, (comparison,))


def test_the_table_has_every_figure(tracks: TrackReport):
    columns, rows = track_report.summary(tracks)
    assert columns == ["", "a.onnx", "<b>.xml"]
    assert rows == [
        ["runtime", "onnxruntime cpu", "openvino cpu"],
        ["precision it ran in", "f32", "–"],
        ["IDF1", "", f"{2 * 2 / (60 + 50):.4f}"],
        ["id switches", "", "24"],
        ["objects a frame", "1.000", "0.833"],
        ["objects a frame, off by", "", "16.67 %"],
        ["tracks", "1", "25"],
        ["tracks, off by", "", "2400.00 %"],
    ]


def test_json_has_the_same_and_the_time_of_every_switch(tracks: TrackReport, tmp_path: Path):
    facts_path, _ = report.write(tmp_path / "out", None, tracks=tracks, command="edgedet validate a b --video c")
    facts = json.loads(facts_path.read_text(encoding="utf-8"))
    assert (facts["schema"], facts["passed"], len(facts["failures"])) == (report.SCHEMA, False, 2)
    assert "dataset" not in facts, "nothing was compared on images"
    video = facts["video"]
    assert (video["clip"], video["frames"], video["classes"]) == ("clip.mp4", 60, ["person"])
    (comparison,) = video["comparisons"]
    assert comparison["switches_s"] == [pytest.approx(index / 10) for index in range(2, 50, 2)]
    assert comparison["other"]["files"] == {"b.xml": "1" * 64, "b.bin": "2" * 64}
    assert [gate["passed"] for gate in comparison["gates"]] == [False, True, False]


class _Page(HTMLParser):
    """The text of a page, without its style; tags that were not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("img", "meta", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


def test_the_page_of_a_clip_alone_speaks_of_no_images(tracks: TrackReport, tmp_path: Path):
    _, path = report.write(tmp_path / "out", None, tracks=tracks)
    page = _Page()
    page.feed(path.read_text(encoding="utf-8"))
    text = re.sub(r"\s+", " ", page.text)
    assert page.open == []
    assert "Reference a.onnx on 60 frames of clip.mp4, person tracked by bytetrack" in text
    assert "2 of 3 gates missed <b>.xml: id switches: 24, limit 3" in text
    assert "Ids switch at 0.20 s, 0.40 s" in text
    assert "4.00 s and at 4 more times, which report.json tells." in text
    assert "AP" not in text
    assert "Latency" not in text
    assert all(f"sha256 {digit * 64}" in text for digit in "012")


def test_a_report_that_cannot_be_written_leaves_nothing(tracks: TrackReport, tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        report.write(tmp_path / "file", None, tracks=tracks)
    assert (tmp_path / "file").read_bytes() == b""
