"""A source through a detector and a tracker into sinks, all at work at the same time.

    read ──frames──▶ submit ──futures──▶ the caller's loop (track, yield) ──▶ write to the sinks

Decoding, submitting and writing each have a thread; OpenCV and the runtimes
release the GIL. Order is kept, every queue is bounded, and whatever goes wrong
in a thread is raised in the caller's loop.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from edgedet.detections import Detections
from edgedet.errors import UsageError
from edgedet.streaming.channel import Channel
from edgedet.streaming.frame import Frame
from edgedet.streaming.sinks.base import Sink
from edgedet.streaming.sources.base import Source, open_source
from edgedet.tracking.base import Tracker, create

READ_AHEAD = 4  # frames decoded before they are wanted
WRITE_BEHIND = 4  # frames waiting for the sinks

Found = tuple[Frame, Detections]
Detect = Callable[[np.ndarray], Detections]
Refine = Callable[[Detections, float], Detections]


class ManyDetector(Protocol):
    """A detector that takes several images at once: what `edgedet.load` gives."""

    slots: int

    def submit(self, image: np.ndarray) -> Future[Detections]: ...


def stream(
    source: str | Path | int | Source,
    detector: Detect,
    *,
    tracker: str | Tracker | None = None,
    min_score: float | None = None,
    classes: Sequence[str] | None = None,
    sinks: Sequence[Sink] = (),
) -> Generator[Found, None, None]:
    """Frames and the objects in them, in order, as an iterator.

    source: an address for `open_source`, or an open source. detector: any
    function from a frame (H, W, 3) uint8 BGR to Detections; one that has
    `submit` and `slots` gets that many frames at once. tracker: a name, or one
    made before; give the detector a low threshold then (0.1), trackers use
    faint objects. min_score: objects below are dropped; with a tracker's name
    it is instead the score that starts a track. classes: the names to keep.

    A file is lossless; a live source gives its newest frame and drops what
    came in between. Source and sinks are closed at the end. Leaving early
    keeps what the sinks wrote; an error drops it.
    """
    refine = _refiner(detector, tracker, min_score, classes)
    opened = open_source(source) if isinstance(source, (str, Path, int)) else source
    return _run(opened, detector, refine, sinks)


def _refiner(detector: Detect, tracker: str | Tracker | None, min_score: float | None, classes: Sequence[str] | None) -> Refine:
    """What happens to the detections of a frame: classes chosen, then tracked or filtered by score."""
    labels = None if classes is None else _labels(detector, classes)
    if isinstance(tracker, str):
        tracker = create(tracker, min_score=min_score)
    elif tracker is not None and min_score is not None:
        raise UsageError("min_score is for a tracker given by name; set the threshold on the tracker itself")

    def refine(detections: Detections, time_s: float) -> Detections:
        if labels is not None:
            detections = detections[np.isin(detections.labels, labels)]
        if tracker is not None:
            return tracker.update(detections, time_s)
        return detections if min_score is None else detections[detections.scores >= min_score]

    return refine


def _labels(detector: Detect, classes: Sequence[str]) -> np.ndarray:
    """The labels of these class names."""
    spec = getattr(detector, "spec", None)
    if spec is None:
        raise UsageError("classes can only be chosen with a detector that names them in `detector.spec.classes`")
    for name in classes:
        if name not in spec.classes:
            near = get_close_matches(name, spec.classes, n=3, cutoff=0.5) or spec.classes[:10]
            raise UsageError(f"the model has no class {name!r}; did you mean: {', '.join(near)}?")
    return np.array([spec.classes.index(name) for name in classes], np.int32)


def _run(source: Source, detector: Detect, refine: Refine, sinks: Sequence[Sink]) -> Generator[Found, None, None]:
    """The generator behind `stream`; closing it stops every thread."""
    with ExitStack() as stack:
        stack.enter_context(source)
        for sink in sinks:
            stack.enter_context(sink)
        threads = stack.enter_context(_Threads(source, detector, sinks))
        for frame, objects in threads.results():
            found = frame, refine(objects, frame.time_s)
            if not threads.to_write.put(found):
                break  # a sink failed; leaving the context raises its error
            yield found


class _Threads:
    """The three threads of one stream and the channels between them."""

    def __init__(self, source: Source, detector: Detect, sinks: Sequence[Sink]) -> None:
        self._source, self._sinks, self._pool = source, sinks, None
        if hasattr(detector, "submit"):
            many = cast(ManyDetector, detector)
            self._submit, slots = many.submit, many.slots
        else:
            self._pool = ThreadPoolExecutor(1, "edgedet-detect")
            self._submit, slots = (lambda image: pool.submit(detector, image)), 1
            pool = self._pool
        # A file keeps one more request waiting, so that the engine never idles; live, it would only grow old there.
        self._room = threading.Semaphore(slots if source.live else slots + 1)
        self._frames: Channel[Frame] = Channel(1, when_full="drop-oldest") if source.live else Channel(READ_AHEAD)
        self._in_flight: Channel[tuple[Frame, Future[Detections]]] = Channel()
        self.to_write: Channel[Found] = Channel(WRITE_BEHIND)
        self._write_error: BaseException | None = None
        self._stopped = False
        self._threads = [
            threading.Thread(target=run, name=f"edgedet-{run.__name__.strip('_')}", daemon=True)
            for run in (self._read_frames, self._submit_frames, self._write_found)
        ]

    def _read_frames(self) -> None:
        """Thread: source → frames."""
        _pump(self._source, self._frames)

    def _submit_frames(self) -> None:
        """Thread: frames → requests in flight. Room first, then the frame: a live one is then the newest."""

        def requests() -> Iterator[tuple[Frame, Future[Detections]]]:
            while self._room.acquire() and not self._stopped:
                frame = next(self._frames, None)
                if frame is None:
                    return
                yield frame, self._submit(frame.image)

        _pump(requests(), self._in_flight)

    def _write_found(self) -> None:
        """Thread: found → every sink."""
        try:
            for frame, objects in self.to_write:
                for sink in self._sinks:
                    sink.write(frame, objects)
        except BaseException as error:
            self._write_error = error
            self.to_write.cancel()

    def results(self) -> Iterator[Found]:
        """Frames and what the detector found in them, in order."""
        for frame, future in self._in_flight:
            objects = future.result()
            self._room.release()
            yield frame, objects

    def __enter__(self) -> _Threads:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Stop reading, let what was found be written (unless an error ended it), wait for every thread."""
        self._stopped = True
        self._frames.cancel()
        self._room.release()
        if isinstance(error, Exception):
            self.to_write.cancel()
        self.to_write.close()
        for thread in self._threads:
            thread.join()
        wait([future for _, future in self._in_flight.cancel() if not future.cancel()])
        if self._pool is not None:
            self._pool.shutdown()
        if self._write_error is not None and not isinstance(error, Exception):
            raise self._write_error


def _pump(items: Iterable[Any], channel: Channel[Any]) -> None:
    """Put every item into the channel until it wants no more, then close it, with the error that ended the items if one did."""
    try:
        for item in items:
            if not channel.put(item):
                break
    except BaseException as error:  # raised again where the channel is read
        channel.close(error)
    else:
        channel.close()
