"""The command line's own promises: exit codes, and tables that show names as they are."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest
from places import Ended

from edgedet import console
from edgedet.cli import main

Cli = Callable[..., Ended]


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def app() -> None:
        raise error

    monkeypatch.setattr(main, "app", app)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (OSError(errno.EIO, "Input/output error", "clip.mp4"), 2, "clip.mp4: Input/output error"),
        (ModuleNotFoundError("No module", name="openvino.properties"), 2, "edgedet[openvino]"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_the_user_can_mend_is_one_line(edgedet_cli: Cli, monkeypatch, error: BaseException, code: int, message: str):
    fail_with(monkeypatch, error)
    ended = edgedet_cli("doctor")
    assert ended.code == code
    assert message in ended.err
    assert len(ended.err.splitlines()) == 1


def test_a_defect_of_ours_shows_its_traceback_and_is_no_missed_gate(edgedet_cli: Cli, monkeypatch):
    fail_with(monkeypatch, ZeroDivisionError("ours"))
    ended = edgedet_cli("doctor")
    assert ended.code == 70
    assert "Traceback" in ended.err


def test_square_brackets_in_a_table_are_shown(capsys):
    console.print_table(["[a]", "b"], [["model[v2].onnx", "pip install 'edgedet[openvino]'"], ["x[/b]", ""]], title="[t]")
    printed = capsys.readouterr().out
    for text in ("[a]", "model[v2].onnx", "edgedet[openvino]", "x[/b]", "[t]"):
        assert text in printed
