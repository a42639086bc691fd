"""The file a sink writes: what was written is where its user looks, even after kill -9."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from io import FileIO
from pathlib import Path

from edgedet import artifact
from edgedet.errors import OutputError, UsageError

try:
    import fcntl
except ImportError:  # not on Windows, which itself refuses to replace a file that is open
    fcntl = None  # type: ignore[assignment]


class OutputFile:
    """A file that grows while a stream runs; every `write` reaches the operating system, so a killed process loses none.

    Of a stream that ends by itself the file is `out.part.jsonl` until it is
    whole, and an error drops it. Live, it has its own name from the first
    write on, an error keeps it, and a file that stood there before is kept
    too, with the time of its last change in its name. Only one may write a file.
    """

    def __init__(self, target: Path, *, live: bool) -> None:
        if target.is_dir():
            raise OutputError(f"{target}: is a folder; name a file in it")
        if target.exists() and not target.is_file():
            raise OutputError(f"{target}: is a device or a pipe, not a file that could be replaced; choose another name")
        self.target, self._live = target, live
        self.path = target if live else target.with_name(f"{target.stem}.part{target.suffix}")
        self._made = [folder for folder in target.parents if not folder.exists()]
        self._begun, self._size = False, 0
        with artifact.output_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            self._file = _opened_alone(self.path)

    def write(self, data: bytes) -> None:
        """Append the data, all of it or, where the disk is full, nothing."""
        with artifact.output_errors(self.target):
            if not self._begun:
                self._begin()
            try:
                rest = memoryview(data)
                while rest:
                    rest = rest[self._file.write(rest) :]
            except OSError:
                self._file.truncate(self._size)
                raise
            self._size += len(data)

    def _begin(self) -> None:
        """Make room for the first write: what a killed run left half is emptied, a recording of before moved aside."""
        if self._live and self.path.exists() and self.path.stat().st_size:
            self.path.rename(_aside(self.path))
        if not self.path.exists():  # moved aside now, or in an attempt that failed after that
            self._file.close()
            self._file = _opened_alone(self.path)
        self._file.truncate(0)
        self._begun = True

    def finish(self, error: BaseException | None) -> None:
        """Move the file to its place; drop it when nothing was ever written, or an error ended a stream that is not live.

        Ctrl-C and a consumer that stops early are no errors: what there is by then is kept.
        """
        if self._file.closed:
            return
        with artifact.output_errors(self.target):
            if not self._begun or (isinstance(error, Exception) and not self._live):
                self._drop()
                return
            os.fsync(self._file.fileno())
            self._file.close()
            if not self._live:
                self.path.replace(self.target)

    def _drop(self) -> None:
        self._file.close()
        if not self._live or not self.path.stat().st_size:
            self.path.unlink()
        for folder in self._made:
            with suppress(OSError):  # something else is in it by now
                folder.rmdir()


def require_suffix(target: str | Path, suffix: str, what: str) -> None:
    """Refuse a file name that does not end in the suffix. what: what is written, as in `video is`."""
    if Path(target).suffix.lower() != suffix:
        raise UsageError(f"{target}: {what} written as {suffix}; name the file so")


def _opened_alone(path: Path) -> FileIO:
    """The file, open for appending, while no other sink of any process has it."""
    file = FileIO(path, "a")
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.close()
            raise OutputError(f"{path}: is being written by another sink; give each a file of its own") from error
    return file


def _aside(path: Path) -> Path:
    """A free name beside the file that tells when it was last written."""
    changed_s = path.stat().st_mtime
    while True:
        stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(changed_s))
        aside = path.with_name(f"{path.stem}.{stamp}{path.suffix}")
        if not aside.exists():
            return aside
        changed_s += 1
