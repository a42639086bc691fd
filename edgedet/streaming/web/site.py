"""What the server answers, address by address.

    /                              the page
    /streams                       every stream's figures and the latest events, JSON
    /streams/NAME/live.jpg         the picture of now, at most 1280 wide; If-None-Match gives 304; 503 while the stream is out
    /streams/NAME/live.mjpg        the same as a stream of pictures; while the stream is out a dark one that says so
    /streams/NAME/snapshot.jpg     the latest frame at its own size; ?boxes=0 without what is drawn on it; 503 as above
    /metrics                       Prometheus
    /healthz                       200 while a stream gives results, else 503; ?streams=all: while none is out for a minute
    /events                        server-sent events

The page asks for `live.jpg` again and again. A browser opens six connections
to a server, over all its tabs; a connection held for each stream would leave
the seventh without a picture and a stopped one looking live.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from importlib import resources
from typing import TYPE_CHECKING, Any

from edgedet.streaming.status import StreamStatus
from edgedet.streaming.web import view as views
from edgedet.streaming.web.bulletin import Bulletin, as_message
from edgedet.streaming.web.metrics import exposition
from edgedet.streaming.web.standing import Standing, Watch, health
from edgedet.streaming.web.view import Picture, Rendering, View

if TYPE_CHECKING:
    from starlette.requests import Request

TICK_S = 0.1  # how often a stream of pictures or events looks for the next
_HEARTBEAT_S = 10.0  # a proxy between may close what is silent for longer
_LATEST_EVENTS = 20
_RENDERS = {"live": views.live_jpeg, "boxes": views.full_jpeg, "plain": views.plain_jpeg}


@dataclass(frozen=True)
class Answer:
    """What goes back: bytes, or an iterator of them that lasts as long as the client."""

    body: bytes | AsyncIterator[bytes]
    media_type: str
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


class Site:
    """The streams' views and figures, and an endpoint an address; all but `view` runs on the server's event loop."""

    def __init__(self, status: Callable[[], Sequence[StreamStatus]]) -> None:
        self._watch = Watch(status)
        self._bulletin = Bulletin()
        self._views: dict[str, View] = {}
        self._renderings: dict[tuple[str, str], Rendering] = {}
        self._executor = ThreadPoolExecutor(1, "edgedet-web-encode")
        self.closing = False

    def view(self, name: str, *, classes: Sequence[str]) -> View:
        """A new view, of the stream of this name."""
        self._views[name] = View(name, classes=classes, bulletin=self._bulletin)
        return self._views[name]

    def close(self) -> None:
        """End the thread that encodes."""
        self._executor.shutdown()

    async def keep_watch(self) -> None:
        """Look at the streams every second, so that `since when` is known to whoever comes later."""
        while True:
            self._watch.standings()
            await asyncio.sleep(1)

    async def page(self, request: Request) -> Answer:
        """The one page."""
        text, policy = page()
        return Answer(text, "text/html", headers={"content-security-policy": policy})

    async def streams(self, request: Request) -> Answer:
        """Every stream's standing, and the latest events."""
        found = [
            {**standing.as_json(), "classes": view.objects() if view else {}, "picture": bool(view and view.latest)}
            for standing in self._watch.standings()
            for view in [self._views.get(standing.status.name)]
        ]
        events = self._bulletin.after(self._bulletin.count - _LATEST_EVENTS)
        return _json({"time_s": round(time.time(), 3), "streams": found, "events": events})

    async def live_picture(self, request: Request) -> Answer:
        """One picture of now; 304 where the client has it."""
        picture = await self._picture(request, "live")
        if isinstance(picture, Answer):
            return picture
        if request.headers.get("if-none-match") == picture.tag:
            return Answer(b"", "image/jpeg", 304, {"etag": picture.tag})
        return Answer(picture.jpeg, "image/jpeg", headers={"etag": picture.tag})

    async def live_pictures(self, request: Request) -> Answer:
        """Pictures for as long as the client wants them; of a stream that is out, a dark one that says so."""
        rendering = self._rendering(request, "live")
        if isinstance(rendering, Answer):
            return rendering
        if await rendering.picture(self._note(request)) is None:
            return _absent("no frame has come yet")
        parts = self._while_wanted(request, partial(self._next_part, rendering, request, [""]), b"")
        return Answer(parts, "multipart/x-mixed-replace; boundary=frame")

    async def snapshot(self, request: Request) -> Answer:
        """The latest frame whole."""
        plain = request.query_params.get("boxes", "1") in ("0", "false", "no")
        picture = await self._picture(request, "plain" if plain else "boxes")
        return picture if isinstance(picture, Answer) else Answer(picture.jpeg, "image/jpeg")

    async def metrics(self, request: Request) -> Answer:
        """All figures for Prometheus."""
        return Answer(*exposition(self._watch.standings(), request.headers.get("accept", "")))

    async def healthz(self, request: Request) -> Answer:
        """Whether all is well, and what is not."""
        well, troubles = health(self._watch.standings(), every=request.query_params.get("streams") == "all")
        return _json({"healthy": well, "troubles": troubles}, status=200 if well else 503)

    async def events(self, request: Request) -> Answer:
        """Events as they come; after a break the client says which was its last."""
        last, count = request.headers.get("last-event-id", ""), self._bulletin.count
        known = int(last) if last.isdecimal() and len(last) < 20 else count
        seen = [known if known <= count else 0]  # ahead of ours: the clock was set back between two runs, all are new

        async def news() -> bytes:
            entries = self._bulletin.after(seen[0])
            seen[0] = entries[-1]["id"] if entries else seen[0]
            return b"".join(map(as_message, entries))

        return Answer(self._while_wanted(request, news, b": still here\n\n"), "text/event-stream")

    async def _picture(self, request: Request, kind: str) -> Picture | Answer:
        """The picture of now; refused of a stream that is out, because it would be an old one."""
        rendering = self._rendering(request, kind)
        if isinstance(rendering, Answer):
            return rendering
        if note := self._note(request):
            return _absent(note.replace("\n", ": "))
        return await rendering.picture() or _absent("no frame has come yet")

    async def _next_part(self, rendering: Rendering, request: Request, shown: list[str]) -> bytes:
        """The next picture as a part of a multipart answer; nothing where it is the one shown."""
        picture = await rendering.picture(self._note(request))
        if picture is None or picture.tag == shown[0]:
            return b""
        shown[0] = picture.tag
        return b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%b\r\n" % (len(picture.jpeg), picture.jpeg)

    async def _while_wanted(self, request: Request, news: Callable[[], Any], heartbeat: bytes) -> AsyncIterator[bytes]:
        """What is new, every TICK_S, until the client leaves or the server closes."""
        sent_at = time.monotonic()
        while not self.closing and not await request.is_disconnected():
            part = await news()
            if not part and time.monotonic() - sent_at > _HEARTBEAT_S:
                part = heartbeat
            if part:
                sent_at = time.monotonic()
                yield part
            await asyncio.sleep(TICK_S)

    def _rendering(self, request: Request, kind: str) -> Rendering | Answer:
        """The way of showing the stream that the address names, or the answer that there is none."""
        name = request.path_params["name"]
        view = self._views.get(name)
        if view is None:
            return Answer(f"no stream named {name!r}; there are: {', '.join(self._views)}\n".encode(), "text/plain", 404)
        key = (name, kind)
        if key not in self._renderings:
            self._renderings[key] = Rendering(view, _RENDERS[kind], self._executor)
        return self._renderings[key]

    def _note(self, request: Request) -> str:
        """What a picture of the stream must say so as not to look live: nothing while it is."""
        name = request.path_params["name"]
        standing = next((s for s in self._watch.standings() if s.status.name == name), None)
        return "" if standing is None else _note(standing)


def _note(standing: Standing) -> str:
    """Two lines: the state since when, and the reason. The text stays the same while the state does."""
    status = standing.status
    if status.state in ("online", "ended") and not standing.stalled and not standing.given_up:
        return ""
    state = "NO NEW RESULTS" if standing.stalled else "GIVEN UP" if standing.given_up else status.state.upper()
    began_s = time.time() - (standing.silent_s if standing.stalled else standing.state_s)
    since = time.strftime("%Y-%m-%d %H:%M", time.localtime(began_s))  # by the minute: seconds would flicker
    return f"{state} since {since}" + (f"\n{status.reason}" if status.reason else "")


def page() -> tuple[bytes, str]:
    """The page with its style and script inside it, and the policy that lets the browser run these and nothing else."""
    folder = resources.files("edgedet.streaming.web")
    parts = {name: (folder / f"page.{name}").read_text(encoding="utf-8") for name in ("html", "css", "js")}
    text = parts["html"].replace("/* page.css */", parts["css"]).replace("/* page.js */", parts["js"])
    policy = (
        f"default-src 'none'; style-src {_hash(parts['css'])}; script-src {_hash(parts['js'])}; connect-src 'self'; "
        "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return text.encode(), policy


def _hash(text: str) -> str:
    """A source expression for an inline element with just this text (Content Security Policy 3, 2.3.1)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _json(value: Any, *, status: int = 200) -> Answer:
    return Answer(json.dumps(value, allow_nan=False).encode(), "application/json", status)


def _absent(why: str) -> Answer:
    return Answer(f"{why}\n".encode(), "text/plain", 503)
