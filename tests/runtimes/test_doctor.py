"""Doctor: what works, and for the rest why not and what to install."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from boards import lay

from edgedet.runtimes import doctor, run_onnxruntime

BUILD = """
  GUI:                           NONE
  Video I/O:
    DC1394:                      NO
    FFMPEG:                      YES
      avcodec:                   YES (59.37.100)
    GStreamer:                   YES (1.20.3)
    v4l/v4l2:                    NO
"""


def test_runtimes_are_listed_with_version_and_devices() -> None:
    found = {runtime.name: runtime for runtime in doctor.examine().runtimes}
    assert found["onnxruntime"].problem == ""
    assert "cpu" in found["onnxruntime"].devices
    assert found["onnxruntime"].version
    assert found["tensorrt"].suffixes == (".engine", ".plan")


def test_a_missing_runtime_says_why_and_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_onnxruntime, "available", lambda: "cannot be imported; pip install onnxruntime")
    found = {runtime.name: runtime for runtime in doctor.examine().runtimes}
    assert "pip install onnxruntime" in found["onnxruntime"].problem


def test_a_missing_package_of_an_optional_part_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = doctor.importlib.metadata.version

    def version(name: str) -> str:
        if name == "openvino":
            raise doctor.importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(doctor.importlib.metadata, "version", version)
    found = {extra.name: extra for extra in doctor.examine().extras}
    assert found["openvino"].missing == ("openvino",)
    assert found["openvino"].install == "pip install 'edgedet[openvino]'"


def test_every_optional_part_of_the_package_is_explained() -> None:
    """Against pyproject's list; `dev` is for developers, and for them the tests speak."""
    provided = set(doctor.importlib.metadata.metadata("edgedet").get_all("Provides-Extra"))
    assert set(doctor.ENABLES) == provided - {"dev"}


def test_opencvs_build_is_read() -> None:
    found = doctor.read_build_information("4.10.0", BUILD)
    assert found == doctor.OpenCvState("4.10.0", ffmpeg=True, gstreamer=True, video4linux=False, window="")


def test_an_opencv_that_does_not_import_is_the_first_thing_said(monkeypatch: pytest.MonkeyPatch, edgedet_cli: Callable) -> None:
    monkeypatch.setattr(doctor, "_opencv", lambda: doctor.OpenCvState(problem="OpenCV cannot be imported (libGL.so.1)"))
    ended = edgedet_cli("doctor")
    assert ended.code == 2
    assert "libGL.so.1" in ended.out
    assert "no runtime works here" in ended.err


def test_doctor_prints_json(edgedet_cli: Callable) -> None:
    ended = edgedet_cli("doctor", "--json")
    assert ended.code == 0, ended.err
    report = json.loads(ended.out)
    assert report["usable"]
    assert report["opencv"]["version"]


@pytest.fixture
def on_a_jetson(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Doctor sees the recorded Orin Nano instead of this machine."""
    run, read = lay("orin-nano-jetpack-7.2.1", tmp_path), doctor.jetson.read
    monkeypatch.setattr(doctor.jetson, "read", lambda: read(tmp_path, run))


def test_a_jetson_is_told_part_by_part_with_what_to_do(on_a_jetson: None, edgedet_cli: Callable):
    ended = edgedet_cli("doctor")
    assert ended.code == 0, ended.err
    assert "L4T 39.2.1, JetPack 7.2.1" in ended.out
    assert "sudo nvpmodel -m 2 is MAXN_SUPER" in ended.out
    assert "CPU 729 to 1344 MHz, GPU 306 to 918 MHz" in ended.out


def test_json_has_a_jetsons_facts_and_the_advice(on_a_jetson: None, edgedet_cli: Callable):
    report = json.loads(edgedet_cli("doctor", "--json").out)
    assert report["jetson"]["clocks"]["GPU"] == {"least_mhz": 306, "most_mhz": 918, "now_mhz": 306}
    assert {part["name"] for part in report["parts"] if part["advice"]} >= {"power mode", "clocks", "memory"}
    assert [part["name"] for part in report["parts"] if not part["advice"]] == ["system", "DLA"]


def test_elsewhere_nothing_is_said_of_a_jetson(monkeypatch: pytest.MonkeyPatch, edgedet_cli: Callable):
    monkeypatch.setattr(doctor.jetson, "read", lambda: None)
    assert "Jetson" not in edgedet_cli("doctor").out
    report = json.loads(edgedet_cli("doctor", "--json").out)
    assert (report["jetson"], report["parts"]) == (None, [])
