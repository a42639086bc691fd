"""Doctor: what works, and for the rest why not and what to install."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

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
    assert "does not run it yet" in found["tensorrt"].problem


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
