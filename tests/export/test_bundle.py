"""What a bundle is: sealed, read back, held against its hashes, and never let out of an archive that is not one."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgedet.errors import ArtifactError, OutputError
from edgedet.export import archive, bundle
from edgedet.export.bundle import Choice, Manifest, Model, Tensor

OUTPUTS = {"boxes": Tensor("float32", (None, 300, 4))}
MODEL = Model(
    path="models/street-fp32.onnx",
    precision="fp32",
    encoding=None,
    nms="onnx",
    input=Tensor("uint8", (None, 416, 416, 3)),
    outputs=OUTPUTS,
    gates={"box_error_px": 0.1},
    measured={"runtime": "onnxruntime 1.31.1"},
)
DRAFT = Manifest("street", "x86", "2026-11-21T19:00:00Z", {"edgedet": "0.1"}, (Choice("openvino", MODEL.path),), (MODEL,))
CONTENTS = {
    "models/street-fp32.onnx": b"weights",
    "reference/frames.npz": b"frames",
    "streams.toml": b"model = 1",
    "install.sh": b"#!/bin/sh",
}


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    """A bundle of small files."""
    folder = tmp_path / "street"
    for name, content in CONTENTS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    bundle.seal(folder, DRAFT)
    return folder


def test_a_manifest_comes_back_as_it_was_written(sealed: Path):
    manifest = bundle.read(sealed)
    assert set(manifest.files) == set(CONTENTS)
    assert manifest == bundle.Manifest.from_json(manifest.to_json(), where="here")
    assert manifest.model(MODEL.path) == MODEL
    assert bundle.differences(sealed, manifest) == {}


def test_hashes_are_those_that_sha256sum_gives(sealed: Path):
    listed = "".join(f"{file.sha256}  {name}\n" for name, file in bundle.read(sealed).files.items())
    done = subprocess.run(["sha256sum", "--check", "--quiet"], cwd=sealed, input=listed, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda path: path.write_bytes(b"Weights"), "has sha256"),
        (lambda path: path.write_bytes(b"weights and more"), "has 16 bytes, was made with 7"),
        (lambda path: path.unlink(), "is missing"),
        (lambda path: (path.unlink(), path.symlink_to("/etc/hostname")), "is a link that leads out of the bundle"),
    ],
)
def test_every_file_that_changed_is_told_and_how(sealed: Path, harm: Callable[[Path], object], words: str):
    harm(sealed / MODEL.path)
    ((name, found),) = bundle.differences(sealed, bundle.read(sealed)).items()
    assert name == MODEL.path
    assert words in found


def test_what_lies_at_the_top_is_for_its_owner_to_edit():
    assert bundle.may_be_edited("streams.toml")
    assert not bundle.may_be_edited(MODEL.path)
    assert not bundle.may_be_edited(bundle.REFERENCE)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 2}, "manifest version 2, this edgedet reads 1"),
        ({"target": "toaster"}, "is for 'toaster'; there are jetson, x86"),
        ({"order": []}, "names no runtime in its order"),
        ({"order": [{"runtime": "openvino", "model": "models/other.onnx"}]}, "orders 'models/other.onnx'"),
        ({"order": [{"runtime": "openvino"}]}, "has a wrong field"),
        ({"surprise": 1}, "has a wrong field"),
        ({"files": {"../../etc/passwd": {"sha256": "", "bytes": 1}}}, "leads out of the bundle"),
        ({"files": {"/etc/passwd": {"sha256": "", "bytes": 1}}}, "leads out of the bundle"),
        ({"files": {"a\nb": {"sha256": "", "bytes": 1}}}, "is no plain file name"),
        ({"files": {}}, "does not list models/street-fp32.onnx"),
        ({"files": {"a": {"sha256": None, "bytes": 1}}}, "says of a neither sha256 nor size"),
    ],
)
def test_a_manifest_that_cannot_be_is_refused(sealed: Path, change: dict[str, Any], words: str):
    path = sealed / bundle.MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ArtifactError) as refused:
        bundle.read(sealed)
    assert words in str(refused.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"text"'])
def test_what_is_no_manifest_is_said_to_be_none(sealed: Path, text: str):
    (sealed / bundle.MANIFEST).write_text(text)
    with pytest.raises(ArtifactError, match="is no manifest of a bundle"):
        bundle.read(sealed)


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path):
    with pytest.raises(ArtifactError, match="so it is no bundle"):
        bundle.read(tmp_path)
    with pytest.raises(ArtifactError, match="no such folder"):
        bundle.read(tmp_path / "absent")


def test_a_new_bundle_takes_the_place_of_an_old_one_and_of_nothing_else(sealed: Path, tmp_path: Path):
    out = tmp_path / "out"
    bundle.publish(sealed, out)
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / bundle.MANIFEST).write_text("new")
    bundle.publish(tmp_path / "second", out)
    assert (out / bundle.MANIFEST).read_text() == "new"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="holds something that is no bundle"):
        bundle.publish(out, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").exists()


def packed(
    folder: Path, path: Path, *extra: tuple[tarfile.TarInfo, bytes], prefix: str = "street/", mode: str = "w:gz"
) -> Path:
    """The folder as an archive, with more members behind."""
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                tar.add(file, f"{prefix}{file.relative_to(folder).as_posix()}")
        for member, content in extra:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize(("suffix", "mode"), [(".tar", "w:"), (".tar.gz", "w:gz"), (".tgz", "w:gz")])
@pytest.mark.parametrize("prefix", ["", "./", "street/", "./street/"])
def test_a_bundle_comes_out_of_its_archive_as_it_went_in(sealed: Path, tmp_path: Path, suffix: str, mode: str, prefix: str):
    path = packed(sealed, tmp_path / f"box{suffix}", prefix=prefix, mode=mode)
    assert archive.is_archive(path)
    out = archive.unpack(path, archive.default_place(path))
    assert out == tmp_path / "box"
    assert bundle.differences(out, bundle.read(sealed)) == {}
    assert (out / "install.sh").stat().st_mode & 0o777 == 0o755


def test_an_archive_unpacked_before_stays_with_what_its_owner_edited(sealed: Path, tmp_path: Path):
    path = packed(sealed, tmp_path / "box.tar.gz")
    out = archive.unpack(path, tmp_path / "box")
    (out / "streams.toml").write_text("model = 2")
    assert archive.unpack(path, out) == out
    assert (out / "streams.toml").read_text() == "model = 2"


def test_an_archive_does_not_replace_another_bundle(sealed: Path, tmp_path: Path):
    out = archive.unpack(packed(sealed, tmp_path / "box.tar.gz"), tmp_path / "box")
    (sealed / MODEL.path).write_bytes(b"others!")
    bundle.seal(sealed, DRAFT)
    with pytest.raises(ArtifactError, match="remove it, or name another place with --into"):
        archive.unpack(packed(sealed, tmp_path / "box.tar.gz"), out)


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type, found.linkname = kind, target
    return found


@pytest.mark.parametrize(
    ("hostile", "words"),
    [
        (member("../outside"), "leads out of the bundle"),
        (member("street/../../outside"), "leads out of the bundle"),
        (member("/tmp/edgedet-outside"), "leads out of the bundle"),
        (member("street/a//b"), "leads out of the bundle"),
        (member("street/a\\..\\b"), "is no plain file name"),
        (member("street/models/link", tarfile.SYMTYPE, "/etc"), "is a symbolic link"),
        (member("street/models/link", tarfile.LNKTYPE, "street/install.sh"), "is a hard link"),
        (member("street/models/null", tarfile.CHRTYPE), "is a device"),
        (member("street/models/disk", tarfile.BLKTYPE), "is a device"),
        (member("street/models/pipe", tarfile.FIFOTYPE), "is a pipe"),
        (member("street/models/holes", tarfile.GNUTYPE_SPARSE), ""),
        (member("street/install.sh"), "twice"),
        (member("./street/install.sh"), "twice"),
        (member("street/models/extra"), "is not in its manifest"),
        (member("models/street-fp32.onnx"), "is not in its manifest"),
        (member("other/manifest.json"), "here are 2"),
    ],
)
def test_a_hostile_archive_leaves_nothing_anywhere(sealed: Path, tmp_path: Path, hostile: tarfile.TarInfo, words: str):
    path = packed(sealed, tmp_path / "box.tar", (hostile, b""), mode="w:")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ArtifactError) as refused:
        archive.unpack(path, tmp_path / "box")
    assert words in str(refused.value)
    assert sorted(tmp_path.rglob("*")) == before
    assert not Path("/tmp/edgedet-outside").exists()


def test_a_file_of_another_size_than_the_manifest_says_is_refused(sealed: Path, tmp_path: Path):
    (sealed / MODEL.path).write_bytes(b"x" * 1000)
    with pytest.raises(ArtifactError, match="has 1000 bytes, its manifest says 7"):
        archive.unpack(packed(sealed, tmp_path / "box.tar"), tmp_path / "box")


def test_a_bomb_of_zeros_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(archive, "MOST_BYTES", 1 << 20)
    with tarfile.open(tmp_path / "bomb.tar.gz", "w:gz") as tar:
        bomb = member("street/models/zeros")
        bomb.size = 3 << 20
        tar.addfile(bomb, io.BytesIO(bytes(bomb.size)))
    assert (tmp_path / "bomb.tar.gz").stat().st_size < 10_000
    with pytest.raises(ArtifactError, match="unpacks to more than"):
        archive.unpack(tmp_path / "bomb.tar.gz", tmp_path / "box")


def test_a_header_that_claims_gigabytes_is_not_read_into_memory(tmp_path: Path):
    # A pax header is read whole before anything is known of the file behind it.
    head = tarfile.TarInfo("pax")
    head.type, head.size = tarfile.XHDTYPE, 3 << 30
    (tmp_path / "bomb.tar").write_bytes(head.tobuf(tarfile.USTAR_FORMAT) + bytes(10240))
    with pytest.raises(ArtifactError, match="or claims to; not unpacked"):
        archive.unpack(tmp_path / "bomb.tar", tmp_path / "box")


def test_more_files_than_any_bundle_has_are_refused(sealed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(archive, "MOST_FILES", 4)
    with pytest.raises(ArtifactError, match="holds more than 4 files"):
        archive.unpack(packed(sealed, tmp_path / "box.tar"), tmp_path / "box")


@pytest.mark.parametrize("content", [b"", b"no archive at all", b"\x1f\x8b\x08\x00broken", bytes(2000)])
def test_what_is_no_archive_is_said_to_be_none(tmp_path: Path, content: bytes):
    (tmp_path / "box.tar.gz").write_bytes(content)
    with pytest.raises(ArtifactError):
        archive.unpack(tmp_path / "box.tar.gz", tmp_path / "box")


def test_half_an_archive_leaves_no_half_a_bundle(sealed: Path, tmp_path: Path):
    path = packed(sealed, tmp_path / "box.tar.gz")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ArtifactError):
        archive.unpack(path, tmp_path / "box")
    assert not (tmp_path / "box").exists()
