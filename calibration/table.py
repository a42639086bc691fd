"""The table of ranges, which is the product of calibration: a JSON file that says which model, images and method it is of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from edgedet import __version__, artifact
from edgedet.calibration.ranges import Histogram, Method, amplitude, combine, interval
from edgedet.console import to_json
from edgedet.errors import ArtifactError, DataError
from edgedet.spec import ModelSpec

if TYPE_CHECKING:
    import onnx

VERSION = 1
MODEL_PARTS = ("weights", "graph", "preprocessing")
"""What of a model its ranges depend on."""
_NUMBERS = ("least", "greatest", "amplitude", "low", "high")


@dataclass(frozen=True)
class Range:
    """One tensor's range.

    least, greatest: observed. amplitude: the clip of the symmetric grid, see
    `ranges.amplitude`. low, high: the clip of the asymmetric one, see
    `ranges.interval`. channels, channel_intervals: the same of each channel,
    where observed per channel.
    """

    least: float
    greatest: float
    amplitude: float
    low: float
    high: float
    channels: tuple[float, ...] | None = None
    channel_intervals: tuple[tuple[float, float], ...] | None = None

    @classmethod
    def of(cls, observed: Histogram | Sequence[Histogram], method: Method) -> Range:
        """The range of a tensor's histogram, or of its channels' histograms, by a method."""
        if isinstance(observed, Histogram):
            return cls(observed.least, observed.greatest, amplitude(observed, method), *interval(observed, method))
        channels = tuple(amplitude(channel, method) for channel in observed)
        intervals = tuple(interval(channel, method) for channel in observed)
        whole = combine(observed)
        return cls(whole.least, whole.greatest, amplitude(whole, method), *interval(whole, method), channels, intervals)


@dataclass(frozen=True)
class ImageSet:
    """The images that were observed.

    name: of their folder or file. sha256: of their contents. count: how many.
    skipped: a message for each that could not be read. objections: what spoke
    against the set and was overridden.
    """

    name: str
    sha256: str
    count: int
    skipped: tuple[str, ...] = ()
    objections: tuple[str, ...] = ()


@dataclass(frozen=True)
class RangeTable:
    """Ranges by the name of the tensor, and what they were observed on.

    model_sha256: by MODEL_PARTS, see `fingerprints`. means: of each channel of
    the tensors whose readers' biases are corrected. edgedet: the version that made it.
    """

    model_sha256: Mapping[str, str]
    images: ImageSet
    method: Method
    ranges: Mapping[str, Range]
    means: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    edgedet: str = __version__

    def write(self, path: Path) -> Path:
        """Write the table as JSON, whole or not at all; returns the path."""
        artifact.write_text(path, to_json({"version": VERSION, **asdict(self)}) + "\n")
        return path

    @classmethod
    def read(cls, path: Path) -> RangeTable:
        """The table in a file that `write` wrote; whatever else it holds is one ArtifactError."""
        values = _json_object(path)
        if values.pop("version", None) != VERSION:
            raise ArtifactError(
                f"{path}: is no table of ranges of version {VERSION}, which this edgedet reads; calibrate again"
            )
        try:
            return _table(values)
        except (TypeError, ValueError) as error:
            raise ArtifactError(f"{path}: its table of ranges is damaged ({error}); calibrate again") from error

    def require_fit(
        self, model_sha256: Mapping[str, str], images_sha256: str, method: Method, *, where: str = "the table of ranges"
    ) -> None:
        """Raise DataError unless the table is of this model, image set and method; each that differs is named.

        model_sha256: the model's `fingerprints`. where: names the table in the error.
        """
        here = {**model_sha256, "image set": images_sha256, "method": method}
        there = {**self.model_sha256, "image set": self.images.sha256, "method": self.method}
        differing = [name for name in there if here[name] != there[name]]
        if differing:
            values = ", ".join(f"{name} {there[name][:12]} there and {here[name][:12]} here" for name in differing)
            raise DataError(
                f"{where}: was calibrated with other {', '.join(differing)} ({values}); "
                "remove it or name another --table to calibrate anew"
            )


def fingerprints(model: onnx.ModelProto, spec: ModelSpec) -> dict[str, str]:
    """sha256 of each of MODEL_PARTS: what two models must share to share their ranges.

    weights: name, type, shape and content of the initialisers. graph: operators,
    attributes, the names that join them, inputs, outputs, opsets. preprocessing:
    what happens before the graph. Neither the order of weights and nodes nor
    names of nodes, metadata and comments change them.
    """
    before = [*spec.size_hw, spec.input_layout, spec.letterbox_anchor, spec.letterbox_fill]
    return {
        "weights": _digest(map(_tensor_bytes, model.graph.initializer)),
        "graph": _digest(_graph_parts(model)),
        "preprocessing": _digest([json.dumps(before).encode()]),
    }


def _digest(parts: Iterable[bytes]) -> str:
    """sha256 of the parts in whatever order they come."""
    return hashlib.sha256(b"".join(sorted(hashlib.sha256(part).digest() for part in parts))).hexdigest()


def _tensor_bytes(tensor: onnx.TensorProto) -> bytes:
    """Name, type, shape and content, however the file stores it."""
    from onnx import numpy_helper

    values = numpy_helper.to_array(tensor)
    return f"{tensor.name} {tensor.data_type} {values.shape} ".encode() + values.tobytes()


def _graph_parts(model: onnx.ModelProto) -> Iterable[bytes]:
    """One item for each node, input, output and opset."""
    yield from (_node_bytes(node) for node in model.graph.node)
    for kind, values in (("input", model.graph.input), ("output", model.graph.output)):
        yield from (f"{kind} {value.name} ".encode() + _plain_bytes(value.type) for value in values)
    yield from map(_plain_bytes, model.functions)
    yield from (f"opset {entry.domain} {entry.version}".encode() for entry in model.opset_import)


def _node_bytes(node: onnx.NodeProto) -> bytes:
    """Operator, attributes and edges, without the node's own name."""
    edges = json.dumps([node.domain, node.op_type, list(node.input), list(node.output)]).encode()
    return edges + _digest(map(_plain_bytes, node.attribute)).encode()


def _plain_bytes(message: Any) -> bytes:
    """The message serialized without comments and metadata, its own or those of what it holds."""
    plain = type(message)()
    plain.CopyFrom(message)
    _strip(plain)
    return plain.SerializeToString(deterministic=True)


def _strip(message: Any) -> None:
    for entry, value in message.ListFields():
        if entry.name in ("doc_string", "metadata_props"):
            message.ClearField(entry.name)
        elif entry.type == entry.TYPE_MESSAGE:
            for inner in value if isinstance(value, Sequence) else [value]:
                _strip(inner)


def _json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; NaN and infinities are refused."""
    try:
        values = json.loads(artifact.require_file(path).read_bytes(), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ArtifactError(f"{path}: no table of ranges, or truncated ({reason}); calibrate again") from error
    if not isinstance(values, dict):
        raise ArtifactError(f"{path}: no table of ranges, its JSON is a {type(values).__name__}; calibrate again")
    return values


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of a table")


def _table(values: dict[str, Any]) -> RangeTable:
    """The table of a JSON object; ValueError where a field is missing or of another kind."""
    images, model, ranges, means = (_take(values, name, dict) for name in ("images", "model_sha256", "ranges", "means"))
    if values.get("method") not in get_args(Method):
        raise ValueError(f"method is {values.get('method')!r:.40}, not one of {', '.join(get_args(Method))}")
    return RangeTable(
        model_sha256={part: _take(model, part, str) for part in MODEL_PARTS},
        images=ImageSet(
            *(_take(images, name, kind) for name, kind in (("name", str), ("sha256", str), ("count", int))),
            *(tuple(map(str, _take(images, name, list))) for name in ("skipped", "objections")),
        ),
        method=values["method"],
        ranges={name: _range(name, _take(ranges, name, dict)) for name in ranges},
        means={name: _numbers(means, name, name) for name in means},
        edgedet=_take(values, "edgedet", str),
    )


def _range(name: str, values: dict[str, Any]) -> Range:
    least, greatest, clip, low, high = (_number(values.get(key), name) for key in _NUMBERS)
    channels, intervals = values.get("channels"), values.get("channel_intervals")
    if (channels is None) != (intervals is None):
        raise ValueError(f"{name} has either of channels and channel_intervals")
    if channels is not None:
        channels = _numbers(values, "channels", name)
        intervals = tuple((_number(a, name), _number(b, name)) for a, b in _take(values, "channel_intervals", list))
    clips, pairs = [clip, *(channels or ())], [(low, high), *(intervals or ())]
    sound = min(clips) > 0 and all(a <= 0 <= b and a < b for a, b in pairs) and len(clips) == len(pairs)
    if not sound or least > greatest:
        raise ValueError(f"{name} has an empty range, or one without zero")
    return Range(least, greatest, clip, low, high, channels, intervals)


def _numbers(values: dict[str, Any], key: str, name: str) -> tuple[float, ...]:
    return tuple(_number(value, name) for value in _take(values, key, list))


def _number(value: Any, name: str) -> float:
    if type(value) not in (int, float) or not abs(value) <= float(np.finfo(np.float32).max):
        raise ValueError(f"{name} has {value!r:.40} where a float32 number should be")
    return float(value)


def _take(values: dict[str, Any], name: str, kind: type) -> Any:
    value = values.get(name)
    if type(value) is not kind:
        raise ValueError(f"{name} is {value!r:.40}, not {kind.__name__}" if name in values else f"{name} is missing")
    return value
