"""What viewers see of a stream: its latest frame, kept by a sink, encoded once for all of them and only when they ask."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from types import TracebackType

import cv2
import numpy as np

from edgedet.detections import Detections
from edgedet.streaming.frame import Event, Frame
from edgedet.streaming.overlay import class_name, draw
from edgedet.streaming.sinks.base import Sink
from edgedet.streaming.web.bulletin import Bulletin

INTERVAL_S = 0.09  # a picture is encoded at most this often, about ten times a second with the viewers' own pause
LIVE_WIDTH = 1280  # pixels; larger frames are shown smaller, a snapshot is whole
_LIVE_QUALITY, _FULL_QUALITY = 80, 92


@dataclass(frozen=True)
class Shot:
    """A frame with its objects; number: counts the frames of its view from 1."""

    frame: Frame
    detections: Detections
    number: int


@dataclass(frozen=True)
class Picture:
    """A JPEG. key: what it shows, the shot's number and the note on it. made_s: on `time.monotonic`."""

    key: tuple[int, str]
    jpeg: bytes
    made_s: float

    @property
    def tag(self) -> str:
        """An HTTP entity tag: differs where the picture does, also from one run of the server to the next."""
        return f'"{self.key[0]}-{self.made_s:.6f}"'


class View(Sink):
    """Keeps a stream's latest frame and objects; drawing and encoding are the viewers' matter."""

    def __init__(self, name: str, *, classes: Sequence[str], bulletin: Bulletin) -> None:
        self.name, self.classes = name, classes
        self.latest: Shot | None = None
        self._bulletin = bulletin

    def write(self, frame: Frame, detections: Detections) -> None:
        """Keep the frame in place of the one before."""
        self.latest = Shot(frame, detections, 1 if self.latest is None else self.latest.number + 1)

    def notice(self, event: Event) -> None:
        """Post the event for those who follow."""
        self._bulletin.post(event)

    def objects(self) -> Mapping[str, int]:
        """How many objects of each class the latest frame has."""
        labels = [] if self.latest is None else self.latest.detections.labels.tolist()
        return Counter(class_name(self.classes, label) for label in labels)

    def __enter__(self) -> View:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass  # the last frame stays to be seen


Render = Callable[[Shot, Sequence[str], str], bytes]


class Rendering:
    """One way of showing a view; all who ask while a picture is being made wait for the same one.

    Belongs to one event loop; the work is done in the executor.
    """

    def __init__(self, view: View, render: Render, executor: Executor) -> None:
        self._view, self._render, self._executor = view, render, executor
        self._picture: Picture | None = None
        self._making: asyncio.Task[None] | None = None

    async def picture(self, note: str = "") -> Picture | None:
        """The latest shot, or one with the same note shown less than INTERVAL_S ago; None before the first frame."""
        shot = self._view.latest
        if shot is not None and self._due((shot.number, note)):
            if self._making is None or self._making.done():
                self._making = asyncio.create_task(self._make(shot, note))
            await asyncio.shield(self._making)  # a viewer who leaves must not take it from the others
        return self._picture

    def _due(self, key: tuple[int, str]) -> bool:
        shown = self._picture
        if shown is None or shown.key[1] != key[1]:  # a picture with a wrong note must not be shown at all
            return True
        return shown.key != key and time.monotonic() - shown.made_s >= INTERVAL_S

    async def _make(self, shot: Shot, note: str) -> None:
        made_s, loop = time.monotonic(), asyncio.get_running_loop()
        jpeg = await loop.run_in_executor(self._executor, self._render, shot, self._view.classes, note)
        self._picture = Picture((shot.number, note), jpeg, made_s)


def live_jpeg(shot: Shot, classes: Sequence[str], note: str) -> bytes:
    """The frame with its objects, at most LIVE_WIDTH wide; with a note it is grey and dark, and bears the note."""
    image, detections = shot.frame.image, shot.detections
    scale = min(LIVE_WIDTH / image.shape[1], 1.0)
    if scale < 1:
        height = max(round(image.shape[0] * scale), 1)
        image = cv2.resize(image, (LIVE_WIDTH, height))  # linear: averaging areas takes five times as long
        detections = replace(detections, boxes=detections.boxes * np.float32(scale))
    if note:
        grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) // 3
        return _encode(draw(cv2.merge([grey] * 3), Detections.empty(), classes, lines=note.splitlines()), _LIVE_QUALITY)
    return _encode(draw(image, detections, classes), _LIVE_QUALITY)


def full_jpeg(shot: Shot, classes: Sequence[str], note: str) -> bytes:
    """The frame with its objects, at its own size."""
    return _encode(draw(shot.frame.image, shot.detections, classes), _FULL_QUALITY)


def plain_jpeg(shot: Shot, classes: Sequence[str], note: str) -> bytes:
    """The frame as it came, at its own size."""
    return _encode(shot.frame.image, _FULL_QUALITY)


def _encode(image: np.ndarray, quality: int) -> bytes:
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return data.tobytes()
