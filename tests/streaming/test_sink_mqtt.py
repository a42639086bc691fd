"""MQTT against a real mosquitto that is started, killed and started again."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgedet.detections import Detections
from edgedet.errors import OutputError
from edgedet.streaming.frame import Event, Frame
from edgedet.streaming.sinks import mqtt, outbox
from edgedet.streaming.sinks.base import open_sink
from edgedet.streaming.sinks.mqtt import MqttSink

paho = pytest.importorskip("paho.mqtt.client", reason="paho-mqtt is not installed: pip install 'edgedet[mqtt]'")
ONE = Detections(np.float32([[10.126, 20, 50.5, 60]]), np.float32([0.87654]), np.int32([1]))
IMAGE = np.zeros((120, 160, 3), np.uint8)


class Broker:
    """A mosquitto on a port of its own that can die and come back; keeps nothing on disk."""

    def __init__(self, program: str, folder: Path, *options: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._command = [program, "-c", str(folder / "mosquitto.conf")]
        lines = [f"listener {self.port} 127.0.0.1", "user root", *(options or ["allow_anonymous true"])]
        (folder / "mosquitto.conf").write_text("\n".join(lines) + "\n")
        self.url = f"mqtt://127.0.0.1:{self.port}/edgedet/front"
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(self._answers)

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def signal(self, number: int) -> None:
        self._process.send_signal(number)


class Listener:
    """A subscriber to everything: (topic, payload, retained) in order."""

    def __init__(self, port: int) -> None:
        self.got: list[tuple[str, str, bool]] = []
        subscribed: list[int] = []
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        self._client.on_message = lambda _, __, m: self.got.append((m.topic, m.payload.decode(), m.retain))
        self._client.on_subscribe = lambda *_: subscribed.append(1)
        self._client.on_connect = lambda client, *_: client.subscribe("edgedet/#", 1)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        until(lambda: subscribed)

    def at(self, topic: str) -> list[str]:
        return [payload for name, payload, _ in self.got if name == f"edgedet/front{topic}"]

    def frames(self) -> list[int]:
        return [json.loads(payload)["frame"] for payload in self.at("")]

    def stop(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def until(condition, seconds: float = 10.0) -> None:
    deadline_s = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline_s:
        time.sleep(0.005)
    assert condition()


def write(sink, *indices, objects=ONE) -> None:
    for index in indices:
        sink.write(Frame(IMAGE, index, index / 10, "cam1"), objects)


@pytest.fixture
def mosquitto() -> str:
    program = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/sbin")
    if program is None:
        pytest.skip("mosquitto is not installed: apt-get install mosquitto")
    return program


@pytest.fixture
def broker(mosquitto: str, tmp_path: Path) -> Iterator[Broker]:
    started = Broker(mosquitto, tmp_path)
    yield started
    started.kill()


def test_frames_with_objects_events_and_availability_are_published(broker: Broker):
    listener = Listener(broker.port)
    with open_sink("mqtt", broker.url, classes=["cat", "dog"], fps=None) as sink:
        write(sink, 0, objects=Detections.empty())
        write(sink, 1, 2)
        write(sink, 3, 4, objects=Detections.empty())
        sink.notice(Event("offline", "cam1", 0.5, {"reason": "killed"}))
        sink.notice(Event("online", "cam1", 0.7))
        sink.notice(Event("ended", "cam1", 0.9, {"reason": "gave up"}))
    until(lambda: len(listener.at("/availability")) == 6)
    listener.stop()
    assert listener.frames() == [1, 2, 3]
    first, _, third = map(json.loads, listener.at(""))
    assert first["objects"] == [{"box": [10.13, 20.0, 50.5, 60.0], "score": 0.8765, "label": 1, "class": "dog"}]
    assert third["objects"] == []  # they are gone
    assert [json.loads(payload)["event"] for payload in listener.at("/events")] == ["offline", "online", "ended"]
    assert listener.at("/availability") == ["offline", "online", "offline", "online", "offline", "offline"]
    assert sink.dropped == 0
    late = Listener(broker.port)
    until(lambda: late.got)
    late.stop()
    assert late.got == [("edgedet/front/availability", "offline", True)]  # retained; records are not


def test_a_crash_is_told_by_the_last_will(broker: Broker):
    listener = Listener(broker.port)
    program = "import sys, time\nfrom edgedet.streaming.frame import Event\nfrom edgedet.streaming.sinks.mqtt import MqttSink\n"
    program += "sink = MqttSink(sys.argv[1], classes=[])\nsink.notice(Event('online', 'cam1', 0.0))\ntime.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", program, broker.url])
    until(lambda: listener.at("/availability") == ["offline", "online"])
    process.send_signal(signal.SIGKILL)
    process.wait()
    until(lambda: listener.at("/availability") == ["offline", "online", "offline"])
    listener.stop()


def test_a_broker_that_dies_and_comes_back_gets_the_newest_messages_in_order(broker: Broker, capsys):
    sink = MqttSink(broker.url, classes=[], size=50)
    listener = Listener(broker.port)
    for index in range(50):
        write(sink, index)
        time.sleep(0.002)
    until(lambda: len(listener.frames()) == 50)
    listener.stop()
    broker.kill()
    started_s = time.perf_counter()
    for index in range(50, 250):
        write(sink, index)
        time.sleep(0.002)
    assert time.perf_counter() - started_s < 1.5  # 0.4 s of it asleep
    time.sleep(1.2)
    # What paho holds, what was waiting, and what was given up is all there was.
    assert 200 - 50 - mqtt._UNACKNOWLEDGED - 1 <= sink.dropped <= 200 - 50
    broker.start()
    listener = Listener(broker.port)
    write(sink, 250)
    until(lambda: 250 in listener.frames())
    until(lambda: "online" in listener.at("/availability"))
    sink.__exit__(None, None, None)
    sink.__exit__(None, None, None)
    until(lambda: listener.at("/availability")[-1] == "offline")
    listener.stop()
    newest = [index for index in listener.frames() if index >= 202]
    assert newest == list(range(202, 251))
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2
    assert told[0] == f"{broker.url}: the broker confirms nothing; trying again, the newest 50 messages are kept"
    assert "answers again" in told[1]


def test_a_broker_that_hangs_slows_nobody_and_loses_nothing(broker: Broker):
    sink = MqttSink(broker.url, classes=[])
    listener = Listener(broker.port)
    broker.signal(signal.SIGSTOP)
    started_s = time.perf_counter()
    write(sink, *range(300))
    assert time.perf_counter() - started_s < 0.5
    time.sleep(0.3)
    broker.signal(signal.SIGCONT)
    until(lambda: len(listener.frames()) == 300)
    sink.__exit__(None, None, None)
    listener.stop()
    assert listener.frames() == list(range(300))
    assert sink.dropped == 0


def test_an_absent_broker_is_refused_at_the_start(broker: Broker):
    broker.kill()
    with pytest.raises(OutputError, match=r"front: no broker there \(Connection refused\); start it, or check the address"):
        MqttSink(broker.url.replace("//", "//user:secret@"), classes=[])
    with pytest.raises(OutputError, match=r"no broker there"):
        MqttSink("mqtt://no-such-host.invalid/topic", classes=[])


def test_something_else_than_a_broker_is_refused(monkeypatch):
    monkeypatch.setattr(mqtt, "CONNECT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"mqtt://127.0.0.1:{silent.getsockname()[1]}/topic"
        with pytest.raises(OutputError, match="no MQTT answer within"):
            MqttSink(address, classes=[])


def test_a_login_is_given_and_a_wrong_one_refused_without_telling_it(mosquitto: str, tmp_path: Path):
    maker = shutil.which("mosquitto_passwd", path=f"{Path(mosquitto).parent}:/usr/bin:/usr/local/bin")
    if maker is None:
        pytest.skip("mosquitto_passwd is not installed: apt-get install mosquitto")
    logins = tmp_path / "logins"
    subprocess.run([maker, "-b", "-c", str(logins), "camera", "se/cret"], check=True, capture_output=True)
    broker = Broker(mosquitto, tmp_path, "allow_anonymous false", f"password_file {logins}")
    try:
        with MqttSink(broker.url.replace("//", "//camera:se%2Fcret@"), classes=[]) as sink:
            write(sink, 1)
        assert sink.dropped == 0
        with pytest.raises(OutputError, match="the broker refuses: Not authorized; check port, user") as refused:
            MqttSink(broker.url.replace("//", "//camera:wrong@"), classes=[])
        assert "wrong" not in str(refused.value)
    finally:
        broker.kill()


@pytest.fixture
def certificate(tmp_path: Path) -> list[str]:
    """mosquitto's lines for TLS with a certificate for 127.0.0.1 that signs itself, at tmp_path / "own.pem"."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("openssl is not installed: apt-get install openssl")
    key, own = tmp_path / "key.pem", tmp_path / "own.pem"
    made = [program, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    made += ["-subj", "/CN=broker", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(own)]
    subprocess.run(made, check=True, capture_output=True)
    return ["allow_anonymous true", f"certfile {own}", f"keyfile {key}"]


def test_over_tls_a_broker_is_taken_whose_certificate_is_trusted_and_no_other(
    mosquitto: str, certificate: list[str], tmp_path: Path, monkeypatch
):
    broker = Broker(mosquitto, tmp_path, *certificate)
    try:
        address = broker.url.replace("mqtt://", "mqtts://camera:secret@")
        with pytest.raises(
            OutputError, match=r"not trusted \(.*self.signed.*\); name its authority's file in SSL_CERT_FILE"
        ) as no:
            MqttSink(address, classes=[])
        assert "secret" not in str(no.value)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "own.pem"))
        with MqttSink(address, classes=[]) as sink:
            write(sink, 1, 2)
        assert sink.dropped == 0
        monkeypatch.setattr(mqtt, "CONNECT_S", 0.5)
        with pytest.raises(OutputError, match=r"no MQTT answer within|no broker there"):
            MqttSink(broker.url, classes=[])
    finally:
        broker.kill()


def test_a_broker_without_tls_is_refused_where_tls_is_asked_for(broker: Broker):
    with pytest.raises(OutputError, match=r"mqtts://127\.0\.0\.1:\d+/edgedet/front: no TLS there .* write mqtt://"):
        MqttSink(broker.url.replace("mqtt://", "mqtts://"), classes=[])


def test_the_port_of_an_address_without_one_is_the_scheme_s_own():
    assert str(mqtt._address("mqtt://user:secret@box/a/b")) == "mqtt://box:1883/a/b"
    assert str(mqtt._address("mqtts://box/a")) == "mqtts://box:8883/a"


def test_the_end_does_not_wait_long_for_a_dead_broker(broker: Broker, monkeypatch):
    monkeypatch.setattr(outbox, "GRACE_S", 0.3)
    monkeypatch.setattr(mqtt, "_ACKNOWLEDGE_S", 0.2)
    sink = MqttSink(broker.url, classes=[])
    broker.kill()
    write(sink, *range(100))
    started_s = time.perf_counter()
    sink.__exit__(None, None, None)
    assert time.perf_counter() - started_s < 3
    assert sink.dropped >= 100 - mqtt._UNACKNOWLEDGED
