"""The report: JSON that holds every figure, a page that needs no other file, both or neither."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgedet import console
from edgedet.errors import OutputError
from edgedet.runtimes import parity, report
from edgedet.runtimes.figures import Bisection, Divergence, Gates, Report
from edgedet.runtimes.precision import Layer
from edgedet.runtimes.recording import Target


@pytest.fixture
def found(bright_onnx: Path, bright_xml: Path, bright_frame: np.ndarray, tmp_path: Path) -> Report:
    """The tiny model in both runtimes on two images; one gate passes, one cannot."""
    folder = tmp_path / "photos <b>"  # markup in a name must come out as text
    folder.mkdir()
    cv2.imwrite(str(folder / "a&b.png"), bright_frame)
    cv2.imwrite(str(folder / "tall.png"), np.full((90, 1, 3), 200, np.uint8))
    gates = Gates(min_match=0.999, max_ap_drop=-1)
    return parity.validate(Target(bright_onnx), [Target(bright_xml)], folder, gates=gates)


class _Page(HTMLParser):
    """What a page refers to, and its tags that were not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("img", "meta", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_holds_its_plots_and_pictures_itself(found: Report, tmp_path: Path):
    _, page = report.write(tmp_path / "out", found, command="edgedet validate a b")
    text = page.read_text(encoding="utf-8")
    parsed = _Page()
    parsed.feed(text)
    assert parsed.open == []
    kinds = [source.partition(";")[0] for source in parsed.sources]
    assert kinds.count("data:image/svg+xml") == 4
    assert kinds.count("data:image/jpeg") == 2
    assert set(kinds) == {"data:image/svg+xml", "data:image/jpeg"}, "nothing outside the page is asked for"
    assert not re.search(r"<script|@import|url\(", text)
    assert "a&amp;b.png" in text
    assert "photos &lt;b&gt;" in text
    assert "1 of 2 gates missed" in text


def test_a_picture_shows_both_sides_with_their_boxes(found: Report, tmp_path: Path):
    _, page = report.write(tmp_path / "out", found)
    data = re.search(r"data:image/jpeg;base64,([^\"]+)", page.read_text(encoding="utf-8")).group(1)
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape[1] == 2 * 560 + 8
    left, right = picture[:, :560].astype(int), picture[:, 568:].astype(int)
    assert np.abs(left - right).mean() < 3, "the same model draws the same on both sides, but for JPEG's noise"
    green = (left[..., 1] - left[..., 2] > 80) & (left[..., 1] - left[..., 0] > 40)
    assert green.sum() > 500, "matched boxes are green"


def test_the_json_holds_every_figure_and_no_path_of_this_machine(found: Report, tmp_path: Path):
    facts_path, _ = report.write(tmp_path / "out", found, command="edgedet validate a b")
    text = facts_path.read_text(encoding="utf-8")
    facts = json.loads(text)
    assert str(tmp_path) not in text
    assert facts["schema"] == report.SCHEMA
    assert facts["command"] == "edgedet validate a b"
    assert facts["passed"] is False
    assert len(facts["failures"]) == 1
    assert facts["dataset"]["images"] == 2
    comparison = facts["comparisons"][0]
    assert comparison["detections"]["match_rate"] == 1
    assert set(comparison["detections"]["box_error_px"]) == {"count", "mean", "p50", "p99", "max"}
    assert comparison["candidates"]["score_error"]["count"] > 0
    assert comparison["ap_drop"] == pytest.approx(0, abs=1e-9)
    assert comparison["other"]["latency"]["p50_ms"] > 0
    assert sum(facts["reference"]["histogram"]) == sum(comparison["other"]["histogram"]) > 0
    assert {gate["name"]: gate["passed"] for gate in comparison["gates"]} == {"AP drop": False, "matched": True}
    assert len(comparison["other"]["files"]) == 2, "OpenVINO's weights are hashed too"
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in comparison["other"]["files"].values())
    assert facts["machine"]["cores"] >= 1


def test_the_table_has_a_column_a_model_and_a_row_a_figure(found: Report):
    columns, rows = report.summary(found)
    assert columns[1:] == ["bright-cells-64-fp32.onnx", "bright-cells-64-fp32.xml"]
    assert {len(row) for row in rows} == {3}
    assert {row[0] for row in rows} >= {"AP", "AP drop", "matched", "box error px p50 / p99 / max", "best threshold"}


def test_the_page_tells_the_precision_of_layers_and_where_files_part(found: Report, tmp_path: Path):
    layers = (Layer("stem", "Convolution", "int8", "int8", 900), Layer("<head>", "Convolution", "int8", "f32", 100))
    operators = (Divergence("neck & all", "Conv", ("Mul", "Concat"), 0.01, 0.9, 0.8),)
    bisection = Bisection("openvino", 3, 168, 0.02, 0.3, operators)
    comparison = replace(found.comparisons[0], bisection=bisection)
    comparison = replace(comparison, other=replace(comparison.other, layers=layers))
    facts_path, page = report.write(tmp_path / "out", replace(found, comparisons=(comparison,)))
    text = page.read_text(encoding="utf-8")
    parsed = _Page()
    parsed.feed(text)
    assert parsed.open == []
    assert "1 of 2 layers were asked for in int8 and ran in f32: &lt;head&gt;" in text
    assert 'class="int8" style="width: 90.0%"' in text
    assert "<b>neck &amp; all</b> (Conv)" in text
    assert "a fault in a fusion may be missing" in text, "reading inner values moved the scores by .3"
    facts = json.loads(facts_path.read_text(encoding="utf-8"))["comparisons"][0]
    assert facts["other"]["precision_by_layer"]["shares"] == {"int8": 0.9, "f32": 0.1}
    assert facts["bisection"]["operators"][0]["own_error"] == 0.8
    _, rows = report.summary(replace(found, comparisons=(comparison,)))
    assert next(row for row in rows if row[0] == "layers in another than asked")[2] == "1 of 2"


def test_a_report_that_cannot_be_written_leaves_nothing(found: Report, tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        report.write(tmp_path / "file", found)
    assert (tmp_path / "file").read_bytes() == b""


def test_json_without_truth_has_nulls_not_nan(bright_onnx: Path, tmp_path: Path):
    cv2.imwrite(str(tmp_path / "black.png"), np.zeros((64, 64, 3), np.uint8))
    found = parity.validate(Target(bright_onnx), [Target(bright_onnx)], tmp_path)
    facts = json.loads(console.to_json(report.to_dict(found)))
    assert facts["reference"]["scores"] is None
    assert facts["comparisons"][0]["detections"]["match_rate"] is None
    report.write(tmp_path / "out", found)
