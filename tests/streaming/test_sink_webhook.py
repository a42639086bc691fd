"""The webhook against a real HTTP server that refuses, hangs, fails and recovers."""

from __future__ import annotations

import base64
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from edgedet.detections import Detections
from edgedet.streaming.frame import Event, Frame
from edgedet.streaming.sinks import outbox
from edgedet.streaming.sinks.base import open_sink
from edgedet.streaming.sinks.webhook import WebhookSink

ONE = Detections(np.float32([[10.126, 20, 50.5, 60]]), np.float32([0.87654]), np.int32([1]))
IMAGE = np.zeros((120, 160, 3), np.uint8)


class Server:
    """An HTTP server on a free port: answers `status`; hangs while `open_gate` is clear; keeps what it answered 200 to."""

    def __init__(self, port: int = 0) -> None:
        self.status, self.open_gate, self.got, self.headers, self.asked = 200, threading.Event(), [], [], 0
        self.open_gate.set()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                server.asked += 1
                if not server.open_gate.is_set():
                    server.open_gate.wait(10)
                    return  # whoever asked has gone
                if server.status == 200:
                    server.headers.append(dict(self.headers))
                    server.got.append(json.loads(body))
                self.send_response(server.status)
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_GET(self):
                server.got.append("a redirect was followed")

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}/hook"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self):
        self.open_gate.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server():
    started = Server()
    yield started
    started.stop()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def write(sink, *indices, objects=ONE):
    for index in indices:
        sink.write(Frame(IMAGE, index, index / 10, "cam1"), objects)


def until(condition, seconds=8.0):
    deadline_s = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline_s:
        time.sleep(0.005)
    assert condition()


def frames(server):
    return [message["frame"] for message in server.got]


def test_frames_with_objects_and_events_are_posted_as_json_in_order(server):
    with open_sink("webhook", server.url, classes=["cat", "dog"], fps=None) as sink:
        write(sink, 0, objects=Detections.empty())
        write(sink, 1, 2)
        write(sink, 3, 4, 5, objects=Detections.empty())
        sink.notice(Event("offline", "cam1", 0.6, {"reason": "killed"}))
    assert [message.get("frame", message.get("event")) for message in server.got] == [1, 2, 3, "offline"]
    assert server.got[0]["objects"] == [{"box": [10.13, 20.0, 50.5, 60.0], "score": 0.8765, "label": 1, "class": "dog"}]
    assert server.got[2]["objects"] == []  # they are gone
    assert server.got[3] == {"event": "offline", "stream": "cam1", "time_s": 0.6, "detail": {"reason": "killed"}}
    assert server.headers[0]["Content-Type"] == "application/json"
    assert sink.dropped == 0


def test_a_login_in_the_address_is_sent_as_basic_authorization(server, capsys):
    address = server.url.replace("//", "//user:pa%20ss@")
    with WebhookSink(address, classes=[]) as sink:
        write(sink, 0)
    assert server.headers[0]["Authorization"] == "Basic " + base64.b64encode(b"user:pa ss").decode()
    server.status = 401
    with WebhookSink(address, classes=[]) as sink:
        write(sink, 0)
    told = capsys.readouterr().err
    assert "401" in told
    assert "user" not in told
    assert "pa" not in told


def test_while_the_server_is_away_the_newest_are_kept_and_sent_when_it_is_back(server, capsys):
    server.stop()
    sink = WebhookSink(server.url, classes=[], size=10)
    started_s = time.perf_counter()
    write(sink, *range(100))
    assert time.perf_counter() - started_s < 0.5
    until(lambda: sink.dropped == 90)
    time.sleep(0.3)
    back = Server(server.port)
    until(lambda: len(back.got) == 10)
    assert frames(back) == list(range(90, 100))
    write(sink, 100)
    sink.__exit__(None, None, None)
    sink.__exit__(None, None, None)
    assert frames(back)[-1] == 100
    assert sink.dropped == 90
    back.stop()
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2
    shown = f"http://127.0.0.1:{server.port}/…"  # a webhook's path is often its password
    assert told[0] == f"{shown}: no answer (Connection refused); trying again, the newest 10 messages are kept"
    assert told[1] == f"{shown}: answers again, 90 messages were given up so far"


def test_a_server_that_hangs_is_left_after_the_time_out_and_asked_again(server, capsys):
    server.open_gate.clear()
    sink = WebhookSink(server.url, classes=[], timeout_s=0.2)
    started_s = time.perf_counter()
    write(sink, *range(20))
    assert time.perf_counter() - started_s < 0.1
    until(lambda: server.asked >= 2)
    assert server.got == []
    server.open_gate.set()
    until(lambda: len(server.got) == 20)
    sink.__exit__(None, None, None)
    assert frames(server) == list(range(20))
    assert "timed out" in capsys.readouterr().err


@pytest.mark.parametrize("status", [503, 429])
def test_an_overloaded_server_is_tried_again(server, status):
    server.status = status
    sink = WebhookSink(server.url, classes=[])
    write(sink, 1, 2)
    until(lambda: server.asked >= 2)
    server.status = 200
    sink.__exit__(None, None, None)
    assert frames(server) == [1, 2]


@pytest.mark.parametrize("status", [400, 404, 413, 302])
def test_what_the_server_refuses_for_good_is_given_up_and_told_once(server, capsys, status):
    server.status = status
    sink = WebhookSink(server.url, classes=[])
    write(sink, 1, 2, 3)
    until(lambda: sink.dropped == 3)
    server.status = 200
    write(sink, 4)
    sink.__exit__(None, None, None)
    assert frames(server) == [4]
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert f"the server refuses messages ({status} " in told[0]


def test_the_end_waits_for_a_dead_server_for_three_seconds_at_most(server, monkeypatch):
    monkeypatch.setattr(outbox, "GRACE_S", 0.3)
    server.stop()
    sink = WebhookSink(server.url, classes=[])
    write(sink, *range(5))
    started_s = time.perf_counter()
    sink.__exit__(None, None, None)
    assert time.perf_counter() - started_s < 1.5
    assert sink.dropped == 5
