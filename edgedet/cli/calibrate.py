"""`edgedet calibrate`: an FP32 ONNX file becomes an INT8 one, whose answers are measured before it gets its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from edgedet import artifact, console
from edgedet.cli import quantization
from edgedet.errors import UsageError

if TYPE_CHECKING:
    from edgedet.calibration.images import CalibrationImages
    from edgedet.cli.quantization import Purpose, Quantized, Request
    from edgedet.runtimes.figures import Comparison, Report


def command(
    model: Path = typer.Argument(help="An fp32 ONNX file that `edgedet export` wrote."),
    images: Path = typer.Option(..., "--images", help="Calibration images: a folder, a data set or a video; 32 at least."),
    method: str = typer.Option("mse", metavar="minmax|percentile|entropy|mse", help="How a range is found."),
    purpose: str = typer.Option(
        "cpu",
        "--for",
        metavar="cpu|tensorrt",
        help="cpu: uint8, symmetric or asymmetric, whichever measures better (or say cpu-symmetric, cpu-asymmetric).",
    ),
    data: Path | None = typer.Option(None, "--data", help="Annotated images to measure on, none of them calibrated on."),
    max_ap_drop: float | None = typer.Option(
        None, min=0, max=1, help="Budget, such as 0.005: layers are left in float until it is kept. Needs --data."
    ),
    max_images: int = typer.Option(128, min=1, help="Use so many calibration images, spread evenly."),
    table: Path | None = typer.Option(None, help="The table of ranges, read where it exists. Default: beside the result."),
    force: bool = typer.Option(False, "--force", help="Take few, blank or duplicate images; recorded in the file."),
    out: Path | None = typer.Option(None, help="Folder for the results. Default: the model's."),
    json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Quantise an fp32 ONNX file to INT8 and measure it.

    Writes the INT8 file and the table of ranges it was made from; with --max-ap-drop also a plot of accuracy against latency.

    Example: `edgedet calibrate yolox-nano-416-fp32.onnx --images photos --data coco/instances_val.json --max-ap-drop 0.005`
    """
    from edgedet.export import onnx_file

    chosen, spelt = quantization.parse_method(method), quantization.parse_purpose(purpose)
    request = quantization.Request(images, chosen, spelt, data, max_ap_drop, max_images, force)
    base, spec = onnx_file.read(model)
    quantization.require_fp32(base, spec, where=model)
    if spec.suppression.mode == "efficientnms" and spelt != "tensorrt":
        raise UsageError(
            f"{model.name} holds TensorRT's plugin (--nms efficientnms), so only TensorRT runs it; add --for tensorrt"
        )
    quantization.require_libraries(request, spec)
    folder = out or model.parent
    with artifact.scratch(folder) as scratch:
        found = quantization.open_calibration_images(request)
        ranges = quantization.ranges_of(base, spec, found, request, table or folder / f"{quantization.stem(model)}.ranges.json")
        quantized = quantization.quantize(model, ranges, found, request, scratch)
        report = measure(model, quantized, request, found, scratch)
        quantized = annotate(quantized, report, model)
        written = folder / quantized.path.name
        with artifact.writing(written) as (temporary,):
            temporary.write_bytes(quantized.path.read_bytes())
        if quantized.chosen is not None:
            _write_plot(quantized, written.with_suffix(".png"), request)
    quantized = replace(quantized, path=written)
    latency_ms = time_both(model, written, request.purpose)
    if json:
        console.print_json(as_dict(quantized, latency_ms))
    else:
        show(quantized, report, latency_ms)


def measure(model: Path, quantized: Quantized, request: Request, images: CalibrationImages, scratch: Path) -> Report:
    """The final file in every runtime here that it is for against the FP32 one, on the data or the calibration images."""
    from edgedet.runtimes import parity
    from edgedet.runtimes.figures import Gates
    from edgedet.runtimes.recording import Target
    from edgedet.runtimes.session import Options

    runtimes = quantization.measuring_runtimes(request.purpose)
    data = request.data or _as_folder(images, scratch)
    split = quantization.validation_split(request.data) if request.data else None
    gates = Gates(max_ap_drop=request.max_ap_drop)
    options = Options(plugins="evaluated")
    files = [Target(quantized.path, runtime, options) for runtime in runtimes]
    report = parity.validate(Target(model, runtimes[0], options), files, data, split=split, gates=gates)
    report.require_gates()
    return report


def _as_folder(images: CalibrationImages, scratch: Path) -> Path:
    """A folder of just these images: links, or the frames of a video as files."""
    import cv2

    folder = scratch / images.name
    folder.mkdir()
    for index, path in enumerate(images.paths):
        (folder / f"{index:05d}{path.suffix}").symlink_to(path.resolve())
    for index, frame in enumerate(() if images.paths else images):
        cv2.imwrite(str(folder / f"{index:05d}.png"), frame)
    return folder


def annotate(quantized: Quantized, report: Report, model: Path) -> Quantized:
    """The figures of the final measurement and the FP32 file's digest, written into the file's spec."""
    from edgedet.export import onnx_file

    figures = {
        "data": report.dataset,
        "images": report.images,
        "truth": report.truth,
        "runtimes": {comparison.other.runtime: _figures(comparison, report) for comparison in report.comparisons},
    }
    calibration = {**quantized.spec.provenance["calibration"], "parent_sha256": artifact.sha256(model)}
    spec = quantized.spec.with_provenance(calibration=calibration, verification=figures)
    onnx_file.annotate(quantized.path, spec)
    return replace(quantized, spec=spec)


def _figures(comparison: Comparison, report: Report) -> dict[str, float | None]:
    """How far one runtime's answers lie from FP32's; ap_drop: None without annotations, where FP32 is right by definition."""
    return {
        "ap_drop": comparison.ap_drop if report.annotated else None,
        "matched": comparison.match_rate,
        "score_drift_mean": comparison.score_drift.mean if comparison.score_drift else None,
    }


def time_both(model: Path, path: Path, purpose: Purpose) -> dict[str, tuple[float, float]]:
    """Median milliseconds of the FP32 and the INT8 file by runtime, each alone, in turns; none for TensorRT, not here."""
    from edgedet.runtimes import benchmark
    from edgedet.runtimes.recording import Target

    if purpose == "tensorrt":
        return {}
    found = {}
    for runtime in quantization.measuring_runtimes(purpose):
        jobs = [benchmark.Job(Target(file, runtime), runs=quantization.TIMED_RUNS) for file in (model, path)]
        measured = benchmark.gather(jobs, benchmark.run(jobs, turns=3))
        before, after = (one.percentiles()["inference"]["p50"] for one in measured)
        found[runtime] = before, after
    return found


def _write_plot(quantized: Quantized, path: Path, request: Request) -> None:
    from edgedet.calibration.sensitivity import plot

    assert quantized.chosen is not None
    assert request.max_ap_drop is not None
    with artifact.writing(path) as (temporary,):
        temporary.write_bytes(plot(quantized.points, quantized.chosen, request.max_ap_drop))


def as_dict(quantized: Quantized, latency_ms: Mapping[str, tuple[float, float]]) -> dict[str, Any]:
    """The result for JSON."""
    facts = quantized.spec.provenance
    return {
        "path": quantized.path,
        "sha256": artifact.sha256(quantized.path),
        "bytes": quantized.path.stat().st_size,
        "encoding": quantized.spec.encoding,
        "disagreement": quantized.disagreement,
        "calibration": facts["calibration"],
        "verification": facts["verification"],
        "latency_ms": {runtime: {"fp32": before, "int8": after} for runtime, (before, after) in latency_ms.items()},
        "points": [asdict(point) for point in quantized.points],
    }


def show(quantized: Quantized, report: Report, latency_ms: Mapping[str, tuple[float, float]]) -> None:
    """Print what was written, how good it is, and what stays in float and why."""
    facts = quantized.spec.provenance["calibration"]
    judged = ", ".join(f"{name} {value:.3f}" for name, value in quantized.disagreement.items())
    rows = [
        ["encoding", f"{quantized.spec.encoding} (by rule alone detections differ by {judged})"],
        ["detections differ by", f"{facts['disagreement']:.3f} of their scores"],
        ["ranges", f"{facts['method']}, {facts['images']['count']} images of {facts['images']['name']}"],
        ["convolution in INT8", f"{facts['int8_share_of_macs']:.1%} of the multiply-accumulates"],
        ["measured on", f"{report.images} images of {report.dataset}, against {report.truth}"],
    ]
    for comparison in report.comparisons:
        rows += _rows(comparison, report, latency_ms.get(comparison.other.runtime))
    console.print_table(["", "figure"], rows, title=f"{quantized.path}, against fp32")
    reasons: dict[str, list[str]] = {}
    for name, reason in facts["left_float"].items():
        reasons.setdefault(reason, []).append(name)
    if reasons:
        console.print_table(["left in float because", "layers"], [[r, ", ".join(names)] for r, names in reasons.items()])
    for runtime, (before, after) in latency_ms.items():
        if after > before:
            console.say(
                f"warning: INT8 is slower than fp32 in {runtime} on this machine; use fp32 there, "
                "or let `edgedet export --precision auto` choose"
            )
    if facts["disagreement"] > quantization.NOTEWORTHY_DISAGREEMENT:
        console.say(
            f"warning: detections differ by {facts['disagreement']:.2f} of their scores, which is much; "
            f"try another --method than {facts['method']}, images like those it will see, or --data with --max-ap-drop"
        )


def _rows(comparison: Comparison, report: Report, latency_ms: tuple[float, float] | None) -> list[list[str]]:
    """One runtime's lines of the table."""
    runtime, figures = comparison.other.runtime, _figures(comparison, report)
    drop = "not measured: give annotated images as --data" if figures["ap_drop"] is None else f"{figures['ap_drop']:+.4f}"
    matched = f"{_figure(figures['matched'], '.4f')}, scores drift by {_figure(figures['score_drift_mean'], '+.4f')}"
    rows = [[f"{runtime}: AP drop", drop], ["matched", matched]]
    if comparison.operating:
        threshold = comparison.operating
        rows.append(["score threshold", f"{threshold.other_threshold:.2f} for fp32's {threshold.reference_threshold:.2f}"])
    timed = "not measured: no TensorRT runs here"
    if latency_ms is not None:
        before, after = latency_ms
        timed = f"{after:.1f} ms, fp32 {before:.1f} ms: {after / before:.2f} times"
    return [*rows, ["latency", timed]]


def _figure(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
