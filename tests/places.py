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
