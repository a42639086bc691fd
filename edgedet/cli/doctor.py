"""`edgedet doctor`: what works on this machine, and what to install for what does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from edgedet import __version__, console
from edgedet.errors import RuntimeUnavailable

if TYPE_CHECKING:
    from edgedet.runtimes.doctor import Diagnosis, OpenCvState


def command(json: bool = typer.Option(False, "--json", help="Print JSON.")) -> None:
    """Show which runtimes, devices and optional parts work here, and what to install for the rest.

    Exit code 0 when at least one runtime works.

    Example: `edgedet doctor`
    """
    from edgedet.runtimes import doctor

    found = doctor.examine()
    if json:
        console.print_json({"edgedet": __version__, **found.as_dict()})
    else:
        _print(found)
    if not found.usable:
        raise RuntimeUnavailable("no runtime works here; see above for what to install, `pip install onnxruntime` first")


def _print(found: Diagnosis) -> None:
    print(f"edgedet {__version__} on {found.machine}")
    print(_opencv_line(found.opencv))
    rows = [
        [r.name, " ".join(r.suffixes), r.version or "—", ", ".join(r.devices) or "—", r.problem or "works"]
        for r in found.runtimes
    ]
    console.print_table(["runtime", "files", "version", "devices", "state"], rows)
    parts = [
        [e.name, e.enables, f"missing {', '.join(e.missing)}: {e.install}" if e.missing else "complete"] for e in found.extras
    ]
    console.print_table(["optional part", "enables", "state"], parts)


def _opencv_line(opencv: OpenCvState) -> str:
    if opencv.problem:
        return opencv.problem
    abilities = {"FFmpeg": opencv.ffmpeg, "GStreamer": opencv.gstreamer, "V4L cameras": opencv.video4linux}
    said = [f"{name} yes" if has else f"{name} no" for name, has in abilities.items()]
    return f"OpenCV {opencv.version}: {', '.join(said)}, windows {opencv.window or 'no'}"
