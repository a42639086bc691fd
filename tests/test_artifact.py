"""Files appear whole or not at all, whatever stops the writing, and say so in one message."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgedet import artifact
from edgedet.artifact import require_file, sha256, write_text, writing
from edgedet.errors import ArtifactError, OutputError


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "edgedet-test", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("a small tmpfs cannot be mounted here (needs root)")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_files_written_together_appear_together(tmp_path):
    first, second = tmp_path / "new/model.xml", tmp_path / "new/model.bin"
    with writing(first, second) as (xml, weights):
        assert (xml.name, weights.name) == ("model.xml", "model.bin")
        xml.write_text("graph")
        weights.write_bytes(b"weights")
        assert not first.exists()
    assert (first.read_text(), second.read_bytes()) == ("graph", b"weights")
    assert names(tmp_path / "new") == ["model.bin", "model.xml"]


def test_a_failure_leaves_what_stood_there(tmp_path):
    target = tmp_path / "report.json"
    target.write_text("old")
    with contextlib.suppress(ZeroDivisionError), writing(target, tmp_path / "other") as (temporary, _):
        temporary.write_text("half")
        _ = 1 // 0
    assert target.read_text() == "old"
    assert names(tmp_path) == ["report.json"]


def test_a_kill_leaves_what_stood_there(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    code = (
        "import os, signal, sys; from pathlib import Path; from edgedet.artifact import writing\n"
        "with writing(Path(sys.argv[1])) as (path,):\n"
        "    path.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.txt")], check=False)
    assert result.returncode < 0
    assert (tmp_path / "a.txt").read_text() == "old"


def test_a_full_disk_is_said_and_leaves_what_stood_there(small_disk):
    write_text(small_disk / "a.txt", "old")
    with pytest.raises(OutputError, match=r"disk: cannot be written: the disk is full; free some space"):
        write_text(small_disk / "a.txt", "x" * 200_000)
    assert (small_disk / "a.txt").read_text() == "old"
    assert names(small_disk) == ["a.txt"]


def test_a_read_only_disk_is_said(small_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(OutputError, match="the file system is read-only; choose another place"):
        write_text(small_disk / "a.txt", "new")


@pytest.mark.skipif(os.geteuid() == 0, reason="root ignores file modes")
def test_a_folder_without_permission_is_said(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(OutputError, match="permission denied; choose another place"):
        write_text(tmp_path / "closed/a.txt", "new")


@pytest.mark.parametrize("below", ["file/a.txt", "file/deeper/a.txt"])
def test_a_path_below_a_file_is_said(tmp_path, below):
    (tmp_path / "file").write_text("old")
    with pytest.raises(OutputError, match=r"cannot be written: .* is .*; choose another place|stands where a folder is needed"):
        write_text(tmp_path / below, "new")
    assert (tmp_path / "file").read_text() == "old"


def test_a_folder_in_the_place_of_the_file_is_said(tmp_path):
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(OutputError, match="a folder stands where the file should go"):
        write_text(tmp_path / "a.txt", "new")
    assert names(tmp_path) == ["a.txt"]


def test_a_pipe_or_a_device_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="pipe"):
        write_text(tmp_path / "pipe", "new")
    assert (tmp_path / "pipe").is_fifo()


def test_text_is_utf8(tmp_path):
    write_text(tmp_path / "a.txt", "größer ≥ .5")
    assert (tmp_path / "a.txt").read_bytes() == "größer ≥ .5".encode()


def test_sha256_is_that_of_the_content(tmp_path):
    content = bytes(range(256)) * 9000  # more than one block of the reader
    (tmp_path / "a").write_bytes(content)
    assert sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_what_is_no_file_is_refused_with_what_is_there(tmp_path):
    with pytest.raises(ArtifactError, match=r"gone\.onnx: no such file"):
        require_file(tmp_path / "gone.onnx")
    with pytest.raises(ArtifactError, match="is a folder; name a file in it"):
        sha256(tmp_path)


def test_parts_of_a_model_are_its_own_weights_only(tmp_path: Path):
    """An ONNX file and an OpenVINO one of the same name lie side by side; the .bin is the latter's."""
    for name in ("model.onnx", "model.xml", "model.bin"):
        (tmp_path / name).touch()
    assert artifact.parts(tmp_path / "model.onnx") == [tmp_path / "model.onnx"]
    assert artifact.parts(tmp_path / "model.xml") == [tmp_path / "model.bin", tmp_path / "model.xml"]
    (tmp_path / "model.onnx.data").touch()
    assert artifact.parts(tmp_path / "model.onnx") == [tmp_path / "model.onnx.data", tmp_path / "model.onnx"]
