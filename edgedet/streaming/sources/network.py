"""A camera on the network: RTSP (over TCP), RTMP, or HTTP; a clip on a web server is a clip."""

from __future__ import annotations

import os
import re
import socket
from urllib.parse import SplitResult, urlsplit, urlunsplit

import cv2

from edgedet.errors import SourceError
from edgedet.streaming.quiet import quiet_opencv
from edgedet.streaming.sources.base import Camera, Timeouts

LIVE = True
PORTS = {"rtsp": 554, "rtsps": 322, "rtmp": 1935, "http": 80, "https": 443}
_OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
_QUICK_OVER_TCP = "rtsp_transport;tcp|analyzeduration;500000"
"""FFmpeg's own choice looks at a stream for seconds before its first frame; half a second is enough, and a camera that
needs more gets it through the environment: whatever is set there stays."""


def accepts(address: str) -> bool:
    """Whether the address is a URL of one of PORTS."""
    return address.partition("://")[0].lower() in PORTS and "://" in address


def open(address: str, timeouts: Timeouts) -> Camera:
    """The camera, its first frame decoded; its name is the address without the password.

    What an HTTP server holds as a file, so that its length is known, is not live: it ends.
    """
    parts, name = _split(address), public_name(address)
    _require_reachable(parts, name, timeouts.open_s)
    capture = _open(address, timeouts)
    if not capture.isOpened():
        raise SourceError(f"{name}: {_refusal(parts, timeouts.open_s)}")
    camera = Camera(name, capture, no_frame="opens but gives no frame that can be decoded; is its codec H.264, H.265 or MJPEG?")
    count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if parts.scheme.lower().startswith("http") else 0
    if count > 0:
        camera.live, camera.frame_count = False, count
    return camera


def public_name(address: str) -> str:
    """The address without users and passwords, wherever in it they stand."""
    return re.sub(r"(?<=://)[^/\s\"]*@", "", address)


def _split(address: str) -> SplitResult:
    try:
        parts = urlsplit(address)
        if parts.hostname and parts.port != 0:
            return parts
    except ValueError:
        pass
    raise SourceError(f"{public_name(address)}: no host, or no port from 1 to 65535; write it as rtsp://host:554/path")


def _open(address: str, timeouts: Timeouts) -> cv2.VideoCapture:
    """OpenCV's capture, open or not; RTSP over TCP unless the environment says otherwise."""
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, int(timeouts.open_s * 1000), cv2.CAP_PROP_READ_TIMEOUT_MSEC]
    os.environ.setdefault(_OPTIONS, _QUICK_OVER_TCP)
    with quiet_opencv():
        # Longer than ours: after its own time-out OpenCV gives the same picture twice more as if it were new.
        return cv2.VideoCapture(address, cv2.CAP_FFMPEG, [*limits, int(timeouts.read_s * 1000) + 1000])


def _require_reachable(parts: SplitResult, name: str, timeout_s: float) -> None:
    """SourceError where nothing answers at the address: at once, and with the reason, which OpenCV does not tell."""
    try:
        _connect(parts, timeout_s).close()
    except socket.gaierror as error:
        raise SourceError(f"{name}: there is no host {parts.hostname!r}; check the address") from error
    except TimeoutError as error:
        raise SourceError(
            f"{name}: {parts.hostname} does not answer within {timeout_s:g} s; is it on, and on this net?"
        ) from error
    except OSError as error:
        raise SourceError(
            f"{name}: {parts.hostname} takes no connection ({error.strerror or error}); is the camera up?"
        ) from error


def _connect(parts: SplitResult, timeout_s: float) -> socket.socket:
    return socket.create_connection((str(parts.hostname), parts.port or PORTS[parts.scheme.lower()]), timeout=timeout_s)


def _refusal(parts: SplitResult, timeout_s: float) -> str:
    """Why a server that answers gave no stream, as far as it tells when asked without a login."""
    status = _status(parts, min(timeout_s, 2.0))
    if status == 401:
        return "the login was refused" if parts.username else "wants a login; write it as scheme://user:password@host/path"
    if status is not None and status >= 400:
        return f"the server answers {status}; check the path {parts.path or '/'!r}"
    return "the server gives no stream that can be opened; is its codec H.264, H.265 or MJPEG?"


def _status(parts: SplitResult, timeout_s: float) -> int | None:
    """The status code of an RTSP or HTTP server's answer; None where it gives none."""
    address = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
    questions = {
        "rtsp": f"DESCRIBE {address} RTSP/1.0\r\nCSeq: 1\r\nAccept: application/sdp\r\n\r\n",
        "http": f"HEAD {target} HTTP/1.1\r\nHost: {parts.hostname}\r\nConnection: close\r\n\r\n",
    }
    question = questions.get(parts.scheme.lower())
    if question is None:
        return None
    try:
        with _connect(parts, timeout_s) as connection:
            connection.sendall(question.encode())
            matched = re.match(rb"(?:RTSP|HTTP)/\d\.\d (\d{3})", connection.recv(64))
            return int(matched[1]) if matched else None
    except OSError:
        return None
