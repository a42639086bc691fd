"""load(path): a model file of any format as a callable, frame → Detections."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Literal, cast

import numpy as np

from edgedet import plugins
from edgedet.artifact import require_file
from edgedet.boxes import suppress
from edgedet.detections import Detections
from edgedet.errors import ArtifactError, RuntimeUnavailable, SpecError, UsageError
from edgedet.letterbox import Placement
from edgedet.runtimes.session import Options, Outputs, Runtime, Session
from edgedet.spec import CANDIDATES, FINAL, ModelSpec, Suppression

PACKAGE, PREFIX = "edgedet.runtimes", "run_"


def load(
    path: str | Path,
    *,
    runtime: str | None = None,
    device: str = "auto",
    min_score: float | None = None,
    performance: Literal["latency", "throughput"] = "latency",
    inference_precision: Literal["f32", "bf16", "f16"] = "f32",
    cache: Path | None = None,
) -> LoadedDetector:
    """A callable from frame to Detections, out of a model file.

    runtime: by the file's suffix when None. min_score: drops objects below it,
    in [the floor baked into the file, 1]. The rest is as in `Options`.
    """
    options = Options(device=device, performance=performance, inference_precision=inference_precision, cache=cache)
    session = open_session(Path(path), runtime=runtime, options=options)
    try:
        return LoadedDetector(session, min_score=min_score)
    except UsageError:
        session.close()
        raise


def open_session(path: Path, *, runtime: str | None = None, options: Options | None = None) -> Session:
    """The session of a model file in the runtime asked for, or in the first that can serve it."""
    name = choose_runtime(path, runtime=runtime)
    return _module(name).open(path, options or Options())


def choose_runtime(path: Path, *, runtime: str | None = None) -> str:
    """The runtime that will serve a file: the one asked for, or the first available of those that take its suffix."""
    suffix = path.suffix.lower()
    if runtime is not None and suffix not in _module(runtime).SUFFIXES:
        raise UsageError(
            f"{path.name}: {runtime} takes {' '.join(_module(runtime).SUFFIXES)}, not {suffix or 'a file without suffix'!r}"
        )
    modules = {name: _module(name) for name in plugins.names(PACKAGE, prefix=PREFIX)}
    fitting = [name for name, module in modules.items() if suffix in module.SUFFIXES and runtime in (None, name)]
    fitting.sort(key=lambda name: modules[name].SUFFIXES.index(suffix))
    if not fitting:
        known = "; ".join(f"{name} {' '.join(module.SUFFIXES)}" for name, module in modules.items())
        raise ArtifactError(f"{path}: no runtime takes {suffix or 'a file without suffix'!r}; known are: {known}")
    require_file(path)
    problems: dict[str, str] = {}
    for name in fitting:
        problem = modules[name].available()
        if problem is None:
            return name
        problems[name] = problem
    reasons = "; ".join(f"{name}: {problem}" for name, problem in problems.items())
    raise RuntimeUnavailable(f"{path.name} cannot run here: {reasons}")


def _module(name: str) -> Runtime:
    module: ModuleType = plugins.find(PACKAGE, name, prefix=PREFIX, kind="runtime")
    return cast(Runtime, module)


class LoadedDetector:
    """A model file ready to run: call it with a frame, or keep `slots` frames in flight through `submit`."""

    def __init__(self, session: Session, *, min_score: float | None = None) -> None:
        floor = session.spec.suppression.min_score
        self.min_score = floor if min_score is None else min_score
        if not floor <= self.min_score <= 1:
            raise UsageError(
                f"min_score {min_score} is outside [{floor}, 1]: the file drops everything below its baked floor of {floor}; "
                "raise min_score, or export again with a lower floor"
            )
        self.session = session

    @property
    def spec(self) -> ModelSpec:
        """Classes, input size and provenance of the file."""
        return self.session.spec

    @property
    def slots(self) -> int:
        """Frames worth keeping in flight."""
        return self.session.slots

    def __call__(self, frame: np.ndarray) -> Detections:
        """The objects in one frame, best first, boxes in its pixels. frame: (H, W, 3) uint8 BGR."""
        images, placements = self.letterbox([frame])
        return self.map_back(self.session.infer(images), placements)[0]

    def detect_batch(self, frames: Sequence[np.ndarray]) -> list[Detections]:
        """The objects in each frame, run as many at once as the file takes; frames may differ in size."""
        size = self.spec.batch or len(frames)
        found: list[Detections] = []
        for start in range(0, len(frames), size or 1):
            images, placements = self.letterbox(frames[start : start + size])
            found += self.map_back(self.session.infer(images), placements)
        return found

    def submit(self, frame: np.ndarray) -> Future[Detections]:
        """The objects in one frame, later: letterboxed now, inferred in the background, `slots` at a time."""
        return self.submit_batch([frame])[0]

    def submit_batch(self, frames: Sequence[np.ndarray]) -> list[Future[Detections]]:
        """The objects in each of up to a batch of frames, later: as `submit`, in one request."""
        images, placements = self.letterbox(frames)
        results = [_Mapped(partial(self._objects, row=row, placement=placement)) for row, placement in enumerate(placements)]

        def finish(done: Future[Outputs]) -> None:
            try:
                outputs = done.result()
            except BaseException as error:  # whatever it was, it is the caller's: the futures raise it there
                for result in results:
                    result.set_exception(error)
            else:
                for result in results:
                    result.set_result(outputs)

        for result in results:
            result.set_running_or_notify_cancel()
        self.session.submit(images).add_done_callback(finish)
        return list(results)

    def letterbox(self, frames: Sequence[np.ndarray]) -> tuple[np.ndarray, list[Placement]]:
        """The input (B, H, W, 3) uint8 for up to a batch of frames, and where each lies; unused rows are grey."""
        rows = self.spec.batch or len(frames)
        images = np.empty((rows, *self.spec.size_hw, 3), np.uint8)
        images[len(frames) :] = self.spec.letterbox_fill
        return images, [
            self.spec.letterbox.apply(frame, out=row)[1] for frame, row in zip(frames, images[: len(frames)], strict=True)
        ]

    def map_back(self, outputs: Outputs, placements: Sequence[Placement]) -> list[Detections]:
        """One Detections for each placement, in original-image pixels, from a session's outputs."""
        return [self._objects(outputs, row, placement) for row, placement in enumerate(placements)]

    def _objects(self, outputs: Outputs, row: int, placement: Placement) -> Detections:
        """The objects of one row, in its frame's pixels."""
        names = FINAL if FINAL[0] in outputs else CANDIDATES
        boxes, scores, labels = (outputs[name][row] for name in names)
        if labels.max(initial=-1) >= len(self.spec.classes):
            raise SpecError(
                f"the file gives label {labels.max()} but its spec names only {len(self.spec.classes)} classes; "
                "one was altered: export it again"
            )
        if names is CANDIDATES:
            boxes, scores, labels = suppress_candidates(boxes, scores, labels, self.spec.suppression)
        count = np.count_nonzero((labels >= 0) & (scores >= self.min_score))  # scores descend, unused rows come last
        boxes = placement.boxes_to_frame(boxes[:count])
        return Detections(boxes, scores[:count], labels[:count].astype(np.int32, copy=False))

    def close(self) -> None:
        """Free the model."""
        self.session.close()

    def __enter__(self) -> LoadedDetector:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class _Mapped(Future[Any]):
    """Outputs to come, mapped to Detections by whoever asks: several one after the other, where each in the engine's own
    thread would find cold caches and take .15 ms of a core instead of .05."""

    def __init__(self, objects: Callable[[Outputs], Detections]) -> None:
        super().__init__()
        self._objects = objects

    def result(self, timeout: float | None = None) -> Detections:
        """The objects, once the outputs are there."""
        return self._objects(super().result(timeout))


def suppress_candidates(
    boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, rule: Suppression
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes, scores and labels that a graph with suppression inside would give for one image's K candidates.

    boxes: (K, 4) float32 xyxy, input pixels; scores, labels: (K,). Returns at
    most `rule.max_detections` of them, by descending score.
    """
    best = np.argsort(-scores, kind="stable")[: rule.candidates]
    best = best[scores[best] > rule.min_score]
    if rule.needed:
        best = best[suppress(boxes[best], scores[best], labels[best], rule.iou_threshold)]
    best = best[: rule.max_detections]
    return boxes[best], scores[best], labels[best]
