"""`edgedet stream`: a detector on a video, a folder of images or a camera."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from edgedet import assets, console
from edgedet.errors import UsageError

if TYPE_CHECKING:
    from edgedet.streaming.pipeline import Found
    from edgedet.streaming.sinks.base import Sink
    from edgedet.streaming.sinks.window import WindowSink
    from edgedet.streaming.sources.base import Source


def command(
    source: str = typer.Argument(help="A video file, an image, a folder of images, or a camera index such as 0."),
    model: Path = typer.Option(..., "--model", "-m", help="The model file."),
    tracker: str | None = typer.Option(None, help="Give objects ids that last: bytetrack."),
    save: Path | None = typer.Option(None, help="Write an annotated .mp4 here."),
    jsonl: Path | None = typer.Option(None, help="Write one JSON object a frame here."),
    contact_sheet: Path | None = typer.Option(None, help="Write a .png of twelve annotated frames here."),
    show: bool = typer.Option(False, "--show", help="Show a window; q or Esc ends."),
    min_score: float = typer.Option(
        0.3, min=0, max=1, help="Drop objects below. With a tracker: what starts a track; fainter objects may keep it going."
    ),
    classes: str | None = typer.Option(None, help="Keep these classes only, as in person,car."),
    runtime: str | None = typer.Option(None, help="Which runtime serves the model; by default its suffix says."),
    device: str = typer.Option("auto", help="auto, cpu, gpu, or a runtime's own name."),
    inference_precision: Literal["f32", "bf16", "f16"] = typer.Option("f32", help="What float arithmetic runs in."),
    max_frames: int | None = typer.Option(None, min=1, help="Stop after this many frames."),
    json: bool = typer.Option(False, "--json", help="Print the summary as JSON."),
) -> None:
    """Run a detector on a video, a folder of images or a camera.

    Example: `edgedet stream street.mp4 --model yolox-nano.onnx --tracker bytetrack --save out.mp4 --jsonl out.jsonl`
    """
    import edgedet
    from edgedet.streaming.pipeline import stream
    from edgedet.streaming.sources.base import open_source

    named = {"--save": save, "--jsonl": jsonl, "--contact-sheet": contact_sheet}
    outputs = {option: path for option, path in named.items() if path is not None}
    _check_outputs(source, outputs)
    tally = _Tally(source)
    try:
        with ExitStack() as stack:
            frames = stack.enter_context(open_source(source))
            performance: Literal["latency", "throughput"] = "latency" if frames.live else "throughput"
            # A tracker uses faint objects, so it gets all that the file gives.
            floor = None if tracker else min_score
            detector = stack.enter_context(
                edgedet.load(
                    assets.named(model),
                    runtime=runtime,
                    device=device,
                    min_score=floor,
                    performance=performance,
                    inference_precision=inference_precision,
                )
            )
            tally.classes = names = detector.spec.classes
            sinks = [stack.enter_context(sink) for sink in _sinks(outputs, frames, names)]
            window = stack.enter_context(_window(source, names)) if show else None
            wanted = None if classes is None else [name.strip() for name in classes.split(",")]
            found = stream(frames, detector, tracker=tracker, min_score=min_score, classes=wanted, sinks=sinks)
            _watch(stack.enter_context(closing(found)), frames.frame_count, window, tally, max_frames)
    except KeyboardInterrupt:  # how a camera's stream ends
        _show(tally, json)
        raise
    _show(tally, json)


def _check_outputs(source: str, outputs: Mapping[str, Path]) -> None:
    """Refuse an output that would replace the source or another output."""
    taken = {Path(source).resolve(): "the source"}
    for option, path in outputs.items():
        if path.resolve() in taken:
            raise UsageError(f"{option} {path} is also {taken[path.resolve()]}; choose another name")
        taken[path.resolve()] = option


def _sinks(outputs: Mapping[str, Path], frames: Source, names: Sequence[str]) -> Iterator[Sink]:
    """The sinks asked for, each opened when it is taken."""
    from edgedet.streaming.sinks.contact_sheet import ContactSheetSink
    from edgedet.streaming.sinks.jsonl import JsonLinesSink
    from edgedet.streaming.sinks.video import VideoSink

    for option, path in outputs.items():
        if option == "--save":
            yield VideoSink(path, classes=names, fps=frames.fps)
        elif option == "--jsonl":
            yield JsonLinesSink(path, classes=names)
        else:
            yield ContactSheetSink(path, classes=names)


def _window(title: str, names: Sequence[str]) -> WindowSink:
    from edgedet.streaming.sinks.window import WindowSink

    return WindowSink(title, classes=names)


def _watch(
    found: Iterator[Found], frame_count: int | None, window: WindowSink | None, tally: _Tally, max_frames: int | None
) -> None:
    """Count what is found until the stream ends, max_frames are done or the window is closed."""
    limits = [limit for limit in (frame_count, max_frames) if limit is not None]
    total = min(limits, default=None)
    for frame, objects in console.track(tally.counting(islice(found, max_frames)), tally.source, total=total, rate_unit="fps"):
        if window is not None:
            window.write(frame, objects)
            if window.closed:
                return
    if frame_count is not None and total is not None and tally.frames < total:
        console.say(f"{tally.source}: {tally.frames} of {total} frames could be decoded; is the file whole?")


class _Tally:
    """What a stream has given so far."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.classes: Sequence[str] = ()
        self.frames, self.seconds = 0, 0.0
        self._objects: Counter[int] = Counter()
        self._tracks: int | None = None

    def counting(self, found: Iterator[Found]) -> Iterator[Found]:
        """The same frames and objects, counted and timed as they pass."""
        started_s = time.monotonic()
        for frame, objects in found:
            self.frames += 1
            self._objects.update(objects.labels.tolist())
            if objects.track_ids is not None:  # ids are given in order, so the highest is the number of tracks
                self._tracks = max(self._tracks or 0, objects.track_ids.max(initial=0).item())
            self.seconds = time.monotonic() - started_s
            yield frame, objects

    def summary(self) -> dict[str, Any]:
        """The figures as plain values; an object counts in every frame it is seen in. tracks: None without a tracker."""
        from edgedet.streaming.overlay import class_name

        return {
            "source": self.source,
            "frames": self.frames,
            "seconds": round(self.seconds, 3),
            "fps": round(self.frames / self.seconds, 2) if self.seconds else None,
            "objects": {class_name(self.classes, label): count for label, count in self._objects.most_common()},
            "tracks": self._tracks,
        }


def _show(tally: _Tally, json: bool) -> None:
    """Print the summary as a table or as JSON."""
    figures = tally.summary()
    if json:
        console.print_json(figures)
        return
    title = f"{tally.source}: {tally.frames} frames in {tally.seconds:.1f} s"
    title += f", {figures['fps']:.1f} fps" if figures["fps"] else ""
    title += "" if figures["tracks"] is None else f", {figures['tracks']} tracks"
    rows = [(name, str(count), f"{count / tally.frames:.2f}") for name, count in figures["objects"].items()]
    print(title)
    if rows:
        console.print_table(("class", "seen", "a frame"), rows)
