"""What the machine is: the header without which a figure means nothing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from dataclasses import dataclass
from pathlib import Path

# Instruction sets that decide how fast a detector runs in f32, bf16 and int8, as Linux names them on x86 and ARM.
_ISA = (
    *("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8"),
    *("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve"),
)
_PACKAGES = (
    *("edgedet", "numpy", "opencv-python", "opencv-python-headless", "onnx", "torch", "tensorrt", "tensorrt-rtx-cu13"),
    *("onnxruntime", "onnxruntime-gpu", "openvino"),
)


@dataclass(frozen=True)
class Machine:
    """One computer, and how busy it was.

    cores: those this process may use. isa: instruction sets that matter here.
    memory_gib: all of it. busy: the load average of the last minute, None where
    the system has none.
    """

    cpu: str
    cores: int
    isa: tuple[str, ...]
    memory_gib: float | None
    system: str
    python: str
    packages: dict[str, str]
    busy: float | None

    def __str__(self) -> str:
        memory = f", {self.memory_gib:.0f} GiB" if self.memory_gib else ""
        busy = f", load {self.busy:.1f}" if self.busy is not None else ""
        isa = f" ({' '.join(self.isa)})" if self.isa else ""
        return f"{self.cpu}, {self.cores} cores{isa}{memory}, {self.system}, Python {self.python}{busy}"


def describe() -> Machine:
    """The machine this runs on."""
    info = _cpu_info()
    flags = (info.get("flags") or info.get("Features") or "").split()
    return Machine(
        cpu=_board() or info.get("model name") or platform.processor() or platform.machine(),
        cores=usable_cores(),
        isa=tuple(name for name in _ISA if name in flags),
        memory_gib=_memory_gib(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        packages=packages(),
        busy=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    )


def usable_cores() -> int:
    """How many cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def packages() -> dict[str, str]:
    """Versions of the installed packages that decide figures."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def memory_status(key: str) -> float | None:
    """A line of this process's memory status in MiB, such as VmHWM (peak) or VmRSS (now); None where there is no /proc."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
    return int(lines[key].split()[0]) / 1024 if key in lines else None


def _cpu_info() -> dict[str, str]:
    """The first processor's lines of /proc/cpuinfo; nothing where there is none."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().split("\n\n")[0].splitlines() if path.exists() else []
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _board() -> str:
    """The board's name where the firmware tells it, as on a Jetson or a Raspberry Pi."""
    path = Path("/proc/device-tree/model")
    return path.read_text().strip("\0\n ") if path.exists() else ""


def _memory_gib() -> float | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (AttributeError, ValueError):
        return None
