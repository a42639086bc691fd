"""Weights by name through the command line and the cache, served from this machine; and the table of what is published."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
from file_server import FileServer
from places import refused

from edgedet import assets, published
from edgedet.download import Remote
from edgedet.errors import UsageError
from edgedet.published import TABLE, Published
from edgedet.runtimes.recording import Target


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache, and the network allowed."""
    monkeypatch.setenv("EDGEDET_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("EDGEDET_OFFLINE", raising=False)
    return tmp_path / "cache" / "weights"


@pytest.fixture
def served(file_server: FileServer, cache, monkeypatch) -> FileServer:
    """The embedded detector as the published weights `street-nano@coco`, of unknown digest."""
    file_server.content = assets.street_nano().read_bytes()
    publish(monkeypatch, file_server, "")
    return file_server


def publish(monkeypatch, server: FileServer, sha256: str) -> None:
    files = (Remote(server.url("street.safetensors"), sha256),)
    monkeypatch.setitem(TABLE, "street-nano@coco", Published("somebody", "CC-BY-4.0", files))


def test_export_takes_a_name_shows_the_licence_and_downloads_once(served, cache, edgedet_cli, tmp_path, capsys):
    first = edgedet_cli("export", "street-nano@coco", "--to", "onnx", "--out", tmp_path / "out", "--size", "64")
    assert first.code == 0, first.err
    assert "street-nano@coco: published by somebody, licence CC-BY-4.0" in first.err
    assert "street.safetensors: " in first.err
    assert "this first copy is trusted" in first.err
    assert {path.name for path in (cache / "street-nano@coco").iterdir()} == {"street.safetensors", "street.safetensors.sha256"}
    assert assets.named(Path("street-nano@coco")) == cache / "street-nano@coco/street.safetensors"
    assert capsys.readouterr().err == ""
    assert len(served.asked) == 1


@pytest.mark.parametrize(
    "verb",
    [
        ("export", "street-nano@coco"),
        ("validate", "street-nano@coco", "other.onnx", "--data", "."),
        ("bench", "street-nano@coco"),
        ("bench", "street-nano@coco@torch"),
        ("stream", "clip.mp4", "--model", "street-nano@coco"),
        ("train", "--data", ".", "--init", "street-nano@coco"),
        ("deploy", "street-nano@coco", "--target", "x86", "--out", "bundle"),
    ],
)
def test_every_verb_that_takes_a_checkpoint_takes_the_name_and_tells_that_the_file_is_gone(verb, served, edgedet_cli):
    served.status = 404
    refused(edgedet_cli(*verb), served.url("street.safetensors"), "the server answers 404")


def test_offline_one_message_says_what_is_missing(served, edgedet_cli, monkeypatch):
    monkeypatch.setenv("EDGEDET_OFFLINE", "1")
    refused(edgedet_cli("export", "street-nano@coco"), "street.safetensors is missing", "EDGEDET_OFFLINE")
    assert not served.asked


def test_tampered_weights_are_refused_and_not_kept(served, cache, edgedet_cli, monkeypatch):
    publish(monkeypatch, served, hashlib.sha256(served.content).hexdigest()[:8])
    served.content = served.content[:-1] + b"\0"
    refused(edgedet_cli("export", "street-nano@coco"), "sha256", "altered")
    assert not list((cache / "street-nano@coco").iterdir())


def test_truncated_weights_end_with_one_message_and_go_on_next_time(served, cache, edgedet_cli):
    served.cuts = [1000, 0, 0]
    refused(edgedet_cli("export", "street-nano@coco"), "the connection ended", "run the command again")
    assert not (cache / "street-nano@coco/street.safetensors").exists()
    assert assets.named(Path("street-nano@coco")).read_bytes() == served.content


def test_a_checkpoint_of_two_files_lies_beside_its_cfg(served, cache, monkeypatch):
    files = (Remote(served.url("net.weights")), Remote(served.url("original.cfg"), saved_as="net.cfg"))
    monkeypatch.setitem(TABLE, "net@coco", Published("somebody", "MIT", files))
    assert assets.named(Path("net@coco")) == cache / "net@coco/net.weights"
    assert (cache / "net@coco/net.cfg").exists()


def test_an_unknown_name_lists_near_ones(cache):
    with pytest.raises(UsageError, match="no published weights are named 'retinanet-r51@coco'; near it: retinanet-r50@coco"):
        assets.named(Path("retinanet-r51@coco"))
    with pytest.raises(UsageError, match="Google Drive"):
        assets.named(Path("centernet-dla34@coco"))


@pytest.mark.parametrize("name", ["model.onnx", "folder/net@coco.pth", "net@two.pth", "missing"])
def test_what_is_no_name_stays_a_path(name):
    assert assets.named(Path(name)) == Path(name)


def test_a_file_of_the_users_goes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("ssd-vgg16@coco").write_text("")
    assert assets.named(Path("ssd-vgg16@coco")) == Path("ssd-vgg16@coco")


@pytest.mark.parametrize(
    ("text", "path", "runtime"),
    [
        ("yolox-nano@coco", "yolox-nano@coco", None),
        ("yolox-nano@coco@torch", "yolox-nano@coco", "torch"),
        ("yolov1-tiny@voc", "yolov1-tiny@voc", None),
        ("model.onnx@openvino", "model.onnx", "openvino"),
    ],
)
def test_a_name_and_a_runtime_are_told_apart(text, path, runtime):
    assert Target.split(text) == (path, runtime)


def test_the_cache_is_where_the_environment_says(monkeypatch):
    monkeypatch.delenv("EDGEDET_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/of/the/user")
    assert published.cache() == Path("/of/the/user/edgedet/weights")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert published.cache() == Path.home() / ".cache/edgedet/weights"
    monkeypatch.setenv("EDGEDET_CACHE", "/chosen")
    assert published.cache() == Path("/chosen/weights")


def test_digests_are_those_in_the_file_names_or_whole():
    for name, found in TABLE.items():
        weights = found.files[0]
        assert published.is_name(name)
        assert weights.url.startswith("https://")
        if name.startswith("efficientdet-") or found.publisher == "torchvision":
            assert re.search(rf"-{weights.sha256}\.pth$", weights.url), name
            assert len(weights.sha256) == 8
        elif name != "yolov1-tiny@voc":  # nobody has recorded its digest
            assert re.fullmatch("[0-9a-f]{64}", weights.sha256), name


def test_whose_a_file_is_shows_in_its_digest():
    assert published.of_digest("eeacb38b" + 56 * "0") is TABLE["retinanet-r50@coco"]
    assert published.of_digest(64 * "0") is None
