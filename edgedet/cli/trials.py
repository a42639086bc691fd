"""`edgedet export --precision auto`: every precision measured on this machine, and the fastest within the accuracy budget."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgedet import console
from edgedet.errors import RuntimeUnavailable, UsageError

if TYPE_CHECKING:
    from edgedet.cli.exported import Exported
    from edgedet.runtimes.recording import Target as Model


@dataclass(frozen=True)
class TrialFigures:
    """One way to run one file here. latency_ms: median of inference, alone in its own process."""

    file: str
    runtime: str
    precision: str
    ap: float
    ap_drop: float
    latency_ms: float


@dataclass(frozen=True)
class Trial:
    """A file, how it would run, and what that gave."""

    exported: Exported
    figures: TrialFigures


def try_all(files: list[Exported], data: Path) -> list[Trial]:
    """Accuracy and latency of every file on this machine, and of the fp32 OpenVINO file in bf16 where the CPU has it."""
    from edgedet.runtimes import benchmark, parity
    from edgedet.runtimes.recording import Target as Model

    pairs = [(file, model) for file in files for model in _ways_to_run(file)]
    reference = Model(files[0].path, files[0].runtime)  # fp32 comes first
    report = parity.validate(reference, [model for _, model in pairs], data)
    jobs = [benchmark.Job(model, runs=120) for _, model in pairs]
    measured = benchmark.gather(jobs, console.track(benchmark.run(jobs, turns=2), "timing", total=2 * len(jobs)))
    trials = []
    for (file, model), comparison, timed in zip(pairs, report.comparisons, measured, strict=True):
        if comparison.ap_drop is None or comparison.other.scores is None:
            raise UsageError(f"--verify {data}: has no annotated object to score on; give annotated images")
        narrowed = model.options.inference_precision
        name = file.spec.precision if narrowed == "f32" else narrowed
        latency_ms = timed.percentiles()["inference"]["p50"]
        figures = (file.path.name, model.runtime_name, name, comparison.other.scores.ap, comparison.ap_drop, latency_ms)
        trials.append(Trial(file, TrialFigures(*figures)))
    return trials


def _ways_to_run(file: Exported) -> list[Model]:
    """The file in its runtime, and in bf16 too where that is another way and the device has it."""
    from edgedet.runtimes.recording import Target as Model
    from edgedet.runtimes.session import Options

    ways = [Model(file.path, file.runtime)]
    if file.target == "openvino" and file.spec.precision == "fp32":
        narrow = Model(file.path, "openvino", Options(inference_precision="bf16"))
        try:
            narrow.open().close()
        except RuntimeUnavailable as error:
            console.say(f"bf16 is not tried: {error}")
        else:
            ways.append(narrow)
    return ways


def decide(trials: list[Trial], budget: float) -> Exported:
    """The fastest file within the accuracy budget, with how to run it in its provenance."""
    best = min((t for t in trials if t.figures.ap_drop <= budget), key=lambda trial: trial.figures.latency_ms)
    facts = {"budget": budget, "run_in": best.figures.precision, "trials": [asdict(trial.figures) for trial in trials]}
    return replace(best.exported, spec=best.exported.spec.with_provenance(decision=facts))


def show(trials: list[Trial], written: list[Exported]) -> None:
    """The table that decided, and a warning for every narrower precision that is slower."""
    if not trials:
        return
    decision = written[0].spec.provenance["decision"]
    rows = []
    for figures in (trial.figures for trial in trials):
        chosen = figures.file == written[0].path.name and figures.precision == decision["run_in"]
        verdict = "chosen" if chosen else "over budget" if figures.ap_drop > decision["budget"] else ""
        timing = f"{figures.latency_ms:.2f}"
        rows.append([figures.file, figures.runtime, figures.precision, f"{figures.ap_drop:+.4f}", timing, verdict])
    title = f"precision auto: the fastest with an AP drop of at most {decision['budget']:g}"
    console.print_table(["file", "runtime", "runs in", "AP drop", "ms p50", ""], rows, title=title)
    for warning in _slower([trial.figures for trial in trials]):
        console.say(f"warning: {warning}")
    if decision["run_in"] == "bf16":
        console.say(f"run it in bf16: edgedet.load({written[0].path.name!r}, inference_precision='bf16')")


def _slower(trials: list[TrialFigures]) -> Iterator[str]:
    """One line for every narrower precision that is slower than fp32 in the same runtime."""
    wide = {figures.runtime: figures for figures in trials if figures.precision == "fp32"}
    for figures in trials:
        fp32 = wide[figures.runtime]
        if figures.latency_ms > fp32.latency_ms:
            yield (
                f"{figures.precision} is slower than fp32 in {figures.runtime} on this machine: "
                f"{figures.latency_ms:.1f} ms against {fp32.latency_ms:.1f} ms"
            )
