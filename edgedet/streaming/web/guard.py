"""Who may see the page: the token's holders, and without a token only this machine and pages of its own.

A page of cameras on loopback is still in reach of every web site that its
user visits: by a name that resolves to 127.0.0.1 (DNS rebinding; the Host
header tells) and by pictures or requests embedded elsewhere (Sec-Fetch-Site
and Origin tell, Cross-Origin-Resource-Policy forbids).
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_YEAR_S = 365 * 86400  # a monitor on a wall stays logged in, also when the server starts again
_ALWAYS = {
    "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",  # an address may hold the token
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class Guard:
    """An ASGI application around another, which only requests that may pass reach.

    The token comes as `Authorization: Bearer`, or once as `?token=`, which
    sets a cookie: not the token itself, but what only its holder can make.
    """

    def __init__(self, application: Application, *, token: str | None, port: int) -> None:
        self._application, self._token = application, token
        # Cookies are shared by all ports of a host, so the name tells two servers apart.
        self._cookie_name = f"edgedet_{port}"
        self._cookie = hmac.digest((token or "").encode(), b"edgedet web", "sha256").hex()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        asked = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        extra = dict(_ALWAYS)
        if self._token is not None and _same(asked, self._token):
            extra["set-cookie"] = f"{self._cookie_name}={self._cookie}; Path=/; Max-Age={_YEAR_S}; HttpOnly; SameSite=Lax"
        refused = self._refusal(headers, asked)
        if refused is not None:
            await _answer(send, *refused, extra)
        elif "set-cookie" in extra and scope["path"] == "/":  # the token leaves the address bar
            await _answer(send, 303, "", {**extra, "location": "/"})
        else:
            await self._application(scope, receive, _adding(send, extra))

    def _refusal(self, headers: Mapping[str, str], asked: str) -> tuple[int, str] | None:
        """Status and text for a request that may not pass."""
        host = headers.get("host", "")
        if self._token is None and not _is_loopback(host):
            return 421, f"{host or 'no host'}: this page is only served as localhost or 127.0.0.1; other names need a token\n"
        if not _same_origin(headers, host):
            return 403, "this page is not for other sites\n"
        if self._token is not None and not self._holds_token(headers, asked):
            return 401, "a token is needed: open this address once with ?token=TOKEN, or send Authorization: Bearer TOKEN\n"
        return None

    def _holds_token(self, headers: Mapping[str, str], asked: str) -> bool:
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        cookies = [part.strip().partition("=") for part in headers.get("cookie", "").split(";")]
        cookie = next((value for name, _, value in cookies if name == self._cookie_name), "")
        bearer = bearer.strip() if scheme.lower() == "bearer" else ""
        token = self._token or ""
        return _same(bearer, token) | _same(asked, token) | _same(cookie, self._cookie)


def _same(given: str, secret: str) -> bool:
    """Whether they are equal, in a time that tells nothing of where they differ."""
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), secret.encode())


def _is_loopback(host: str) -> bool:
    """Whether a Host header names this machine from within, whatever its port."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _same_origin(headers: Mapping[str, str], host: str) -> bool:
    """Whether the request comes from a page of ours, or from no page: typed, a link followed, or another program."""
    if "origin" in headers and headers["origin"].partition("://")[2] != host:
        return False
    followed = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    return followed or headers.get("sec-fetch-site", "none") in ("none", "same-origin")


def _adding(send: Send, headers: Mapping[str, str]) -> Send:
    """The same, with these headers on the answer."""

    async def with_headers(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), *_raw(headers)]}
        await send(message)

    return with_headers


async def _answer(send: Send, status: int, text: str, headers: Mapping[str, str]) -> None:
    body = text.encode("utf-8", "replace")
    own = {"content-type": "text/plain; charset=utf-8", "content-length": str(len(body))}
    if status == 401:
        own["www-authenticate"] = "Bearer"
    await send({"type": "http.response.start", "status": status, "headers": _raw({**own, **headers})})
    await send({"type": "http.response.body", "body": body})


def _raw(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
