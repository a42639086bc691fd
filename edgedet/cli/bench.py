"""`edgedet bench`: how fast model files are on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from edgedet import assets, console
from edgedet.errors import UsageError

if TYPE_CHECKING:
    from edgedet.runtimes.baseline import Baseline


class Precision(Enum):
    """What `--inference-precision` takes; typer has lists of an Enum but not of a Literal."""

    F32, BF16, F16 = "f32", "bf16", "f16"


def command(
    models: list[str] = typer.Argument(
        ...,
        metavar="MODEL...",
        help="Model files, as in model.onnx or model.onnx@openvino; the first is what the others are compared with.",
    ),
    images: Path | None = typer.Option(
        None, help="Folder of images, or a video, to take frames from. Default: a made-up 1280x720 frame."
    ),
    runs: int = typer.Option(100, min=1, help="Timed runs a model."),
    warm_up: int = typer.Option(10, min=0, help="Runs before the timed ones, in each process."),
    turns: int = typer.Option(3, min=1, help="Processes a model, the models taking turns; they share the runs."),
    runtime: str | None = typer.Option(None, help="Runtime for all models, instead of what their suffix chooses."),
    device: str = typer.Option("auto", help="auto, cpu, gpu, or a runtime's own name such as cuda:1."),
    inference_precision: list[Precision] = typer.Option(
        [Precision.F32], help="What float arithmetic runs in, where there is a choice. Repeat it to compare."
    ),
    performance: Literal["latency", "throughput"] = typer.Option(
        "latency", help="Open for short latency or for many frames a second."
    ),
    cache: Path | None = typer.Option(None, help="Folder where OpenVINO keeps compiled models, for a faster load."),
    baseline: Path | None = typer.Option(
        None, metavar="OLD.json", help="What an earlier bench --json printed, to compare with; in the same power mode only."
    ),
    json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Time model files here: letterbox, inference, mapping back, throughput, load, memory, power and clocks.

    Each model runs alone in processes of its own, in turns with the others. Power comes from tegrastats or nvidia-smi.

    Example: `edgedet bench yolox-nano-416-fp32.onnx yolox-nano-416-fp32.xml --images photos/`
    """
    from edgedet.runtimes import benchmark, machine, power
    from edgedet.runtimes.recording import Target
    from edgedet.runtimes.session import Options

    if runs < turns:
        raise UsageError(f"--runs {runs} cannot be shared among --turns {turns}; give each turn one run at least")
    targets = [
        Target.parse(_resolve(model, runtime), Options(device, precision.value, performance, cache=cache))
        for model in models
        for precision in inference_precision
    ]
    jobs = [benchmark.Job(target, images, runs, warm_up) for target in targets]
    here, mode = machine.describe(), power.mode(device)
    earlier = _earlier(baseline, here.cpu, mode) if baseline else None
    if here.busy is not None and here.busy > here.cores / 2:
        console.say(
            f"this machine is busy (load {here.busy:.1f} on {here.cores} cores): times will be too long, ratios less so"
        )
    samples = list(console.track(benchmark.run(jobs, turns=turns), "benchmark", total=len(jobs) * turns))
    measured = [found.as_dict() for found in benchmark.gather(jobs, samples)]
    if (after := power.mode(device)) != mode:
        raise UsageError(
            f"the power mode went from {mode!r} to {after!r} while measuring, the figures are of neither; try again"
        )
    _add_ratios(measured)
    if earlier:
        _add_baseline(measured, earlier)
    settings = {"runs": runs, "warm_up": warm_up, "turns": turns, "frames": str(images or "a made-up 1280x720 frame")}
    if json:
        console.print_json({"machine": asdict(here), "power_mode": mode, "settings": settings, "models": measured})
    else:
        _print(measured, settings, f"{here}, power mode {mode}" if mode else f"{here}")


def _resolve(model: str, runtime: str | None) -> str:
    """`model.onnx@openvino` out of a model and --runtime; UsageError where the model names another."""
    from edgedet.runtimes.recording import Target

    name, named = Target.split(model)
    path, wanted = assets.named(Path(name)), runtime or named
    if runtime and named and named != runtime:
        raise UsageError(f"{model} names the runtime {named} but --runtime says {runtime}; leave one out")
    return f"{path}@{wanted}" if wanted else str(path)


def _earlier(path: Path, cpu: str, mode: str | None) -> Baseline:
    """The run to compare with; UsageError where it was measured in another power mode."""
    from edgedet.runtimes import baseline

    found = baseline.read(path)
    found.require_mode(mode)
    if found.machine != cpu:
        console.say(f"{path.name} was measured on {found.machine}, this is {cpu}")
    return found


def _add_baseline(measured: list[dict[str, Any]], earlier: Baseline) -> None:
    """Add to each model the earlier run's median inference time over its own, None where that run has no such model."""
    for model in measured:
        model["baseline_ratio"] = earlier.ratio(model)
        if model["baseline_ratio"] is None:
            console.say(f"{earlier.path.name} has no figures of {model['file']} run like this in {model['runtime']}")


def _add_ratios(measured: list[dict[str, Any]]) -> None:
    """Add to each model the first one's median inference time over its own: 2 is twice as fast."""
    first = measured[0]["latency_ms"]["inference"]["p50"]
    for model in measured:
        model["speed_ratio"] = round(first / model["latency_ms"]["inference"]["p50"], 3)


def _print(measured: list[dict[str, Any]], settings: dict[str, Any], machine: str) -> None:
    print(machine)
    print("{runs} runs a model in {turns} processes after {warm_up} of warm-up each; frames: {frames}".format(**settings))
    stages = [f"{stage}\np50/90/99 ms" for stage in ("inference", "total")]
    columns = ["model", "runtime", "file", "runs in", "letterbox\np50 ms", stages[0], "map back\np50 ms", stages[1]]
    columns += ["frames/s\n(slots)", "load\ns", "peak\nMiB", "speed\nratio"]
    rows = [_row(model) for model in measured]
    for heading, cell in _further(measured):
        columns.append(heading)
        rows = [[*row, cell(model)] for row, model in zip(rows, measured, strict=True)]
    console.print_table(columns, rows)


def _further(measured: list[dict[str, Any]]) -> Iterator[tuple[str, Callable[[dict[str, Any]], str]]]:
    """Columns that only some machines and runs have: power, clocks, the ratio to the baseline."""
    if any(model["power"] for model in measured):
        yield "power\nmean / most W", lambda model: _power(model["power"])
        yield "GPU\nMHz", lambda model: f"{(model['power'] or {}).get('gpu_mhz') or '—'}"
    if any("baseline_ratio" in model for model in measured):
        yield "baseline\nratio", lambda model: "—" if model["baseline_ratio"] is None else f"{model['baseline_ratio']:.2f}"


def _power(found: dict[str, Any] | None) -> str:
    return f"{found['mean_mw'] / 1e3:.1f} / {found['max_mw'] / 1e3:.1f}" if found else "—"


def _row(model: dict[str, Any]) -> list[str]:
    latency, precision = model["latency_ms"], model["precision"]
    spreads = {
        stage: " / ".join(f"{latency[stage][point]:.1f}" for point in ("p50", "p90", "p99")) for stage in ("inference", "total")
    }
    executed = precision["executed"]
    if executed in ("f32", "bf16", "f16") and executed != precision["asked"]:
        executed += f", {precision['asked']} asked"
    memory = model["peak_memory_mib"]
    return [
        model["file"],
        f"{model['runtime']} {model['device']}",
        precision["file"],
        executed,
        f"{latency['letterbox']['p50']:.2f}",
        spreads["inference"],
        f"{latency['map_back']['p50']:.2f}",
        spreads["total"],
        f"{model['frames_per_s']:.1f} ({model['slots']})",
        f"{model['load_s']:.2f}",
        "unknown" if memory is None else f"{memory:.0f}",
        f"{model['speed_ratio']:.2f}",
    ]
