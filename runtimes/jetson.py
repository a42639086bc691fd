"""What a Jetson is and how it is set up, read from its files and its tools, and what to do about each; no root is needed.

Formats are those of recordings from boards, in tests/recordings/jetson; here there is no board.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

Run = Callable[[Sequence[str]], "str | None"]
"""What a command prints, None where it is absent or fails."""

JETPACK = {
    **{"35.1": "5.0.2", "35.2.1": "5.1", "35.3.1": "5.1.1", "35.4.1": "5.1.2", "35.5": "5.1.3", "35.6": "5.1.4"},
    **{"36.2": "6.0 DP", "36.3": "6.0", "36.4": "6.1", "36.4.3": "6.2", "36.4.4": "6.2.1", "36.4.7": "6.2.1"},
    **{"36.5": "6.2.2", "36.5.2": "6.2.3"},
    **{"38.2": "7.0", "38.2.1": "7.0", "38.4": "7.1", "39.2": "7.2", "39.2.1": "7.2.1"},
}
"""JetPack by L4T, as https://developer.nvidia.com/embedded/jetpack-archive has them, without a last `.0`."""
ELEMENTS = ("nvv4l2decoder", "nvvidconv", "nvarguscamerasrc")
"""GStreamer's elements that `nvdec:` and `csi:` sources are made of."""
LEAST_TENSORRT = (10, 3)
LITTLE_MEMORY_MIB = 16 * 1024
"""Below it, building an engine beside a desktop has run boards out of memory; swap mends that."""
_PACKAGES = ("nvidia-jetpack", "tensorrt", "python3-libnvinfer", "libopencv-python", "nvidia-l4t-gstreamer")


@dataclass(frozen=True)
class Clock:
    """Least, most and present MHz of the processors of one kind; fixed where least is most, as jetson_clocks makes them."""

    least_mhz: int
    most_mhz: int
    now_mhz: int

    @property
    def fixed(self) -> bool:
        """Whether it cannot vary."""
        return self.least_mhz == self.most_mhz

    def __str__(self) -> str:
        return f"{self.most_mhz} MHz" if self.fixed else f"{self.least_mhz} to {self.most_mhz} MHz"


@dataclass(frozen=True)
class Jetson:
    """One board as it is set up.

    l4t, jetpack: such as `36.4.3` and `6.2`, empty where nothing tells, as in
    a container. power_mode: nvpmodel's, empty where it does not answer.
    power_modes: those it has, by their numbers. clocks: of `CPU`, `GPU` and,
    for root, memory (`EMC`). dla: how many deep-learning accelerators.
    packages: Debian packages that matter here, with versions. elements:
    whether GStreamer has each of ELEMENTS, None where its tool is absent.
    """

    model: str
    l4t: str
    jetpack: str
    power_mode: str
    power_modes: dict[int, str]
    clocks: dict[str, Clock]
    dla: int
    packages: dict[str, str]
    elements: dict[str, bool] | None
    memory_mib: int
    swap_mib: int

    @property
    def clocks_fixed(self) -> bool:
        """Whether CPU and GPU run at one speed only; the memory's clock has no such limits to read."""
        return _fixed(self.clocks)


@dataclass(frozen=True)
class Part:
    """One part of a board: its state, and what to do about it, empty where nothing."""

    name: str
    state: str
    advice: str = ""


def ask(command: Sequence[str]) -> str | None:
    """What a command prints, None where it is absent, fails or takes longer than ten seconds."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"  # where nvpmodel lies, and services do not look
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=10, env={**os.environ, "PATH": path}
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def read(root: Path = Path("/"), run: Run = ask) -> Jetson | None:
    """The Jetson whose file system starts at `root`; None where it is none."""
    model, l4t = _identity(root)
    if not model:
        return None
    packages = _packages(_text(root / "var/lib/dpkg/status"))
    memory = dict(re.findall(r"^(MemTotal|SwapTotal):\s+(\d+) kB", _text(root / "proc/meminfo"), re.MULTILINE))
    return Jetson(
        model=model,
        l4t=l4t,
        jetpack=packages.get("nvidia-jetpack", "").partition("-")[0].partition("+")[0] or JETPACK.get(l4t, ""),
        power_mode=_power_mode(run),
        power_modes=_power_modes(_text(root / "etc/nvpmodel.conf")),
        clocks=_clocks(root, run),
        dla=_count_dla(root / "proc/device-tree"),
        packages=packages,
        elements=_elements(run),
        memory_mib=int(memory.get("MemTotal", 0)) // 1024,
        swap_mib=int(memory.get("SwapTotal", 0)) // 1024,
    )


def mode(root: Path = Path("/"), run: Run = ask) -> str | None:
    """A Jetson's power mode with the state of its clocks, which decide its speed together; None where it is none."""
    if not _identity(root)[0]:
        return None
    return f"{_power_mode(run) or 'unknown'}, clocks {'fixed' if _fixed(_clocks(root, run)) else 'varying'}"


def _identity(root: Path) -> tuple[str, str]:
    """The board's name and its L4T; the name is empty where it is no Jetson."""
    model = _text(root / "proc/device-tree/model").strip("\0\n ")
    l4t = _l4t(_text(root / "etc/nv_tegra_release"))
    return (model or "a Jetson", l4t) if l4t or "Jetson" in model else ("", "")


def _fixed(clocks: Mapping[str, Clock]) -> bool:
    return bool(clocks) and all(clock.fixed for unit, clock in clocks.items() if unit != "EMC")


def _power_mode(run: Run) -> str:
    """The power mode that nvpmodel tells, such as `MAXN_SUPER`; empty where it does not answer."""
    found = re.search(r"NV Power Mode:\s*(\S+)", run(["nvpmodel", "-q"]) or "")
    return found[1] if found else ""


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _l4t(release: str) -> str:
    """`36.4.3` out of `# R36 (release), REVISION: 4.3, GCID: …`, `36.4` where the revision is 4.0."""
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", release)
    return f"{found[1]}.{found[2].removesuffix('.0')}" if found else ""


def _packages(status: str) -> dict[str, str]:
    """Versions of the installed packages that matter here, from dpkg's own list."""
    found = {}
    for paragraph in status.split("\n\n"):
        name = re.match(r"Package: (\S+)", paragraph.lstrip("\n"))
        if name and name[1] in _PACKAGES and "\nStatus: install ok installed\n" in paragraph:
            version = re.search(r"^Version: (\S+)", paragraph, re.MULTILINE)
            found[name[1]] = version[1] if version else ""
    return found


def _power_modes(configuration: str) -> dict[int, str]:
    found = re.findall(r"^<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", configuration, re.MULTILINE)
    return {int(number): name for number, name in found}


def _clocks(root: Path, run: Run) -> dict[str, Clock]:
    """Clocks as jetson_clocks tells root, or as anybody may read them: those of CPU and GPU."""
    shown = run(["jetson_clocks", "--show"])
    clocks: dict[str, Clock] = {}
    for unit, clock in _shown(shown) if shown else _readable(root):
        one = clocks.get(unit, clock)
        clocks[unit] = Clock(
            min(one.least_mhz, clock.least_mhz), max(one.most_mhz, clock.most_mhz), max(one.now_mhz, clock.now_mhz)
        )
    return clocks


def _shown(text: str) -> Iterator[tuple[str, Clock]]:
    """Every clock in what `jetson_clocks --show` prints, and whose it is: CPUs in kHz, the rest in Hz."""
    pattern = r"^(cpu\d+|GPU|EMC)\b(.*?)MinFreq=(\d+)\s+MaxFreq=(\d+)\s+CurrentFreq=(\d+)"
    for name, between, *values in re.findall(pattern, text, re.MULTILINE):
        unit, divisor = ("CPU", 1000) if name.startswith("cpu") else (name, 10**6)
        if "Online=0" not in between:
            yield unit, Clock(*(int(value) // divisor for value in values))


def _readable(root: Path) -> Iterator[tuple[str, Clock]]:
    """Those of CPU and GPU from sysfs, where jetson_clocks has them from; the GPU's name differs by JetPack and board."""
    for folder in root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq"):
        yield from _limits("CPU", [folder / f"scaling_{limit}_freq" for limit in ("min", "max", "cur")], 1000)
    for pattern in ("*.gpu", "*.ga10b", "gpu-gpc-*"):
        for folder in root.glob(f"sys/class/devfreq/{pattern}"):
            yield from _limits("GPU", [folder / f"{limit}_freq" for limit in ("min", "max", "cur")], 10**6)


def _limits(unit: str, files: Sequence[Path], divisor: int) -> Iterator[tuple[str, Clock]]:
    """The clock that three files hold; nothing where one cannot be read."""
    texts = [_text(file).strip() for file in files]
    if all(text.isdigit() for text in texts):
        yield unit, Clock(*(int(text) // divisor for text in texts))


def _count_dla(tree: Path) -> int:
    """How many deep-learning accelerators the device tree has switched on."""
    nodes: Iterable[Path] = tree.rglob("nvdla*@*") if tree.exists() else ()
    return sum(_text(node / "status").strip("\0\n ") in ("", "okay") for node in nodes)


def _elements(run: Run) -> dict[str, bool] | None:
    if run(["gst-inspect-1.0", "--version"]) is None:
        return None
    return {name: run(["gst-inspect-1.0", "--exists", name]) is not None for name in ELEMENTS}
