"""`edgedet doctor`: what works on this machine and what to install for the rest; of a model, what its runtime will not take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, cast, get_args

import typer

from edgedet import __version__, console
from edgedet.errors import ArtifactError, GateFailed, RuntimeUnavailable, UsageError

if TYPE_CHECKING:
    from edgedet.calibration.lint import Finding
    from edgedet.runtimes.doctor import Diagnosis, OpenCvState

SHOWN = 3
"""Places of a rule that the table names; JSON has all."""


def command(
    model: Path | None = typer.Argument(None, help="An ONNX file, of edgedet or not, to hold against a runtime's rules."),
    runtime: str | None = typer.Option(
        None, "--for", metavar="tensorrt|onnxruntime|openvino", help="The runtime that the model is meant for."
    ),
    json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Show which runtimes, devices and optional parts work here, and what to install for the rest.

    With a model: where it breaks a rule of its runtime, and why that matters. Exit code 1 where it breaks one; without a
    model 0 when at least one runtime works.

    Example: `edgedet doctor` or `edgedet doctor yolox-nano-416-int8.onnx --for openvino`
    """
    if model is not None:
        _lint(model, runtime, json)
    elif runtime is not None:
        raise UsageError(f"--for {runtime} needs a model to look at: edgedet doctor MODEL.onnx --for {runtime}")
    else:
        _examine(json)


def _examine(json: bool) -> None:
    from edgedet.runtimes import doctor

    found = doctor.examine()
    if json:
        console.print_json({"edgedet": __version__, **found.as_dict()})
    else:
        _print(found)
    if not found.usable:
        raise RuntimeUnavailable("no runtime works here; see above for what to install, `pip install onnxruntime` first")


def _lint(path: Path, runtime: str | None, json: bool) -> None:
    from edgedet.calibration.lint import Runtime, lint
    from edgedet.export import onnx_file

    known = get_args(Runtime)
    if runtime not in known:
        given = "which runtime it is for is not said" if runtime is None else f"there are no rules for {runtime}"
        raise UsageError(f"{path.name}: {given}; add --for {', '.join(known[:-1])} or {known[-1]}")
    model = onnx_file.load(path)
    try:
        findings = lint(model, cast("Runtime", runtime))
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}") from error
    if json:
        console.print_json({"file": path.name, "runtime": runtime, "findings": [asdict(finding) for finding in findings]})
    elif findings:
        _print_findings(findings)
    else:
        print(f"{path.name} breaks no rule of {runtime}")
    if findings:
        broken = list(dict.fromkeys(finding.rule for finding in findings))
        raise GateFailed(f"{path.name} breaks rules of {runtime}: {', '.join(broken)}")


def _print_findings(findings: Sequence[Finding]) -> None:
    rows = []
    for rule, group in groupby(findings, key=lambda finding: finding.rule):
        places = list(group)
        said = [f"{place.node}: {place.message}" for place in places[:SHOWN]]
        said += [f"and {len(places) - SHOWN} more (--json)"] if len(places) > SHOWN else []
        rows.append([rule, str(len(places)), "\n".join(said), places[0].reason])
    console.print_table(["rule", "places", "where", "why"], rows)


def _print(found: Diagnosis) -> None:
    print(f"edgedet {__version__} on {found.machine}")
    print(_opencv_line(found.opencv))
    rows = [
        [r.name, " ".join(r.suffixes), r.version or "—", ", ".join(r.devices) or "—", r.problem or "works"]
        for r in found.runtimes
    ]
    console.print_table(["runtime", "files", "version", "devices", "state"], rows)
    if found.parts:
        console.print_table(["Jetson", "state", "to do"], [[part.name, part.state, part.advice] for part in found.parts])
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
