"""What works here, and for what does not, why and what to install."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from dataclasses import asdict, dataclass

from edgedet import plugins
from edgedet.runtimes import jetson, jetson_advice, machine
from edgedet.runtimes.jetson import Jetson, Part

ENABLES = {
    "export": "edgedet export; PyTorch as validate's reference",
    "openvino": ".xml files; .onnx files in OpenVINO",
    "tensorrt": ".engine files, where TensorRT itself is: JetPack or NVIDIA brings it",
    "train": "edgedet train",
    "eval": "AP and the reports of edgedet validate",
    "tracking": "edgedet stream --tracker",
    "web": "edgedet stream --serve",
    "mqtt": "edgedet stream --mqtt",
    "demo": "edgedet demo",
}


@dataclass(frozen=True)
class RuntimeState:
    """One runtime: its version and devices, or the problem that keeps it from running."""

    name: str
    suffixes: tuple[str, ...]
    version: str = ""
    devices: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class ExtraState:
    """One optional part: what it enables, which of its packages are here, and which are missing."""

    name: str
    enables: str
    present: dict[str, str]
    missing: tuple[str, ...]

    @property
    def install(self) -> str:
        """The command that brings what is missing."""
        return f"pip install 'edgedet[{self.name}]'"


@dataclass(frozen=True)
class OpenCvState:
    """What this build of OpenCV can do: backends for video and windows, or the problem that keeps it from importing."""

    version: str = ""
    ffmpeg: bool = False
    gstreamer: bool = False
    video4linux: bool = False
    window: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """All that `edgedet doctor` knows; jetson and parts, its state with what to do about it, on a Jetson only."""

    machine: machine.Machine
    opencv: OpenCvState
    runtimes: tuple[RuntimeState, ...]
    extras: tuple[ExtraState, ...]
    jetson: Jetson | None = None
    parts: tuple[Part, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether one runtime works at least."""
        return any(not runtime.problem for runtime in self.runtimes)

    def as_dict(self) -> dict:
        """The diagnosis for JSON."""
        return {**asdict(self), "usable": self.usable}


def examine() -> Diagnosis:
    """What works on this machine, in this Python."""
    opencv = _opencv()
    names = plugins.names("edgedet.runtimes", prefix="run_")
    runtimes = [_runtime(name, opencv) for name in names]
    board = jetson.read()
    parts = jetson_advice.parts(board, gstreamer=opencv.gstreamer, tensorrt=_tensorrt_module()) if board else []
    return Diagnosis(machine.describe(), opencv, tuple(runtimes), _extras(), board, tuple(parts))


def _runtime(name: str, opencv: OpenCvState) -> RuntimeState:
    if opencv.problem:
        return RuntimeState(name, (), problem="needs OpenCV, which does not import")
    module = plugins.find("edgedet.runtimes", name, prefix="run_")
    problem = module.available()
    if problem is not None:
        return RuntimeState(name, module.SUFFIXES, problem=problem)
    return RuntimeState(name, module.SUFFIXES, module.version(), tuple(module.devices()))


def _tensorrt_module() -> str:
    """The version of this Python's TensorRT, empty where it has none."""
    try:
        import tensorrt
    except ImportError:
        return ""
    return tensorrt.__version__


def _opencv() -> OpenCvState:
    try:
        import cv2
    except ImportError as error:
        return OpenCvState(
            problem=f"OpenCV cannot be imported ({error}); apt-get install libgl1, or pip install opencv-python-headless"
        )
    return read_build_information(cv2.__version__, cv2.getBuildInformation())


def read_build_information(version: str, text: str) -> OpenCvState:
    """What OpenCV's build information says of video and windows."""

    def value(key: str) -> str:
        found = re.search(rf"^\s*{key}:\s*(.*?)\s*$", text, re.MULTILINE)
        return found[1] if found and not found[1].startswith("NO") else ""

    return OpenCvState(version, bool(value("FFMPEG")), bool(value("GStreamer")), bool(value("v4l/v4l2")), value("GUI"))


def _extras() -> tuple[ExtraState, ...]:
    """The optional parts that this edgedet's own metadata lists, those for its developers apart."""
    packages: dict[str, list[str]] = {}
    for requirement in importlib.metadata.requires("edgedet") or []:
        found = re.match(r"""([\w.-]+).*;\s*extra\s*==\s*['"]([\w-]+)['"]""", requirement)
        if found and found[1] != "edgedet":
            packages.setdefault(found[2], []).append(found[1])
    return tuple(_extra(name, packages[name]) for name in ENABLES if name in packages)


def _extra(name: str, packages: list[str]) -> ExtraState:
    present, missing = {}, []
    for package in packages:
        try:
            present[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            missing.append(package)
    return ExtraState(name, ENABLES[name], present, tuple(missing))
