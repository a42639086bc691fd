"""A window on the screen."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from types import TracebackType

import cv2

from edgedet.detections import Detections
from edgedet.errors import OutputError
from edgedet.streaming.frame import Frame
from edgedet.streaming.overlay import Annotator
from edgedet.streaming.sinks.base import Sink

_ESCAPE = 27
_SIZED = 3  # frames at which the window is given its size: before it is on the screen it may miss that


def open(target: str, *, classes: Sequence[str], fps: float | None, live: bool = False) -> WindowSink:
    """A window with the title `target`."""
    return WindowSink(target, classes=classes)


class WindowSink(Sink):
    """Shows frames with their objects; `closed` once the viewer pressed q or Esc, or closed the window.

    Windows belong to the main thread: write to it from the loop over
    `stream(...)`, do not hand it to `stream` among the sinks.
    """

    def __init__(self, title: str, *, classes: Sequence[str]) -> None:
        # Without a display Qt ends the whole process, so look before.
        if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise OutputError("no display to show a window on (DISPLAY is not set); use --serve 8080 or --save out.mp4 instead")
        try:
            cv2.namedWindow(title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
        except cv2.error as error:
            raise OutputError(
                "this OpenCV has no windows; pip install opencv-python in place of opencv-python-headless"
            ) from error
        self._title, self._annotate, self._shown = title, Annotator(classes), 0
        self.closed = False

    def write(self, frame: Frame, detections: Detections) -> None:
        """Show the frame and look for a key."""
        image = self._annotate(frame.image, detections)
        if self._shown < _SIZED:
            cv2.resizeWindow(self._title, image.shape[1], image.shape[0])
        self._shown += 1
        cv2.imshow(self._title, image)
        key = cv2.waitKey(1) & 0xFF
        self.closed = key in (ord("q"), _ESCAPE) or cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) < 1

    def __enter__(self) -> WindowSink:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._title:
            cv2.destroyAllWindows()
            self._title = ""
