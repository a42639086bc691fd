"""`edgedet calibrate`: an FP32 ONNX file becomes an INT8 one, whose answers are measured before it gets its name."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np
import typer

from edgedet import artifact, console
from edgedet.errors import DataError, ExportError, GateFailed, ImageError, UsageError

if TYPE_CHECKING:
    import onnx

    from edgedet.calibration.images import CalibrationImages
    from edgedet.calibration.network import Layer
    from edgedet.calibration.sensitivity import Point
    from edgedet.calibration.table import RangeTable
    from edgedet.data.dataset import Sample
    from edgedet.detections import Detections
    from edgedet.runtimes.figures import Report
    from edgedet.runtimes.recording import Target
    from edgedet.spec import Encoding, ModelSpec

Method = Literal["minmax", "percentile", "entropy", "mse"]
Purpose = Literal["cpu", "cpu-symmetric", "cpu-asymmetric", "tensorrt"]
SPELLINGS: dict[Purpose, tuple[Encoding, ...]] = {
    "cpu": ("cpu", "cpu-asymmetric"),
    "cpu-symmetric": ("cpu",),
    "cpu-asymmetric": ("cpu-asymmetric",),
    "tensorrt": ("tensorrt",),
}
RUNTIMES: dict[Purpose, tuple[Literal["onnxruntime", "openvino", "tensorrt"], ...]] = {
    "cpu": ("onnxruntime", "openvino"),
    "cpu-symmetric": ("onnxruntime", "openvino"),
    "cpu-asymmetric": ("onnxruntime", "openvino"),
    "tensorrt": ("tensorrt",),
}
"""Whose rules a file is held to."""
JUDGED = 32
"""Images on which spellings and layers are judged; the whole set is for the final measurement."""
MOST_DISAGREEMENT = 0.4
"""Above it a file is broken and not written: good ones of YOLOX-nano have .15 to .22, all layers in INT8 .78."""
TIMED_RUNS = 60
MEASURED = "measured: INT8 here costs the detections most for what it saves"


@dataclass(frozen=True)
class Request:
    """How to quantise, as the options of `calibrate` and `export` say it."""

    images: Path
    method: Method = "mse"
    purpose: Purpose = "cpu"
    data: Path | None = None
    max_ap_drop: float | None = None
    max_images: int = 128
    force: bool = False

    def __post_init__(self) -> None:
        if self.max_ap_drop is not None and self.data is None:
            raise UsageError("--max-ap-drop needs --data, annotated images to measure AP on that were not calibrated on")


@dataclass(frozen=True)
class Quantized:
    """An INT8 file and how it came about; points: empty unless layers were chosen by measurement."""

    path: Path
    spec: ModelSpec
    layers: tuple[Layer, ...]
    left_float: dict[str, str]
    disagreement: Mapping[str, float]
    points: tuple[Point, ...] = ()
    chosen: Point | None = None


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

    chosen_method = _one_of("--method", method, get_args(Method))
    request = Request(images, chosen_method, _one_of("--for", purpose, get_args(Purpose)), data, max_ap_drop, max_images, force)
    base, spec = onnx_file.read(model)
    require_fp32(base, spec, where=model)
    require_libraries(request, spec)
    folder = out or model.parent
    with artifact.output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".edgedet-", dir=folder) as scratch:
            found = open_calibration_images(request)
            ranges = ranges_of(base, spec, found, request, table or folder / f"{stem(model)}.ranges.json")
            quantized = quantize(model, ranges, found, request, Path(scratch))
            report = measure(model, quantized, request, found, Path(scratch))
            quantized = annotate(quantized, report)
            written = folder / f"{stem(model)}-{suffix(request.purpose)}.onnx"
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


def parse_method(text: str) -> Method:
    """How ranges are found, from an option's value."""
    return cast(Method, _one_of("--method", text, get_args(Method)))


def parse_purpose(text: str) -> Purpose:
    """What INT8 is written for, from an option's value."""
    return cast(Purpose, _one_of("--for", text, get_args(Purpose)))


def to_int8(base: Path, path: Path, request: Request, table: Path) -> Path:
    """Write the INT8 form of an FP32 file at `path`, a scratch folder's, its calibration in the spec; returns the path."""
    from edgedet.export import onnx_file

    model, spec = onnx_file.read(base)
    images = open_calibration_images(request)
    quantized = quantize(base, ranges_of(model, spec, images, request, table), images, request, path.parent)
    onnx_file.annotate(quantized.path, quantized.spec)
    return quantized.path.replace(path)


def _one_of(option: str, value: str, known: Sequence[Any]) -> Any:
    if value not in known:
        raise UsageError(f"{option} {value!r} is not one of {', '.join(known)}")
    return value


def stem(model: Path) -> str:
    """The file's name without suffix and precision."""
    return model.stem.removesuffix("-fp32")


def suffix(purpose: Purpose) -> str:
    """`int8`, or `int8-tensorrt`: the spellings for a CPU serve the same runtimes."""
    return "int8-tensorrt" if purpose == "tensorrt" else "int8"


def require_fp32(model: onnx.ModelProto, spec: ModelSpec, *, where: Path) -> None:
    """Raise ExportError where the file is quantised already or narrower than fp32."""
    from edgedet.calibration.observe import require_float

    require_float(model, where=where.name)
    if spec.precision != "fp32":
        raise ExportError(f"{where}: is {spec.precision}; INT8 is calibrated from the fp32 file")


def require_libraries(request: Request, spec: ModelSpec) -> None:
    """Import what the measurement needs and open the data, so that nothing is missed only after long work."""
    import faster_coco_eval  # noqa: F401

    from edgedet.data.dataset import open_dataset

    if request.data is not None:
        open_dataset(request.data, classes=spec.classes)
    if request.max_ap_drop is not None:
        import matplotlib  # noqa: F401


def open_calibration_images(request: Request) -> CalibrationImages:
    """The calibration images, what was skipped and overridden said once."""
    from edgedet.calibration.images import open_images

    found = open_images(request.images, limit=request.max_images, force=request.force)
    if found.skipped:
        console.say(f"{len(found.skipped)} calibration images skipped:")
    for message in (*found.skipped, *found.objections):
        console.say(f"  {message}")
    return found


def ranges_of(model: onnx.ModelProto, spec: ModelSpec, images: CalibrationImages, request: Request, path: Path) -> RangeTable:
    """The table at `path` where it fits the model, the images and the method; otherwise made, and written there."""
    from edgedet.calibration.means import channel_means
    from edgedet.calibration.network import Network
    from edgedet.calibration.observe import observe
    from edgedet.calibration.table import ImageSet, Range, RangeTable, fingerprints

    prints = fingerprints(model, spec)
    if path.exists():
        table = RangeTable.read(path)
        table.require_fit(prints, images.sha256, request.method, where=str(path))
        console.say(f"ranges: {path}")
        return table
    network = Network(model)
    feed = _Inputs(images, spec)
    histograms = observe(model, network.activations(), feed, total=len(images))
    means = channel_means(model, list(dict.fromkeys(layer.data for layer in network.layers())), feed, total=len(images))
    found = ImageSet(images.name, images.sha256, images.count, images.skipped, images.objections)
    ranges = {name: Range.of(histogram, request.method) for name, histogram in histograms.items()}
    table = RangeTable(prints, found, request.method, ranges, means)
    table.write(path)
    return table


class _Inputs:
    """The images as the model takes them, (1, …) arrays, any number of times."""

    def __init__(self, images: CalibrationImages, spec: ModelSpec) -> None:
        self._images, self._spec = images, replace(spec, batch=1)

    def __iter__(self):
        from edgedet.runtimes.contract import as_input

        for image in self._images:
            yield as_input(self._spec.letterbox.apply(image)[0][None], self._spec)


def quantize(model: Path, table: RangeTable, images: CalibrationImages, request: Request, scratch: Path) -> Quantized:
    """The INT8 file of an FP32 one in a scratch folder, in the better spelling, with the layers in float that must be."""
    from edgedet.calibration.encode import float_by_rule
    from edgedet.calibration.network import Network

    writer = Writer(model, table, scratch)
    layers = Network(writer.base).layers()
    judge = Judge(model, images, judging_runtime(request.purpose))
    judged: dict[Encoding, float] = {}
    for encoding in SPELLINGS[request.purpose]:
        left = float_by_rule(layers, encoding)
        judged[encoding] = judge.disagreement(writer.write(f"{encoding}.onnx", encoding, left))
    encoding = min(judged, key=lambda name: judged[name])
    left = float_by_rule(layers, encoding)
    points: tuple[Point, ...] = ()
    chosen = None
    if request.max_ap_drop is not None:
        points, chosen = _choose_layers(writer, layers, judge, encoding, left, request)
        left = {
            name: left.get(name, "measured: INT8 here costs the detections most for what it saves")
            for name in chosen.left_float
        }
    path = writer.write(f"{stem(model)}-{suffix(request.purpose)}.onnx", encoding, left)
    _require_clean(writer.base, path, request.purpose)
    figures: dict[str, float] = {name: round(value, 4) for name, value in judged.items()}
    if (worst := judge.disagreement(path)) > MOST_DISAGREEMENT:
        raise GateFailed(
            f"{path.name} is not written: its detections differ from fp32's by {worst:.2f} of their scores, limit "
            f"{MOST_DISAGREEMENT:g}; give images like those it will see, or --data and --max-ap-drop to leave more in float"
        )
    return Quantized(path, writer.spec_of(encoding, left, layers, worst), tuple(layers), left, figures, points, chosen)


def _require_clean(base: onnx.ModelProto, path: Path, purpose: Purpose) -> None:
    """Hold the file against the rules of the runtimes it is for; what the FP32 file breaks already is said, no more."""
    from edgedet.calibration.lint import lint
    from edgedet.export import onnx_file

    found, _ = onnx_file.read(path)
    for runtime in RUNTIMES[purpose]:
        known = {finding.rule: finding for finding in lint(base, runtime)}
        for finding in known.values():
            console.say(f"warning, for {runtime}: {finding.message} at {finding.node}: {finding.reason}")
        broken = [finding for finding in lint(found, runtime) if finding.rule not in known]
        if broken:
            first = broken[0]
            raise GateFailed(
                f"{path.name} is not written: it breaks {len(broken)} rules of {runtime}, first {first.rule} at {first.node}: "
                f"{first.message} ({first.reason}); this is a defect of edgedet, report it"
            )


def judging_runtime(purpose: Purpose) -> str:
    """OpenVINO where it is there and may run the encoding, otherwise ONNX Runtime, which runs all of them."""
    from edgedet.runtimes import run_openvino

    return "openvino" if purpose != "tensorrt" and run_openvino.available() is None else "onnxruntime"


class Writer:
    """Writes INT8 forms of one FP32 file into a scratch folder."""

    def __init__(self, model: Path, table: RangeTable, scratch: Path) -> None:
        from edgedet.export import onnx_file

        self.base, self.spec = onnx_file.read(model)
        self.model, self._table, self._scratch = model, table, scratch

    def write(self, name: str, encoding: Encoding, left_float: Collection[str]) -> Path:
        """The file in an encoding, with these layers in float."""
        from edgedet.calibration.encode import encode
        from edgedet.export import onnx_file

        spec = replace(self.spec, precision="int8", encoding=encoding)
        found = encode(self.base, self._table, encoding=encoding, left_float=left_float)
        return onnx_file.write(self._scratch / name, found, spec)

    def spec_of(
        self, encoding: Encoding, left_float: dict[str, str], layers: Sequence[Layer], disagreement: float
    ) -> ModelSpec:
        """The spec that tells how the file was calibrated."""
        from edgedet.calibration.encode import int8_share
        from edgedet.calibration.network import Network

        facts = {
            "parent_sha256": artifact.sha256(self.model),
            "method": self._table.method,
            "images": {**asdict(self._table.images), "skipped": len(self._table.images.skipped)},
            "left_float": {**left_float, **Network(self.base).unquantizable()},
            "int8_share_of_macs": round(int8_share(layers, left_float), 4),
            "disagreement": round(disagreement, 4),
        }
        return replace(self.spec, precision="int8", encoding=encoding).with_provenance(calibration=facts)


class Judge:
    """The FP32 file's detections on some of the images, and how far another file's lie from them."""

    def __init__(self, model: Path, images: CalibrationImages, runtime: str) -> None:
        wanted = set(np.linspace(0, len(images) - 1, min(JUDGED, len(images))).round().astype(int).tolist())
        self._frames = [image for index, image in enumerate(images) if index in wanted]
        self.runtime = runtime
        self._reference = self._detect(model, self._frames)

    def disagreement(self, path: Path, *, most: int = JUDGED) -> float:
        """How far a file's detections lie from FP32's on the first `most` images, see `matching.disagreement`."""
        from edgedet.runtimes.matching import disagreement

        return disagreement(self._reference[:most], self._detect(path, self._frames[:most]))

    def _detect(self, path: Path, frames: Sequence[np.ndarray]) -> list[Detections]:
        from edgedet.runtimes.detector import load

        with load(path, runtime=self.runtime, device="cpu") as detector:
            return detector.detect_batch(frames)


RANKED_ON = 12
"""Images on which each layer is quantised alone: a layer takes half a second."""


def _choose_layers(
    writer: Writer, layers: Sequence[Layer], judge: Judge, encoding: Encoding, by_rule: dict[str, str], request: Request
) -> tuple[tuple[Point, ...], Point]:
    """Every choice of layers that was measured, and the fastest within the budget."""
    from edgedet.calibration import sensitivity

    def damage(left_float: Collection[str]) -> float:
        return judge.disagreement(writer.write("one.onnx", encoding, left_float), most=RANKED_ON)

    ranked = sensitivity.rank(layers, damage)
    meter = _Meter(writer, layers, judge.runtime, encoding, request)
    sets = sensitivity.choices(ranked, by_rule)
    points = tuple(meter.point(left) for left in console.track(sets, "choices of layers", total=len(sets)))
    assert request.max_ap_drop is not None
    return points, sensitivity.fastest(points, request.max_ap_drop)


class _Meter:
    """AP drop and latency of choices of layers on the validation data."""

    def __init__(self, writer: Writer, layers: Sequence[Layer], runtime: str, encoding: Encoding, request: Request) -> None:
        from edgedet.data.dataset import open_dataset

        assert request.data is not None
        self._writer, self._layers, self._runtime, self._encoding = writer, layers, runtime, encoding
        dataset = open_dataset(request.data, classes=writer.spec.classes)
        self._dataset = replace(dataset, samples=tuple(sample for sample in dataset.samples if _is_readable(sample)))
        self._reference = self._ap(writer.model)

    def point(self, left_float: tuple[str, ...]) -> Point:
        """One choice, measured."""
        from edgedet.calibration.encode import int8_share
        from edgedet.calibration.sensitivity import Point
        from edgedet.runtimes.recording import Target

        path = self._writer.write("choice.onnx", self._encoding, left_float)
        # Nothing here executes TensorRT's spelling as TensorRT will.
        latency = None if self._encoding == "tensorrt" else _latency_ms(Target(path, self._runtime))
        return Point(left_float, self._reference - self._ap(path), latency, int8_share(self._layers, left_float))

    def _ap(self, path: Path) -> float:
        from edgedet.data import evaluation
        from edgedet.runtimes.detector import load

        with load(path, runtime=self._runtime, device="cpu") as detector:
            found = [detection for sample in self._dataset.samples for detection in detector.detect_batch([sample.read()])]
        return evaluation.evaluate(self._dataset, found).ap


def _is_readable(sample: Sample) -> bool:
    try:
        sample.read()
    except ImageError:
        return False
    return True


def _latency_ms(target: Target) -> float:
    """Median milliseconds of inference, alone in a process of its own."""
    from edgedet.runtimes import benchmark

    stages = benchmark.measure_alone(benchmark.Job(target, runs=TIMED_RUNS)).stages_ms
    return float(np.median(stages[benchmark.STAGES.index("inference")]))


def measure(model: Path, quantized: Quantized, request: Request, images: CalibrationImages, scratch: Path) -> Report:
    """The final file against the FP32 one, on the data, or on the calibration images where there is none."""
    from edgedet.runtimes import parity
    from edgedet.runtimes.figures import Gates
    from edgedet.runtimes.recording import Target

    runtime = judging_runtime(request.purpose)
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
    jobs = [benchmark.Job(Target(file, judging_runtime(purpose)), runs=2 * TIMED_RUNS) for file in (model, path)]
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
