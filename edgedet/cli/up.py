"""`edgedet up`: a bundle on its device: verified, compiled where TensorRT is, checked against its reference, then watching."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from edgedet import artifact, console, engine, plugins
from edgedet.errors import ArtifactError, GateFailed, RuntimeUnavailable, SpecError, UsageError

if TYPE_CHECKING:
    from edgedet.export.bundle import Choice, Manifest
    from edgedet.runtimes.detector import LoadedDetector

ENGINE_BATCHES = (1, 4, 8)
"""Least, usual and most frames at once of an engine whose model takes any number."""


def command(
    bundle: Path = typer.Argument(help="A bundle that `edgedet deploy` wrote, as a folder or as .tar, .tar.gz."),
    check: bool = typer.Option(False, "--check", help="Stop before the streams."),
    runtime: str | None = typer.Option(None, help="Take this runtime of the bundle's order, whatever comes before it."),
    device: str | None = typer.Option(None, help="auto, cpu, gpu, or a runtime's own name (auto)."),
    cache: Path | None = typer.Option(None, help="Where engines are kept. Default: cache/ in the bundle."),
    into: Path | None = typer.Option(None, help="Where an archive is unpacked. Default: beside it."),
    serve: int | None = typer.Option(None, min=0, max=65535, help="Serve a live page on this port (0: a free one)."),
    host: str | None = typer.Option(None, help="Address that --serve listens on (127.0.0.1)."),
    token: str | None = typer.Option(None, envvar="EDGEDET_TOKEN", help="What viewers of --serve must know."),
    json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Run a bundle on this machine: verify it, choose a runtime, compile, check the answers, watch the streams.

    Exit code 1: the answers differ from those the bundle was made with. 2: it cannot be used, as where a model was altered.

    Example: `edgedet up street --check`, or `edgedet up street.tar.gz --serve 8080`
    """
    from edgedet.export.bundle import STREAMS
    from edgedet.streaming.config import read_settings
    from edgedet.streaming.watchdog import notify

    notify("STATUS=verifying the bundle")
    folder = _unpacked(bundle, into)
    manifest = _verified(folder)
    streams = folder / STREAMS
    if streams.is_file():  # mistakes in it are told before minutes of compiling; it may name a runtime and a device
        settings = read_settings(streams)
        runtime, device = runtime or settings.runtime, device or settings.device
    choice = _choose(manifest, runtime)
    path = folder / choice.model
    if choice.runtime == "tensorrt":
        notify("STATUS=compiling the engine")
        path = _engine(path, manifest, cache or folder / "cache")
    notify("STATUS=checking the answers")
    figures = _self_check(folder, manifest, choice, path, device or "auto")
    if json and check:
        console.print_json({"bundle": folder, "runtime": choice.runtime, "model": path, "self_check": figures})
    if check:
        return
    if not streams.is_file():
        console.say(f"the bundle has no {STREAMS}; watch something with: edgedet stream SOURCE --model {path}")
        return
    _watch(streams, path, choice.runtime, device, serve, host, token, json=json)


def _unpacked(place: Path, into: Path | None) -> Path:
    """The bundle's folder, out of its archive where it is one."""
    from edgedet.export import archive

    if place.is_dir() or not archive.is_archive(place):
        if into is not None:
            raise UsageError(f"--into {into} is for archives, and {place} is none")
        return place
    folder = archive.unpack(place, into or archive.default_place(place))
    console.say(f"unpacked: {folder}")
    return folder


def _verified(folder: Path) -> Manifest:
    """The manifest of a bundle whose files are as they were, but for those that their owner may edit."""
    from edgedet.export import bundle

    manifest = bundle.read(folder)
    console.say(f"{manifest.name}, made {manifest.made} by edgedet {manifest.versions.get('edgedet')} for {manifest.target}")
    differing = bundle.differences(folder, manifest)
    for name, words in differing.items():
        if bundle.may_be_edited(name):
            console.say(f"{name} was edited ({words})")
    refused = [f"{name} {words}" for name, words in differing.items() if not bundle.may_be_edited(name)]
    if refused:
        raise ArtifactError(f"{folder}: is not as it was made: {'; '.join(refused)}; copy the bundle again")
    return manifest


def _choose(manifest: Manifest, runtime: str | None) -> Choice:
    """The first of the bundle's order that can run here, saying why each before it cannot."""
    from edgedet.runtimes.detector import PACKAGE, PREFIX

    order = [choice for choice in manifest.order if runtime in (None, choice.runtime)]
    if not order:
        there = ", ".join(choice.runtime for choice in manifest.order)
        raise UsageError(f"runtime {runtime!r} is not in the bundle's order, in which are {there}; name one of these, or none")
    problems = []
    for choice in order:
        module: Any = plugins.find(PACKAGE, choice.runtime, prefix=PREFIX, kind="runtime")
        problem = module.available()
        if problem is None:
            model = manifest.model(choice.model)
            console.say(f"runtime: {choice.runtime} {module.version()}, {Path(model.path).name} ({model.precision})")
            return choice
        console.say(f"{choice.runtime} is passed over: {problem}")
        problems.append(f"{choice.runtime}: {problem}")
    raise RuntimeUnavailable(f"no runtime of {manifest.name} can run here: {'; '.join(problems)}")


def _engine(model: Path, manifest: Manifest, cache: Path) -> Path:
    """The engine of a model for this very device, compiled where none is kept or the kept one is for something else."""
    from edgedet.export import onnx_file
    from edgedet.export.to_tensorrt import BuildOptions, to_tensorrt

    target = cache / f"{model.stem}.engine"
    with artifact.output_errors(cache):
        cache.mkdir(parents=True, exist_ok=True)
    with _alone(cache / f"{model.stem}.lock"):
        reasons = _why_compile(target, manifest.files[model.relative_to(model.parents[1]).as_posix()].sha256)
        if not reasons:
            console.say(f"engine: {target}, as it was compiled")
            return target
        console.say(f"compiling {target.name}, for minutes on a small device: {'; '.join(reasons)}")
        _, spec = onnx_file.read(model)
        options = BuildOptions(timing_cache=cache / "timing.cache", batch=None if spec.batch else ENGINE_BATCHES)
        with console.steps(f"compiling {target.name}") as progress:
            to_tensorrt(model, target, options, progress=progress)
    return target


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a lock, so that two processes do not compile the same; it ends with the process, however that ends."""
    import fcntl

    with artifact.output_errors(path):
        file = path.open("w")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.say(f"another edgedet compiles here ({path}); waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _why_compile(target: Path, onnx_sha256: str) -> list[str]:
    """Why the kept engine cannot be used, with both sides' values; none where it can."""
    from edgedet.runtimes import run_tensorrt

    if not target.exists():
        return ["there is none yet"]
    try:
        facts = engine.read_facts(target)
    except (ArtifactError, SpecError) as error:
        return [str(error)]
    reasons = run_tensorrt.differences(facts)
    if facts.onnx_sha256 != onnx_sha256:
        reasons.append(f"it was compiled from a model of sha256 {facts.onnx_sha256[:12]}…, the bundle's is {onnx_sha256[:12]}…")
    return reasons


def _self_check(folder: Path, manifest: Manifest, choice: Choice, path: Path, device: str) -> dict[str, Any]:
    """How near the answers here are to the bundle's reference; GateFailed where they are not near enough."""
    import edgedet
    from edgedet.export import bundle
    from edgedet.runtimes import reference as references

    model, reference = manifest.model(choice.model), references.read(folder / bundle.REFERENCE)
    with edgedet.load(path, runtime=choice.runtime, device=device) as detector:
        _require_signature(manifest, choice, path, references.signature(detector, reference.frames[0]), detector)
        figures = references.compare(reference, detector)
    try:
        gates = references.Gates(**model.gates)
    except TypeError as error:
        raise ArtifactError(f"{folder / bundle.MANIFEST}: the gates of {model.path} are not those of this edgedet") from error
    try:
        figures.require(gates, name=f"{Path(path).name} in {choice.runtime}")
    except GateFailed as error:
        others = [other.runtime for other in manifest.order if other.runtime != choice.runtime]
        advice = f"; nothing is run. Try --runtime {others[0]}, and report it" if others else "; nothing is run"
        raise GateFailed(f"{error}{advice}") from error
    drift = f"median box error {figures.box_error_px:.2g} px, score {figures.score_error:.2g}"
    console.say(f"self-check: {figures.pairs} objects in {len(reference.frames)} frames, {drift}, within the gates")
    return asdict(figures)


def _require_signature(manifest: Manifest, choice: Choice, path: Path, found: Any, detector: LoadedDetector) -> None:
    """ArtifactError where the file takes or gives something else than the manifest says."""
    from edgedet.export.bundle import Tensor

    model, batch = manifest.model(choice.model), detector.spec.batch
    for name, told in model.outputs.items():
        kind, shape = found.get(name, ("nothing", ()))
        given = Tensor(kind, (batch, *shape[1:]))
        if given != told:
            raise ArtifactError(f"{path.name}: gives {name} as {given}, the manifest says {told}; copy the bundle again")
    height, width = detector.spec.size_hw
    takes = (batch, height, width, 3) if detector.spec.input_layout == "uint8-nhwc" else (batch, 3, height, width)
    if takes != model.input.shape:
        raise ArtifactError(f"{path.name}: takes {takes}, the manifest says {model.input}; copy the bundle again")


def _watch(
    streams: Path,
    model: Path,
    runtime: str,
    device: str | None,
    serve: int | None,
    host: str | None,
    token: str | None,
    *,
    json: bool,
) -> None:
    """Watch what streams.toml names, as `edgedet stream` does, with the model that was checked."""
    from edgedet.cli import plans, stream
    from edgedet.streaming.feed import FeedOptions

    common = plans.Wanted(None, None, None, FeedOptions())
    wanted, runs = plans.jobs([], streams, {}, common, plans.Engine(model, runtime, device, None))
    stream.run(wanted, runs, stream.View(serve=serve, host=host, token=token), json=json)
