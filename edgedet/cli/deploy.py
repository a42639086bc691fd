"""`edgedet deploy`: a model, its streams and all that a device needs to run and to check them, in one folder."""

from __future__ import annotations

import platform
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, redirect_stdout
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from edgedet import __version__, artifact, console, plugins
from edgedet.errors import GateFailed, UsageError

if TYPE_CHECKING:
    import numpy as np

    from edgedet.export.bundle import Choice, Manifest, Model, Target
    from edgedet.runtimes.reference import Reference
    from edgedet.spec import ModelSpec

RUNTIMES: dict[Target, tuple[str, ...]] = {
    "jetson": ("tensorrt", "onnxruntime", "openvino"),
    "x86": ("tensorrt", "openvino", "onnxruntime"),
}
"""The best first, of those that are there."""
FRAMES, LOOKED_AT, MOST_READ = 4, 24, 1000
"""Frames kept, those with most in them of so many, all from the first so many of a video."""
WIDTH = {"fp32": 0, "fp16": 1, "bf16": 2, "int8": 3, "int8+fp16": 4}


@dataclass(frozen=True)
class Given:
    """One ONNX file to deploy."""

    path: Path
    spec: ModelSpec

    @property
    def name(self) -> str:
        """Where it goes in the bundle."""
        return f"models/{self.path.name}"


def command(
    models: list[Path] = typer.Argument(help="A checkpoint, or ONNX files that edgedet exported of one (fp32, fp16, int8)."),
    target: str = typer.Option(..., metavar="jetson|x86", help="What it is to run on."),
    out: Path = typer.Option(..., help="The bundle: a folder that does not exist yet, or an older bundle."),
    stream: Path | None = typer.Option(None, metavar="TOML", help="What to watch, as for `edgedet stream --config`."),
    images: Path | None = typer.Option(
        None, help="A folder or video of what it will see, for frames to check it on. Default: drawn pictures."
    ),
    json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Write a bundle: models, streams, frames with what was detected in them, and scripts to install it on a device.

    There `edgedet up` picks a runtime, compiles the engine where TensorRT is, checks its answers and watches.

    Example: `edgedet deploy street-nano --images clip.mp4 --stream streams.toml --target x86 --out street`
    """
    from edgedet.cli import packing
    from edgedet.export import bundle

    chosen = _target(target)
    bundle.require_place(out)
    if stream is not None:
        _check_streams(stream)
    with artifact.scratch(out.parent) as scratch:
        files = list(_given(models, chosen, scratch))
        folder = scratch / "bundle"
        for part in (folder, folder / bundle.MODELS, folder / "reference"):
            part.mkdir()
        manifest = _manifest(out.name, chosen, files, folder, images)
        for file in files:
            _copy(file, folder / bundle.MODELS)
        if stream is not None:
            shutil.copyfile(stream, folder / bundle.STREAMS)
        wheel = packing.write_wheel(folder / bundle.WHEELS)
        packing.write_scripts(folder, chosen, _values(manifest))
        sealed = bundle.seal(folder, manifest)
        bundle.publish(folder, out)
    _show(out, sealed, wheel.name, json=json)


def _target(text: str) -> Target:
    for known in RUNTIMES:
        if text == known:
            return known
    raise UsageError(f"--target {text!r} is not one of {', '.join(RUNTIMES)}")


def _check_streams(path: Path) -> None:
    """Refuse a file of streams with mistakes; whether its cameras answer, the device will see."""
    from edgedet.streaming.config import read_settings

    read_settings(path)


def _given(models: Sequence[Path], target: Target, scratch: Path) -> Iterator[Given]:
    """The ONNX files to deploy, exported first where a checkpoint is given; files that are not of one model are refused."""
    from edgedet.export import onnx_file

    if any(path.suffix != ".onnx" for path in models):
        if len(models) > 1:
            names = ", ".join(map(str, models))
            raise UsageError(f"{names}: give one checkpoint, or the ONNX files that `edgedet export` wrote of it")
        paths = _export(models[0], target, scratch / "exported")
    else:
        paths = list(models)
    first: Given | None = None
    for path in paths:
        _, spec = onnx_file.read(path)
        first = first or Given(path, spec)
        _require_alike(first, Given(path, spec))
        if "check" not in spec.provenance and "calibration" not in spec.provenance:
            console.say(f"warning: {path.name} does not say that it was compared with PyTorch")
        yield Given(path, spec)
    if twice := next((path.name for path in paths if [other.name for other in paths].count(path.name) > 1), None):
        raise UsageError(f"two files are called {twice}; give each precision once")


def _require_alike(first: Given, other: Given) -> None:
    for key in ("name", "classes", "size_hw", "batch", "input_layout"):
        ours, theirs = getattr(first.spec, key), getattr(other.spec, key)
        if ours != theirs:
            raise UsageError(
                f"{other.path.name} has {key} {theirs!r} but {first.path.name} {ours!r}; deploy forms of one model"
            )


def _export(checkpoint: Path, target: Target, folder: Path) -> list[Path]:
    """FP32, and FP16 where it passes its gates, with the NMS that the target's first runtime takes."""
    from edgedet.cli.main import app

    nms = "matrix" if target == "jetson" else "onnx"
    for precision in ("fp32", "fp16"):
        arguments = ["export", str(checkpoint), "--to", "onnx", "--precision", precision, "--nms", nms, "--out", str(folder)]
        try:
            with redirect_stdout(sys.stderr):  # its tables are news here, no result
                app(arguments, standalone_mode=False)
        except GateFailed as error:
            if precision == "fp32":
                raise
            console.say(f"without fp16: {error}")
    return sorted(folder.glob("*.onnx"), key=lambda path: "fp16" in path.stem)


def _manifest(name: str, target: Target, files: Sequence[Given], folder: Path, images: Path | None) -> Manifest:
    """The manifest of a bundle whose reference is recorded into the folder: the widest file's answers in ONNX Runtime."""
    import edgedet
    from edgedet.export import bundle
    from edgedet.runtimes import reference as references
    from edgedet.runtimes import run_onnxruntime

    widest = min(files, key=lambda file: WIDTH[file.spec.precision])
    with edgedet.load(widest.path, runtime="onnxruntime", device="cpu") as detector:
        found = references.record(detector, _frames(detector, images))
    if images is None or found.min_score < references.MIN_SCORE:
        shown = sum(int((one.scores >= found.min_score).sum()) for one in found.detections)
        kind = "drawn pictures" if images is None else str(images)
        console.say(f"checked on {shown} objects in {kind}; --images with what it will see checks it better")
    references.write(folder / bundle.REFERENCE, found)
    order = tuple(_order(target, files))
    _warn(target, {file.name: file for file in files}, order)
    return bundle.Manifest(
        name=re.sub(r"[^\w.-]+", "-", name),
        target=target,
        made=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        versions={"edgedet": __version__, "python": platform.python_version(), "onnxruntime": run_onnxruntime.version()},
        order=order,
        models=tuple(_describe(file, found, order, widest) for file in files),
    )


def _frames(detector: Any, images: Path | None) -> list[np.ndarray]:
    """The frames to check on: of a folder, a video or drawn pictures those in which the scores sum up to most."""
    from edgedet.runtimes import selfcheck

    looked_at = _sampled(images) if images else list(selfcheck.pictures(detector.spec.size_hw, LOOKED_AT))
    scores = [float(detector(frame).scores.sum()) for frame in looked_at]
    best = sorted(range(len(looked_at)), key=lambda number: -scores[number])[:FRAMES]
    return [looked_at[number] for number in sorted(best)]


def _sampled(images: Path) -> list[np.ndarray]:
    """Up to LOOKED_AT frames from all over a folder or the beginning of a video."""
    from edgedet.streaming.sources.base import open_source

    if not images.exists():
        raise UsageError(f"--images {images}: no such file or folder; name a folder of images or a video")
    found: list[np.ndarray] = []
    with open_source(images) as source:
        step = max(min(source.frame_count or MOST_READ, MOST_READ) // LOOKED_AT, 1)
        for frame in source:
            if frame.index % step == 0:
                found.append(frame.image)
            if len(found) == LOOKED_AT:
                break
    return found


def _order(target: Target, files: Sequence[Given]) -> Iterator[Choice]:
    """What to try on the device, the best first: for each runtime the file that it runs best."""
    from edgedet.export.bundle import Choice
    from edgedet.runtimes.contract import KNOWN_WRONG

    for runtime in RUNTIMES[target]:
        fitting = [file for file in files if (runtime, file.spec.encoding) not in KNOWN_WRONG]
        if runtime == "tensorrt":  # the narrowest in its own spelling
            fitting = [file for file in fitting if file.spec.encoding in (None, "tensorrt")]
            fitting.sort(key=lambda file: -WIDTH[file.spec.precision])
        elif runtime == "openvino" and target == "x86":  # INT8 is what it is fast in; FP16 it computes in fp32
            fitting.sort(key=lambda file: (file.spec.encoding is None, WIDTH[file.spec.precision]))
        else:
            fitting.sort(key=lambda file: WIDTH[file.spec.precision])
        if fitting:
            yield Choice(runtime, fitting[0].name)


def _warn(target: Target, files: Mapping[str, Given], order: Sequence[Choice]) -> None:
    """Say what JetPack's TensorRT will refuse of the file that is meant for it."""
    from edgedet.cli.up import ENGINE_BATCHES
    from edgedet.export import fault, onnx_file
    from edgedet.export.platforms import PLATFORM_NAMES
    from edgedet.export.preflight import preflight

    meant = [files[choice.model] for choice in order if choice.runtime == "tensorrt" and target == "jetson"]
    for file in meant:
        model, spec = onnx_file.read(file.path)
        for jetpack in (name for name in PLATFORM_NAMES if name.startswith("jetpack")):
            if faults := preflight(model, jetpack, batch=None if spec.batch else ENGINE_BATCHES):
                console.say(f"warning: {jetpack} will refuse {file.path.name}: {fault.listing(faults)}")


def _describe(file: Given, reference: Reference, order: Sequence[Choice], widest: Given) -> Model:
    """The manifest's entry of a file, which is run in every runtime here that the order has it in; GateFailed where it errs."""
    import edgedet
    from edgedet.export import bundle
    from edgedet.runtimes import reference as references
    from edgedet.runtimes.detector import PACKAGE, PREFIX

    gates = references.GATES[file.spec.precision]
    runtimes = {"onnxruntime", *(choice.runtime for choice in order if choice.model == file.name)}
    measured = {}
    for runtime in sorted(runtimes - {"tensorrt"}):
        module = plugins.find(PACKAGE, runtime, prefix=PREFIX, kind="runtime")
        if (problem := module.available()) is not None:
            console.say(f"{file.path.name} is not run in {runtime} here: {problem}")
            continue
        with closing(edgedet.load(file.path, runtime=runtime, device="cpu")) as detector:
            figures = references.compare(reference, detector)
            measured[runtime] = {"version": module.version(), **asdict(figures)}
            outputs = references.signature(detector, reference.frames[0])
        figures.require(gates, name=f"{file.path.name} in {runtime}")
    height, width = file.spec.size_hw
    shape = (height, width, 3) if file.spec.input_layout == "uint8-nhwc" else (3, height, width)
    dtype = file.spec.input_layout.partition("-")[0]
    return bundle.Model(
        path=file.name,
        precision=file.spec.precision,
        encoding=file.spec.encoding,
        nms=file.spec.suppression.mode,
        input=bundle.Tensor(dtype, (file.spec.batch, *shape)),
        outputs={name: bundle.Tensor(kind, (file.spec.batch, *sides[1:])) for name, (kind, sides) in outputs.items()},
        gates=asdict(gates),
        measured={"against": widest.path.name, "in": measured},
    )


def _copy(file: Given, folder: Path) -> None:
    """Copy a model with its weights and its ranges, where they lie beside it."""
    stem = re.sub(r"-(fp32|fp16|int8)(\+fp16)?(-tensorrt)?", "", file.path.stem, count=1)
    ranges = file.path.with_name(f"{stem}.ranges.json")
    with artifact.output_errors(folder):
        for path in (*artifact.parts(file.path), *([ranges] if ranges.is_file() else [])):
            shutil.copyfile(path, folder / path.name)


def _values(manifest: Manifest) -> dict[str, str]:
    """What the templates' `@NAMES@` stand for."""
    box = {"jetson": "a Jetson with JetPack 6 or 7", "x86": "a PC with Linux"}[manifest.target]
    private = "no" if manifest.target == "jetson" else "yes"  # the camera daemon's socket of a Jetson lies in /tmp
    versions = {"VERSION": __version__, "MADE": manifest.made, "BOX": box}
    return {"NAME": manifest.name, "TARGET": manifest.target, "PRIVATE_TMP": private, **versions}


def _show(out: Path, manifest: Manifest, wheel: str, *, json: bool) -> None:
    size = sum(file.bytes for file in manifest.files.values())
    if json:
        console.print_json({"path": out, "bytes": size, **asdict(manifest)})
        return
    rows = []
    for choice in manifest.order:
        model = manifest.model(choice.model)
        figures = model.measured["in"].get(choice.runtime)
        said = "on the device" if figures is None else f"{figures['disagreement']:.2g} in {figures['pairs']} objects"
        rows.append([choice.runtime, Path(model.path).name, model.precision, said, f"{model.gates['disagreement']:g}"])
    console.print_table(["runtime", "model", "precision", "disagreement", "limit"], rows, title=f"{out}: in this order")
    print(f"{len(manifest.files)} files, {size / 1e6:.1f} MB, {wheel}; on the device: ./install.sh, then edgedet up .")
