"""Where things are, and how a command ended. A module of its own: `conftest` is a name that every folder of tests may have."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"


class Ended(NamedTuple):
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str


def refused(ended: Ended, *words: str) -> None:
    """The command ended with 2 and one line of error that holds every word."""
    assert ended.code == 2, ended
    lines = [line for line in ended.err.splitlines() if line.startswith("edgedet: ")]
    assert len(lines) == 1, ended.err
    assert "Traceback" not in ended.err
    for word in words:
        assert word in lines[0], lines[0]
