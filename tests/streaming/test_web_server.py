"""The web server: what each address gives, what it costs, and what ends it."""

import json
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, replace

import cv2
import numpy as np
import pytest
from web_client import connect, get

from edgedet.detections import Detections
from edgedet.streaming.frame import Event, Frame
from edgedet.streaming.status import StreamStatus
from edgedet.streaming.web import standing, view
from edgedet.streaming.web.server import WebServer

GATE = StreamStatus("gate", "online", size_hw=(120, 160), fps=10.0, frames=5, objects=1)
ONE = Detections(np.float32([[30, 40, 90, 100]]), np.float32([0.9]), np.int32([1]), track_ids=np.array([3]))


def frame(index=0, *, size=(120, 160), grey=60):
    return Frame(np.full((*size, 3), grey, np.uint8), index, index / 10, "gate")


class Statuses:
    """A status provider whose answer a test changes."""

    def __init__(self, *statuses):
        self.now, self.asked = list(statuses), 0

    def __call__(self):
        self.asked += 1
        return self.now

    def change(self, **values):
        """Change the first stream, and wait until the server may have seen it."""
        self.now[0] = replace(self.now[0], **values)
        time.sleep(2 * standing.ASK_S)


@pytest.fixture
def statuses(monkeypatch):
    monkeypatch.setattr(standing, "ASK_S", 0.05)
    return Statuses(GATE)


@pytest.fixture
def server(statuses):
    with WebServer(statuses, port=0) as running:
        yield running


@pytest.fixture
def sink(server):
    return server.sink("gate", classes=["cat", "dog"])


@pytest.fixture
def encoded(monkeypatch):
    """The sizes of all pictures encoded so far."""
    sizes, encode = [], cv2.imencode

    def counting(suffix, image, options):
        sizes.append(image.shape[:2])
        return encode(suffix, image, options)

    monkeypatch.setattr(cv2, "imencode", counting)
    return sizes


def test_a_snapshot_is_the_latest_frame_with_or_without_its_boxes(server, sink):
    sink.write(frame(grey=200), Detections.empty())
    sink.write(frame(grey=60), ONE)
    plain = get(server.url, "/streams/gate/snapshot.jpg?boxes=0").image
    drawn = get(server.url, "/streams/gate/snapshot.jpg").image
    assert plain.shape == drawn.shape == (120, 160, 3)
    assert np.abs(plain.astype(int) - 60).max() <= 2  # JPEG of one grey
    assert np.abs(drawn[70, 28:33].astype(int) - 60).max() > 60  # the box's left edge
    assert np.abs(drawn[60:95, 40:80].astype(int) - 60).max() < 30  # its inside


def test_a_live_picture_is_narrowed_with_its_boxes_and_a_snapshot_is_not(server, sink):
    big = Detections(np.float32([[640, 480, 1920, 960]]), np.float32([0.9]), np.int32([0]))
    sink.write(frame(size=(1440, 2560)), big)
    live = get(server.url, "/streams/gate/live.jpg").image
    assert live.shape == (720, 1280, 3)
    edge = np.abs(live[400, 300:340].astype(int) - 60).max(axis=-1).argmax() + 300
    assert abs(edge - 320) <= 4  # the line is a few pixels wide
    assert get(server.url, "/streams/gate/snapshot.jpg").image.shape == (1440, 2560, 3)


def test_a_client_that_has_the_picture_is_not_sent_it_again(server, sink):
    sink.write(frame(), ONE)
    first = get(server.url, "/streams/gate/live.jpg")
    again = get(server.url, "/streams/gate/live.jpg", if_none_match=first.headers["etag"])
    assert (again.status, again.body) == (304, b"")
    sink.write(frame(1), ONE)
    time.sleep(view.INTERVAL_S)
    newer = get(server.url, "/streams/gate/live.jpg", if_none_match=first.headers["etag"])
    assert newer.status == 200
    assert newer.headers["etag"] != first.headers["etag"]


@pytest.mark.parametrize("address", ["snapshot.jpg", "live.jpg", "live.mjpg"])
def test_a_stream_that_is_unknown_or_has_no_frame_is_told_so(server, sink, address):
    unknown = get(server.url, f"/streams/garden/{address}")
    assert (unknown.status, unknown.text) == (404, "no stream named 'garden'; there are: gate\n")
    assert (get(server.url, f"/streams/gate/{address}").status) == 503


def first_picture(server):
    """The first picture of the stream of pictures."""
    with closing(connect(server.url)) as connection:
        connection.request("GET", "/streams/gate/live.mjpg")
        answer = connection.getresponse()
        while not (line := answer.readline()).startswith(b"Content-Length: "):
            pass
        answer.readline()
        return cv2.imdecode(np.frombuffer(answer.read(int(line.split()[1])), np.uint8), cv2.IMREAD_COLOR)


def test_no_old_picture_is_given_of_a_stream_that_is_out_and_its_live_pictures_are_dark(server, sink, statuses):
    sink.write(frame(grey=240), ONE)
    statuses.change(state="offline", reason="cable cut")
    for name in ("snapshot.jpg", "live.jpg"):
        refused = get(server.url, f"/streams/gate/{name}")
        assert refused.status == 503
        assert refused.text.startswith("OFFLINE since ")
        assert refused.text.endswith(": cable cut\n")
    dark = first_picture(server)
    assert dark[:60].max() <= 240 // 3 + 10
    assert dark[80:].max() > 200  # what is written on it
    statuses.change(state="ended", reason=None)
    assert get(server.url, "/streams/gate/snapshot.jpg").status == 200  # the last frame of a file is no lie


def test_opencv_plays_the_live_pictures(server, sink):
    """FFmpeg's reader of multipart/x-mixed-replace knows nothing of ours."""
    stop = threading.Event()

    def write():
        for index in range(1000):
            sink.write(frame(index, grey=index * 20 % 250), Detections.empty())
            if stop.wait(0.05):
                return

    writing = threading.Thread(target=write)
    writing.start()
    try:
        capture = cv2.VideoCapture(server.url + "streams/gate/live.mjpg", cv2.CAP_FFMPEG)
        greys = [int(capture.read()[1].mean()) for _ in range(4)]
        capture.release()
    finally:
        stop.set()
        writing.join()
    assert len(set(greys)) == 4  # each a new one


def test_nothing_is_encoded_while_nobody_looks_and_once_for_ten_who_do(server, sink, encoded):
    for index in range(50):
        sink.write(frame(index), ONE)
    assert encoded == []
    stop = threading.Event()

    def write():
        for index in range(10_000):
            sink.write(frame(index), ONE)
            if stop.wait(0.005):
                return

    def watch():
        """Pictures in 1.2 s."""
        with closing(connect(server.url)) as connection:
            connection.request("GET", "/streams/gate/live.mjpg")
            answer, count, end = connection.getresponse(), 0, time.monotonic() + 1.2
            while time.monotonic() < end:
                count += answer.readline() == b"--frame\r\n"
            return count

    writing = threading.Thread(target=write)
    writing.start()
    began = time.monotonic()
    with ThreadPoolExecutor(10) as viewers:
        counts = list(viewers.map(lambda _: watch(), range(10)))
    stop.set()
    writing.join()
    assert len(encoded) <= (time.monotonic() - began) / view.INTERVAL_S + 2
    assert min(counts) >= 4, counts
    done = len(encoded)
    for index in range(100):
        sink.write(frame(index), ONE)
        time.sleep(0.005)
    assert len(encoded) <= done + 1  # at most one that a leaving viewer had asked for


def test_a_write_costs_microseconds_whatever_the_frame(server, sink):
    large, times_s = frame(size=(2160, 3840)), []
    for _ in range(2000):
        began = time.perf_counter()
        sink.write(large, ONE)
        times_s.append(time.perf_counter() - began)
    assert statistics.median(times_s) < 20e-6


def test_figures_are_asked_for_twice_a_second_however_many_look(server, sink, statuses, monkeypatch):
    monkeypatch.setattr(standing, "ASK_S", 0.5)
    began, asked = time.monotonic(), statuses.asked
    with ThreadPoolExecutor(10) as pool:
        assert {reply.status for reply in pool.map(lambda _: get(server.url, "/streams"), range(100))} == {200}
    assert statuses.asked - asked <= 2 + (time.monotonic() - began) * 2


def test_the_figures_are_given_as_json(server, sink, statuses):
    sink.write(frame(), ONE)
    sink.notice(Event("offline", "gate", 3.5, {"reason": "gone"}))
    before = time.time()
    statuses.change(state="offline", reason="gone", dropped={"newest": 4})
    reply = get(server.url, "/streams")
    assert reply.headers["content-type"] == "application/json"
    (stream,) = reply.json["streams"]
    status = json.loads(json.dumps(asdict(statuses.now[0])))
    assert {name: stream[name] for name in status} == status
    assert (stream["stalled"], stream["classes"], stream["picture"]) == (False, {"dog": 1}, True)
    assert 0 <= stream["result_age_s"] < 5
    assert 0 <= stream["since_s"] - before <= 1.1
    (event,) = reply.json["events"]
    assert {**event, "at_s": 0} == {
        "id": event["id"],
        "at_s": 0,
        "kind": "offline",
        "stream": "gate",
        "time_s": 3.5,
        "detail": {"reason": "gone"},
    }
    assert abs(event["at_s"] - before) < 2


def messages(answer, count):
    """The next `count` server-sent events, read by the rules of the HTML standard."""
    found, number, data = [], None, []
    while len(found) < count:
        line = answer.readline().decode().rstrip("\n")
        name, _, value = line.partition(": ")
        if name == "id":
            number = value
        elif name == "data":
            data.append(value)
        elif not line and data:
            found.append((number, json.loads("\n".join(data))))
            data = []
    return found


def test_events_are_sent_as_they_happen_and_after_a_break_none_is_missed(server, sink):
    sink.notice(Event("online", "gate", 0.0))
    with closing(connect(server.url)) as connection:
        connection.request("GET", "/events")
        answer = connection.getresponse()
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        sink.notice(Event("enter", "gate", 1.0, {"zone": "door\nside", "track_id": 7}))
        ((first, event),) = messages(answer, 1)
        assert (event["kind"], event["detail"]) == ("enter", {"zone": "door\nside", "track_id": 7})
    for index in range(3):
        sink.notice(Event("cross", "gate", 2.0 + index))
    with closing(connect(server.url)) as connection:
        connection.request("GET", "/events", headers={"Last-Event-ID": first})
        assert [int(number) - int(first) for number, _ in messages(connection.getresponse(), 3)] == [1, 2, 3]


@pytest.mark.parametrize("ahead", [-3_600_000, 3_600_000])
def test_who_comes_from_the_run_before_gets_every_event_also_where_the_clock_was_set_back(server, sink, ahead):
    last = server._site._bulletin.count + ahead  # that run's latest, an hour ago or to come
    for index in range(5):
        sink.notice(Event("cross", "gate", float(index)))
    with closing(connect(server.url)) as connection:
        connection.request("GET", "/events", headers={"Last-Event-ID": str(last)})
        assert [event["time_s"] for _, event in messages(connection.getresponse(), 5)] == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_a_number_that_is_none_is_no_defect(server, sink):
    with closing(connect(server.url)) as connection:
        connection.request("GET", "/events", headers={"Last-Event-ID": "9" * 5000})
        answer = connection.getresponse()
        sink.notice(Event("cross", "gate", 7.0))
        assert messages(answer, 1)[0][1]["time_s"] == 7.0


def test_head_requests_end(server, sink):
    sink.write(frame(), ONE)
    for path in ("/", "/streams", "/events", "/streams/gate/live.mjpg", "/metrics"):
        reply = get(server.url, path, method="HEAD")
        assert (reply.status, reply.body) == (200, b""), path
    assert get(server.url, "/", method="POST").status == 405
    assert get(server.url, "/nowhere").status == 404


@pytest.mark.parametrize("junk", [b"\x16\x03\x01\r\n\r\n", b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"])
def test_junk_is_refused_without_a_word_and_the_next_is_served(server, caplog, junk):
    with closing(connect(server.url)) as connection:
        connection.connect()
        connection.sock.sendall(junk)
        assert connection.sock.recv(100).startswith(b"HTTP/1.1 400 ")
    assert get(server.url, "/healthz").status == 200
    assert caplog.records == []


def test_leaving_ends_every_viewer_also_one_who_does_not_read(statuses, caplog, monkeypatch):
    monkeypatch.setattr("edgedet.streaming.web.server._PATIENCE_S", 1)
    with WebServer(statuses, port=0) as server:
        sink = server.sink("gate", classes=[])
        noise = np.random.default_rng(0).integers(0, 256, (720, 1280, 3), np.uint8)
        sink.write(Frame(noise, 0, 0.0, "gate"), ONE)
        viewers = [connect(server.url) for _ in range(4)]
        for viewer, path in zip(viewers, ("/events", "/streams/gate/live.mjpg", "/streams/gate/live.mjpg", "/events")):
            viewer.request("GET", path)
        answers = [viewers[0].getresponse(), viewers[1].getresponse()]  # the other two are never read
        for index in range(12):  # a megabyte each: more than the sockets hold
            sink.write(Frame(noise, index, 0.0, "gate"), ONE)
            time.sleep(0.1)
        began = time.monotonic()
    assert time.monotonic() - began < 5
    assert caplog.records == []
    assert get_refused(server.url)
    for answer in answers:
        answer.close()
    for viewer in viewers:
        viewer.close()


def get_refused(url):
    with pytest.raises(ConnectionRefusedError):
        get(url, "/healthz")
    return True


def test_a_server_can_be_left_and_another_take_its_port(statuses):
    with WebServer(statuses, port=0) as first:
        port = int(first.url.rstrip("/").rpartition(":")[2])
        assert get(first.url, "/").status == 200
    with WebServer(statuses, port=port) as second:
        assert get(second.url, "/").status == 200


def test_a_defect_in_the_statuses_is_told_and_ends_nothing_else(caplog):
    def fails():
        raise ZeroDivisionError("of the test")

    with WebServer(fails, port=0) as server:
        assert get(server.url, "/streams").status == 500
        assert get(server.url, "/").status == 200
    assert "the web server's watch ended" in caplog.messages
    assert all(record.exc_info[0] is ZeroDivisionError for record in caplog.records if record.exc_info)
