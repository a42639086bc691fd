"""The file of a sink: whole at its place or dropped where a stream ends, from the start at its place where it does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgedet.errors import OutputError, UsageError
from edgedet.streaming.sinks.base import check_target, kinds, open_sink
from edgedet.streaming.sinks.output import OutputFile


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_a_part_until_it_is_whole(tmp_path: Path):
    (tmp_path / "out.txt").write_text("of yesterday")
    output = OutputFile(tmp_path / "out.txt", live=False)
    output.write(b"one ")
    assert (tmp_path / "out.part.txt").read_bytes() == b"one "
    assert (tmp_path / "out.txt").read_text() == "of yesterday"
    output.write(b"two")
    output.finish(None)
    output.finish(ValueError())  # finished before: nothing happens
    assert names(tmp_path) == ["out.txt"]
    assert (tmp_path / "out.txt").read_bytes() == b"one two"


def test_what_a_killed_run_left_is_begun_anew(tmp_path: Path):
    (tmp_path / "out.part.txt").write_text("half of ")
    output = OutputFile(tmp_path / "out.txt", live=False)
    output.write(b"new")
    output.finish(KeyboardInterrupt())
    assert names(tmp_path) == ["out.txt"]
    assert (tmp_path / "out.txt").read_bytes() == b"new"


def test_an_error_drops_a_file_and_the_folders_made_for_it(tmp_path: Path):
    output = OutputFile(tmp_path / "deep" / "er" / "out.txt", live=False)
    output.write(b"one")
    output.finish(ValueError())
    assert names(tmp_path) == []


@pytest.mark.parametrize("error", [None, KeyboardInterrupt(), ValueError()])
def test_live_a_file_stands_at_its_place_from_the_first_write_and_stays(tmp_path: Path, error: BaseException | None):
    output = OutputFile(tmp_path / "out.txt", live=True)
    output.write(b"one ")
    assert (tmp_path / "out.txt").read_bytes() == b"one "
    output.write(b"two")
    output.finish(error)
    assert names(tmp_path) == ["out.txt"]
    assert (tmp_path / "out.txt").read_bytes() == b"one two"


def test_live_a_recording_of_before_is_moved_aside_at_the_first_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    target = tmp_path / "out.txt"
    for text in ("first", "second"):  # both changed within one second
        target.write_text(text)
        os.utime(target, (1.7e9, 1.7e9))
        output = OutputFile(target, live=True)
        assert target.read_text() == text  # nothing touched yet
        output.write(b"new")
        output.finish(None)
    kept = [path for path in sorted(tmp_path.iterdir()) if path != target]
    assert [path.read_text() for path in kept] == ["first", "second"]
    assert all(path.name.startswith("out.20231114-") or path.name.startswith("out.20231115-") for path in kept)
    assert target.read_text() == "new"


def test_live_a_first_write_that_fails_halfway_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    target = tmp_path / "out.txt"
    target.write_text("of yesterday")
    output = OutputFile(target, live=True)

    def full(path):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("edgedet.streaming.sinks.output._opened_alone", full)
        with pytest.raises(OutputError, match="the disk is full"):
            output.write(b"lost\n")
    output.write(b"kept\n")
    output.finish(None)
    assert target.read_text() == "kept\n"
    assert sorted(path.read_text() for path in tmp_path.iterdir()) == ["kept\n", "of yesterday"]


def test_live_without_a_frame_nothing_is_left_and_nothing_lost(tmp_path: Path):
    OutputFile(tmp_path / "new.txt", live=True).finish(None)
    (tmp_path / "old.txt").write_text("of yesterday")
    OutputFile(tmp_path / "old.txt", live=True).finish(ValueError())
    assert names(tmp_path) == ["old.txt"]
    assert (tmp_path / "old.txt").read_text() == "of yesterday"


@pytest.mark.parametrize("live", [True, False])
def test_two_sinks_on_one_file_are_refused_and_the_first_goes_on(tmp_path: Path, live: bool):
    first = open_sink("jsonl", str(tmp_path / "out.txt"), classes=[], fps=None, live=live)
    with pytest.raises(OutputError, match=r"is being written by another sink; give each a file of its own"):
        open_sink("mot", str(tmp_path / "out.txt"), classes=[], fps=None, live=live)
    program = "from edgedet.streaming.sinks.base import open_sink\n"
    program += f"open_sink('jsonl', {str(tmp_path / 'out.txt')!r}, classes=[], fps=None, live={live})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)  # another process
    assert "OutputError" in done.stderr
    assert "another sink" in done.stderr
    first.__exit__(None, None, None)
    open_sink("jsonl", str(tmp_path / "out.txt"), classes=[], fps=None, live=live).__exit__(None, None, None)


def test_a_write_that_a_full_disk_cuts_short_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    output = OutputFile(tmp_path / "out.txt", live=True)
    output.write(b"one\n")

    class Full:
        """A file that takes two bytes, then no more."""

        def __init__(self, file):
            self.file, self.left = file, 2

        def write(self, data):
            if not self.left:
                raise OSError(28, "No space left on device")
            self.left -= 2
            return self.file.write(data[:2])

        def __getattr__(self, name):
            return getattr(self.file, name)

    whole = output._file
    output._file = Full(whole)  # type: ignore[assignment]
    with pytest.raises(OutputError, match="the disk is full"):
        output.write(b"two\n")
    output._file = whole  # there is room again
    output.write(b"three\n")
    output.finish(None)
    assert (tmp_path / "out.txt").read_bytes() == b"one\nthree\n"


def test_every_kind_is_listed_and_another_is_refused():
    assert set(kinds()) == {"video", "jsonl", "contact_sheet", "window", "mot", "csv", "crops", "mqtt", "webhook"}
    with pytest.raises(UsageError, match="no sink named 'base'; there are: contact_sheet, crops, csv"):
        open_sink("base", "x", classes=[], fps=None)


@pytest.mark.parametrize(
    ("kind", "target", "message"),
    [
        ("video", "out.avi", "out.avi: video is written as .mp4"),
        ("csv", "out.txt", "out.txt: a table is written as .csv"),
        ("mot", "out.csv", "out.csv: MOTChallenge text is written as .txt"),
        ("contact_sheet", "out.jpg", "out.jpg: a contact sheet is written as .png"),
        ("webhook", "example.com/hook", "a webhook is http://HOST/PATH"),
        ("webhook", "http://user:secret@example.com:port/", "http://example.com:port/: not a URL"),
        ("webhook", "ftp://user:secret@example.com/", "ftp://example.com/: a webhook is http://HOST/PATH"),
        ("webhook", "http://example.com/tür", "a URL has neither spaces nor accents"),
        ("webhook", "http://example.com/a b", "a URL has neither spaces nor accents"),
        ("mqtt", "http://localhost/topic", "an MQTT target is mqtt://"),
        ("mqtt", "mqtt://localhost", "an MQTT target is mqtt://"),
        ("mqtt", "mqtt://user:secret@localhost:99999/topic", "mqtt://localhost:99999/topic: no host, or no port"),
        ("mqtt", "mqtt://localhost/cameras/#", "name one topic"),
    ],
)
def test_a_wrong_target_is_one_message_and_leaves_nothing(tmp_path: Path, monkeypatch, kind: str, target: str, message: str):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as refused:
        open_sink(kind, target, classes=[], fps=None)
    assert message in str(refused.value)
    assert "secret" not in str(refused.value)
    with pytest.raises(UsageError) as unopened:
        check_target(kind, target)
    assert str(unopened.value) == str(refused.value)
    assert names(tmp_path) == []


@pytest.mark.parametrize("kind", ["video", "csv", "mot", "jsonl", "contact_sheet", "crops"])
@pytest.mark.parametrize("live", [True, False])
def test_a_place_that_cannot_be_written_is_refused_at_once(tmp_path: Path, kind: str, live: bool):
    suffixes = {"video": ".mp4", "csv": ".csv", "mot": ".txt", "contact_sheet": ".png"}
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"a part of this path is a file|a file stands where a folder is needed"):
        open_sink(kind, str(tmp_path / "file" / f"out{suffixes.get(kind, '')}"), classes=[], fps=None, live=live)
    assert names(tmp_path) == ["file"]


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch):
    from edgedet.cli.main import EXTRAS

    monkeypatch.setitem(sys.modules, "paho", None)
    monkeypatch.setitem(sys.modules, "paho.mqtt", None)
    with pytest.raises(ModuleNotFoundError) as absent:
        open_sink("mqtt", "mqtt://localhost/topic", classes=[], fps=None)
    assert EXTRAS[str(absent.value.name).partition(".")[0]] == "mqtt"
