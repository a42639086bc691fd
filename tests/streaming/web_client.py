"""A plain HTTP client for the tests of the web server: one request a connection, the answer as it is."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np


@dataclass(frozen=True)
class Reply:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def image(self) -> np.ndarray:
        """(H, W, 3) uint8 BGR."""
        assert self.headers["content-type"] == "image/jpeg", self
        return cv2.imdecode(np.frombuffer(self.body, np.uint8), cv2.IMREAD_COLOR)


def connect(url: str) -> http.client.HTTPConnection:
    address = urlsplit(url)
    return http.client.HTTPConnection(address.hostname, address.port, timeout=10)


def get(url: str, path: str, *, method: str = "GET", **headers: str) -> Reply:
    """The answer to one request; `accept_language="de"` is sent as Accept-Language."""
    connection = connect(url)
    try:
        connection.request(method, path, headers={name.replace("_", "-").title(): value for name, value in headers.items()})
        answer = connection.getresponse()
        return Reply(answer.status, answer.headers, answer.read())
    finally:
        connection.close()
