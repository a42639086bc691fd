"""Where things are. A module of its own: `conftest` is a name that every folder of tests may have."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
