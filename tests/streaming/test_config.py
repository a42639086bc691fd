"""streams.toml: read whole, and every mistake told at once with its line."""

import pytest

from edgedet.errors import UsageError
from edgedet.streaming.config import EXAMPLE, SinkSettings, read_settings
from edgedet.streaming.policy import Policy
from edgedet.tracking.zones import Line, Zone


def written(tmp_path, text):
    path = tmp_path / "streams.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_example_is_read_as_it_says(tmp_path):
    settings = read_settings(written(tmp_path, EXAMPLE))
    assert settings.model == "yolox-nano-416-fp32.xml"
    (gate,) = settings.streams
    assert (gate.name, gate.tracker, gate.classes) == ("gate", "bytetrack", ("person", "car"))
    assert gate.policy == Policy()
    assert gate.zones == (Zone("yard", ((0, 0), (640, 0), (640, 480))),)
    assert gate.lines == (Line("door", (100, 0), (100, 480)),)
    assert gate.sinks == (SinkSettings("jsonl", "gate.jsonl"),)


def test_every_mistake_is_told_at_once_with_its_line(tmp_path):
    text = """model = "x.onnx"
trakcer = "bytetrack"
[[stream]]
source = "ftp://x"
policy = "queue"
[[stream]]
name = "a"
source = "test:"
min_score = 3
[[stream.zone]]
name = "z"
polygon = [[0, 0], [1, 1]]
[[stream.sink]]
kind = "jsonl"
target = "a.jsonl"
[[stream]]
name = "a"
source = "test:"
[[stream.sink]]
kind = "json"
target = "b.jsonl"
[[stream.sink]]
kind = "csv"
target = "a.jsonl"
[[stream.line]]
name = "door"
from = [1, 2]
"""
    with pytest.raises(UsageError) as caught:
        read_settings(written(tmp_path, text))
    head, *lines = str(caught.value).splitlines()
    assert "9 mistakes, nothing was started" in head
    expected = {
        2: "did you mean 'tracker'",
        4: "ftp:// is no scheme",
        5: "newest, queue N or every K",
        9: "3 is no number from 0 to 1",
        12: "at least three points",
        17: "'a' is the name of another stream too",
        20: "'json' is no kind of sink",
        24: "a.jsonl is written by another sink too",
        25: "'to' is missing",
    }
    assert len(lines) == len(expected)
    for line, (number, words) in zip(lines, expected.items(), strict=True):
        assert line.startswith(f"  line {number}: "), line
        assert words in line


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model = ", "is no TOML"),
        ('model = "m.onnx"', "there is no stream"),
        ('[[stream]]\nsource = "test:"', "'model' is missing"),
        ('model = "m.onnx"\nstream = 3', "write each stream as a table"),
        ('model = "m.onnx"\n[[stream]]\nname = "a"', "'source' is missing"),
        (
            'model = "m.onnx"\ntracker = "sort"\n[[stream]]\nsource = "test:"\n[[stream.zone]]\nname = "z"\n'
            "polygon = [[0, 0], [9, 9], [9, 0], [0, 9]]",
            "line 5: zone 'z' crosses itself",
        ),
        (
            'model = "m.onnx"\n[[stream]]\nsource = "test:"\n[[stream.line]]\nname = "l"\nfrom = [0, 0]\nto = [9, 9]',
            "line 2: zones and lines need tracks",
        ),
    ],
)
def test_a_file_that_says_too_little_is_refused(tmp_path, text, words):
    with pytest.raises(UsageError, match=r"streams\.toml") as caught:
        read_settings(written(tmp_path, text))
    assert words in str(caught.value)


def test_a_file_that_is_absent_or_no_text_is_refused(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        read_settings(tmp_path / "absent.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="cannot be read"):
        read_settings(tmp_path / "binary.toml")
