"""Artifacts: files written whole or not at all, and known by their sha256."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgedet.errors import ArtifactError, OutputError


def sha256(path: Path) -> str:
    """The file's sha256 in hexadecimal."""
    digest = hashlib.sha256()
    with require_file(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def require_file(path: Path) -> Path:
    """The path, when it is a readable file; otherwise an error that says what is there instead."""
    if path.is_dir():
        raise ArtifactError(f"{path} is a folder; name a file in it")
    if not path.exists():
        raise ArtifactError(f"{path}: no such file")
    if not os.access(path, os.R_OK):
        raise ArtifactError(f"{path}: permission denied; check its owner and mode")
    return path


def parts(path: Path) -> list[Path]:
    """The files that a model consists of: what lies in a file of its own, as weights or a plan's facts, then itself."""
    added = ".json" if path.suffix in (".engine", ".plan") else ".data"
    beside = path.with_suffix(".bin") if path.suffix == ".xml" else path.with_name(f"{path.name}{added}")
    return [beside, path] if beside.is_file() else [path]


@contextmanager
def writing(*targets: Path) -> Iterator[tuple[Path, ...]]:
    """Temporary paths beside the targets, each moved onto its target when the block ends well.

    Files keep their names in a hidden folder beside the target, because some
    formats refer to a sibling by name. When the block fails nothing of it stays,
    and what stood at the targets stands there still. All targets share a folder.
    """
    for target in targets:
        if target.exists() and not (target.is_file() or target.is_dir()):
            raise OutputError(f"{target}: is a device or a pipe, not a file that could be replaced; choose another name")
    folder = targets[0].parent
    with scratch(folder) as temporary:
        paths = tuple(temporary / target.name for target in targets)
        yield paths
        for path, target in zip(paths, targets, strict=True):
            _flush(path)
            path.replace(target)


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """A hidden folder inside `folder`, which is made where absent; a block that fails leaves no empty folder behind."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with tempfile.TemporaryDirectory(prefix=".edgedet-", dir=folder) as temporary:
                yield Path(temporary)
        except BaseException:
            for path in made:
                with suppress(OSError):  # something else is in it by now
                    path.rmdir()
            raise


def _flush(path: Path) -> None:
    """Force the file to the disk, so that a power cut cannot leave an empty one under the final name."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with writing(path) as (temporary,):
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def output_errors(where: Path | None = None) -> Iterator[None]:
    """Turn the operating system's refusals to write into an OutputError that names the place."""
    try:
        yield
    except OSError as error:
        reasons = {
            errno.ENOSPC: "the disk is full; free some space or choose another place",
            errno.EDQUOT: "the disk quota is used up; free some space or choose another place",
            errno.EACCES: "permission denied; choose another place",
            errno.EPERM: "permission denied; choose another place",
            errno.EROFS: "the file system is read-only; choose another place",
            errno.ENOENT: "a folder of this path does not exist and cannot be made; choose another place",
            errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
            errno.ENOTDIR: "a part of this path is a file; choose another place",
            errno.EEXIST: "a file stands where a folder is needed; choose another place",
            errno.EISDIR: "a folder stands where the file should go; choose another place",
        }
        if error.errno not in reasons:
            raise
        raise OutputError(f"{where or error.filename or 'output'}: cannot be written: {reasons[error.errno]}") from error
