"""`edgedet track`: detections that another program wrote, given ids that last."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from edgedet import console
from edgedet.errors import DataError, UsageError

if TYPE_CHECKING:
    import numpy as np

    from edgedet.detections import Detections
    from edgedet.streaming.sources.base import Source
    from edgedet.tracking.base import Tracker


def command(
    detections: Path = typer.Option(..., help="Detections as MOTChallenge text: frame, id, left, top, width, height, score."),
    out: Path = typer.Option(..., help="Write the tracks here, as MOTChallenge text."),
    frames: str | None = typer.Option(
        None, help="How many frames there are, or the video or folder that holds them. Default: up to the last detection."
    ),
    tracker: str = typer.Option(
        "sort", help="sort, bytetrack, ocsort or botsort; sort heeds no scores, botsort looks at the frames."
    ),
    fps: float | None = typer.Option(None, help="Frames a second. Default: the video's own, else 25."),
    min_score: float | None = typer.Option(None, help="The score that starts a track. Default: the tracker's; sort's is none."),
    json: bool = typer.Option(False, "--json", help="Print the summary as JSON."),
) -> None:
    """Track the detections of a file, without a detector: for comparing trackers, or another program's detections.

    Example: `edgedet track --detections det/det.txt --frames img1 --out mot.txt`
    """
    from edgedet import artifact
    from edgedet.tracking import mot
    from edgedet.tracking.base import create

    if out.resolve() == detections.resolve():
        raise UsageError(f"--out {out} is also --detections; choose another name")
    if out.is_dir():
        raise UsageError(f"--out {out} is a folder; name a file in it")
    if fps is not None and not 0 < fps < float("inf"):
        raise UsageError(f"--fps {fps:g} is no frame rate; give frames a second, such as 25")
    making = create(tracker, min_score=min_score)
    found = mot.read(detections)
    _warn_of_scores(detections, tracker, mot.score_range(found))
    started_s = time.monotonic()
    with ExitStack() as stack:
        count, source = _frames(frames, max(found))
        if source is not None:
            stack.enter_context(source)
        if count < max(found):
            raise DataError(f"{detections}: has objects in frame {max(found)}, but --frames {frames} has {count}")
        rate = fps or (source.fps if source is not None else None) or 25.0
        pictures = _pictures(making, tracker, source)
        tracks = list(_tracks(making, found, console.track(range(1, count + 1), str(detections)), pictures, rate))
    if len(tracks) < count:
        console.say(f"{frames}: {len(tracks)} of {count} frames could be decoded; is the file whole?")
    artifact.write_text(out, "".join(f"{line}\n" for number, objects in tracks for line in mot.lines(number, objects)))
    _show(out, tracks, time.monotonic() - started_s, json)


def _warn_of_scores(path: Path, tracker: str, scores: tuple[float, float]) -> None:
    """Say where scores are of another kind than the trackers' thresholds."""
    if tracker != "sort" and not 0 <= scores[0] <= scores[1] <= 1:
        console.say(f"{path}: scores lie between {scores[0]:g} and {scores[1]:g}; {tracker} expects them between 0 and 1")


def _frames(frames: str | None, last: int) -> tuple[int, Source | None]:
    """How many frames there are, and where their pictures are if that was said."""
    from edgedet.streaming.sources.base import open_source

    if frames is None:
        return last, None
    if frames.isdecimal():
        return int(frames), None
    source = open_source(frames)
    if source.live or source.frame_count is None:
        raise UsageError(f"--frames {frames} is no recording; give a video file, a folder of images, or their number")
    return source.frame_count, source


def _pictures(tracker: Tracker, name: str, source: Source | None) -> Iterator[np.ndarray | None]:
    """The picture of each frame, for a tracker that looks at them; None for each otherwise."""
    from edgedet.tracking.base import SeeingTracker

    if not isinstance(tracker, SeeingTracker):
        return repeat(None)
    if source is None:
        console.say(f"{name} looks at the pictures; without --frames VIDEO or a folder of images the camera counts as still")
        return repeat(None)
    return (frame.image for frame in source)


def _tracks(
    tracker: Tracker,
    found: Mapping[int, Detections],
    numbers: Iterator[int],
    pictures: Iterator[np.ndarray | None],
    fps: float,
) -> Iterator[tuple[int, Detections]]:
    """Every frame's number and its tracked objects."""
    from edgedet.detections import Detections
    from edgedet.tracking.base import SeeingTracker

    for number, picture in zip(numbers, pictures):
        if picture is not None and isinstance(tracker, SeeingTracker):
            tracker.see(picture)
        yield number, tracker.update(found.get(number, Detections.empty()), (number - 1) / fps)


def _show(out: Path, tracks: list[tuple[int, Detections]], seconds: float, json: bool) -> None:
    """Print what was written, as a line or as JSON."""
    ids = {track_id for _, objects in tracks if objects.track_ids is not None for track_id in objects.track_ids.tolist()}
    figures = {
        "out": str(out),
        "frames": len(tracks),
        "tracks": len(ids),
        "objects": sum(len(objects) for _, objects in tracks),
        "ms_a_frame": round(1000 * seconds / len(tracks), 3),
    }
    if json:
        console.print_json(figures)
    else:
        print(f"{out}: {figures['tracks']} tracks, {figures['objects']} boxes in {figures['frames']} frames")
