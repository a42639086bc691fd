"""Power and clocks while something runs, from tegrastats on a Jetson or nvidia-smi, and the power mode that allows them.

tegrastats prints a rail as `VDD_IN 3462mW/3502mW/3582mW`: now, mean and, since JetPack 7, most; only now is read here.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from edgedet.runtimes import jetson

INTERVAL_MS = 100
FIRST_READING_S = 3.0
"""How long a tool may take until its first line; then it is done without."""
INPUTS = ("VDD_IN", "VIN")
"""Rails that are all a module (Orin Nano, NX) or a board (Thor) takes."""
SHARES = ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")
"""The rails of AGX Orin that make up its module's input: NVIDIA measures no sum."""


@dataclass(frozen=True)
class Reading:
    """One line of a tool: mW by rail, and MHz, the fastest core's or the fastest part's of the GPU; None where untold."""

    rails_mw: dict[str, float]
    gpu_mhz: float | None = None
    cpu_mhz: float | None = None


@dataclass(frozen=True)
class Meter:
    """A tool that prints a line every INTERVAL_MS, and what reads one of them, None where it holds no reading."""

    name: str
    command: tuple[str, ...]
    parse: Callable[[str], Reading | None]


def read_tegrastats(line: str) -> Reading | None:
    """The reading of a line of tegrastats; None where it tells no power."""
    rails = {name: float(now) for name, now in re.findall(r"\b(V[A-Z0-9_]+) (\d+)mW", line)}
    gpu = re.search(r"GR3D_FREQ (?:\d+%)?@\[?([\d,]+)", line)
    cores = re.search(r"CPU \[([^\]]*)\](?:@(\d+))?", line)
    speeds = re.findall(r"@(\d+)", cores[0]) if cores else []
    fastest = max(map(float, gpu[1].strip(",").split(","))) if gpu else None
    return Reading(rails, fastest, max(map(float, speeds)) if speeds else None) if rails else None


def read_nvidia_smi(line: str) -> Reading | None:
    """The reading of a line `power.draw, clocks.gr` in W and MHz; None where the driver tells no power."""
    watts, _, clock = (value.strip() for value in line.partition(","))
    try:
        return Reading({"GPU": float(watts) * 1e3}, float(clock) if re.fullmatch(r"\d+(\.\d+)?", clock) else None)
    except ValueError:  # `[N/A]`, or a message of the driver's
        return None


def find_meter(device: str = "") -> Meter | None:
    """What measures this machine, None where nothing does; device: as in `Options`, for which of several GPUs."""
    if shutil.which("tegrastats"):
        return Meter("tegrastats", ("tegrastats", "--interval", str(INTERVAL_MS)), read_tegrastats)
    if shutil.which("nvidia-smi"):
        query = ("--query-gpu=power.draw,clocks.gr", "--format=csv,noheader,nounits", f"--loop-ms={INTERVAL_MS}")
        return Meter("nvidia-smi", ("nvidia-smi", f"--id={_index(device)}", *query), read_nvidia_smi)
    return None


def _index(device: str) -> int:
    """Which GPU a device's name means: 1 for `cuda:1`, otherwise the first."""
    found = re.search(r":(\d+)$", device)
    return int(found[1]) if found else 0


@contextmanager
def measuring(meter: Meter | None) -> Iterator[list[Reading]]:
    """The readings of the time inside the block, in a list that grows; empty without a meter.

    The block begins once the tool has given its first reading, which is dropped.
    """
    readings: list[Reading] = []
    if meter is None:
        yield readings
        return
    process = subprocess.Popen(meter.command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, errors="replace")
    first = threading.Event()
    reader = threading.Thread(target=_collect, args=(process, meter, readings, first), name="power", daemon=True)
    reader.start()
    try:
        first.wait(FIRST_READING_S)
        readings.clear()
        yield readings
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(2)
        process.kill()
        process.wait()
        reader.join()


def _collect(process: subprocess.Popen[str], meter: Meter, readings: list[Reading], first: threading.Event) -> None:
    """Put what the tool prints into the list until it ends."""
    for line in process.stdout or ():
        if (reading := meter.parse(line)) is not None:
            readings.append(reading)
            first.set()
    first.set()  # it ended: nobody needs to wait for it


def summary(readings: Sequence[Reading]) -> dict[str, Any] | None:
    """Mean and most mW, of what, and mean MHz, for JSON; None where there is no reading.

    rails_mw: the mean of each rail that every reading has.
    """
    if not readings:
        return None
    names = [name for name in readings[0].rails_mw if all(name in reading.rails_mw for reading in readings)]
    parts = _parts(names)
    totals = [sum(reading.rails_mw[name] for name in parts) for reading in readings]
    return {
        "of": " + ".join(parts),
        "mean_mw": round(fmean(totals)),
        "max_mw": round(max(totals)),
        "rails_mw": {name: round(fmean(reading.rails_mw[name] for reading in readings)) for name in names},
        "gpu_mhz": _mean(reading.gpu_mhz for reading in readings),
        "cpu_mhz": _mean(reading.cpu_mhz for reading in readings),
        "readings": len(readings),
    }


def _mean(values: Iterable[float | None]) -> int | None:
    told = [value for value in values if value is not None]
    return round(fmean(told)) if told else None


def _parts(names: Sequence[str]) -> list[str]:
    """The rails that make up the total: the input where it is measured, otherwise what it consists of, or all."""
    inputs = [name for name in INPUTS if name in names]
    return inputs[:1] or [name for name in SHARES if name in names] or list(names)


def mode(device: str = "", run: jetson.Run = jetson.ask) -> str | None:
    """The power mode of this machine: a Jetson's with the state of its clocks, or a GPU's limit; None where nothing tells."""
    if (found := jetson.mode(run=run)) is not None:
        return found
    asked = ["nvidia-smi", f"--id={_index(device)}", "--query-gpu=power.limit", "--format=csv,noheader,nounits"]
    limit = (run(asked) or "").strip()
    return f"GPU limited to {float(limit):.0f} W" if re.fullmatch(r"\d+(\.\d+)?", limit) else None
