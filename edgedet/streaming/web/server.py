"""The web server of `--serve`: the page, the pictures, the figures, in a thread of its own."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from types import TracebackType
from typing import TYPE_CHECKING

from edgedet.errors import OutputError, UsageError
from edgedet.streaming.sinks.base import Sink
from edgedet.streaming.status import StreamStatus
from edgedet.streaming.web.guard import Application, Guard
from edgedet.streaming.web.site import Answer, Site

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

_MOST_CONNECTIONS = 256  # more are answered 503
_PATIENCE_S = 2  # how long closing waits for a client that does not read
_THREAD = "edgedet-web"


class WebServer:
    """Serves what the streams find, from entering to leaving.

    status: asked for every stream's figures, from the server's thread, at most
    twice a second. host: a name or address of this machine; one that other
    machines reach needs a token, which viewers must then give. port: 0 takes a
    free one; `url` says which. Refused with UsageError: a port that is taken,
    a host that is none of this machine's, an open host without a token.
    """

    def __init__(
        self,
        status: Callable[[], Sequence[StreamStatus]],
        *,
        host: str = "127.0.0.1",
        port: int,
        token: str | None = None,
    ) -> None:
        if not 0 <= port <= 65535:
            raise UsageError(f"--serve {port}: ports go from 0 to 65535; 8080 is a usual one")
        if token is not None and (not token or not token.isascii() or not token.isprintable() or " " in token):
            raise UsageError("--token must be letters, digits and signs without spaces; make one with `openssl rand -hex 16`")
        self._host, self._port, self._token = host, port, token
        self._site = Site(status)
        self._names: set[str] = set()
        self._running = ExitStack()
        self.url = ""

    def sink(self, name: str, *, classes: Sequence[str]) -> Sink:
        """A sink for one stream, under the name its status has; it keeps the latest frame for whoever looks."""
        if name in self._names:
            raise UsageError(f"two streams are named {name!r}; give each its own name")
        self._names.add(name)
        return self._site.view(name, classes=classes)

    def __enter__(self) -> WebServer:
        with ExitStack() as opening:
            opening.callback(self._site.close)
            listening = opening.enter_context(listen(self._host, self._port, self._token))
            port = listening.getsockname()[1]
            self.url = f"http://{f'[{self._host}]' if ':' in self._host else self._host}:{port}/"
            application = Guard(_application(self._site), token=self._token, port=port)
            opening.enter_context(_quiet(self._site))
            opening.enter_context(_Thread(application, listening, self._site))
            self._running = opening.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._running.close()


class _Thread:
    """A thread in which uvicorn serves; entered once it does."""

    def __init__(self, application: Application, listening: socket.socket, site: Site) -> None:
        import uvicorn

        config = uvicorn.Config(
            application,
            log_config=None,
            access_log=False,
            ws="none",
            lifespan="on",
            proxy_headers=False,
            server_header=False,
            limit_concurrency=_MOST_CONNECTIONS,
            timeout_graceful_shutdown=_PATIENCE_S,
        )
        self._server, self._site = uvicorn.Server(config), site
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listening]}, name=_THREAD, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise OutputError("the web server could not start; see the messages above")
            time.sleep(0.005)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._site.closing = self._server.should_exit = True
        self._thread.join()


@contextmanager
def _quiet(site: Site) -> Iterator[None]:
    """Of what uvicorn prints, defects alone: not that a stranger sent junk, nor that closing cut a viewer off."""

    def worth_telling(record: logging.LogRecord) -> bool:
        return record.threadName != _THREAD or (record.levelno >= logging.ERROR and not site.closing)

    logger = logging.getLogger("uvicorn.error")
    logger.addFilter(worth_telling)
    try:
        yield
    finally:
        logger.removeFilter(worth_telling)


def listen(host: str, port: int, token: str | None) -> socket.socket:
    """A listening socket; whether the host is open to others is judged by the address it stands for."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise UsageError(f"--host {host}: is no name or address; give 127.0.0.1, or 0.0.0.0 for every network") from error
    if token is None and not ipaddress.ip_address(address[0]).is_loopback:
        raise UsageError(
            f"--host {host} lets other machines see the cameras; set --token too (`openssl rand -hex 16` makes one)"
        )
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(64)
    except OSError as error:
        listening.close()
        raise UsageError(
            f"--serve {port} on {host}: {error.strerror or error}; choose another port, or 0 for any that is free"
        ) from error
    return listening


def _application(site: Site) -> Application:
    """Starlette's routes to the site's endpoints; the site is kept watched while it runs."""
    from starlette.applications import Starlette
    from starlette.routing import Route

    endpoints = {
        "/": site.page,
        "/streams": site.streams,
        "/streams/{name:path}/live.jpg": site.live_picture,
        "/streams/{name:path}/live.mjpg": site.live_pictures,
        "/streams/{name:path}/snapshot.jpg": site.snapshot,
        "/metrics": site.metrics,
        "/healthz": site.healthz,
        "/events": site.events,
    }

    @asynccontextmanager
    async def lifespan(application: Starlette) -> AsyncIterator[None]:
        watching = asyncio.create_task(site.keep_watch())
        watching.add_done_callback(_tell_defect)
        yield
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching

    routes = [Route(path, _responding(endpoint)) for path, endpoint in endpoints.items()]
    return Starlette(routes=routes, lifespan=lifespan)


def _tell_defect(task: asyncio.Task[None]) -> None:
    """Print what ended a task that nobody waits for."""
    if not task.cancelled() and (error := task.exception()) is not None:
        task.get_loop().call_exception_handler({"message": "the web server's watch ended", "exception": error})


def _responding(endpoint: Callable[[Request], Awaitable[Answer]]) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint as Starlette takes it."""

    async def respond(request: Request) -> Response:
        from starlette.responses import Response, StreamingResponse

        answer = await endpoint(request)
        headers = dict(answer.headers)
        if isinstance(answer.body, bytes):
            return Response(answer.body, answer.status, headers, answer.media_type)
        if request.method == "HEAD":  # a body that nobody reads would never end
            return Response(b"", answer.status, headers, answer.media_type)
        return StreamingResponse(answer.body, answer.status, headers, answer.media_type)

    return respond
