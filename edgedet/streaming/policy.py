"""Which frames of a live source are worth the engine's time."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, cast

from edgedet.errors import UsageError

Kind = Literal["newest", "queue", "every"]


@dataclass(frozen=True)
class Policy:
    """Which frames are kept.

    newest: a frame not taken in time is dropped. queue: up to `count` wait, the
    oldest goes. every: one in `count` is wanted, and of those the newest.
    """

    kind: Kind = "newest"
    count: int = 1

    @property
    def room(self) -> int:
        """Frames that may wait."""
        return self.count if self.kind == "queue" else 1

    @property
    def cause(self) -> str:
        """Why a frame that waited was dropped."""
        return "queue" if self.kind == "queue" else "newest"


def parse_policy(text: str) -> Policy:
    """The policy that `newest`, `queue 8` or `every 3` says."""
    matched = re.fullmatch(r"(newest)|(queue|every)[ =]?([1-9]\d{0,3})", text.strip())
    if matched is None:
        raise UsageError(f"policy {text!r} is none; say newest, queue N or every K, as in: queue 8")
    return Policy(cast(Kind, matched[2]), int(matched[3])) if matched[2] else Policy()
