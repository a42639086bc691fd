"""Print milliseconds a frame of every tracker for 10, 50 and 200 objects, and of looking for the camera's motion.

    python benchmarks/trackers.py

Objects move at constant speed through 1920x1080, one in fifty is missed a
frame, so that pairing, loss and recovery all take part. Median of 600 frames
after 60, of the quietest of five turns that the trackers take; one thread.
Floors: ByteTrack with 200 objects 1 ms, OC-SORT 1.5 ms, every tracker with 10
objects .15 ms; exit code 1 past one.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Iterator

os.environ["OMP_NUM_THREADS"] = "1"

import cv2
import numpy as np

from edgedet import console
from edgedet.detections import Detections
from edgedet.tracking.base import create, names
from edgedet.tracking.camera_motion import CameraMotion

COUNTS = (10, 50, 200)
FRAMES, WARM_UP, TURNS = 600, 60, 5
FLOORS_MS = {("bytetrack", 200): 1.0, ("ocsort", 200): 1.5, **{(name, 10): 0.15 for name in names()}}


def scene(count: int, seed: int = 0) -> Iterator[Detections]:
    """The detections of each frame: objects that move, are turned back at the border and now and then missed."""
    random = np.random.default_rng(seed)
    place, speed = random.uniform((0, 0), (1870, 980), (count, 2)), random.uniform(-90, 90, (count, 2))
    for _ in range(WARM_UP + FRAMES):
        place += speed / 30
        speed = np.where((place < 0) | (place > (1870, 980)), -speed, speed)
        boxes = np.concatenate([place, place + (50, 100)], axis=1) + random.normal(0, 1, (count, 4))
        seen = random.random(count) > 0.02
        yield Detections(boxes[seen].astype(np.float32), np.full(seen.sum(), 0.9, np.float32), np.zeros(seen.sum(), np.int32))


def frame_ms(name: str, frames: list[Detections]) -> float:
    """The median of a tracker's update, milliseconds a frame."""
    tracker, took_ms = create(name), []
    for i, detections in enumerate(frames):
        started = time.perf_counter()
        tracker.update(detections, i / 30)
        took_ms.append(1000 * (time.perf_counter() - started))
    return statistics.median(took_ms[WARM_UP:])


def camera_ms() -> float:
    """The median of `see` on a 1920x1080 picture, milliseconds a frame."""
    cv2.setNumThreads(1)
    noise = np.random.default_rng(0).uniform(0, 255, (60, 100, 3)).astype(np.uint8)
    picture, camera, took_ms = cv2.resize(noise, (1980, 1120)), CameraMotion(), []
    for i in range(60):
        moved = picture[i % 40 : 1080 + i % 40, i : 1920 + i]
        started = time.perf_counter()
        camera.since_last(moved)
        took_ms.append(1000 * (time.perf_counter() - started))
    return statistics.median(took_ms[5:])


def main() -> None:
    """Print the table; exit 1 past a floor."""
    times = {}
    for count in COUNTS:
        frames = list(scene(count))
        turns = [{name: frame_ms(name, frames) for name in names()} for _ in range(TURNS)]
        times |= {(name, count): min(turn[name] for turn in turns) for name in names()}
    rows = [[name, *(f"{times[name, count]:.3f}" for count in COUNTS)] for name in names()]
    rows.append(["camera motion, 1920x1080", *([f"{camera_ms():.3f}"] * len(COUNTS))])
    console.print_table(["ms a frame", *(f"{count} objects" for count in COUNTS)], rows)
    slow = [f"{name} with {count} objects" for (name, count), floor in FLOORS_MS.items() if times[name, count] > floor]
    if slow:
        sys.exit(f"slower than the floor: {', '.join(slow)}")


if __name__ == "__main__":
    main()
