"""What a sink is, and how one is opened from its kind and its target."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Protocol

from edgedet import plugins
from edgedet.detections import Detections
from edgedet.errors import UsageError
from edgedet.streaming.frame import Event, Frame

_PARTS = {"base", "fragments", "outbox", "output"}


class Sink(Protocol):
    """Takes what a stream finds. Making one opens it, so a place that cannot be written is known before any work.

    Every file of this folder is a kind of sink: its `open(target, classes=…,
    fps=…, live=…)` makes one, and its `check(target)`, where it has one, refuses
    what can be seen to be wrong without opening anything. Leaving a sink's context
    closes it; leaving twice does no harm. One that sends to a server counts what it
    gave up in `dropped`.
    """

    def write(self, frame: Frame, detections: Detections) -> None:
        """Take one frame and its objects."""
        ...

    def notice(self, event: Event) -> None:
        """Take what happened between frames; most sinks have no place for it."""
        return

    def __enter__(self) -> Sink: ...
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


def kinds() -> list[str]:
    """The kinds of sink there are: every file of this folder that is no part of another."""
    return [name for name in plugins.names("edgedet.streaming.sinks") if name not in _PARTS]


def check_target(kind: str, target: str) -> None:
    """Refuse a target that no sink of this kind can have."""
    module = plugins.find("edgedet.streaming.sinks", kind)
    if hasattr(module, "check"):
        module.check(target)


def open_sink(kind: str, target: str, *, classes: Sequence[str], fps: float | None, live: bool = False) -> Sink:
    """The open sink of this kind.

    target: where it writes: a file, a folder, an address, a window's title.
    classes: names, in label order; a list that is empty may still be filled before
    the first frame, so that sinks can be opened before the model. fps: nominal rate of the frames, None where
    unknown. live: the stream has no end of its own (`Source.live`): its files
    stand under their own names from the first frame on, see
    docs/decisions/0006-stream-outputs.md.
    """
    if kind not in kinds():
        raise UsageError(f"no sink named {kind!r}; there are: {', '.join(kinds())}")
    return plugins.find("edgedet.streaming.sinks", kind).open(target, classes=classes, fps=fps, live=live)
