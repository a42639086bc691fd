"""What to do about each part of a Jetson so that edgedet runs well on it; nothing where it does already."""

from __future__ import annotations

import re

from edgedet.runtimes.jetson import LEAST_TENSORRT, LITTLE_MEMORY_MIB, Jetson, Part

VENV = "python3 -m venv --system-site-packages .venv"
"""The environment that sees what apt installed: TensorRT and JetPack's OpenCV are not on PyPI."""


def parts(jetson: Jetson, *, gstreamer: bool, tensorrt: str) -> list[Part]:
    """Every part with its state and the advice on it.

    gstreamer: whether the OpenCV of this Python has it. tensorrt: the version
    of TensorRT's module in this Python, empty where it has none.
    """
    return [
        _system(jetson),
        _power(jetson),
        _clocks(jetson),
        Part("DLA", f"{jetson.dla} cores" if jetson.dla else "none"),
        _tensorrt(jetson, tensorrt),
        _opencv(jetson, gstreamer),
        _elements(jetson),
        _memory(jetson),
    ]


def _system(jetson: Jetson) -> Part:
    if not jetson.l4t:
        advice = "/etc/nv_tegra_release is absent; in a container: docker run -v /etc/nv_tegra_release:/etc/nv_tegra_release:ro"
        return Part("system", f"{jetson.model}, L4T unknown", advice)
    state = f"{jetson.model}, L4T {jetson.l4t}, JetPack {jetson.jetpack or 'unknown to this edgedet'}"
    old = int(jetson.l4t.partition(".")[0]) < 36 or jetson.l4t in ("36.2", "36.3")
    return Part("system", state, "flash JetPack 6.1 or newer: this one has no TensorRT 10.3" if old else "")


def _power(jetson: Jetson) -> Part:
    if not jetson.power_mode:
        return Part("power mode", "unknown", "nvpmodel -q does not answer; see what it says: sudo nvpmodel -q")
    others = [name for name in jetson.power_modes.values() if name != jetson.power_mode]
    state = jetson.power_mode + (f" (others: {', '.join(others)})" if others else "")
    most = {name: number for number, name in jetson.power_modes.items() if name.startswith("MAXN")}
    if not most or jetson.power_mode in most:
        return Part("power mode", state)
    name, number = max(most.items())
    return Part("power mode", state, f"sudo nvpmodel -m {number} is {name}, where power supply and cooling allow")


def _clocks(jetson: Jetson) -> Part:
    if not jetson.clocks:
        return Part("clocks", "unknown", "see what sudo jetson_clocks --show says")
    state = ", ".join(f"{unit} {clock}" for unit, clock in jetson.clocks.items())
    advice = "" if jetson.clocks_fixed else "they vary with load: sudo jetson_clocks before a benchmark, until the next start"
    return Part("clocks", state, advice)


def _tensorrt(jetson: Jetson, module: str) -> Part:
    installed = jetson.packages.get("tensorrt") or jetson.packages.get("python3-libnvinfer", "")
    state = f"{installed or 'not installed'} (apt), {module or 'not seen'} (this Python)"
    if not installed and not module:
        return Part("TensorRT", state, "sudo apt-get install tensorrt python3-libnvinfer")
    numbers = tuple(map(int, re.findall(r"\d+", module or installed)[:2]))
    if numbers < LEAST_TENSORRT:
        return Part("TensorRT", state, "edgedet needs 10.3: flash JetPack 6.1 or newer")
    if not module and "python3-libnvinfer" not in jetson.packages:
        return Part("TensorRT", state, f"sudo apt-get install python3-libnvinfer, and an environment that sees it: {VENV}")
    return Part("TensorRT", state, "" if module else f"make an environment that sees it: {VENV}")


def _opencv(jetson: Jetson, gstreamer: bool) -> Part:
    if gstreamer:
        return Part("OpenCV", "with GStreamer")
    missing = "" if "libopencv-python" in jetson.packages else "sudo apt-get install libopencv-python, and "
    advice = f"pip's has none, JetPack's has: {missing}pip uninstall opencv-python opencv-python-headless, in: {VENV}"
    return Part("OpenCV", "without GStreamer: no csi:, no nvdec:", advice)


def _elements(jetson: Jetson) -> Part:
    if jetson.elements is None:
        return Part("decoder", "unknown", "sudo apt-get install gstreamer1.0-tools")
    missing = [name for name, there in jetson.elements.items() if not there]
    if not missing:
        return Part("decoder", ", ".join(jetson.elements))
    advice = "sudo apt-get install nvidia-l4t-gstreamer; in a container: docker run --runtime nvidia"
    return Part("decoder", f"no {', '.join(missing)}", advice)


def _memory(jetson: Jetson) -> Part:
    state = f"{jetson.memory_mib / 1024:.1f} GiB, swap {f'{jetson.swap_mib / 1024:.1f} GiB' if jetson.swap_mib else 'none'}"
    if jetson.swap_mib or jetson.memory_mib >= LITTLE_MEMORY_MIB:
        return Part("memory", state)
    advice = "a build may need some: sudo fallocate -l 8G /swapfile && sudo chmod 600 /swapfile && sudo mkswap /swapfile"
    return Part("memory", state, f"{advice} && sudo swapon /swapfile")
