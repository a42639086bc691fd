"""Stage latencies, throughput, load time and memory of model files, each alone in its own process, in turns."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from edgedet.detections import Detections
from edgedet.errors import RuntimeUnavailable, SourceError
from edgedet.images import image_paths, read_image
from edgedet.runtimes import power
from edgedet.runtimes.detector import LoadedDetector
from edgedet.runtimes.machine import memory_status
from edgedet.runtimes.recording import Target
from edgedet.spec import ModelSpec

FRAMES = 8
STAGES = ("letterbox", "inference", "map_back")


@dataclass(frozen=True)
class Job:
    """What to measure. frames: a folder of images, a video or an image; None for a made-up 1280x720 picture."""

    target: Target
    frames: Path | None = None
    runs: int = 100
    warm_up: int = 10


@dataclass(frozen=True)
class Samples:
    """What one process measured.

    stages_ms: (3, runs) float64 milliseconds of each stage in STAGES.
    frames_per_s: end to end with `slots` requests in flight. load_s: from the
    first import of the runtime to a detector that is ready. memory_mib: the
    process's peak, and what it held before the load; None where unknown.
    power: readings of the timed runs, none where nothing measures it.
    """

    stages_ms: np.ndarray
    frames_per_s: float
    slots: int
    load_s: float
    memory_mib: tuple[float | None, float | None]
    facts: dict[str, str]
    spec: ModelSpec
    power: tuple[power.Reading, ...] = ()


@dataclass(frozen=True)
class Measurement:
    """One model file's figures out of all its turns."""

    job: Job
    turns: tuple[Samples, ...]

    @property
    def stages_ms(self) -> dict[str, np.ndarray]:
        """Milliseconds of every run by stage, and of all stages together as `total`."""
        stages = np.concatenate([turn.stages_ms for turn in self.turns], axis=1)
        return {**dict(zip(STAGES, stages)), "total": stages.sum(axis=0)}

    def percentiles(self) -> dict[str, dict[str, float]]:
        """p50, p90 and p99 of each stage in milliseconds."""
        return {
            stage: {f"p{point}": round(float(np.percentile(values, point)), 3) for point in (50, 90, 99)}
            for stage, values in self.stages_ms.items()
        }

    def as_dict(self) -> dict:
        """The figures for JSON; the best turn's throughput and load time, the highest memory."""
        first, target = self.turns[0], self.job.target
        peaks = [turn.memory_mib[0] for turn in self.turns if turn.memory_mib[0] is not None]
        bases = [turn.memory_mib[1] for turn in self.turns if turn.memory_mib[1] is not None]
        return {
            "file": target.path.name,
            "model": first.spec.name,
            "size_hw": first.spec.size_hw,
            "nms": first.spec.suppression.mode,
            "runtime": target.runtime_name,
            "device": first.facts["device"],
            "precision": {
                "file": first.spec.precision,
                "asked": target.options.inference_precision,
                "executed": first.facts["precision"],
            },
            "performance": target.options.performance,
            "latency_ms": self.percentiles(),
            "frames_per_s": round(max(turn.frames_per_s for turn in self.turns), 2),
            "slots": first.slots,
            "load_s": round(min(turn.load_s for turn in self.turns), 3),
            "peak_memory_mib": round(max(peaks), 1) if peaks else None,
            "memory_before_load_mib": round(min(bases), 1) if bases else None,
            "power": power.summary([reading for turn in self.turns for reading in turn.power]),
        }


def run(jobs: Sequence[Job], *, turns: int = 3) -> Iterator[tuple[int, Samples]]:
    """Samples of each job by its index, in `turns` rounds A B C A B C, so that what drifts touches all alike."""
    for turn in range(turns):
        for index, job in enumerate(jobs):
            yield index, measure_alone(_share(job, turn, turns))


def gather(jobs: Sequence[Job], samples: Iterable[tuple[int, Samples]]) -> list[Measurement]:
    """One Measurement a job out of what `run` yields."""
    by_job: list[list[Samples]] = [[] for _ in jobs]
    for index, found in samples:
        by_job[index].append(found)
    return [Measurement(job, tuple(found)) for job, found in zip(jobs, by_job)]


def _share(job: Job, turn: int, turns: int) -> Job:
    """The job with this turn's share of its runs, one at least."""
    return replace(job, runs=max((job.runs + turns - 1 - turn) // turns, 1))


def measure_alone(job: Job) -> Samples:
    """What `measure` finds in a fresh process: two sessions in one disturb each other, by up to twice."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        try:
            return process.submit(measure, job).result()
        except BrokenProcessPool as error:
            raise RuntimeUnavailable(
                f"{job.target.name}: its process died: the runtime crashed or memory ran out; try it alone, or on --device cpu"
            ) from error


def measure(job: Job) -> Samples:
    """Time the stages of a model file in this process."""
    frames = read_frames(job.frames)
    before = memory_status("VmRSS")
    start = time.perf_counter()
    with job.target.open() as detector:
        load_s = time.perf_counter() - start
        for index in range(job.warm_up):
            detector(frames[index % len(frames)])
        facts = detector.session.facts
        with power.measuring(power.find_meter(facts["device"])) as readings:
            stages_ms = np.stack([_stages_ms(detector, frames[index % len(frames)]) for index in range(job.runs)], axis=1)
            frames_per_s = _frames_per_s(detector, frames, job.runs)
        memory_mib = memory_status("VmHWM"), before
        return Samples(stages_ms, frames_per_s, detector.slots, load_s, memory_mib, facts, detector.spec, tuple(readings))


def _stages_ms(detector: LoadedDetector, frame: np.ndarray) -> np.ndarray:
    """(3,) milliseconds of letterbox, inference and mapping back for one frame."""
    marks = [time.perf_counter()]
    images, placements = detector.letterbox([frame])
    marks.append(time.perf_counter())
    outputs = detector.session.infer(images)
    marks.append(time.perf_counter())
    detector.map_back(outputs, placements)
    marks.append(time.perf_counter())
    return np.diff(marks) * 1e3


def _frames_per_s(detector: LoadedDetector, frames: Sequence[np.ndarray], runs: int) -> float:
    """Frames a second end to end with `slots` in flight, and one more letterboxed meanwhile."""
    waiting: deque[Future[Detections]] = deque()
    count = max(runs, 4 * detector.slots)
    start = time.perf_counter()
    for index in range(count):
        waiting.append(detector.submit(frames[index % len(frames)]))
        if len(waiting) > detector.slots:
            waiting.popleft().result()
    for future in waiting:
        future.result()
    return count / (time.perf_counter() - start)


def read_frames(source: Path | None) -> list[np.ndarray]:
    """Up to FRAMES frames (H, W, 3) uint8 BGR: the first images of a folder, spread over a video, or one made up."""
    if source is None:
        return [_made_up_frame()]
    if source.is_dir():
        paths = image_paths(source)[:FRAMES]
        if not paths:
            raise SourceError(f"{source}: holds no images; name a folder of images or a video")
        return [read_image(path) for path in paths]
    if not source.exists():
        raise SourceError(f"{source}: no such file or folder; name a folder of images or a video")
    return _video_frames(source)


def _made_up_frame() -> np.ndarray:
    """A 1280x720 picture of coloured rectangles on a gradient, the same every time."""
    random = np.random.default_rng(0)
    frame = np.zeros((720, 1280, 3), np.uint8)
    frame[...] = np.linspace(40, 200, 1280, dtype=np.uint8)[None, :, None]
    for _ in range(40):
        x, y = random.integers(0, (1200, 640))
        width, height = random.integers(20, 240, 2)
        frame[y : y + height, x : x + width] = random.integers(0, 256, 3)
    return frame


def _video_frames(source: Path) -> list[np.ndarray]:
    """Up to FRAMES frames spread evenly over a video."""
    import cv2

    video = cv2.VideoCapture(str(source))
    try:
        count = max(int(video.get(cv2.CAP_PROP_FRAME_COUNT)), FRAMES)
        frames = []
        for index in range(FRAMES):
            video.set(cv2.CAP_PROP_POS_FRAMES, index * count // FRAMES)
            read, frame = video.read()
            frames += [frame] if read else []
    finally:
        video.release()
    if not frames:
        raise SourceError(f"{source}: no frame can be decoded from it; name a video or a folder of images")
    return frames
