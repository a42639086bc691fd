"""Why a server gives no stream: against a real RTSP server that wants a login, and servers that answer badly."""

import socket
import subprocess
import threading

import pytest
from live import SYSTEM_PYTHON

from edgedet.errors import SourceError
from edgedet.streaming.sources.base import Timeouts, open_source

LIMITS = Timeouts(open_s=5.0, read_s=2.0)


def test_a_server_that_takes_the_connection_and_says_nothing_is_said_to_hang():
    with socket.create_server(("127.0.0.1", 0)) as listening, pytest.raises(SourceError, match="answers nothing; it hangs"):
        open_source(f"rtsp://127.0.0.1:{listening.getsockname()[1]}/live", Timeouts(0.5, 0.5))


GUARDED = """
import sys
import gi
gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer
Gst.init(None)
clip, kind = sys.argv[1:]
server, auth, token = GstRtspServer.RTSPServer(), GstRtspServer.RTSPAuth(), GstRtspServer.RTSPToken()
server.set_address("127.0.0.1")
server.set_service("0")
token.set_string("media.factory.role", "viewer")
if kind == "basic":
    auth.add_basic(GstRtspServer.RTSPAuth.make_basic("user", "p@ss/word"), token)
else:
    auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
    auth.add_digest("user", "p@ss/word", token)
server.set_auth(auth)
factory = GstRtspServer.RTSPMediaFactory()
factory.set_launch(f"( filesrc location={clip} ! qtdemux ! h264parse ! rtph264pay name=pay0 pt=96 config-interval=1 )")
factory.add_role_from_structure(Gst.Structure.from_string(
    "viewer, media.factory.access=(boolean)true, media.factory.construct=(boolean)true")[0])
server.get_mount_points().add_factory("/live", factory)
server.attach(None)
print("READY", server.get_bound_port(), flush=True)
GLib.MainLoop().run()
"""


@pytest.mark.parametrize("kind", ["basic", "digest"])
def test_a_login_that_is_right_opens_and_one_that_is_wrong_or_lacking_says_so(people_mp4, kind):
    if not SYSTEM_PYTHON.exists():
        pytest.skip("Debian's python3 is absent")
    command = [str(SYSTEM_PYTHON), "-c", GUARDED, str(people_mp4), kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            ready = server.stdout.readline().split()
            if not ready:
                pytest.skip(f"the RTSP server does not start: {server.stderr.read().strip().splitlines()[-1]}")
            _compare_logins(f"127.0.0.1:{ready[1]}")
        finally:
            server.kill()


def _compare_logins(place: str) -> None:
    right = "user:p%40ss%2Fword"
    with open_source(f"rtsp://{right}@{place}/live", LIMITS) as source:
        assert source.name == f"rtsp://{place}/live"
    refused = {
        f"rtsp://user:wrong@{place}/live": "the login was refused",
        f"rtsp://{place}/live": "wants a login",
        f"rtsp://{right}@{place}/nowhere": "answers 404; check the path '/nowhere'",
    }
    for address, message in refused.items():
        with pytest.raises(SourceError, match=message):
            open_source(address, LIMITS)


def test_a_path_the_server_does_not_have_says_so(camera):
    with pytest.raises(SourceError, match="answers 404; check the path '/nowhere'"):
        open_source(camera.address.replace("/live", "/nowhere"), LIMITS)


def _answering(answer: bytes):
    """The port of a server that gives every caller the same answer."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                caller, _ = listening.accept()
            except OSError:
                return
            with caller:
                caller.settimeout(5)
                try:
                    while caller.recv(2048):
                        caller.sendall(answer)
                except OSError:
                    pass

    threading.Thread(target=serve, daemon=True).start()
    return listening, listening.getsockname()[1]


@pytest.mark.parametrize(("login", "message"), [("", "wants a login"), ("user:secret@", "the login was refused")])
def test_a_refused_login_says_so_and_never_shows_the_password(login, message):
    answer = b'RTSP/1.0 401 Unauthorized\r\nCSeq: 1\r\nWWW-Authenticate: Basic realm="camera"\r\n\r\n'
    listening, port = _answering(answer)
    try:
        with pytest.raises(SourceError, match=message) as caught:
            open_source(f"rtsp://{login}127.0.0.1:{port}/live", Timeouts(2, 2))
    finally:
        listening.close()
    assert "secret" not in str(caught.value)
