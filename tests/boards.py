"""Recorded boards laid out as a file system, and their commands answered from the recording."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from places import ROOT

RECORDINGS = ROOT / "tests" / "recordings"


def lay(name: str, root: Path) -> Callable[[Sequence[str]], str | None]:
    """Write the files of a recording below `root`; gives what stands for its commands."""
    answers: dict[str, str] = {}
    parts = re.split(r"^==> (.+) <==\n", (RECORDINGS / f"{name}.txt").read_text(), flags=re.MULTILINE)[1:]
    for title, text in zip(parts[::2], parts[1::2], strict=True):
        text = text.removesuffix("\n") if text.endswith("\n\n") else text
        if title.startswith("$ "):
            answers[title.removeprefix("$ ")] = text
        else:
            path = root / title.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            # Device-tree strings end with a zero byte and no line.
            path.write_text(text.strip("\n") + "\0" if "/proc/device-tree/" in title else text)
    return lambda command: answers.get(" ".join(command))
