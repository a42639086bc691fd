"""What one model says about a data set: its detections, its candidates and its latency, written down to be compared."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np

from edgedet import console, published
from edgedet.data.dataset import Dataset, Sample
from edgedet.detections import Detections
from edgedet.errors import ArtifactError, ImageError, RuntimeUnavailable
from edgedet.runtimes import detector
from edgedet.runtimes.detector import LoadedDetector
from edgedet.runtimes.figures import Latency
from edgedet.runtimes.precision import Layer
from edgedet.runtimes.session import Options, Outputs
from edgedet.spec import CANDIDATES, ModelSpec

CANDIDATE_IMAGES = 100
WARM_UP = 3


@dataclass(frozen=True)
class Target:
    """A model file and how it is run; runtime: None for the one its suffix chooses."""

    path: Path
    runtime: str | None = None
    options: Options = field(default_factory=Options)

    @classmethod
    def parse(cls, text: str, options: Options | None = None) -> Target:
        """The target of `model.onnx` or, for a runtime other than the suffix's first, `model.onnx@openvino`."""
        name, runtime = cls.split(text)
        return cls(Path(name), runtime, options or Options())

    @staticmethod
    def split(text: str) -> tuple[str, str | None]:
        """The file's name and the runtime of `model.onnx@openvino`; None where it names none, as in `yolox-nano@coco`."""
        path, at, runtime = text.rpartition("@")
        if at and runtime.isidentifier() and runtime not in published.DATASETS and not Path(text).exists():
            return path, runtime
        return text, None

    @property
    def name(self) -> str:
        """The file's name, and the runtime where one was asked for."""
        return f"{self.path.name}@{self.runtime}" if self.runtime else self.path.name

    @property
    def runtime_name(self) -> str:
        """The runtime that serves the file."""
        return detector.choose_runtime(self.path, runtime=self.runtime)

    def open(self, outputs: Literal["final", "candidates"] = "final") -> LoadedDetector:
        """The model, loaded; with `candidates` it also gives the boxes before suppression."""
        options = replace(self.options, outputs=outputs)
        return LoadedDetector(detector.open_session(self.path, runtime=self.runtime, options=options))


@dataclass(frozen=True)
class Recording:
    """What one model said about a data set.

    detections: one an image of `positions`, the places of the readable samples.
    candidates: of at most CANDIDATE_IMAGES images, one dictionary of (K, …)
    arrays each; None where the file does not give them, and `without` says why.
    """

    target: Target
    label: str
    spec: ModelSpec
    facts: dict[str, str]
    layers: tuple[Layer, ...]
    detections: list[Detections]
    positions: list[int]
    unreadable: tuple[str, ...]
    latency: Latency
    candidates: list[Outputs] | None
    without: str = ""


def record(target: Target, dataset: Dataset, *, label: str) -> Recording:
    """Every readable image of the data set through one model, and some once more for its candidates.

    The first pass uses the file as it will run: reading tensors from inside a
    graph can keep a runtime from an optimisation, and so hide its fault.
    """
    detections: list[Detections] = []
    positions: list[int] = []
    unreadable: list[str] = []
    seconds: list[float] = []
    with target.open() as model:
        size = model.spec.batch or 1
        frames = _frames(console.track(dataset.samples, label, total=len(dataset)), unreadable)
        while batch := list(islice(frames, size)):
            images, placements = model.letterbox([frame for _, frame in batch])
            for _ in range(0 if seconds else WARM_UP):
                model.session.infer(images)
            start = time.perf_counter()
            outputs = model.session.infer(images)
            seconds.append((time.perf_counter() - start) / size)
            detections += model.map_back(outputs, placements)
            positions += [position for position, _ in batch]
        spec, facts, layers = model.spec, model.session.facts, tuple(model.session.layers())
    p50, p90, p99 = np.percentile(seconds, [50, 90, 99]) * 1e3 if seconds else (math.nan,) * 3
    latency = Latency(float(p50), float(p90), float(p99), size)
    candidates, without = _candidates(target, [dataset.samples[i] for i in positions])
    return Recording(target, label, spec, facts, layers, detections, positions, tuple(unreadable), latency, candidates, without)


def _frames(samples: Iterable[Sample], unreadable: list[str]) -> Iterator[tuple[int, np.ndarray]]:
    """Position and image of every sample that can be read; the others' messages go to the list."""
    for position, sample in enumerate(samples):
        try:
            yield position, sample.read()
        except ImageError as error:
            unreadable.append(str(error))


def _candidates(target: Target, samples: Sequence[Sample]) -> tuple[list[Outputs] | None, str]:
    """The candidates of evenly spread samples, or None and why the file does not give them."""
    samples = samples[:: math.ceil(len(samples) / CANDIDATE_IMAGES) or 1]
    found: list[Outputs] = []
    try:
        model = target.open("candidates")
    except (ArtifactError, RuntimeUnavailable) as error:
        return None, str(error)
    with model:
        size = model.spec.batch or 1
        for start in range(0, len(samples), size):
            batch = [sample.read() for sample in samples[start : start + size]]
            outputs = model.session.infer(model.letterbox(batch)[0])
            found += [{name: outputs[name][row] for name in CANDIDATES} for row in range(len(batch))]
    return found, ""
