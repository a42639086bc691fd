"""streams.toml: which cameras, with what; read whole and checked whole, every mistake told at once with its line."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from edgedet.errors import EdgedetError, UsageError
from edgedet.streaming import config_values as parse
from edgedet.streaming.config_values import Mistake, Parse
from edgedet.streaming.policy import Policy, parse_policy
from edgedet.streaming.sinks.base import check_target
from edgedet.streaming.sources.base import public_name
from edgedet.tracking.zones import Line, Zone, require_within

EXAMPLE = """\
model = "yolox-nano-416-fp32.xml"
tracker = "bytetrack"          # for every stream that names none

[[stream]]
name = "gate"
source = "rtsp://user:password@10.0.0.7/stream1"
classes = ["person", "car"]
min_score = { person = 0.4, car = 0.6 }  # or one number for all
policy = "newest"              # or "queue 8", "every 3"

[[stream.zone]]
name = "yard"
polygon = [[0, 0], [640, 0], [640, 480]]

[[stream.line]]
name = "door"
from = [100, 0]
to = [100, 480]

[[stream.sink]]
kind = "jsonl"
target = "gate.jsonl"
"""


@dataclass(frozen=True)
class SinkSettings:
    """kind: a file of edgedet/streaming/sinks. target: a path or an address."""

    kind: str
    target: str


@dataclass(frozen=True)
class StreamSettings:
    """What one `[[stream]]` says.

    name: the source without its password, where none is given. min_score: of
    all classes, or by class.
    """

    name: str
    source: str
    tracker: str | None = None
    min_score: float | Mapping[str, float] | None = None
    classes: tuple[str, ...] | None = None
    policy: Policy | None = None
    read_timeout_s: float | None = None
    open_timeout_s: float | None = None
    max_reconnects: int | None = None
    stride: int | None = None
    size_hw: tuple[int, int] | None = None
    zones: tuple[Zone, ...] = ()
    lines: tuple[Line, ...] = ()
    sinks: tuple[SinkSettings, ...] = ()


@dataclass(frozen=True)
class Settings:
    """The whole file."""

    model: str
    streams: tuple[StreamSettings, ...]
    runtime: str | None = None
    device: str | None = None
    max_wait_ms: float | None = None


def read_settings(path: Path) -> Settings:
    """The settings in a TOML file; a UsageError that lists every mistake, one a line, each with its line and remedy."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read ({error}); give a text file like:\n{EXAMPLE}") from error
    toml = _toml()
    try:
        values = toml.loads(text)
    except toml.TOMLDecodeError as error:
        raise UsageError(f"{path}: is no TOML: {error}") from error
    reader = _Reader(text)
    settings = reader.settings(values)
    if reader.mistakes:
        listed = "\n".join(f"  line {line}: {words}" for line, words in sorted(reader.mistakes))
        raise UsageError(
            f"{path}: {len(reader.mistakes)} mistake{'s' * (len(reader.mistakes) > 1)}, nothing was started:\n{listed}"
        )
    return settings


def _toml() -> Any:
    if sys.version_info >= (3, 11):
        import tomllib

        return tomllib
    import tomli

    return tomli


class _Reader:
    """Reads tables, collecting mistakes; knows on which line a key stands."""

    def __init__(self, text: str) -> None:
        self._lines = text.splitlines()
        self.mistakes: set[tuple[int, str]] = set()
        self._taken: dict[Path | str, str] = {}  # what a sink may not write to, and why

    def settings(self, values: Mapping[str, Any]) -> Settings:
        """The file's settings; incomplete where there are mistakes."""
        top = {"model": parse.text, "runtime": parse.text, "device": parse.text, "max_wait_ms": parse.number(0, 1000)}
        shared = {"tracker": parse.tracker, "min_score": parse.min_score}
        found = self._table(values, {**top, **shared}, "", ("stream",), needed=("model",))
        defaults = {key: found.pop(key) for key in shared if key in found}
        tables = self._tables(values, "stream", "stream")
        if not values.get("stream"):
            self._mistake("", 0, "", "there is no stream; begin one with [[stream]]")
        for table in tables:
            self._taken[_place(str(table.get("source")))] = "is what a stream reads; name another file"
        streams = tuple(self._stream(table, number, defaults) for number, table in enumerate(tables))
        self._refuse_twice([stream.name for stream in streams], "stream", "stream")
        return Settings(model=found.pop("model", ""), streams=streams, **found)

    def _stream(self, table: Mapping[str, Any], number: int, defaults: Mapping[str, Any]) -> StreamSettings:
        known: dict[str, Parse] = {
            "name": parse.text,
            "source": parse.source,
            "tracker": parse.tracker,
            "min_score": parse.min_score,
            "classes": parse.texts,
            "policy": lambda value: parse_policy(parse.text(value)),
            "read_timeout_s": parse.number(0.1, 3600),
            "open_timeout_s": parse.number(0.1, 3600),
            "max_reconnects": parse.whole(0),
            "stride": parse.whole(1),
            "size": lambda value: parse.parse_size(parse.text(value)),
        }
        found = self._table(table, known, "stream", ("zone", "line", "sink"), number, needed=("source",))
        if "size" in found:
            found["size_hw"] = found.pop("size")
        size_hw, source = found.get("size_hw"), found.pop("source", "")
        inner = {
            "zones": self._inner(
                table,
                number,
                "zone",
                {"name": parse.text, "polygon": parse.points},
                lambda zone: _within(Zone(zone["name"], zone["polygon"]), size_hw),
            ),
            "lines": self._inner(
                table,
                number,
                "line",
                {"name": parse.text, "from": parse.point, "to": parse.point},
                lambda line: _within(Line(line["name"], line["from"], line["to"]), size_hw),
            ),
            "sinks": self._inner(
                table, number, "sink", {"kind": parse.sink_kind, "target": parse.text}, lambda sink: SinkSettings(**sink)
            ),
        }
        self._check_stream(table, number, {**defaults, **found, **inner})
        return StreamSettings(**{"name": public_name(source), **defaults, **found, **inner}, source=source)

    def _check_stream(self, table: Mapping[str, Any], number: int, found: Mapping[str, Any]) -> None:
        """Refuse what is wrong only together."""
        if (found["zones"] or found["lines"]) and "tracker" not in found:
            self._mistake("stream", number, "", 'zones and lines need tracks; add tracker = "bytetrack"')
        for name in found.get("min_score", ()) if isinstance(table.get("min_score"), dict) and "classes" in found else ():
            if name not in found["classes"]:
                words = f"min_score: {name!r} is none of this stream's classes; add it there, or leave it out here"
                self._mistake("stream", number, "min_score", words)
        for index, sink in enumerate(self._tables(table, "sink", "stream.sink", number)):
            kind, target = sink.get("kind"), sink.get("target")
            if isinstance(kind, str) and isinstance(target, str) and kind in parse.sink_kinds():
                self._check_target(kind, target, index, number)

    def _check_target(self, kind: str, target: str, index: int, number: int) -> None:
        """Refuse a target that such a sink cannot have, or that is taken: two sinks that write one file would spoil it."""
        try:
            check_target(kind, target)
        except EdgedetError as error:
            self._mistake("stream.sink", index, "target", str(error), number)
        if kind == "webhook":  # one server may hear of many streams
            return
        if (place := _place(target)) in self._taken:
            self._mistake("stream.sink", index, "target", f"{public_name(target)} {self._taken[place]}", number)
        self._taken.setdefault(place, "is written by another sink too; give each its own")

    def _inner(
        self, table: Mapping[str, Any], number: int, name: str, known: Mapping[str, Parse], make: Parse
    ) -> tuple[Any, ...]:
        """What the `[[stream.NAME]]` tables of one stream stand for, those that are whole."""
        header, found = f"stream.{name}", []
        tables = self._tables(table, name, header, number)
        for index, values in enumerate(tables):
            entry = self._table(values, known, header, (), index, needed=tuple(known), within=number)
            if len(entry) == len(known):
                try:
                    found.append(make(entry))
                except EdgedetError as error:
                    self._mistake(header, index, "", str(error), number)
        self._refuse_twice([values.get("name") for values in tables], header, f"{name} of this stream", number)
        return tuple(found)

    def _table(
        self,
        values: Mapping[str, Any],
        known: Mapping[str, Parse],
        header: str,
        tables: Sequence[str],
        number: int = 0,
        *,
        needed: Sequence[str] = (),
        within: int | None = None,
    ) -> dict[str, Any]:
        """The values of a table by key, parsed; what is unknown, wrong or missing is a mistake."""
        found = {}
        for key, value in values.items():
            if key in tables:
                continue
            if key not in known:
                near = get_close_matches(key, [*known, *tables], n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join([*known, *tables])}"
                self._mistake(header, number, key, f"{key!r} is unknown here; {hint}", within)
                continue
            try:
                found[key] = known[key](value)
            except (Mistake, EdgedetError) as error:
                self._mistake(header, number, key, f"{key}: {error}", within)
        for key in needed:
            if key not in values:
                self._mistake(header, number, "", f"{key!r} is missing; add {key} = …", within)
        return found

    def _tables(self, values: Mapping[str, Any], name: str, header: str, within: int | None = None) -> list[Mapping[str, Any]]:
        """The tables that stand under [[header]]; one under [header] is a mistake that TOML invites."""
        tables = values.get(name, [])
        if isinstance(tables, list) and all(isinstance(one, dict) for one in tables):
            return tables
        single = re.compile(rf"\s*(\[\s*{re.escape(header)}\s*\]|{re.escape(name)}\s*=)")
        starts = self._headers("stream")
        start = starts[within] if within is not None and within < len(starts) else 0
        line = next((at for at in range(start, len(self._lines)) if single.match(self._lines[at])), start)
        self.mistakes.add((line + 1, f"write each {name} as a table of its own, headed [[{header}]]"))
        return []

    def _refuse_twice(self, names: Sequence[Any], header: str, what: str, within: int | None = None) -> None:
        for number, name in enumerate(names):
            if name and name in names[:number]:
                words = f"{name!r} is the name of another {what} too; give each its own"
                self._mistake(header, number, "name", words, within)

    def _headers(self, header: str, within: int | None = None) -> list[int]:
        """The lines, from 0, on which tables of this header begin; within: those of one stream only."""
        if within is None:
            return [at for at, line in enumerate(self._lines) if re.match(rf"\s*\[\[\s*{re.escape(header)}\s*\]\]", line)]
        starts = [*self._headers("stream"), len(self._lines)]
        return [at for at in self._headers(header) if starts[within] <= at < starts[within + 1]]

    def _mistake(self, header: str, number: int, key: str, words: str, within: int | None = None) -> None:
        """Note a mistake at the line of a key, or of its table's header."""
        start = 0
        if header:
            starts = self._headers(header, within)
            start = starts[number] if number < len(starts) else 0
        line = start
        if key:
            for at in range(start, len(self._lines)):
                if at > start and self._lines[at].lstrip().startswith("["):
                    break
                if re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", self._lines[at]):
                    line = at
                    break
        self.mistakes.add((line + 1, words))


def _place(target: str) -> Path | str:
    """What a path or an address stands for, however it is written."""
    return public_name(target) if "://" in target else Path(target.replace("\0", "")).resolve()


_Shape = TypeVar("_Shape", Zone, Line)


def _within(shape: _Shape, size_hw: tuple[int, int] | None) -> _Shape:
    """The zone or line; refused where it does not lie within frames of this size, which is often not known yet."""
    if size_hw is not None:
        require_within(shape, size_hw)
    return shape
