"""What a person at a terminal sees: progress on stderr, tables and JSON on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

Item = TypeVar("Item")


def say(message: str) -> None:
    """Write one line of news to stderr, so that stdout stays for results."""
    print(message, file=sys.stderr, flush=True)


def track(items: Iterable[Item], label: str, *, total: int | None = None, rate_unit: str | None = None) -> Iterator[Item]:
    """The same items, with a progress bar and the time left on stderr; silent when stderr is no terminal.

    rate_unit: shows items a second too, under this name, such as `fps`.
    """
    if not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed or 0:.1f} {rate_unit}" if rate_unit else "")

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), Rate(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield from progress.track(items, total=total, description=label)


@contextmanager
def steps(label: str) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar for work that tells its stage, steps done and steps in all; silent when stderr is no terminal."""
    if not sys.stderr.isatty():
        yield lambda stage, done, total: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=None)
        yield lambda stage, done, total: progress.update(task, description=f"{label}: {stage}", completed=done, total=total)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str | None = None) -> None:
    """Print a table to stdout; columns of figures are right-aligned, those of words left."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # Text, not str: square brackets in names and in pip's extras are no markup.
    rows = list(rows)
    table = Table(title=title and Text(title), title_justify="left")
    for index, column in enumerate(columns):
        figures = index > 0 and all(row[index][:1] in "0123456789+-−—." for row in rows)
        table.add_column(Text(column), justify="right" if figures else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    # A pipe has no width: wide enough that no figure is folded.
    Console(width=None if sys.stdout.isatty() else 240).print(table)


def print_json(value: Any) -> None:
    """Print a value as indented JSON to stdout; arrays become lists, paths strings."""
    print(to_json(value))


def to_json(value: Any) -> str:
    """Indented JSON of a value that may hold NumPy numbers, arrays and paths; NaN is refused."""
    return json.dumps(value, indent=2, default=_plain, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"no JSON for {type(value).__name__}")
