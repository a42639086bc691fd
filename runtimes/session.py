"""The two protocols that every runtime fulfils: a module that opens files, and the session it gives."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from edgedet.runtimes.precision import Layer
from edgedet.spec import ModelSpec

Outputs = dict[str, np.ndarray]


@dataclass(frozen=True)
class Options:
    """How a session is opened.

    device: `auto`, `cpu`, `gpu`, or a runtime's own name such as `cuda:1`.
    inference_precision: what float arithmetic runs in; `f32` unless the user
    asks for less, so that no runtime narrows it unasked. performance: latency
    of one request, or requests a second. graph_optimization: off shows whether
    the runtime's optimizer changes the answers. outputs: `candidates` adds the
    boxes before suppression to what `infer` returns. taps: inner values, by
    name, to return too where the file has them. cache: a folder for compiled
    models, where a runtime has them. plugins: what becomes of TensorRT's own
    operators in an ONNX file: refused, or evaluated in NumPy as they are
    documented, which is slow and for measuring an export. like: the exported file whose
    input size and suppression a checkpoint takes on to be compared with it;
    exported files have their own.
    """

    device: str = "auto"
    inference_precision: Literal["f32", "bf16", "f16"] = "f32"
    performance: Literal["latency", "throughput"] = "latency"
    graph_optimization: Literal["default", "off"] = "default"
    outputs: Literal["final", "candidates"] = "final"
    taps: tuple[str, ...] = ()
    cache: Path | None = None
    plugins: Literal["refused", "evaluated"] = "refused"
    like: ModelSpec | None = None


class Session(Protocol):
    """A model file, loaded and ready. Not thread-safe, except `submit`."""

    spec: ModelSpec
    slots: int
    """Requests worth keeping in flight."""
    closed: bool
    """Whether `close` was called; `infer` and `submit` then raise UsageError."""

    @property
    def facts(self) -> dict[str, str]:
        """What serves and how, for reports: `device`, and `precision` as executed where the runtime tells it."""
        ...

    def infer(self, images: np.ndarray) -> Outputs:
        """The file's outputs for (B, H, W, 3) uint8 letterboxed BGR images, B as the spec's batch allows.

        boxes: (B, D, 4) float32 xyxy input pixels. scores: (B, D) float32,
        descending. labels: (B, D) int32, −1 in unused rows. A file without NMS
        gives candidate_boxes (B, K, 4), candidate_scores (B, K), candidate_labels (B, K).
        """
        ...

    def layers(self) -> Sequence[Layer]:
        """The convolutions and matrix products with the precision asked for and executed; none where nothing tells."""
        ...

    def submit(self, images: np.ndarray) -> Future[Outputs]:
        """The same as `infer`, in the background; `images` must not change until it is done."""
        ...

    def close(self) -> None:
        """Free what the session holds; a second time does nothing."""
        ...


class Runtime(Protocol):
    """What the module `runtimes/run_<name>.py` has."""

    SUFFIXES: tuple[str, ...]

    def available(self) -> str | None:
        """None where the runtime can run, otherwise why not and what to install."""
        ...

    def version(self) -> str:
        """The runtime's version, where it is available."""
        ...

    def devices(self) -> list[str]:
        """The devices it finds here, where it is available, as Options.device names them."""
        ...

    def open(self, path: Path, options: Options) -> Session:
        """The session of a model file."""
        ...
