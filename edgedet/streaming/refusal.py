"""Why a server that takes connections gives no stream: OpenCV does not tell, so the server is asked directly."""

from __future__ import annotations

import re
import socket
from base64 import b64encode
from urllib.parse import SplitResult, unquote, urlunsplit
from urllib.request import AbstractDigestAuthHandler, HTTPPasswordMgrWithDefaultRealm, Request, parse_http_list, parse_keqv_list

_METHODS = {"rtsp": ("DESCRIBE", "RTSP/1.0"), "http": ("GET", "HTTP/1.1")}


def why_refused(parts: SplitResult, port: int, timeout_s: float) -> str | None:
    """What the server has against it, and what to look at; None where it answers well, or cannot be asked.

    parts: the address, with its login. timeout_s: for the connection and for each of two answers.
    """
    if parts.scheme not in _METHODS:
        return None
    try:
        status, challenge = _ask(parts, port, timeout_s)
        if status == 401 and parts.username is not None:
            status, _ = _ask(parts, port, timeout_s, _credentials(parts, challenge))
    except TimeoutError:
        return "takes the connection but answers nothing; it hangs, or is something else than a camera"
    except (OSError, ValueError):  # the latter: a challenge that is not understood
        return None
    if status == 401:
        login = "wants a login; write it as scheme://user:password@host/path"
        return login if parts.username is None else "the login was refused; check user and password"
    if status is not None and status >= 400:
        return f"the server answers {status}; check the path {parts.path or '/'!r}"
    return None


def _ask(parts: SplitResult, port: int, timeout_s: float, credentials: str = "") -> tuple[int | None, str]:
    """The status code of the server's answer, None where it gives none, and the login that it wants."""
    method, protocol = _METHODS[parts.scheme]
    lines = [f"{method} {_target(parts)} {protocol}", "CSeq: 1", f"Host: {parts.hostname}", "Connection: close", credentials]
    with socket.create_connection((str(parts.hostname), port), timeout=timeout_s) as connection:
        connection.sendall("\r\n".join([*filter(None, lines), "", ""]).encode())
        answer = b""
        while b"\r\n\r\n" not in answer and len(answer) < 8192 and (more := connection.recv(2048)):
            answer += more
    head = answer.decode("latin-1")
    status = re.match(r"(?:RTSP|HTTP)/\d\.\d (\d{3})", head)
    # Of several, the safer one: FFmpeg takes Digest too where it is offered.
    challenges = sorted(re.findall(r"(?im)^WWW-Authenticate:\s*(.*?)\s*$", head), reverse=True)
    return (int(status[1]) if status else None), next(iter(challenges), "")


def _target(parts: SplitResult) -> str:
    """What a request of this protocol names: the whole address without its login, or the path."""
    if parts.scheme == "rtsp":
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    return urlunsplit(("", "", parts.path or "/", parts.query, ""))


def _credentials(parts: SplitResult, challenge: str) -> str:
    """The header that answers a server's challenge, Basic or Digest."""
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    kind, _, asked = challenge.partition(" ")
    if kind.lower() != "digest":
        return f"Authorization: Basic {b64encode(f'{user}:{password}'.encode()).decode()}"
    request = Request(f"http://{parts.hostname}/", method=_METHODS[parts.scheme][0])
    request.selector = _target(parts)
    known = HTTPPasswordMgrWithDefaultRealm()
    known.add_password(None, request.full_url, user, password)
    answer = AbstractDigestAuthHandler(known).get_authorization(request, parse_keqv_list(parse_http_list(asked)))
    return f"Authorization: Digest {answer}"
