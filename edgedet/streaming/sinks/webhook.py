"""A webhook: JSON by HTTP POST."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from edgedet.detections import Detections
from edgedet.errors import OutputError, UsageError
from edgedet.streaming.frame import Event, Frame
from edgedet.streaming.sinks.base import Sink
from edgedet.streaming.sinks.jsonl import event_record, record
from edgedet.streaming.sinks.outbox import SIZE, Outbox
from edgedet.streaming.sources.base import public_name

TIMEOUT_S = 5.0
_TRY_AGAIN = (408, 425, 429)  # and every 5xx


def check(target: str) -> None:
    """Refuse what is no address to post to."""
    _split_login(target)


def open(target: str, *, classes: Sequence[str], fps: float | None, live: bool = False) -> WebhookSink:
    """A sink that posts to the URL `target`."""
    return WebhookSink(target, classes=classes)


class WebhookSink(Sink):
    """Posts one JSON object a request: what a JSON line holds, of frames and of events.

    Frames without objects are not posted, but the first one after objects: it says that they are gone. A server
    that is absent, hangs or answers 5xx is tried again; another refusal gives the message up. At the start nothing
    is sent, so an absent server is no error. What is told on stderr names the host
    alone: the path of a webhook is often its password.
    """

    def __init__(self, url: str, *, classes: Sequence[str], timeout_s: float = TIMEOUT_S, size: int = SIZE) -> None:
        self._url, self._headers = _split_login(url)
        self._classes, self._timeout_s = classes, timeout_s
        self._opener = urllib.request.build_opener(_NoRedirect)
        self._outbox = Outbox(_shown(self._url), self._post, size=size)
        self._objects_there = False

    @property
    def dropped(self) -> int:
        """Messages given up."""
        return self._outbox.dropped

    def write(self, frame: Frame, detections: Detections) -> None:
        """Send the frame's record."""
        if len(detections) or self._objects_there:
            self._outbox.put(json.dumps(record(frame, detections, self._classes)).encode())
        self._objects_there = bool(len(detections))

    def notice(self, event: Event) -> None:
        """Send the event's record."""
        self._outbox.put(json.dumps(event_record(event)).encode())

    def _post(self, body: bytes) -> None:
        """One request; OSError where the server may take it later, OutputError where it never will."""
        try:
            with self._opener.open(urllib.request.Request(self._url, body, self._headers), timeout=self._timeout_s):
                pass
        except urllib.error.HTTPError as answer:
            answer.close()
            if answer.code >= 500 or answer.code in _TRY_AGAIN:
                raise OSError(f"the server answers {answer.code}") from answer
            raise OutputError(f"the server refuses messages ({answer.code} {answer.reason}); check the address") from answer
        except urllib.error.URLError as error:
            raise OSError(f"no answer ({getattr(error.reason, 'strerror', None) or error.reason})") from error
        except HTTPException as error:
            raise OSError(f"no HTTP answer ({type(error).__name__})") from error

    def __enter__(self) -> WebhookSink:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._outbox.close()


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Redirects become errors: urllib would follow them with a GET, and the message would be lost."""

    def redirect_request(self, *arguments: Any) -> None:
        return None


def _split_login(url: str) -> tuple[str, dict[str, str]]:
    """The address without user and password, and the headers of a request with them."""
    headers = {"Content-Type": "application/json", "User-Agent": "edgedet"}
    try:
        parts = urlsplit(url)
        host = parts.hostname and parts.netloc.rpartition("@")[2]
        _ = parts.port
    except ValueError as error:
        raise UsageError(f"{public_name(url)}: not a URL; a webhook is http://HOST[:PORT]/PATH") from error
    if parts.scheme not in ("http", "https") or not host:
        raise UsageError(f"{public_name(url)}: a webhook is http://HOST/PATH or https://HOST/PATH")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise UsageError(f"{public_name(url)}: a URL has neither spaces nor accents; write them as %20 and the like")
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Authorization"] = "Basic " + base64.b64encode(login.encode()).decode()
    return urlunsplit(parts._replace(netloc=host)), headers


def _shown(url: str) -> str:
    """The address as far as it is no secret: scheme, host and port."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}" + ("/…" if parts.path.strip("/") or parts.query else "")
