"""A camera on the network: RTSP (over TCP), RTMP, or HTTP; a clip on a web server is a clip."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from urllib.parse import SplitResult, urlsplit

import cv2

from edgedet.errors import SourceError
from edgedet.streaming.refusal import why_refused
from edgedet.streaming.sources.base import Camera, Clip, Timeouts, one_thread, open_capture, public_name

LIVE = True
PORTS = {"rtsp": 554, "rtsps": 322, "rtmp": 1935, "http": 80, "https": 443}
_OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
_QUICK_OVER_TCP = "rtsp_transport;tcp|analyzeduration;200000"
"""FFmpeg's own choice looks at a stream for seconds before its first frame; a fifth of one is enough, and a camera that
needs more gets it through the environment: whatever is set there stays."""
_NO_STREAM = "the server gives no stream that can be opened; is its codec H.264, H.265 or MJPEG?"
_NO_FRAME = "opens but gives no frame that can be decoded; is its codec H.264, H.265 or MJPEG?"


def accepts(address: str) -> bool:
    """Whether the address is a URL of one of PORTS."""
    scheme, found, _ = address.partition("://")
    if not found or scheme.lower() not in PORTS:
        return False
    _split(address)
    return True


def open(address: str, timeouts: Timeouts) -> Camera | Clip:
    """The camera, its first frame decoded; its name is the address without the password.

    What an HTTP server holds as a file, so that its length is known, is not live: it ends.
    """
    parts, name = _split(address), public_name(address)
    _require_reachable(parts, name, timeouts.open_s)
    # Asked before, because OpenCV opens one address at a time: a camera that hangs here would hold up every other.
    if parts.scheme == "rtsp" and (reason := why_refused(parts, _port(parts), timeouts.open_s)):
        raise SourceError(f"{name}: {reason}")
    # FFmpeg knows a scheme by its small letters only.
    capture = _open(parts.scheme + address[len(parts.scheme) :], timeouts)
    if not capture.isOpened():
        raise SourceError(f"{name}: {why_refused(parts, _port(parts), min(timeouts.open_s, 2.0)) or _NO_STREAM}")
    if parts.scheme.startswith("http") and capture.get(cv2.CAP_PROP_FRAME_COUNT) > 0:
        return Clip(name, capture, no_frame=_NO_FRAME)
    return Camera(name, capture, no_frame=_NO_FRAME)


def _split(address: str) -> SplitResult:
    try:
        parts = urlsplit(address)
        if parts.hostname and parts.port != 0:
            return parts
    except ValueError:
        pass
    raise SourceError(
        f"{public_name(address)}: no host, or no port from 1 to 65535; write it as rtsp://host:554/path, "
        "and / ? # in a password as %2F %3F %23"
    )


def _port(parts: SplitResult) -> int:
    return parts.port or PORTS[parts.scheme]


def _open(address: str, timeouts: Timeouts) -> cv2.VideoCapture:
    """OpenCV's capture, open or not; RTSP over TCP unless the environment says otherwise."""
    # Longer than ours: after its own time-out OpenCV gives the same picture twice more as if it were new.
    read_ms = int(timeouts.read_s * 1000) + 1000
    options = {cv2.CAP_PROP_OPEN_TIMEOUT_MSEC: int(timeouts.open_s * 1000), cv2.CAP_PROP_READ_TIMEOUT_MSEC: read_ms}
    # FFmpeg's threads each hold a frame back: at 10 frames a second eight of them give every picture .7 s late.
    options |= one_thread()
    os.environ.setdefault(_OPTIONS, _QUICK_OVER_TCP)
    return open_capture(address, backend=cv2.CAP_FFMPEG, options=options)


def _require_reachable(parts: SplitResult, name: str, timeout_s: float) -> None:
    """SourceError where nothing answers at the address: at once, and with the reason, which OpenCV does not tell."""
    try:
        with socket.create_connection((str(parts.hostname), _port(parts)), timeout=timeout_s) as connection:
            if parts.scheme == "http":  # any answer will do; HEAD begins no stream, which some cameras give to one client only
                connection.sendall(f"HEAD / HTTP/1.1\r\nHost: {parts.hostname}\r\nConnection: close\r\n\r\n".encode())
                with suppress(ConnectionError):
                    connection.recv(1)
    except (socket.gaierror, UnicodeError) as error:  # the latter: a name that no host can have
        raise SourceError(f"{name}: there is no host {parts.hostname!r}; check the address") from error
    except TimeoutError as error:
        raise SourceError(
            f"{name}: {parts.hostname} does not answer within {timeout_s:g} s; does it hang, is it on, and on this net?"
        ) from error
    except OSError as error:
        raise SourceError(
            f"{name}: {parts.hostname} takes no connection ({error.strerror or error}); is the camera up?"
        ) from error
