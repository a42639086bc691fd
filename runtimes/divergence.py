"""Where two forms of one network part: the operators that give another output for the same input.

Errors grow and fade on their way through a network, most of all in INT8, so how far a value is off says little about the
operator that made it. Each is therefore judged by itself as well: the reference's graph is cut at the compared values, fed
with those of the other file, and what it makes of them is compared with what the other file made of them.

Compared are the outputs of convolutions and matrix products, what decode makes of them, and the final outputs: to read a
value keeps a runtime from fusing across it, and faults that fusion makes would vanish if all were read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgedet.errors import ArtifactError, UsageError
from edgedet.runtimes import run_onnxruntime
from edgedet.runtimes.contract import as_input
from edgedet.runtimes.detector import LoadedDetector
from edgedet.runtimes.figures import Bisection, Divergence
from edgedet.runtimes.onnx_layers import FLOAT_LAYERS, OnnxGraph
from edgedet.runtimes.precision import layer_name
from edgedet.runtimes.recording import Target
from edgedet.runtimes.session import Options, Outputs
from edgedet.spec import CANDIDATES, FINAL, ModelSpec

if TYPE_CHECKING:
    import onnx

LISTED = 10
LEAST = 1e-4  # more than float32 arithmetic adds by another order of sums or another approximation of exp
MOST = 1e3  # stands for every error beyond it, infinite ones and NaN too
_OWN = "own/"


def find(reference: Path, other: Target, frames: Sequence[np.ndarray]) -> Bisection:
    """The operators that make a file differ from the ONNX file `reference` on a few frames, (H, W, 3) uint8 BGR each.

    Both must hold the same network under the same names, as files do that one
    version of edgedet exported.
    """
    model = run_onnxruntime.read_graph(reference)
    graph = OnnxGraph(model)
    points = _points(graph)
    tapped = replace(other, options=replace(other.options, taps=points))
    exact = Target(reference, "onnxruntime", Options(device="cpu", graph_optimization="off", taps=points))
    own, accumulated, changed = (_Errors() for _ in range(3))
    with exact.open() as first, tapped.open() as second, other.open() as plain:
        _require_alike(first.spec, second.spec, reference, other)
        inputs = [second.letterbox([frame])[0] for frame in frames]
        shared = _shared(points, first, second, inputs[0], other)
        with closing(_Cut(model, graph, shared)) as cut:
            for images in inputs:
                theirs = second.session.infer(images)
                own.add(cut.run({**theirs, "images": as_input(images, second.spec)}), theirs)
                ours = first.session.infer(images)
                accumulated.add({name: ours[name] for name in shared}, theirs)
                changed.add(_scores(plain.session.infer(images)), theirs)
    return Bisection(
        other.runtime_name,
        len(frames),
        len(shared),
        float(np.median([own[name] for name in shared if graph.maker[name].op_type in FLOAT_LAYERS] or [0.0])),
        max(changed[name] for name in changed.names),
        tuple(_ranked(graph, shared, own, accumulated)),
    )


class _Errors:
    """Relative errors ‖theirs − ours‖ / ‖ours‖ by name, over all images that were added."""

    def __init__(self) -> None:
        self._sums: dict[str, np.ndarray] = {}

    @property
    def names(self) -> list[str]:
        return list(self._sums)

    def add(self, ours: Outputs, theirs: Outputs) -> None:
        """Take in one more image; every value of ours."""
        for name, value in ours.items():
            exact, difference = (np.asarray(array, np.float64).ravel() for array in (value, theirs[name]))
            difference = difference - exact
            self._sums[name] = self._sums.get(name, 0) + np.array([difference @ difference, exact @ exact])

    def __getitem__(self, name: str) -> float:
        difference, exact = np.sqrt(self._sums[name])
        if not np.isfinite(difference):
            return MOST
        return float(min(difference / max(exact, 1e-12), MOST))


class _Cut:
    """The reference's graph with the shared values as inputs; each comes out again as made from those before it."""

    def __init__(self, model: onnx.ModelProto, graph: OnnxGraph, shared: Sequence[str]) -> None:
        import onnx
        import onnxruntime

        cut = type(model)()
        cut.CopyFrom(model)
        names = set(shared)
        for node in cut.graph.node:
            for place, name in enumerate(node.output):
                if name in names:
                    node.output[place] = f"{_OWN}{name}"
        del cut.graph.output[:], cut.graph.value_info[:]
        for name in shared:
            cut.graph.input.add(name=name).type.tensor_type.CopyFrom(graph.values[name])
            cut.graph.output.append(onnx.helper.make_empty_tensor_value_info(f"{_OWN}{name}"))
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 3
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._session: Any = onnxruntime.InferenceSession(cut.SerializeToString(), settings, providers=["CPUExecutionProvider"])
        self._shared = list(shared)

    def run(self, values: Outputs) -> Outputs:
        """Every shared value, made by the reference's operators from the given ones."""
        feeds = {entry.name: values[entry.name] for entry in self._session.get_inputs()}
        feeds = {name: value.astype(np.float32) if value.dtype == np.float16 else value for name, value in feeds.items()}
        made = self._session.run([f"{_OWN}{name}" for name in self._shared], feeds)
        return dict(zip(self._shared, made, strict=True))

    def close(self) -> None:
        """Free the model."""
        self._session = None


def _points(graph: OnnxGraph) -> tuple[str, ...]:
    """The float32 values to compare, in the graph's order: outputs of layers, what decode makes of them, the final outputs.

    Between candidates and finals lie rows that stand for nothing, in an order of chance.
    """
    layers = [node for node in graph.nodes if node.op_type in FLOAT_LAYERS]
    before = _ancestors(graph, {name for node in layers for name in node.input})
    decoded = _ancestors(graph, set(CANDIDATES)) - before
    chosen = {output for node in layers for output in node.output} | decoded | set(CANDIDATES) | set(FINAL)
    outputs = (output for node in graph.nodes for output in node.output)
    return tuple(name for name in outputs if name in chosen and graph.type_of(name) == "f32" and _has_shape(graph, name))


def _ancestors(graph: OnnxGraph, names: set[str]) -> set[str]:
    """The named values and all that they are made from."""
    found = set(names)
    for node in reversed(graph.nodes):
        if found & set(node.output):
            found.update(node.input)
    return found


def _has_shape(graph: OnnxGraph, name: str) -> bool:
    """Whether a value is of one shape for every image; what suppression selects is not."""
    batch = graph.values["images"].shape.dim[0].dim_param if "images" in graph.values else ""
    sides = graph.values[name].shape.dim if name in graph.values else []
    return bool(sides) and all(side.dim_value or (batch and side.dim_param == batch) for side in sides)


def _require_alike(ours: ModelSpec, theirs: ModelSpec, reference: Path, other: Target) -> None:
    """Raise UsageError where the inputs of both cannot be the same."""
    if (ours.size_hw, ours.batch, ours.input_layout) != (theirs.size_hw, theirs.batch, theirs.input_layout):
        raise UsageError(
            f"{other.name} takes {theirs.input_layout} of {theirs.size_hw}, batch {theirs.batch}, but {reference.name} "
            f"{ours.input_layout} of {ours.size_hw}, batch {ours.batch}; bisect files of one size, or name the checkpoint"
        )


def _shared(
    points: Sequence[str], first: LoadedDetector, second: LoadedDetector, images: np.ndarray, other: Target
) -> list[str]:
    """The points that both files have, in the same shape."""
    ours, theirs = first.session.infer(images), second.session.infer(images)
    shared = [name for name in points if name in theirs and name in ours and ours[name].shape == theirs[name].shape]
    if len(shared) < len(points) / 2:
        raise ArtifactError(
            f"{other.name}: only {len(shared)} of {len(points)} inner values have the reference's name, so where it diverges "
            "cannot be told; export both with the same version"
        )
    return shared


def _scores(outputs: Outputs) -> Outputs:
    """The scores alone, of whichever kind the file gives."""
    name = next(name for name in (FINAL[1], CANDIDATES[1]) if name in outputs)
    return {name: outputs[name]}


def _ranked(graph: OnnxGraph, shared: Sequence[str], own: _Errors, accumulated: _Errors) -> Iterator[Divergence]:
    """At most LISTED operators: those half as bad as the worst in the graph's order, the rest by their own error."""
    most = max((own[name] for name in shared), default=0.0)
    grave = [name for name in shared if own[name] >= most / 2]
    rest = sorted((name for name in shared if own[name] < most / 2), key=lambda name: -own[name])
    for name in [name for name in (*grave, *rest) if own[name] > LEAST][:LISTED]:
        node = graph.maker[name]
        entries, behind = _before(graph, name, set(shared))
        error_in = max((accumulated[entry] for entry in entries), default=0.0)
        weights = graph.source(node.input[1]) if node.op_type in FLOAT_LAYERS else ""
        yield Divergence(layer_name(weights, node.name or name), node.op_type, behind, error_in, accumulated[name], own[name])


def _before(graph: OnnxGraph, name: str, shared: set[str]) -> tuple[set[str], tuple[str, ...]]:
    """The shared values that a value is made from, and the kinds of the operators on the way."""
    entries: set[str] = set()
    kinds: list[str] = []
    waiting = list(graph.maker[name].input)
    seen: set[str] = set()
    while waiting:
        value = waiting.pop()
        if value in shared:
            entries.add(value)
        elif value in graph.maker and value not in seen:
            kinds.append(graph.maker[value].op_type)
            waiting += graph.maker[value].input
        seen.add(value)
    return entries, tuple(dict.fromkeys(reversed(kinds)))
