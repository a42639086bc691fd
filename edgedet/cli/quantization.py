"""From an FP32 ONNX file to its INT8 form, for `edgedet calibrate` and `edgedet export`: ranges, spelling, layers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np

from edgedet import artifact, console
from edgedet.errors import ExportError, GateFailed, ImageError, SplitAbsent, UsageError

if TYPE_CHECKING:
    import onnx

    from edgedet.calibration.images import CalibrationImages
    from edgedet.calibration.network import Layer
    from edgedet.calibration.sensitivity import Point
    from edgedet.calibration.table import RangeTable
    from edgedet.data.dataset import Dataset, Sample
    from edgedet.detections import Detections
    from edgedet.runtimes.detector import LoadedDetector
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
NOTEWORTHY_DISAGREEMENT = 0.25
TIMED_RUNS = 60
EARLY = 4
"""Plain layers from the input on that are tried in float: what the first ones round passes through all others."""
WORTHWHILE = 0.1
"""Share of the disagreement that must go with a layer for it to stay in float unasked."""
MEASURED = "measured: the fastest choice within the AP budget leaves this layer in float"


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
    return "".join(model.stem.rsplit("-fp32", 1))


def int8_name(model: Path, purpose: Purpose) -> str:
    """The INT8 file's name: `int8` or `int8-tensorrt` for the fp32 in it; the spellings for a CPU serve the same runtimes."""
    before, mark, behind = model.stem.rpartition("-fp32")
    word = "int8-tensorrt" if purpose == "tensorrt" else "int8"
    return f"{before}-{word}{behind}.onnx" if mark else f"{model.stem}-{word}.onnx"


def require_fp32(model: onnx.ModelProto, spec: ModelSpec, *, where: Path) -> None:
    """Raise ExportError where the file is quantised already or narrower than fp32."""
    from edgedet.calibration.observe import require_float

    require_float(model, where=where.name)
    if spec.precision != "fp32":
        raise ExportError(f"{where}: is {spec.precision}; INT8 is calibrated from the fp32 file")


def require_libraries(request: Request, spec: ModelSpec) -> None:
    """Import what the measurement needs and open the data, so that nothing is missed only after long work."""
    import faster_coco_eval  # noqa: F401

    if request.data is not None:
        dataset = open_validation(request.data, classes=spec.classes)
        if request.max_ap_drop is not None and not dataset.annotated:
            raise UsageError(f"--data {request.data}: has no annotations to measure an AP drop on; give annotated images")
    if request.max_ap_drop is not None:
        import matplotlib  # noqa: F401


def validation_split(data: Path) -> str | None:
    """`val` where the data set has such a split: its other images may be trained or calibrated on."""
    from edgedet.data.dataset import open_dataset

    try:
        open_dataset(data, split="val")
    except SplitAbsent:
        return None
    return "val"


def open_validation(data: Path, *, classes: Sequence[str] | None = None) -> Dataset:
    """The images to measure on."""
    from edgedet.data.dataset import open_dataset

    return open_dataset(data, split=validation_split(data), classes=classes)


def open_calibration_images(request: Request) -> CalibrationImages:
    """The calibration images, what was skipped and overridden said once."""
    from edgedet.calibration.images import open_images

    found = open_images(request.images, limit=request.max_images, force=request.force)
    if found.skipped:
        console.say(f"{len(found.skipped)} calibration images skipped:")
    for message in (*found.skipped, *found.objections):
        console.say(f"  {message}")
    if request.data is not None:
        _warn_of_shared_images(found, request.data)
    return found


def _warn_of_shared_images(images: CalibrationImages, data: Path) -> None:
    """Say how many images of the data were calibrated on: there an AP drop looks smaller than it is."""
    paths = [sample.path for sample in open_validation(data).samples]
    calibrated = set(map(artifact.sha256, images.paths))
    shared = sum(artifact.sha256(path) in calibrated for path in paths) if calibrated else 0
    if shared:
        console.say(f"warning: {shared} of the {len(paths)} images of {data} are calibrated on too; measure on others")


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
    judge = Judge(model, images, measuring_runtimes(request.purpose)[0])
    judged: dict[Encoding, float] = {}
    for encoding in SPELLINGS[request.purpose]:
        left = float_by_rule(layers, encoding)
        judged[encoding] = judge.disagreement(writer.write(f"{encoding}.onnx", encoding, left))
    encoding = min(judged, key=lambda name: judged[name])
    left = float_by_rule(layers, encoding)
    left |= _early_offenders(writer, layers, judge, encoding, left, judged[encoding])
    points: tuple[Point, ...] = ()
    chosen = None
    if request.max_ap_drop is not None:
        points, chosen = _choose_layers(writer, layers, judge, encoding, left, request)
        left = dict.fromkeys(chosen.left_float, MEASURED)
    path = writer.write(int8_name(model, request.purpose), encoding, left)
    _require_clean(writer.base, path, request.purpose)
    figures: dict[str, float] = {name: round(value, 4) for name, value in judged.items()}
    if (worst := judge.disagreement(path)) > MOST_DISAGREEMENT:
        raise GateFailed(
            f"{path.name} is not written: its detections differ from fp32's by {worst:.2f} of their scores, limit "
            f"{MOST_DISAGREEMENT:g}; give images like those it will see, another --method than {request.method}, "
            "or annotated data and --max-ap-drop to leave more in float"
        )
    return Quantized(path, writer.spec_of(encoding, left, layers, worst), tuple(layers), left, figures, points, chosen)


def _early_offenders(
    writer: Writer, layers: Sequence[Layer], judge: Judge, encoding: Encoding, left: Collection[str], least: float
) -> dict[str, str]:
    """Those of the first plain layers without which the detections differ markedly less, and the reason of each.

    least: the disagreement with the layers of `left` in float.
    """
    found: dict[str, str] = {}
    for layer in [layer for layer in layers if layer.role == "plain"][:EARLY]:
        without = judge.disagreement(writer.write("early.onnx", encoding, {*left, *found, layer.name}))
        if without < (1 - WORTHWHILE) * least:
            found[layer.name] = f"measured: in INT8 it causes {1 - without / least:.0%} of what the detections differ by"
            least = without
    return found


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


def measuring_runtimes(purpose: Purpose) -> tuple[str, ...]:
    """The runtimes here that the file is for, the one that layers are judged in first; ONNX Runtime stands in for TensorRT."""
    from edgedet.runtimes import run_openvino

    return ("openvino", "onnxruntime") if purpose != "tensorrt" and run_openvino.available() is None else ("onnxruntime",)


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
            "model_sha256": dict(self._table.model_sha256),
            "method": self._table.method,
            "images": {**asdict(self._table.images), "skipped": len(self._table.images.skipped)},
            "left_float": {**left_float, **Network(self.base).unquantizable()},
            "int8_share_of_macs": round(int8_share(layers, left_float), 4),
            "disagreement": round(disagreement, 4),
        }
        # What was measured of the fp32 file is not true of this one.
        inherited = {k: v for k, v in self.spec.provenance.items() if k not in ("check", "verification", "decision")}
        spec = replace(self.spec, precision="int8", encoding=encoding, provenance=inherited)
        return spec.with_provenance(calibration=facts)


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
        with _load(path, self.runtime) as detector:
            return detector.detect_batch(frames)


def _load(path: Path, runtime: str) -> LoadedDetector:
    """A file to be measured, TensorRT's plugin evaluated where it holds it."""
    from edgedet.runtimes.recording import Target
    from edgedet.runtimes.session import Options

    return Target(path, runtime, Options(device="cpu", plugins="evaluated")).open()


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
    # A file that would be refused whatever its AP is no choice.
    sets = [
        left
        for left in sensitivity.choices(ranked, by_rule)
        if judge.disagreement(writer.write("choice.onnx", encoding, left)) <= MOST_DISAGREEMENT
    ]
    points = tuple(meter.point(left) for left in console.track(sets, "choices of layers", total=len(sets)))
    assert request.max_ap_drop is not None
    return points, sensitivity.fastest(points, request.max_ap_drop)


class _Meter:
    """AP drop and latency of choices of layers on the validation data."""

    def __init__(self, writer: Writer, layers: Sequence[Layer], runtime: str, encoding: Encoding, request: Request) -> None:
        assert request.data is not None
        self._writer, self._layers, self._runtime, self._encoding = writer, layers, runtime, encoding
        dataset = open_validation(request.data, classes=writer.spec.classes)
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

        with _load(path, self._runtime) as detector:
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
