"""`edgedet calibrate`: an FP32 ONNX file becomes an INT8 one, whose answers are measured before it gets its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from edgedet import artifact, console
from edgedet.cli import quantization
from edgedet.errors import DataError

if TYPE_CHECKING:
    from edgedet.calibration.images import CalibrationImages
    from edgedet.cli.quantization import Purpose, Quantized, Request
    from edgedet.runtimes.figures import Report


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
    quantization.require_libraries(request, spec)
    folder = out or model.parent
    with artifact.scratch(folder) as scratch:
        found = quantization.open_calibration_images(request)
        ranges = quantization.ranges_of(base, spec, found, request, table or folder / f"{quantization.stem(model)}.ranges.json")
        quantized = quantization.quantize(model, ranges, found, request, scratch)
        report = measure(model, quantized, request, found, scratch)
        quantized = annotate(quantized, report)
        written = folder / f"{quantization.stem(model)}-{quantization.suffix(request.purpose)}.onnx"
        with artifact.writing(written) as (temporary,):
            temporary.write_bytes(quantized.path.read_bytes())
        if quantized.chosen is not None:
            _write_plot(quantized, written.with_suffix(".png"), request)
    quantized = replace(quantized, path=written)
    latency_ms = time_both(model, written, request.purpose)
    if json:
        console.print_json(as_dict(quantized, report, latency_ms))
    else:
        show(quantized, report, latency_ms)


def measure(model: Path, quantized: Quantized, request: Request, images: CalibrationImages, scratch: Path) -> Report:
    """The final file against the FP32 one, on the data, or on the calibration images where there is none."""
    from edgedet.runtimes import parity
    from edgedet.runtimes.figures import Gates
    from edgedet.runtimes.recording import Target

    runtime = quantization.judging_runtime(request.purpose)
    data = request.data or _as_data(request.images, images, scratch)
    gates = Gates(max_ap_drop=request.max_ap_drop)
    report = parity.validate(Target(model, runtime), [Target(quantized.path, runtime)], data, gates=gates)
    report.require_gates()
    return report


def _as_data(source: Path, images: CalibrationImages, scratch: Path) -> Path:
    """The images as a data set: where they came from, or for a video its frames as files."""
    import cv2

    from edgedet.data.dataset import open_dataset

    try:
        open_dataset(source)
    except DataError:
        folder = scratch / images.name
        folder.mkdir()
        for index, frame in enumerate(images):
            cv2.imwrite(str(folder / f"{index:04d}.png"), frame)
        return folder
    return source


def annotate(quantized: Quantized, report: Report) -> Quantized:
    """The figures of the final measurement, written into the file's spec."""
    from edgedet.export import onnx_file

    (comparison,) = report.comparisons
    figures = {
        "data": report.dataset,
        "images": report.images,
        "truth": report.truth,
        "runtime": comparison.other.runtime,
        "ap_drop": comparison.ap_drop,
        "matched": comparison.match_rate,
        "score_drift_mean": comparison.score_drift and comparison.score_drift.mean,
    }
    spec = quantized.spec.with_provenance(verification=figures)
    onnx_file.annotate(quantized.path, spec)
    return replace(quantized, spec=spec)


def time_both(model: Path, path: Path, purpose: Purpose) -> tuple[float, float] | None:
    """Median milliseconds of the FP32 and the INT8 file, each alone, in turns; None where only TensorRT runs the encoding."""
    from edgedet.runtimes import benchmark
    from edgedet.runtimes.recording import Target

    if purpose == "tensorrt":
        return None
    jobs = [
        benchmark.Job(Target(file, quantization.judging_runtime(purpose)), runs=2 * quantization.TIMED_RUNS)
        for file in (model, path)
    ]
    found = benchmark.gather(jobs, benchmark.run(jobs, turns=2))
    before, after = (measurement.percentiles()["inference"]["p50"] for measurement in found)
    return before, after


def _write_plot(quantized: Quantized, path: Path, request: Request) -> None:
    from edgedet.calibration.sensitivity import plot

    assert quantized.chosen is not None
    assert request.max_ap_drop is not None
    with artifact.writing(path) as (temporary,):
        temporary.write_bytes(plot(quantized.points, quantized.chosen, request.max_ap_drop))


def as_dict(quantized: Quantized, report: Report, latency_ms: tuple[float, float] | None) -> dict[str, Any]:
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
        "latency_ms": latency_ms and {"fp32": latency_ms[0], "int8": latency_ms[1]},
        "points": [asdict(point) for point in quantized.points],
    }


def show(quantized: Quantized, report: Report, latency_ms: tuple[float, float] | None) -> None:
    """Print what was written, how good it is, and what stays in float and why."""
    (comparison,) = report.comparisons
    facts = quantized.spec.provenance["calibration"]
    rows = [
        ["encoding", f"{quantized.spec.encoding} (detections differ by {_judged(quantized.disagreement)})"],
        ["ranges", f"{facts['method']}, {facts['images']['count']} images of {facts['images']['name']}"],
        ["convolution in INT8", f"{facts['int8_share_of_macs']:.1%} of the multiply-accumulates"],
        [
            "AP drop",
            f"{_figure(comparison.ap_drop, '+.4f')} on {report.images} images of {report.dataset}, against {report.truth}",
        ],
        ["matched", _figure(comparison.match_rate, ".4f")],
        ["score drift, mean", _figure(comparison.score_drift.mean if comparison.score_drift else None, "+.4f")],
        ["latency", _timed(latency_ms, comparison.other.runtime)],
    ]
    if comparison.operating:
        threshold = comparison.operating
        rows.append(["score threshold", f"{threshold.other_threshold:.2f} for fp32's {threshold.reference_threshold:.2f}"])
    console.print_table(["", "figure"], rows, title=f"{quantized.path}, against fp32 in {comparison.other.runtime}")
    reasons: dict[str, list[str]] = {}
    for name, reason in facts["left_float"].items():
        reasons.setdefault(reason, []).append(name)
    if reasons:
        console.print_table(["left in float because", "layers"], [[r, ", ".join(names)] for r, names in reasons.items()])
    if latency_ms and latency_ms[1] > latency_ms[0]:
        console.say(
            f"warning: INT8 is slower than fp32 in {comparison.other.runtime} on this machine; use fp32 here, "
            "or let `edgedet export --precision auto` choose"
        )


def _judged(disagreement: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in disagreement.items())


def _figure(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _timed(latency_ms: tuple[float, float] | None, runtime: str) -> str:
    if latency_ms is None:
        return "not measured: no TensorRT runs here"
    before, after = latency_ms
    return f"{after:.1f} ms, fp32 {before:.1f} ms in {runtime}: {after / before:.2f} times"
