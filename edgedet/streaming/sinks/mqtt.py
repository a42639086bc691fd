"""MQTT: JSON to a broker, encrypted or not."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote, urlsplit

from edgedet.detections import Detections
from edgedet.errors import OutputError, UsageError
from edgedet.streaming.frame import Event, Frame
from edgedet.streaming.sinks.base import Sink
from edgedet.streaming.sinks.jsonl import event_record, record
from edgedet.streaming.sinks.outbox import SIZE, Outbox
from edgedet.streaming.sources.base import public_name

if TYPE_CHECKING:
    from paho.mqtt.client import Client

CONNECT_S = 5.0
KEEPALIVE_S = 15
_UNACKNOWLEDGED = 20  # most messages sent and not yet confirmed
_ACKNOWLEDGE_S = 1.0
_PORTS = {"mqtt": 1883, "mqtts": 8883}


def check(target: str) -> None:
    """Refuse what is no address of a topic."""
    _address(target)


def open(target: str, *, classes: Sequence[str], fps: float | None, live: bool = False) -> MqttSink:
    """A sink that publishes at `target`, mqtt://[USER:PASSWORD@]HOST[:PORT]/TOPIC, or mqtts:// over TLS."""
    return MqttSink(target, classes=classes)


class MqttSink(Sink):
    """Publishes what a JSON line holds: of frames at TOPIC, of events at TOPIC/events.

    Frames without objects are not published, but the first one after objects:
    it says that they are gone. At TOPIC/availability stands, retained, `online`
    while results come, `offline` before the first, while the camera is lost, after
    the end, and, as the connection's last will, after a crash. Quality of service 1:
    nothing is lost while the buffer lasts, and after a reconnection a message may
    come twice. A broker that is absent at the start is an error; one that goes away
    later is tried again until it is back.
    """

    def __init__(self, url: str, *, classes: Sequence[str], size: int = SIZE) -> None:
        address = _address(url)
        self._topic, self._classes, self._objects_there = address.topic, classes, False
        self._availability, self._begun = "offline", False
        self._room = threading.Semaphore(_UNACKNOWLEDGED)
        self._client = self._connected(address)
        self._outbox: Outbox[tuple[str, str, bool]] = Outbox(str(address), self._publish, size=size)
        self._client.on_connect = self._on_reconnect
        self._tell_availability()
        self._closed = False

    @property
    def dropped(self) -> int:
        """Messages given up."""
        return self._outbox.dropped

    def write(self, frame: Frame, detections: Detections) -> None:
        """Publish the frame's record."""
        if not self._begun:  # a file's stream has no event that says so
            self._begun, self._availability = True, "online"
            self._tell_availability()
        if len(detections) or self._objects_there:
            self._outbox.put((self._topic, json.dumps(record(frame, detections, self._classes)), False))
        self._objects_there = bool(len(detections))

    def notice(self, event: Event) -> None:
        """Publish the event's record; while the camera is lost, the stream is not available."""
        self._outbox.put((f"{self._topic}/events", json.dumps(event_record(event)), False))
        if event.kind in ("online", "offline", "ended"):
            self._begun, self._availability = True, "online" if event.kind == "online" else "offline"
            self._tell_availability()

    def _tell_availability(self) -> None:
        self._outbox.put((f"{self._topic}/availability", self._availability, True))

    def _publish(self, message: tuple[str, str, bool]) -> None:
        """Hand topic, payload and whether to retain it to paho, which sends it, again after a reconnection if need be."""
        if not self._room.acquire(timeout=_ACKNOWLEDGE_S):
            raise OSError("the broker confirms nothing")
        topic, payload, retain = message
        self._client.publish(topic, payload, qos=1, retain=retain)

    def _connected(self, address: _Address) -> Client:
        """A client with a thread of its own that keeps it connected; an error when the broker does not take it now."""
        from paho.mqtt import client as paho

        client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        if address.user is not None:
            client.username_pw_set(address.user, address.password)
        if address.scheme == "mqtts":
            client.tls_set()  # the system's authorities, or those of the file that SSL_CERT_FILE names
        client.will_set(f"{address.topic}/availability", "offline", qos=1, retain=True)
        client.reconnect_delay_set(1, 8)
        client.connect_timeout = CONNECT_S
        client.on_publish = lambda *_: self._room.release()
        answers: list[Any] = []
        answered = threading.Event()

        def on_connect(client: Client, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
            answers.append(reason)
            answered.set()

        client.on_connect = on_connect
        try:
            client.connect(address.host, address.port, KEEPALIVE_S)
        except OSError as error:
            raise OutputError(f"{address}: {_why_not(error, address.scheme)}") from error
        client.loop_start()
        answered.wait(CONNECT_S)
        if not answers or answers[0].is_failure:
            client.disconnect()
            client.loop_stop()
            why = f"the broker refuses: {answers[0]}" if answers else f"no MQTT answer within {CONNECT_S:.0f} s"
            form = f"{address.scheme}://USER:PASSWORD@HOST:{_PORTS[address.scheme]}/TOPIC"
            raise OutputError(f"{address}: {why}; check port, user and password, as in {form}")
        return client

    def _on_reconnect(self, client: Client, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        """Paho's thread: the last will has been published meanwhile, so say again what is true."""
        if not reason.is_failure:
            self._tell_availability()
            self._outbox.retry_now()

    def __enter__(self) -> MqttSink:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._closed:
            return
        self._closed = True
        self._availability = "offline"
        self._tell_availability()
        self._outbox.close()
        for _ in range(_UNACKNOWLEDGED):  # all are back when everything is confirmed
            if not self._room.acquire(timeout=_ACKNOWLEDGE_S):
                break
        self._client.disconnect()
        self._client.loop_stop()


class _Address(NamedTuple):
    """Where to publish; as text it is without the login."""

    scheme: str
    host: str
    port: int
    topic: str
    user: str | None
    password: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}/{self.topic}"


def _address(url: str) -> _Address:
    """The parts of mqtt[s]://[USER:PASSWORD@]HOST[:PORT]/TOPIC."""
    form = "an MQTT target is mqtt://[USER:PASSWORD@]HOST[:PORT]/TOPIC, or mqtts:// over TLS"
    shown = public_name(url)
    try:
        parts = urlsplit(url, allow_fragments=False)
        port = parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError as error:
        raise UsageError(f"{shown}: no host, or no port from 1 to 65535; {form}") from error
    topic = unquote(parts.path.strip("/"))
    if parts.scheme not in _PORTS or not parts.hostname or not topic:
        raise UsageError(f"{shown}: {form}")
    if set(topic) & set("+#\0"):
        raise UsageError(f"{shown}: + and # subscribe to many topics, none can be published to; name one topic")
    user = parts.username and unquote(parts.username)
    return _Address(parts.scheme, parts.hostname, port, topic, user, unquote(parts.password or ""))


def _why_not(error: OSError, scheme: str) -> str:
    """Why there is no connection, and what mends it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the broker's certificate is not trusted ({error.verify_message}); name its authority's file in SSL_CERT_FILE"
    if scheme == "mqtts" and isinstance(error, (ssl.SSLError, ConnectionResetError)):
        why = getattr(error, "reason", None) or error.strerror
        return f"no TLS there ({why}); check the port, or write mqtt:// where the broker does without"
    return f"no broker there ({error.strerror or error}); start it, or check the address"
