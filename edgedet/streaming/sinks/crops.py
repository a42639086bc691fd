"""Crops: a JPEG of each track's best view, or of each object."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from edgedet import artifact
from edgedet.detections import Detections
from edgedet.errors import OutputError
from edgedet.streaming.frame import Frame
from edgedet.streaming.overlay import class_name
from edgedet.streaming.sinks.base import Sink

LIMIT = 10_000  # files in the folder; the oldest make room
MARGIN = 0.05  # of the box's sides, around it
_BETTER = 1.2  # a view is written again when it is better by this factor: each write costs an encoding
_KEPT_S = 10.0  # a track not seen for so long is over
_SINCE_1970 = 1e8  # times of live sources are above, of files below
_OURS = re.compile(r"\d[\d.TZ-]*s?_.+_\d+\.jpg")


def open(target: str, *, classes: Sequence[str], fps: float | None, live: bool = False) -> CropsSink:
    """A sink that writes crops into the folder `target`."""
    return CropsSink(Path(target), classes=classes)


@dataclass
class _View:
    """The best view of a track so far: its quality, its file, when the track was last seen."""

    quality: float
    path: Path
    seen_s: float


class CropsSink(Sink):
    """Writes a JPEG a track, replaced as better views come, or a JPEG an object where no tracker ran.

    A view is the better the surer the detector and the larger the box; one that the frame's edge cuts counts
    a quarter. Names are `TIME_CLASS_ID.jpg`, so they sort by the time a track was first seen. Each is whole at
    any time; the folder keeps the newest `limit` of them and what else is in it.
    """

    def __init__(self, folder: Path, *, classes: Sequence[str], limit: int = LIMIT) -> None:
        if folder.exists() and not folder.is_dir():
            raise OutputError(f"{folder}: is a file; crops are written into a folder")
        with artifact.scratch(folder):  # proves that it can be written
            pass
        self._folder, self._classes, self._limit = folder, classes, limit
        self._paths = deque(sorted(path for path in folder.iterdir() if _OURS.fullmatch(path.name)))
        self._views: dict[int, _View] = {}

    def write(self, frame: Frame, detections: Detections) -> None:
        """Write the crops that are new or better."""
        qualities = _qualities(detections, frame.image.shape[:2])
        for i in range(len(detections)):
            name = class_name(self._classes, int(detections.labels[i]))
            if detections.track_ids is None:
                self._add(_path(self._folder, frame.time_s, name, i), _crop(frame.image, detections.boxes[i]))
            else:
                self._improve(int(detections.track_ids[i]), name, qualities[i], frame, detections.boxes[i])
        over = [track_id for track_id, view in self._views.items() if frame.time_s - view.seen_s > _KEPT_S]
        for track_id in over:
            del self._views[track_id]

    def _improve(self, track_id: int, name: str, quality: float, frame: Frame, box: np.ndarray) -> None:
        view = self._views.get(track_id)
        if view is None:
            view = self._views[track_id] = _View(quality, _path(self._folder, frame.time_s, name, track_id), frame.time_s)
            self._add(view.path, _crop(frame.image, box))
        elif quality > _BETTER * view.quality:
            self._save(view.path, _crop(frame.image, box))
            view.quality = quality
        view.seen_s = frame.time_s

    def _add(self, path: Path, image: np.ndarray) -> None:
        """Write a new file; the oldest ones make room."""
        self._save(path, image)
        self._paths.append(path)
        while len(self._paths) > self._limit:
            self._paths.popleft().unlink(missing_ok=True)

    def _save(self, path: Path, image: np.ndarray) -> None:
        done, data = cv2.imencode(".jpg", image)
        if not done:
            raise OutputError(f"{path}: a crop of {image.shape} could not be encoded as JPEG")
        with artifact.output_errors(path):
            part = path.with_suffix(".part")
            part.write_bytes(data.tobytes())
            part.replace(path)

    def __enter__(self) -> CropsSink:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Nothing is open: each crop was whole when it was written."""


def _qualities(detections: Detections, size_hw: tuple[int, int]) -> np.ndarray:
    """(N,) how good a view of each object is: score × area in pixels, a quarter where the frame's edge cuts it."""
    sides = detections.boxes[:, 2:] - detections.boxes[:, :2]
    cut = (detections.boxes[:, :2] <= 1).any(1) | (detections.boxes[:, 2:] >= np.array(size_hw[::-1]) - 1).any(1)
    return detections.scores * sides.prod(1) * np.where(cut, 0.25, 1.0)


def _crop(image: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The box (4,) xyxy with a margin, as far as it lies in the image; a pixel at least."""
    margin = MARGIN * (box[2:] - box[:2])
    limits = np.array(image.shape[1::-1])
    left, top = np.clip(np.floor(box[:2] - margin), 0, limits - 1).astype(int)
    right, bottom = np.maximum(np.clip(np.ceil(box[2:] + margin), 0, limits).astype(int), (left + 1, top + 1))
    return image[top:bottom, left:right]


def _path(folder: Path, time_s: float, name: str, number: int) -> Path:
    """Where the crop of an object first seen at this time goes, as in `00012.400s_person_3.jpg`."""
    if time_s < _SINCE_1970:
        when = f"{time_s:09.3f}s"
    else:
        when = time.strftime("%Y-%m-%dT%H-%M-%S", time.gmtime(time_s)) + f".{int(time_s % 1 * 1000):03}Z"
    return folder / f"{when}_{re.sub(r'[^A-Za-z0-9-]+', '-', name)}_{number}.jpg"
