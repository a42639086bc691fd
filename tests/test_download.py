"""Downloads from a server on this machine that behaves well, badly or not at all."""

from __future__ import annotations

import errno
import hashlib
import threading

import pytest
from file_server import FileServer

from edgedet import download
from edgedet.download import Remote, fetch
from edgedet.errors import DownloadError, OutputError

CONTENT = bytes(range(256)) * 2000
DIGEST = hashlib.sha256(CONTENT).hexdigest()
HALF = len(CONTENT) // 2


@pytest.fixture
def server(file_server: FileServer) -> FileServer:
    file_server.content = CONTENT
    return file_server


def remote(server: FileServer, sha256: str = DIGEST[:8]) -> Remote:
    return Remote(server.url("net.pth"), sha256)


@pytest.fixture(autouse=True)
def online(monkeypatch):
    monkeypatch.delenv("EDGEDET_OFFLINE", raising=False)


def names(folder) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def test_a_good_file_arrives_whole_with_its_digest_beside_it(server, tmp_path, capsys):
    path = fetch(remote(server), tmp_path / "cache")
    assert path.read_bytes() == CONTENT
    assert (tmp_path / "cache/net.pth.sha256").read_text() == f"{DIGEST}  net.pth\n"
    assert names(tmp_path / "cache") == {"net.pth", "net.pth.sha256"}
    assert "0.5 MB" in capsys.readouterr().err


def test_the_second_fetch_asks_nobody(server, tmp_path, monkeypatch):
    fetch(remote(server), tmp_path)
    monkeypatch.setenv("EDGEDET_OFFLINE", "1")
    assert fetch(remote(server), tmp_path).read_bytes() == CONTENT
    assert len(server.asked) == 1


def test_offline_says_what_is_missing_and_where_it_belongs(server, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEDET_OFFLINE", "1")
    with pytest.raises(DownloadError, match=r"net\.pth is missing and EDGEDET_OFFLINE is set; download http"):
        fetch(remote(server), tmp_path)
    assert not server.asked


def test_a_file_brought_by_hand_is_held_to_the_published_digits(server, tmp_path):
    (tmp_path / "net.pth").write_bytes(CONTENT)
    assert fetch(remote(server), tmp_path) == tmp_path / "net.pth"
    (tmp_path / "net.pth.sha256").unlink()
    (tmp_path / "net.pth").write_bytes(CONTENT[:-1])
    with pytest.raises(DownloadError, match="is published: delete it to download it anew"):
        fetch(remote(server), tmp_path)


def test_a_connection_cut_in_the_middle_is_made_anew_and_goes_on(server, tmp_path):
    server.cuts = [HALF, 1000]
    assert fetch(remote(server), tmp_path).read_bytes() == CONTENT
    assert [headers.get("Range") for headers in server.asked] == [None, f"bytes={HALF}-", f"bytes={HALF + 1000}-"]


def test_what_came_before_the_last_cut_is_kept_for_the_next_run(server, tmp_path):
    server.cuts = [HALF, 0, 0]
    with pytest.raises(DownloadError, match=r"ended after 0\.3 MB of 0\.5 MB; 0\.3 MB are kept, run the command again"):
        fetch(remote(server), tmp_path)
    assert names(tmp_path) == {"net.pth.part", "net.pth.part.etag"}
    assert fetch(remote(server), tmp_path).read_bytes() == CONTENT
    assert server.asked[-1]["Range"] == f"bytes={HALF}-"
    assert names(tmp_path) == {"net.pth", "net.pth.sha256"}


def test_a_server_that_ignores_ranges_sends_all_and_the_file_is_right(server, tmp_path):
    server.ranges, server.cuts = False, [HALF]
    assert fetch(remote(server), tmp_path).read_bytes() == CONTENT


def test_a_file_that_changed_on_the_server_is_not_patched_together(server, tmp_path):
    server.cuts = [HALF, 0, 0]
    with pytest.raises(DownloadError):
        fetch(remote(server, ""), tmp_path)
    server.content, server.etag = CONTENT[::-1], '"two"'
    assert fetch(remote(server, ""), tmp_path).read_bytes() == CONTENT[::-1]


def test_without_digest_and_etag_a_stopped_download_starts_anew(server, tmp_path):
    server.etag, server.cuts = "", [HALF]
    assert fetch(remote(server, ""), tmp_path).read_bytes() == CONTENT
    assert all("Range" not in headers for headers in server.asked)


def test_a_part_longer_than_the_file_is_thrown_away(server, tmp_path):
    (tmp_path / "net.pth.part").write_bytes(CONTENT * 2)
    assert fetch(remote(server), tmp_path).read_bytes() == CONTENT


def test_a_tampered_file_is_refused_and_nothing_of_it_stays(server, tmp_path):
    server.content = CONTENT[:-1] + b"\0"
    with pytest.raises(DownloadError, match=f"but {DIGEST[:8]} is published: it was altered on its way"):
        fetch(remote(server), tmp_path)
    assert names(tmp_path) == set()


def test_without_a_published_digest_the_first_copy_is_trusted_aloud_and_held_ever_after(server, tmp_path, capsys):
    path = fetch(remote(server, ""), tmp_path)
    assert f"first copy is trusted, sha256 {DIGEST}" in capsys.readouterr().err
    path.write_bytes(CONTENT[:-1] + b"\0")
    with pytest.raises(DownloadError, match=r"net\.pth\.sha256 records"):
        fetch(remote(server, ""), tmp_path)
    path.unlink()
    server.content = CONTENT + b"\0"
    with pytest.raises(DownloadError, match=f"{DIGEST} net.pth.sha256 records: it was altered"):
        fetch(remote(server, ""), tmp_path)
    assert names(tmp_path) == {"net.pth.sha256"}


@pytest.mark.parametrize("status", [403, 404, 503])
def test_a_refusal_of_the_server_is_told_at_once(server, tmp_path, status):
    server.status = status
    with pytest.raises(DownloadError, match=f"the server answers {status}"):
        fetch(remote(server), tmp_path)
    assert len(server.asked) == 1
    assert names(tmp_path) == set()


def test_an_unreachable_host_is_named(server, tmp_path):
    gone = remote(server)
    server.shutdown()
    server.server_close()
    with pytest.raises(DownloadError, match=r"127\.0\.0\.1.*cannot be reached.*refused.*try again later"):
        fetch(gone, tmp_path)


def test_a_silent_server_is_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT_S", 0.05)
    monkeypatch.setattr(server.RequestHandlerClass, "do_GET", lambda self: threading.Event().wait(1), raising=False)
    with pytest.raises(DownloadError, match="timed out"):
        fetch(remote(server), tmp_path)


def test_a_full_disk_is_one_message_and_leaves_no_file_under_the_name(server, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download.os, "fsync", full)
    with pytest.raises(OutputError, match="the disk is full"):
        fetch(remote(server), tmp_path)
    assert "net.pth" not in names(tmp_path)


def test_a_folder_that_cannot_be_made_is_named(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        fetch(remote(server), tmp_path / "file" / "cache")
