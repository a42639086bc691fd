"""docs/jetson.md: every command says whether it was run, those that were run again, and every option exists."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from places import ROOT

from edgedet.cli.main import app

DOCUMENT = (ROOT / "docs" / "jetson.md").read_text(encoding="utf-8")
LINES = [line for block in re.findall(r"```sh\n(.*?)```", DOCUMENT, flags=re.DOTALL) for line in block.splitlines() if line]
RUN = [line.partition("# run")[0].strip() for line in LINES if re.search(r"# run$", line)]


def test_every_command_says_whether_it_was_run():
    assert len(LINES) > 25
    for line in LINES:
        assert re.search(r"# (run$|not run\b)", line), line


def test_every_verb_and_option_of_edgedet_exists():
    verbs = typer.main.get_command(app).commands
    mentioned = [line for line in LINES if re.match(r"(venv/bin/)?edgedet ", line)]
    assert len(mentioned) >= 8
    for line in mentioned:
        verb, *words = shlex.split(line, comments=True)[1:]
        known = {option for parameter in verbs[verb].params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, line


@pytest.mark.slow
def test_what_was_run_runs(tmp_path: Path):
    """In order and in one folder, as a reader does."""
    assert len(RUN) >= 4
    for command in RUN:
        words = [sys.executable, "-m", *shlex.split(command)]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
