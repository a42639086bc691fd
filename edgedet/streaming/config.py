"""streams.toml: which cameras, with what; read whole and checked whole, every mistake told at once with its line."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from edgedet.errors import EdgedetError, UsageError
from edgedet.streaming.policy import Policy, parse_policy
from edgedet.streaming.sinks.base import kinds as sink_kinds
from edgedet.streaming.sources.base import kind_of
from edgedet.tracking.base import names as tracker_names
from edgedet.tracking.zones import Line, Zone

EXAMPLE = """\
model = "yolox-nano-416-fp32.xml"
tracker = "bytetrack"          # for every stream that names none

[[stream]]
name = "gate"
source = "rtsp://user:password@10.0.0.7/stream1"
classes = ["person", "car"]
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
    """What one `[[stream]]` says."""

    name: str
    source: str
    tracker: str | None = None
    min_score: float | None = None
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


class _Mistake(Exception):
    """One thing that is wrong, and what mends it."""


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


def parse_size(text: str) -> tuple[int, int]:
    """Height and width in pixels of `1280x720`."""
    matched = re.fullmatch(r"(\d{2,4})x(\d{2,4})", text)
    if matched is None:
        raise UsageError(f"{text!r} is no size; write width and height, as in 1280x720")
    return int(matched[2]), int(matched[1])


def _toml() -> Any:
    if sys.version_info >= (3, 11):
        import tomllib

        return tomllib
    import tomli

    return tomli


_Parse = Callable[[Any], Any]


class _Reader:
    """Reads tables, collecting mistakes; knows on which line a key stands."""

    def __init__(self, text: str) -> None:
        self._lines = text.splitlines()
        self.mistakes: set[tuple[int, str]] = set()
        self._written: set[Path] = set()

    def settings(self, values: Mapping[str, Any]) -> Settings:
        """The file's settings; incomplete where there are mistakes."""
        top = {"model": _text, "runtime": _text, "device": _text, "max_wait_ms": _number(0, 1000)}
        shared = {"tracker": _tracker, "min_score": _number(0, 1)}
        found = self._table(values, {**top, **shared}, "", {"stream": list}, needed=("model",))
        defaults = {key: found.pop(key) for key in shared if key in found}
        tables = self._tables(values, "stream")
        if not tables:
            self._mistake("", 0, "", "there is no stream; begin one with [[stream]]")
        streams = tuple(self._stream(table, number, defaults) for number, table in enumerate(tables))
        self._refuse_twice([stream.name for stream in streams], "stream", "name")
        return Settings(model=found.pop("model", ""), streams=streams, **found)

    def _stream(self, table: Mapping[str, Any], number: int, defaults: Mapping[str, Any]) -> StreamSettings:
        known: dict[str, _Parse] = {
            "name": _text,
            "source": _source,
            "tracker": _tracker,
            "min_score": _number(0, 1),
            "classes": _texts,
            "policy": lambda value: parse_policy(_text(value)),
            "read_timeout_s": _number(0.1, 3600),
            "open_timeout_s": _number(0.1, 3600),
            "max_reconnects": _whole(0),
            "stride": _whole(1),
            "size": lambda value: parse_size(_text(value)),
        }
        inner = {"zone": list, "line": list, "sink": list}
        found = self._table(table, known, "stream", inner, number, needed=("source",))
        if "size" in found:
            found["size_hw"] = found.pop("size")
        zones = self._inner(
            table, number, "zone", {"name": _text, "polygon": _points}, lambda zone: Zone(zone["name"], zone["polygon"])
        )
        lines = self._inner(
            table,
            number,
            "line",
            {"name": _text, "from": _point, "to": _point},
            lambda line: Line(line["name"], line["from"], line["to"]),
        )
        sinks = self._inner(
            table,
            number,
            "sink",
            {"kind": _sink_kind, "target": _text},
            lambda sink: SinkSettings(sink["kind"], sink["target"]),
        )
        if (zones or lines) and not ({"tracker"} & {*found, *defaults}):
            self._mistake("stream", number, "", 'zones and lines need tracks; add tracker = "bytetrack"')
        self._refuse_one_target_twice(table, number)
        source = found.pop("source", "")
        return StreamSettings(
            **{**defaults, **found},
            **{} if "name" in found else {"name": source},
            source=source,
            zones=tuple(zones),
            lines=tuple(lines),
            sinks=tuple(sinks),
        )

    def _inner(self, table: Mapping[str, Any], number: int, name: str, known: Mapping[str, _Parse], make: _Parse) -> list[Any]:
        """What the `[[stream.NAME]]` tables of one stream stand for, those that are whole."""
        header, found = f"stream.{name}", []
        for index, values in enumerate(self._tables(table, name)):
            entry = self._table(values, known, header, {}, index, needed=tuple(known), within=number)
            if len(entry) == len(known):
                try:
                    found.append(make(entry))
                except EdgedetError as error:
                    self._mistake(header, index, "", str(error), number)
        return found

    def _table(
        self,
        values: Mapping[str, Any],
        known: Mapping[str, _Parse],
        header: str,
        tables: Mapping[str, type],
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
                hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"
                self._mistake(header, number, key, f"{key!r} is unknown here; {hint}", within)
                continue
            try:
                found[key] = known[key](value)
            except (_Mistake, EdgedetError) as error:
                self._mistake(header, number, key, f"{key}: {error}", within)
        for key in needed:
            if key not in values:
                self._mistake(header, number, "", f"{key!r} is missing; add {key} = …", within)
        return found

    def _tables(self, values: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
        tables = values.get(name, [])
        if isinstance(tables, list) and all(isinstance(one, dict) for one in tables):
            return tables
        self._mistake("", 0, name, f"write each {name} as a table of its own, headed [[{name}]]")
        return []

    def _refuse_twice(self, names: Sequence[str], header: str, key: str) -> None:
        for number, name in enumerate(names):
            if name and name in names[:number]:
                self._mistake(header, number, key, f"{name!r} is the name of another stream too; give each its own")

    def _refuse_one_target_twice(self, table: Mapping[str, Any], number: int) -> None:
        """Two sinks that write one file would spoil it."""
        for index, sink in enumerate(self._tables(table, "sink")):
            target = sink.get("target")
            if not isinstance(target, str) or "://" in target:
                continue
            place = Path(target).resolve()
            if place in self._written:
                self._mistake("stream.sink", index, "target", f"{target} is written by another sink too", number)
            self._written.add(place)

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


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _Mistake(f"{value!r} is no text; write it in quotes")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise _Mistake(f'{value!r} is no list of names; write it as ["person", "car"]')
    return tuple(map(_text, value))


def _number(least: float, most: float) -> _Parse:
    def parse(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
            raise _Mistake(f"{value!r} is no number from {least:g} to {most:g}")
        return float(value)

    return parse


def _whole(least: int) -> _Parse:
    def parse(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise _Mistake(f"{value!r} is no whole number from {least} on")
        return value

    return parse


def _source(value: Any) -> str:
    kind_of(str(value) if isinstance(value, int) and not isinstance(value, bool) else _text(value))
    return str(value)


def _tracker(value: Any) -> str:
    if value not in tracker_names():
        raise _Mistake(f"{value!r} is no tracker; there are: {', '.join(tracker_names())}")
    return str(value)


def _sink_kind(value: Any) -> str:
    if value not in sink_kinds():
        raise _Mistake(f"{value!r} is no kind of sink; there are: {', '.join(sink_kinds())}")
    return str(value)


def _point(value: Any) -> tuple[float, float]:
    numbers = isinstance(value, list) and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in value)
    if not numbers or len(value) != 2:
        raise _Mistake(f"{value!r} is no point; write [x, y] in pixels")
    return float(value[0]), float(value[1])


def _points(value: Any) -> tuple[tuple[float, float], ...]:
    if not isinstance(value, list) or len(value) < 3:
        raise _Mistake(f"{value!r} is no polygon; write at least three points [x, y]")
    return tuple(map(_point, value))
