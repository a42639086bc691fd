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
    assert gate.min_score == {"person": 0.4, "car": 0.6}
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
    assert "10 mistakes, nothing was started" in head
    expected = {
        2: "did you mean 'tracker'",
        4: "ftp:// is no scheme",
        5: "newest, queue N or every K",
        9: "3 is no number from 0 to 1",
        12: "at least three points",
        17: "'a' is the name of another stream too",
        20: "'json' is no kind of sink",
        24: "a.jsonl is written by another sink too",
        24.5: "a.jsonl: a table is written as .csv",
        25: "'to' is missing",
    }
    assert len(lines) == len(expected)
    for line, (number, words) in zip(lines, expected.items(), strict=True):
        assert line.startswith(f"  line {int(number)}: "), line
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
            'model = "m.onnx"\n[stream]\nsource = "test:"',
            "1 mistake, nothing was started:\n  line 2: write each stream as a table of its own, headed [[stream]]",
        ),
        (
            'model = "m.onnx"\n[[stream]]\nsource = "test:"\n[stream.sink]\nkind = "csv"\ntarget = "a.csv"',
            "1 mistake, nothing was started:\n  line 4: write each sink as a table of its own, headed [[stream.sink]]",
        ),
        ('model = "m.onnx"\nstream = [{source = "test:", sink = {}}]', "headed [[stream.sink]]"),
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


STREAM = """model = "m.onnx"
tracker = "sort"
[[stream]]
name = "a"
source = "test:640x480"
"""


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (
            "size = '320x240'\n[[stream.zone]]\nname = 'z'\npolygon = [[0, 0], [400, 0], [0, 9]]",
            7,
            "(400, 0) outside the frame",
        ),
        ("size = '320x240'\n[[stream.line]]\nname = 'l'\nfrom = [0, 0]\nto = [9, 241]", 7, "line 'l' has the point (9, 241)"),
        ("[[stream.zone]]\nname = 'z'\npolygon = [[0, 0], [-1, 0], [0, 9]]", 8, "[-1, 0] lies outside every frame"),
        ("[[stream.line]]\nname = 'l'\nfrom = [3, 4]\nto = [3, 4]", 6, "line 'l' starts and ends at (3, 4); give two"),
        (
            "[[stream.line]]\nname = 'l'\nfrom = [3]\nto = [3, 4]\n[[stream.line]]\nname = 'l'\nfrom = [1, 4]\nto = [3, 4]",
            11,
            "'l' is the name of another line of this stream too",
        ),
        ("[[stream.sink]]\nkind = 'window'\ntarget = 'x'", 7, "'window' is for one stream on the command line: --show"),
        ("[[stream.sink]]\nkind = 'video'\ntarget = 'x.avi'", 8, "x.avi: video is written as .mp4; name the file so"),
        ("[[stream.sink]]\nkind = 'mqtt'\ntarget = 'broker/topic'", 8, "broker/topic: an MQTT target is mqtt://"),
        ("[[stream.sink]]\nkind = 'jsonl'\ntarget = 'clip.mp4'\n[[stream]]\nsource = 'clip.mp4'", 8, "is what a stream reads"),
        ("[[stream.sink]]\nkind = 'csv'\ntarget = \"a\\u0000.csv\"", 8, "has a character that cannot be seen"),
        ("classes = ['car']\nmin_score = { person = 0.5 }", 7, "'person' is none of this stream's classes"),
        ("min_score = { person = 2 }", 6, "min_score: person: 2 is no number from 0 to 1"),
        ("min_score = {}", 6, "min_score: names no class; write one number for all"),
        ("read_timeout_s = 0", 6, "0 is no number from 0.1 to 3600"),
        ("min_scores = 0.3", 6, "did you mean 'min_score'?"),
    ],
)
def test_each_mistake_is_told_with_its_line(tmp_path, monkeypatch, text, line, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clip.mp4").write_bytes(b"x")
    with pytest.raises(UsageError) as caught:
        read_settings(written(tmp_path, STREAM + text))
    told = str(caught.value).splitlines()[1:]
    assert any(one.startswith(f"  line {line}: ") and words in one for one in told), told


def test_one_topic_serves_one_stream_and_one_webhook_may_hear_of_many(tmp_path):
    sink = '[[stream.sink]]\nkind = "{}"\ntarget = "{}"\n'
    second = '[[stream]]\nname = "b"\nsource = "test:"\n'
    hook, topic = sink.format("webhook", "http://box/hook"), sink.format("mqtt", "mqtt://{}box/topic")
    assert len(read_settings(written(tmp_path, STREAM + hook + second + hook)).streams) == 2
    with pytest.raises(UsageError, match=r"line 14: mqtt://box/topic is written by another sink too"):
        read_settings(written(tmp_path, STREAM + topic.format("user:secret@") + second + topic.format("")))


def test_a_stream_without_a_name_has_its_address_without_the_password(tmp_path):
    text = 'model = "m.onnx"\n[[stream]]\nsource = "rtsp://user:secret@10.0.0.7/1"\n'
    assert read_settings(written(tmp_path, text)).streams[0].name == "rtsp://10.0.0.7/1"
    with pytest.raises(UsageError, match=r"line 4: 'rtsp://10\.0\.0\.7/1' is the name of another stream too") as caught:
        read_settings(written(tmp_path, text + '[[stream]]\nsource = "rtsp://other:secret@10.0.0.7/1"\n'))
    assert "secret" not in str(caught.value)
