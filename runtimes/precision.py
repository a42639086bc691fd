"""In which precision every convolution and matrix product was asked to run, and in which it ran."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

INT8 = "int8"
LISTED = 5


@dataclass(frozen=True)
class Layer:
    """One convolution or matrix product of an opened file.

    name: as in the checkpoint, where the weights' name tells. kind: the
    runtime's word for what it executes. asked, executed: `int8`, `f32`, `bf16`
    or `f16`. macs: multiply-accumulates an image.
    """

    name: str
    kind: str
    asked: str
    executed: str
    macs: int


def layer_name(weights: str, node: str) -> str:
    """What to call a layer: its name in the checkpoint out of that of its weights, or the node's where they tell nothing."""
    name, weight, _ = weights.partition(".weight")
    return name.removeprefix("whole.detector.") if weight else node


def shares(layers: Sequence[Layer]) -> dict[str, float]:
    """Share of the multiply-accumulates in each executed precision, in [0, 1], the largest first."""
    sums: dict[str, int] = defaultdict(int)
    for layer in layers:
        sums[layer.executed] += layer.macs
    total = sum(sums.values())
    return {name: sums[name] / total for name in sorted(sums, key=lambda name: -sums[name])} if total else {}


def float_precision(layers: Sequence[Layer]) -> str | None:
    """What most of the multiply-accumulates that do not run in INT8 run in; None where all do."""
    return next((name for name in shares(layers) if name != INT8), None)


def summary(layers: Sequence[Layer]) -> str:
    """`f32`, or `int8 (86 % of the MACs), rest f32`."""
    share, rest = shares(layers).get(INT8, 0.0), float_precision(layers)
    if rest is None:
        return INT8 if share else "unknown"
    return f"{INT8} ({100 * share:.3g} % of the MACs), rest {rest}" if share else rest


def differing(layers: Iterable[Layer]) -> list[Layer]:
    """The layers that run in another precision than asked for."""
    return [layer for layer in layers if layer.executed != layer.asked]


def complaints(layers: Sequence[Layer]) -> list[str]:
    """`3 of 113 layers were asked for in int8 and ran in f32: a, b, c`, a line for each such pair of precisions."""
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for layer in differing(layers):
        groups[layer.asked, layer.executed].append(layer.name)
    return [
        f"{len(names)} of {len(layers)} layers were asked for in {asked} and ran in {executed}: "
        + ", ".join(names[:LISTED])
        + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")
        for (asked, executed), names in groups.items()
    ]
