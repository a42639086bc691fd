"""Fault: one place of a model that TensorRT does not take, in words a user can act on, and what TensorRT's own words mean."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from edgedet.errors import ExportError

LISTED = 5
"""Faults that one message spells out; the others are counted."""
_PLACE = re.compile(r"\s*(\[?\w+\.cpp::\S+\]?|In \S+ at \S+)")


@dataclass(frozen=True)
class Fault:
    """One place that TensorRT does not take. node: its name, empty where it is about the whole file; operator: ONNX's word."""

    node: str
    operator: str
    reason: str
    remedy: str

    def __str__(self) -> str:
        place = f"{self.node} ({self.operator}): " if self.node and self.operator else f"{self.node}: " if self.node else ""
        return f"{place}{self.reason}; {self.remedy}"


class Refused(ExportError):
    """TensorRT does not take a file; faults: where and why."""

    def __init__(self, what: str, faults: Sequence[Fault]) -> None:
        super().__init__(f"{what}: {listing(faults)}")
        self.faults = tuple(faults)


def listing(faults: Sequence[Fault]) -> str:
    """The faults in one line, the first few in full."""
    more = f"; and {len(faults) - LISTED} more" if len(faults) > LISTED else ""
    return "; ".join(map(str, faults[:LISTED])) + more


_MEANINGS: tuple[tuple[str, str, str], ...] = (
    (
        "shiftIsAllZeros",
        "TensorRT takes only Q/DQ with zero-point 0",
        "calibrate with --for tensorrt",
    ),
    (
        "has type Int32 but must have type FP8",
        "TensorRT takes no int32 bias through DequantizeLinear",
        "leave biases in float: calibrate with --for tensorrt",
    ),
    (
        "has type UInt8 but must have type",
        "TensorRT takes uint8 at the input alone, and only Cast may read it",
        "put the Cast first, as `edgedet export` does",
    ),
    (
        "K exceeds the maximum value allowed",
        "TensorRT's TopK takes 3840 at most",
        "let fewer candidates in, or export with --nms matrix",
    ),
    (
        "no optimization profile has been defined",
        "the batch is free, so TensorRT needs its least, usual and largest value",
        "give --batch MIN,OPT,MAX, as in --batch 1,4,8",
    ),
    (
        "[nN]on[mM]ax[sS]uppression.* has no runners",
        "TensorRT-RTX reads NonMaxSuppression but cannot build it",
        "export with --nms matrix",
    ),
    (
        "has no runners that implement it",
        "it is read but there is no kernel for it",
        "replace the operator, or run the file in ONNX Runtime",
    ),
    (
        "plugin creator version|Plugin not found",
        "it is a plugin that this TensorRT does not bring",
        "export with --nms matrix where it is suppression; otherwise replace the operator",
    ),
    (
        "[Ww]orkspace (size|limit|memory)|insufficient workspace",
        "the workspace is too small for a layer",
        "raise --workspace, or leave it out",
    ),
    (
        "[Oo]ut of memory|out of device memory|Cuda Runtime \\(out of memory\\)",
        "the device has not enough memory left to compile it",
        "stop other programs, lower --workspace, or add swap",
    ),
    (
        "CUDA driver version is insufficient|no CUDA-capable device",
        "compiling this needs a GPU with its driver",
        "run the same command on the device",
    ),
)
"""Pattern in TensorRT's words, what it means, what mends it; tried on TensorRT-RTX 1.7.1."""


def explained(words: str, *, node: str = "", operator: str = "") -> Fault:
    """The fault that TensorRT's own words tell of; unknown words are given as they are, without places in its source."""
    for pattern, reason, remedy in _MEANINGS:
        if re.search(pattern, words):
            return Fault(node or _named(words), operator, reason, remedy)
    said = " ".join(_PLACE.sub("", words).split())
    return Fault(node, operator, f"TensorRT says: {said}", "run `edgedet export … --check`, or the file in ONNX Runtime")


def _named(words: str) -> str:
    """The layer that TensorRT names in its words, empty where it names none."""
    found = re.search(r"\(I\w+Layer (\S+):", words) or re.search(r"(\S+) has no runners", words)
    return found.group(1) if found else ""
