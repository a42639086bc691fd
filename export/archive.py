"""A bundle out of a .tar or .tar.gz that may be hostile: nothing but plain files of the bundle itself comes out of it."""

from __future__ import annotations

import gzip
import io
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from edgedet import artifact
from edgedet.errors import ArtifactError, OutputError
from edgedet.export import bundle

MOST_FILES = 1000
MOST_BYTES = 4 << 30
_MOST_AT_ONCE = 4 << 20  # a header that claims more is a bomb: tarfile would read it into memory


def is_archive(path: Path) -> bool:
    """Whether a path names an archive by its suffix."""
    return path.name.endswith((".tar", ".tar.gz", ".tgz"))


def default_place(path: Path) -> Path:
    """Where an archive is unpacked: beside it, under its name without suffix."""
    return path.with_name(path.name.removesuffix(".gz").removesuffix(".tar").removesuffix(".tgz"))


def unpack(path: Path, out: Path) -> Path:
    """The bundle of an archive, whole in the folder `out` or not at all; one that was unpacked there before stays as it is.

    Refused are links, devices, names that lead elsewhere, more than MOST_FILES
    files or MOST_BYTES bytes, and whatever the archive's own manifest does not list.
    """
    with _opened(path) as (archive, members):
        prefix = _prefix(members, path)
        manifest = bundle.Manifest.from_json(_manifest(archive, members[f"{prefix}{bundle.MANIFEST}"]), where=str(path))
        if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
            _require_same(out, manifest, path)
            return out
        _require_room(members, out)
        with artifact.scratch(out.parent) as scratch:
            for name, member in members.items():
                inner = name.removeprefix(prefix) if name.startswith(prefix) else ""
                _require_listed(inner, name, member, manifest, path)
                _extract(archive, member, scratch / "bundle" / inner)
            bundle.publish(scratch / "bundle", out)
    return out


@contextmanager
def _opened(path: Path) -> Iterator[tuple[tarfile.TarFile, dict[str, tarfile.TarInfo]]]:
    """The archive, and its files by name, all of them of a harmless kind."""
    with artifact.require_file(path).open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        stream = _Bounded(cast(BinaryIO, gzip.GzipFile(fileobj=file)) if packed else file, path)
        try:
            with tarfile.open(fileobj=cast(BinaryIO, stream), mode="r:") as archive:
                yield archive, _members(archive, path)
        except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ArtifactError(f"{path}: not a whole .tar or .tar.gz ({error}); copy it again") from error


class _Bounded(io.RawIOBase):
    """A stream that refuses to go on for ever, or to give much at once."""

    def __init__(self, stream: BinaryIO, path: Path) -> None:
        self._stream, self._path = stream, path

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._stream.tell()

    def seek(self, position: int, whence: int = io.SEEK_SET) -> int:
        self._require(position, 0)
        return self._stream.seek(position, whence)

    def read(self, size: int = -1) -> bytes:
        self._require(self._stream.tell(), size)
        return self._stream.read(size)

    def _require(self, position: int, size: int) -> None:
        if position + size > MOST_BYTES or not 0 <= size <= _MOST_AT_ONCE:
            raise ArtifactError(f"{self._path}: unpacks to more than {MOST_BYTES >> 30} GiB, or claims to; not unpacked")


def _members(archive: tarfile.TarFile, path: Path) -> dict[str, tarfile.TarInfo]:
    found: dict[str, tarfile.TarInfo] = {}
    for count, member in enumerate(archive, 1):
        name = member.name.removeprefix("./")
        if count > MOST_FILES:
            raise ArtifactError(f"{path}: holds more than {MOST_FILES} files; not unpacked")
        if member.isdir():
            continue
        if not member.isreg() or member.issparse():
            kinds = {"2": "a symbolic link", "1": "a hard link", "3": "a device", "4": "a device", "6": "a pipe"}
            kind = kinds.get(member.type.decode("ascii", "replace"), "no plain file")
            raise ArtifactError(f"{path}: {member.name!r} in it is {kind}; a bundle holds plain files only, not unpacked")
        if problem := bundle.name_problem(name):
            raise ArtifactError(f"{path}: {member.name!r} in it {problem}; not unpacked")
        if name in found:
            raise ArtifactError(f"{path}: holds {member.name!r} twice; not unpacked")
        found[name] = member
    return found


def _prefix(members: dict[str, tarfile.TarInfo], path: Path) -> str:
    """The folder in the archive that the bundle lies in, with its slash; empty where it lies at the top."""
    manifests = [name for name in members if name.rpartition("/")[2] == bundle.MANIFEST and name.count("/") < 2]
    if len(manifests) != 1:
        there = f"are {len(manifests)}" if manifests else "is none"
        raise ArtifactError(f"{path}: a bundle has one {bundle.MANIFEST}, here {there}; pack one that `edgedet deploy` wrote")
    return manifests[0].removesuffix(bundle.MANIFEST)


def _manifest(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.size > bundle.MOST_MANIFEST_BYTES:
        raise ArtifactError(f"{member.name}: has {member.size} bytes, more than any manifest; not unpacked")
    source = archive.extractfile(member)
    assert source is not None
    return source.read(member.size)


def _require_same(out: Path, manifest: bundle.Manifest, path: Path) -> None:
    """ArtifactError unless the bundle at `out` is the archive's."""
    if not (out / bundle.MANIFEST).is_file() or bundle.read(out).files != manifest.files:
        raise ArtifactError(f"{out}: holds something else than {path.name}; remove it, or name another place with --into")


def _require_room(members: dict[str, tarfile.TarInfo], out: Path) -> None:
    needed = sum(member.size for member in members.values())
    there = next(folder for folder in (out.parent.absolute(), *out.parent.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise OutputError(
            f"{out}: needs {needed >> 20} MiB, {free >> 20} MiB are free; free some space or choose another place"
        )


def _require_listed(inner: str, name: str, member: tarfile.TarInfo, manifest: bundle.Manifest, path: Path) -> None:
    """ArtifactError unless the bundle's manifest lists a file of this name and size."""
    if inner == bundle.MANIFEST:
        return
    if inner not in manifest.files:
        raise ArtifactError(f"{path}: {name!r} in it is not in its manifest; pack what `edgedet deploy` wrote, and no more")
    if (told := manifest.files[inner].bytes) != member.size:
        raise ArtifactError(f"{path}: {name!r} in it has {member.size} bytes, its manifest says {told}; copy it again")


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    """Write one file."""
    source = archive.extractfile(member)
    assert source is not None
    with artifact.output_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
        target.chmod(0o755 if target.suffix == ".sh" else 0o644)
