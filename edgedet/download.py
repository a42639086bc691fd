"""Files fetched over HTTP: whole, known by their sha256, never half-written under their names.

What has come of a file stays as `NAME.part` when a download stops, and the
next one goes on from there. Publishers put the first digits of the sha256 into
a file's name, or publish none: the whole digest is recorded as `NAME.sha256`
beside the file when it first comes, and the file is held to it ever after.
EDGEDET_OFFLINE=1 forbids all of it: only what is here already is used.
"""

from __future__ import annotations

import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedet import __version__, artifact, console
from edgedet.errors import DownloadError

ATTEMPTS = 3
TIMEOUT_S = 30.0
BLOCK = 1 << 16
RANGE_BEYOND_THE_END = 416


@dataclass(frozen=True)
class Remote:
    """A file that somebody serves.

    sha256: its digest in hexadecimal, or as many of the first digits as are
    published, or nothing. saved_as: its name here, where it is not the URL's.
    """

    url: str
    sha256: str = ""
    saved_as: str = ""

    @property
    def name(self) -> str:
        """What the file is called here."""
        return self.saved_as or self.url.rpartition("/")[2]


class _Cut(Exception):
    """The connection failed or ended early; what came before is in the part file."""


def fetch(remote: Remote, folder: Path) -> Path:
    """The file in the folder: what lies there, held to its digest, or else downloaded and checked before it gets its name."""
    path = folder / remote.name
    if path.exists():
        return _require_digest(path, path, remote, "delete it to download it anew")
    if os.environ.get("EDGEDET_OFFLINE", "0") not in ("", "0"):
        raise DownloadError(
            f"{path} is missing and EDGEDET_OFFLINE is set; download {remote.url} elsewhere and put it there, or unset it"
        )
    part = _beside(path, ".part")
    with artifact.output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    _receive(remote, part)
    try:
        _require_digest(part, path, remote, "it was altered on its way or is another file; nothing of it was kept, try again")
    except DownloadError:
        _discard(part)
        raise
    with artifact.output_errors(folder):
        part.replace(path)
        _discard(part)
    return path


def is_held(path: Path) -> bool:
    """Whether a file of this path has been here and its digest is recorded."""
    return _beside(path, ".sha256").exists()


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _beside(part, ".etag").unlink(missing_ok=True)


def _require_digest(file: Path, path: Path, remote: Remote, advice: str) -> Path:
    """The file, which has the digest that is published and that `path` had before; recorded where this is the first time."""
    record, found = _beside(path, ".sha256"), artifact.sha256(file)
    held = record.read_text(encoding="utf-8").partition(" ")[0] if record.exists() else ""
    for wanted, where in ((remote.sha256, "is published"), (held, f"{record.name} records")):
        if not found.startswith(wanted):
            raise DownloadError(f"{path}: its sha256 is {found}, but {wanted} {where}: {advice}")
    if not remote.sha256 and not held:
        console.say(f"{path.name}: no digest of it is published; this first copy is trusted, sha256 {found}")
    if not held:
        artifact.write_text(record, f"{found}  {path.name}\n")
    return file


def _receive(remote: Remote, part: Path) -> None:
    """Fill the part file from where it ends; a connection that is cut is made anew a few times."""
    with console.steps(f"download {remote.name}") as tell:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with _open(remote, part) as response:
                    _append(response, remote, part, tell)
                return
            except _Cut as error:
                kept = (
                    f"{_megabytes(_size(part))} are kept, run the command again to go on" if _size(part) else "try again later"
                )
                if attempt == ATTEMPTS:
                    raise DownloadError(f"{remote.url}: {error}; {kept}") from error


def _open(remote: Remote, part: Path) -> http.client.HTTPResponse:
    """The server's answer: the rest of the part file where that is surely of the same file, else all of it."""
    etag = _beside(part, ".etag")
    headers = {"User-Agent": f"edgedet/{__version__}"}
    if _size(part) and (etag.exists() or remote.sha256):  # a mixture of two files would pass where no digest is known
        headers["Range"] = f"bytes={_size(part)}-"
        if etag.exists():
            headers["If-Range"] = etag.read_text(encoding="utf-8")
    try:
        response: http.client.HTTPResponse = urllib.request.urlopen(
            urllib.request.Request(remote.url, headers=headers), timeout=TIMEOUT_S
        )
        return response
    except urllib.error.HTTPError as error:
        if error.code == RANGE_BEYOND_THE_END:
            _discard(part)
            raise _Cut("the file there is shorter than what is here") from error
        raise DownloadError(f"{remote.url}: the server answers {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _Cut(f"cannot be reached: {getattr(error, 'reason', error) or type(error).__name__}") from error


def _append(response: http.client.HTTPResponse, remote: Remote, part: Path, tell: Callable[[str, int, int], None]) -> None:
    """Write the answer's body to the part file, behind what is there where the server goes on, else in its place."""
    done = _size(part) if response.status == http.client.PARTIAL_CONTENT else 0
    length = response.headers.get("Content-Length")
    total = done + int(length) if length else 0
    console.say(f"{remote.name}: {_megabytes(total) if total else 'of unknown size'} from {remote.url}")
    with artifact.output_errors(part), part.open("ab" if done else "wb") as file:
        if tag := response.headers.get("ETag"):
            _beside(part, ".etag").write_text(tag, encoding="utf-8")
        for block in _blocks(response):
            file.write(block)
            done += len(block)
            tell(f"{done / 1e6:.0f} MB", done, total or done)
        file.flush()
        os.fsync(file.fileno())
    if done < total:
        raise _Cut(f"the connection ended after {_megabytes(done)} of {_megabytes(total)}")


def _blocks(response: Any) -> Iterator[bytes]:
    try:
        while block := response.read(BLOCK):
            yield block
    except (OSError, http.client.HTTPException) as error:
        raise _Cut(f"the connection broke: {error or type(error).__name__}") from error


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
