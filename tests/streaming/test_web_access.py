"""Who may see the page: refusals before anything is served, tokens, and pages of other sites."""

import socket

import pytest
from web_client import get

from edgedet.errors import UsageError
from edgedet.streaming.status import StreamStatus
from edgedet.streaming.web.server import WebServer

TOKEN = "correct-horse"
EVERY = [
    "/",
    "/streams",
    "/streams/a/snapshot.jpg",
    "/streams/a/live.jpg",
    "/streams/a/live.mjpg",
    "/metrics",
    "/healthz",
    "/events",
]


def make(**options):
    return WebServer(lambda: [StreamStatus("a", "online")], **{"port": 0, **options})


def enter(**options):
    with make(**options):
        pytest.fail("it served")


@pytest.fixture(scope="module")
def open_server():
    with make() as server:
        yield server


@pytest.fixture(scope="module")
def guarded():
    with make(token=TOKEN) as server:
        yield server


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_a_host_that_others_reach_needs_a_token(host):
    with pytest.raises(UsageError, match=rf"--host {host} lets other machines see the cameras; set --token"):
        enter(host=host)


def test_with_a_token_an_open_host_is_served():
    with make(host="0.0.0.0", token=TOKEN) as server:
        address = server.url.replace("0.0.0.0", "127.0.0.1")
        assert get(address, "/healthz").status == 401
        assert get(address, "/healthz", authorization=f"Bearer {TOKEN}").status == 200
        assert get(address, "/healthz", authorization=f"Bearer {TOKEN}", host="box.example:8080").status == 200


@pytest.mark.parametrize("token", ["", "two words", "naïve", "a\nb"])
def test_a_token_that_no_header_can_carry_is_refused(token):
    with pytest.raises(UsageError, match="--token must be letters"):
        make(token=token)


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_out_of_range_is_refused(port):
    with pytest.raises(UsageError, match=f"--serve {port}: ports go from 0 to 65535"):
        make(port=port)


def test_a_port_that_is_taken_is_refused_with_one_message():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"--serve {port} on 127.0.0.1: Address already in use; choose another port"):
            enter(port=port)


def test_a_host_that_is_none_of_this_machine_is_refused():
    with pytest.raises(UsageError, match=r"--serve 0 on 192\.0\.2\.1: .*; choose another port"):
        enter(host="192.0.2.1", token=TOKEN)
    for host in ("", "no host"):
        with pytest.raises(UsageError, match=rf"--host {host}: is no name or address"):
            enter(host=host)


def test_two_streams_cannot_share_a_name():
    server = make()
    server.sink("a", classes=[])
    with pytest.raises(UsageError, match="two streams are named 'a'"):
        server.sink("a", classes=[])


@pytest.mark.parametrize("path", [*EVERY, "/nowhere"])
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": TOKEN},
        {"authorization": "Bearer \xe4"},
        {"cookie": f"edgedet_0={TOKEN}; token={TOKEN}"},
    ],
)
def test_nothing_is_given_without_the_token(guarded, path, headers):
    reply = get(guarded.url, path, **headers)
    assert reply.status == 401
    assert reply.headers["www-authenticate"] == "Bearer"
    assert reply.headers["set-cookie"] is None
    assert reply.text.startswith("a token is needed")


def test_a_wrong_token_in_the_address_sets_no_cookie(guarded):
    reply = get(guarded.url, "/?token=wrong")
    assert (reply.status, reply.headers["set-cookie"]) == (401, None)


def test_the_token_in_the_address_is_changed_for_a_cookie_and_leaves_the_address(guarded):
    reply = get(guarded.url, f"/?token={TOKEN}")
    assert (reply.status, reply.headers["location"]) == (303, "/")
    cookie, *attributes = reply.headers["set-cookie"].split("; ")
    assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= set(attributes)
    assert TOKEN not in cookie
    assert cookie.startswith(f"edgedet_{guarded.url.rstrip('/').rpartition(':')[2]}=")
    assert get(guarded.url, "/", cookie=f"other=1; {cookie}").status == 200
    assert get(guarded.url, "/metrics", cookie=cookie).status == 200
    assert get(guarded.url, "/", cookie=cookie[:-1]).status == 401
    assert get(guarded.url, f"/healthz?token={TOKEN}").status == 200  # a player or a probe that keeps no cookies


def test_the_cookie_holds_after_a_restart_and_for_no_other_token():
    def cookie_of(token, port=0):
        with make(token=token, port=port) as server:
            cookie = get(server.url, f"/?token={token}").headers["set-cookie"].partition(";")[0]
            return cookie, int(server.url.rstrip("/").rpartition(":")[2])

    first, port = cookie_of("first")
    assert cookie_of("first", port)[0] == first
    assert cookie_of("second", port)[0] != first


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "localhost.evil.example", "10.0.0.1", "", "[", "a@b:c"])
@pytest.mark.parametrize("path", ["/", "/streams", "/metrics"])
def test_a_foreign_name_that_resolves_to_this_machine_is_refused(open_server, host, path):
    reply = get(open_server.url, path, host=host)
    assert reply.status == 421
    assert "only served as localhost or 127.0.0.1" in reply.text


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9999", "127.0.0.1:80", "[::1]:8080", "127.1.2.3"])
def test_names_of_this_machine_are_served_on_every_forwarded_port(open_server, host):
    assert get(open_server.url, "/healthz", host=host).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},  # another port is another origin
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors", "sec_fetch_dest": "image"},
        {"sec_fetch_site": "same-site", "sec_fetch_mode": "cors", "sec_fetch_dest": "empty"},
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "iframe"},
    ],
)
@pytest.mark.parametrize("path", EVERY)
def test_pages_of_other_sites_read_nothing(open_server, guarded, headers, path):
    assert get(open_server.url, path, **headers).status == 403
    assert get(guarded.url, path, authorization=f"Bearer {TOKEN}", **headers).status == 403


def test_a_link_followed_from_elsewhere_opens_the_page(open_server):
    headers = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}
    assert get(open_server.url, "/", **headers).status == 200
    own = open_server.url.rstrip("/")
    assert get(open_server.url, "/streams", origin=own, sec_fetch_site="same-origin").status == 200


@pytest.mark.parametrize("path", [*EVERY[:4], EVERY[5], "/nowhere"])
def test_every_answer_forbids_embedding_caching_and_guessing(open_server, path):
    headers = get(open_server.url, path).headers
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["x-frame-options"] == "DENY"
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert "access-control-allow-origin" not in headers


def test_the_page_may_run_its_own_script_alone(open_server):
    reply = get(open_server.url, "/")
    policy = reply.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert "//" not in policy  # no other host
