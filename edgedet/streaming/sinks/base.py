"""What a sink is, and the file a sink writes: whole at its place, or not there at all."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Protocol

from edgedet import artifact
from edgedet.detections import Detections
from edgedet.errors import OutputError
from edgedet.streaming.frame import Event, Frame


class Sink(Protocol):
    """Takes what a stream finds. Making one opens it, so a place that cannot be written is known before any work.

    Every file of this folder is a kind of sink: its `open(target, classes=…,
    fps=…)` makes one. Leaving its context closes it; leaving twice does no harm.
    """

    def write(self, frame: Frame, detections: Detections) -> None:
        """Take one frame and its objects."""
        ...

    def notice(self, event: Event) -> None:
        """Take what happened between frames; most sinks have no place for it."""

    def __enter__(self) -> Sink: ...
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


class PendingFile:
    """A file written under a temporary path, moved to its place when it is finished."""

    def __init__(self, target: Path) -> None:
        if target.is_dir():
            raise OutputError(f"{target}: is a folder; name a file in it")
        self.target = target
        self._writing = ExitStack()
        (self.path,) = self._writing.enter_context(artifact.writing(target))

    def finish(self, error: BaseException | None) -> None:
        """Move the file to its place; drop it when an error ended the stream, or nothing was ever written.

        Ctrl-C and a consumer that stops early are no errors: what there is by then is kept.
        """
        if isinstance(error, Exception):
            self._writing.__exit__(type(error), error, None)
        elif not self.path.exists():
            self._writing.__exit__(GeneratorExit, GeneratorExit(), None)
        else:
            self._writing.close()
