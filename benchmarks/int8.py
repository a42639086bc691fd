"""Print INT8 by NNCF, by ONNX Runtime and by `edgedet calibrate` beside FP32 and bf16; exit 1 where ours misses a floor.

    python benchmarks/int8.py [CHECKPOINT] [IMAGES] [DATA]

All are calibrated on IMAGES (of a data set its train split), scored on DATA (its val split), timed each alone in its own
process, in turns. After it YOLOX-tiny, plain convolutions with random weights, for latency only.
Floors: AP drop ≤ .005 in both runtimes, ≥ 85 % of the convolution MACs in INT8, latency ≤ .80 × FP32 in OpenVINO for the
cpu encodings (plain convolutions ≤ .55 ×); AP drop ≤ .009 in ONNX Runtime for TensorRT's.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from parity import SHARED, WEIGHTS
from support import save_random

from edgedet import console
from edgedet.calibration.encode import float_by_rule
from edgedet.calibration.images import open_images
from edgedet.calibration.network import Network
from edgedet.cli import quantization
from edgedet.cli.quantization import Purpose
from edgedet.data.dataset import open_dataset
from edgedet.errors import RuntimeUnavailable, SplitAbsent
from edgedet.export import onnx_file, to_openvino
from edgedet.export.to_onnx import to_onnx
from edgedet.models import checkpoint
from edgedet.runtimes import benchmark, machine, parity, precision
from edgedet.runtimes.contract import as_input
from edgedet.runtimes.figures import Report
from edgedet.runtimes.recording import Target
from edgedet.runtimes.session import Options

COCO = SHARED / "coco128"
CALIBRATION, DATA = COCO / "instances_calib.json", COCO / "instances_val.json"
RUNTIMES = ("openvino", "onnxruntime")
PURPOSES: tuple[Purpose, ...] = ("cpu-symmetric", "cpu-asymmetric", "tensorrt")
RUNS, TURNS = 120, 5
COLUMNS = (
    *("artefact", "AP OpenVINO", "AP ORT", "matched OpenVINO", "matched ORT"),
    *("INT8 MACs OpenVINO", "INT8 MACs ORT"),
    *("ms OpenVINO", "× FP32", "ms ORT", "× FP32", "floors"),
)


@dataclass(frozen=True)
class Floors:
    """What an artefact must keep; ap_drop: in every one of `runtimes`, all of which must run it; the others in OpenVINO."""

    runtimes: tuple[str, ...]
    ap_drop: float | None = None
    int8_share: float | None = None
    ratio: float | None = None


CPU, PLAIN = Floors(RUNTIMES, 0.005, 0.85, 0.80), Floors(RUNTIMES, None, 0.85, 0.55)
TENSORRT = Floors(("onnxruntime",), 0.009)


@dataclass(frozen=True)
class Artefact:
    """A row: the targets by runtime, or instead of one a word that says why there is none."""

    name: str
    places: dict[str, Target | str]
    floors: Floors | None = None


@dataclass(frozen=True)
class Figures:
    """What was measured of each target; ap, matched: empty where nothing is scored.

    matched: with FP32 in OpenVINO. int8_share: of the MACs, as executed, in
    [0, 1]. latency_ms: (TURNS,) medians of inference.
    """

    ap: dict[Target, float]
    matched: dict[Target, float]
    int8_share: dict[Target, float]
    latency_ms: dict[Target, np.ndarray]


def main() -> None:
    given = [Path(text) for text in sys.argv[1:]]
    weights, images, data = (*given, *(WEIGHTS, CALIBRATION, DATA)[len(given) :])
    if absent := [path for path in (weights, images, data) if not path.exists()]:
        console.say(f"skipped: {absent[0]} is absent; name a checkpoint, calibration images and a data set")
        return
    print_header()
    missed: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        missed += scored(weights, images, data, Path(name))
        missed += timed(images, Path(name))
    for line in missed:
        print(f"missed: {line}")
    sys.exit(bool(missed))


def print_header() -> None:
    """The machine and the versions, without which a figure means nothing."""
    versions = machine.packages()
    if nncf := nncf_version():
        versions["nncf"] = nncf
    print(machine.describe())
    print(", ".join(f"{name} {versions[name]}" for name in ("onnxruntime", "openvino", "nncf") if name in versions))


def scored(weights: Path, images: Path, data: Path, folder: Path) -> list[str]:
    """Print the table of a trained checkpoint; returns the floors it misses."""
    base = export(weights, folder)
    artefacts = [*others(base, images), *(ours(base, images, purpose) for purpose in PURPOSES)]
    report = validate(artefacts, data)
    ap = {target: side.scores.ap for target, side in zip(targets(artefacts), sides(report)) if side.scores}
    rates = [1.0, *(comparison.match_rate or 0.0 for comparison in report.comparisons)]
    figures = Figures(ap, dict(zip(targets(artefacts), rates)), int8_shares(artefacts), latencies(artefacts))
    words = "; YOLOX was trained on these photos, only differences tell" if weights == WEIGHTS else ""
    return show(artefacts, figures, f"{base.stem}, scored on {report.images} images of {report.dataset}{words}")


def timed(images: Path, folder: Path) -> list[str]:
    """Print the table of YOLOX-tiny with random weights; returns the floors it misses."""
    weights = folder / "tiny.safetensors"
    save_random("yolox-tiny", weights)
    base = export(weights, folder)
    mine = [replace(ours_unchecked(base, images, purpose), floors=PLAIN) for purpose in PURPOSES[:2]]
    artefacts = [*others(base, images), *mine]
    figures = Figures({}, {}, int8_shares(artefacts), latencies(artefacts))
    return show(artefacts, figures, f"{base.stem}, plain convolutions, random weights: latency only")


def export(weights: Path, folder: Path) -> Path:
    """The FP32 file of a checkpoint."""
    detector, spec = checkpoint.load(weights)
    console.say(f"exporting {spec.name} {spec.size_hw}")
    return to_onnx(detector, replace(spec, batch=1, size_hw=(416, 416)), folder / f"{spec.name}-416-fp32.onnx")


def others(base: Path, images: Path) -> Iterator[Artefact]:
    """What ours stands beside: FP32, which comes first, bf16, NNCF's two presets and ONNX Runtime's default."""
    yield Artefact("FP32", both(base))
    bf16 = Target(base, "openvino", Options(inference_precision="bf16"))
    yield Artefact("bf16, OpenVINO's own choice", {"openvino": opened(bf16), "onnxruntime": "–"})
    inputs = read_inputs(base, images)
    for preset in ("default", "mixed"):
        yield Artefact(f"NNCF, {preset} preset", {"openvino": by_nncf(base, inputs, preset), "onnxruntime": "–"})
    yield Artefact("ORT quantize_static, defaults", both(by_onnxruntime(base, inputs)))


def read_inputs(base: Path, images: Path) -> list[np.ndarray]:
    """The calibration images as the file takes them, (1, …) each."""
    _, spec = onnx_file.read(base)
    return [as_input(spec.letterbox.apply(image)[0][None], spec) for image in open_images(images)]


def nncf_version() -> str | None:
    try:
        return version("nncf")
    except PackageNotFoundError:
        return None


def by_nncf(base: Path, inputs: Sequence[np.ndarray], preset: str) -> Target | str:
    """The OpenVINO form of an FP32 file, quantised by NNCF, `default` being what it does unasked."""
    if nncf_version() is None:
        console.say("skipped: nncf is not installed; pip install nncf")
        return "skipped"
    os.environ.setdefault("NNCF_CI", "1")  # it would report its use over the network
    import nncf
    import openvino

    _, spec = onnx_file.read(base)
    float_model = openvino.Core().read_model(to_openvino.to_openvino(base, base.with_suffix(".xml")))
    chosen = nncf.QuantizationPreset.MIXED if preset == "mixed" else None
    model = nncf.quantize(float_model, nncf.Dataset(inputs), preset=chosen, subset_size=len(inputs))
    path = base.with_name(f"{spec.name}-nncf-{preset}.xml")
    openvino.save_model(model, path, compress_to_fp16=False)
    return opened(Target(to_openvino.annotate(path, replace(spec, precision="int8")), "openvino"))


def by_onnxruntime(base: Path, inputs: Sequence[np.ndarray]) -> Path:
    """An FP32 file quantised by ONNX Runtime with nothing chosen."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._waiting = iter(inputs)

        def get_next(self) -> dict[str, np.ndarray] | None:
            array = next(self._waiting, None)
            return None if array is None else {"images": array}

    _, spec = onnx_file.read(base)
    path = base.with_name(f"{spec.name}-ort.onnx")
    logging.disable(logging.WARNING)  # advice to pre-process, which is not the default
    quantize_static(base, path, Reader())
    logging.disable(logging.NOTSET)
    return onnx_file.annotate(path, replace(spec, precision="int8"))


def ours(base: Path, images: Path, purpose: Purpose) -> Artefact:
    """What `edgedet calibrate` writes, by the command that a user gives."""
    folder = base.parent / purpose
    options = ["--images", str(images), "--for", purpose, "--out", str(folder), "--table", str(base.with_suffix(".json"))]
    command = [sys.executable, "-m", "edgedet", "calibrate", str(base), *options, "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    print(done.stderr, end="", file=sys.stderr)
    floors = TENSORRT if purpose == "tensorrt" else CPU
    if done.returncode == 1:  # its own gate was missed
        return Artefact(f"ours, {purpose}", dict.fromkeys(RUNTIMES, "not written"), floors)
    done.check_returncode()
    return Artefact(f"ours, {purpose}", both(next(folder.glob("*.onnx"))), floors)


def ours_unchecked(base: Path, images: Path, purpose: Purpose) -> Artefact:
    """The same of random weights, whose detections `edgedet calibrate` would not let pass."""
    request = quantization.Request(images, purpose=purpose)
    model, spec = onnx_file.read(base)
    table = quantization.ranges_of(model, spec, open_images(images), request, base.with_suffix(".json"))
    (encoding,) = quantization.SPELLINGS[purpose]
    left_float = float_by_rule(Network(model).layers(), encoding)
    path = quantization.Writer(base, table, base.parent).write(f"{spec.name}-{purpose}.onnx", encoding, left_float)
    return Artefact(f"ours, {purpose}", both(path))


def both(path: Path) -> dict[str, Target | str]:
    """An ONNX file in each runtime."""
    return {runtime: opened(Target(path, runtime)) for runtime in RUNTIMES}


def opened(target: Target) -> Target | str:
    """The target, or `refused` where its runtime will not run it."""
    try:
        target.open().close()
    except RuntimeUnavailable as error:
        console.say(str(error))
        return "refused"
    return target


def targets(artefacts: Sequence[Artefact], runtimes: Sequence[str] = RUNTIMES) -> list[Target]:
    """What runs; the first is FP32 in the first of the runtimes."""
    places = [artefact.places[runtime] for artefact in artefacts for runtime in runtimes]
    return [place for place in places if isinstance(place, Target)]


def validate(artefacts: Sequence[Artefact], data: Path) -> Report:
    """Every target against FP32 in OpenVINO on the data's val split, or on all of it where it has no splits."""
    reference, *rest = targets(artefacts)
    try:
        open_dataset(data, split="val")
    except SplitAbsent:
        return parity.validate(reference, rest, data)
    return parity.validate(reference, rest, data, split="val")


def sides(report: Report) -> list:
    """The figures by themselves of every target, in the order of `targets`."""
    return [report.reference, *(comparison.other for comparison in report.comparisons)]


def int8_shares(artefacts: Sequence[Artefact]) -> dict[Target, float]:
    """Share of the convolution MACs that each target executes in INT8, in [0, 1]."""
    found = {}
    for target in targets(artefacts):
        with target.open() as detector:
            found[target] = precision.shares(detector.session.layers()).get(precision.INT8, 0.0)
    return found


def latencies(artefacts: Sequence[Artefact]) -> dict[Target, np.ndarray]:
    """(TURNS,) median milliseconds of inference in each turn, each target alone in its own process."""
    # One runtime after the other: what is compared runs within seconds.
    jobs = [benchmark.Job(target, runs=RUNS) for runtime in RUNTIMES for target in targets(artefacts, (runtime,))]
    samples = console.track(benchmark.run(jobs, turns=TURNS), "latency", total=len(jobs) * TURNS)
    found = benchmark.gather(jobs, samples)
    stage = benchmark.STAGES.index("inference")
    return {m.job.target: np.array([np.median(turn.stages_ms[stage]) for turn in m.turns]) for m in found}


def show(artefacts: Sequence[Artefact], figures: Figures, title: str) -> list[str]:
    """Print a table; returns one line for each artefact that misses a floor."""
    fp32 = artefacts[0]
    problems = {artefact.name: misses(artefact, fp32, figures) for artefact in artefacts if artefact.floors}
    rows = [row(artefact, fp32, figures, problems.get(artefact.name)) for artefact in artefacts]
    console.print_table(COLUMNS, rows, title=title)
    return [f"{title.split(',')[0]}, {name}: {'; '.join(found)}" for name, found in problems.items() if found]


def row(artefact: Artefact, fp32: Artefact, figures: Figures, problems: Sequence[str] | None) -> list[str]:
    """The figures of one artefact as text; problems: None where it has no floors."""
    openvino, onnxruntime = (artefact.places[runtime] for runtime in RUNTIMES)
    floors = "" if problems is None else "MISSED" if problems else "hold"
    return [
        artefact.name,
        *(cell(place, figures.ap, ".4f") for place in (openvino, onnxruntime)),
        *(cell(place, figures.matched, ".3f") for place in (openvino, onnxruntime)),
        *(cell(place, figures.int8_share, ".1%") for place in (openvino, onnxruntime)),
        *(text for runtime in RUNTIMES for text in timing(artefact, fp32, figures, runtime)),
        floors,
    ]


def cell(place: Target | str, values: dict[Target, float], form: str) -> str:
    """One figure, or why there is none."""
    if isinstance(place, str):
        return place
    return format(values[place], form) if place in values else "–"


def timing(artefact: Artefact, fp32: Artefact, figures: Figures, runtime: str) -> tuple[str, str]:
    """Milliseconds, and the ratio to FP32 in the same runtime."""
    found = ratio(artefact, fp32, figures, runtime)
    medians = {target: float(np.median(turns)) for target, turns in figures.latency_ms.items()}
    return cell(artefact.places[runtime], medians, ".2f"), "–" if found is None else f"{found:.2f}"


def ratio(artefact: Artefact, fp32: Artefact, figures: Figures, runtime: str) -> float | None:
    """Latency as a multiple of FP32's in the same runtime, None where it does not run there.

    The median of the turns' ratios: a busy moment spoils its own turn only.
    """
    one, reference = artefact.places[runtime], fp32.places[runtime]
    if isinstance(one, str) or isinstance(reference, str):
        return None
    return float(np.median(figures.latency_ms[one] / figures.latency_ms[reference]))


def misses(artefact: Artefact, fp32: Artefact, figures: Figures) -> list[str]:
    """The floors that an artefact misses, and the runtimes that it must run in and does not."""
    floors = artefact.floors
    if floors is None:
        return []
    found = [f"{word} in {name}" for name in floors.runtimes if isinstance(word := artefact.places[name], str)]
    for runtime in floors.runtimes:
        drop = ap_drop(artefact, fp32, figures, runtime)
        if floors.ap_drop is not None and drop is not None and drop > floors.ap_drop:
            found.append(f"AP drop {drop:.4f} in {runtime}, floor {floors.ap_drop:g}")
    share = figures.int8_share.get(artefact.places["openvino"])
    if floors.int8_share is not None and share is not None and share < floors.int8_share:
        found.append(f"{share:.1%} of the MACs in INT8, floor {floors.int8_share:.0%}")
    times = ratio(artefact, fp32, figures, "openvino")
    if floors.ratio is not None and times is not None and times > floors.ratio:
        found.append(f"{times:.2f} × FP32's latency in openvino, floor {floors.ratio:g}")
    return found


def ap_drop(artefact: Artefact, fp32: Artefact, figures: Figures, runtime: str) -> float | None:
    """FP32's AP in the same runtime less the artefact's, None where it was not scored there."""
    one, reference = (figures.ap.get(a.places[runtime]) for a in (artefact, fp32))
    return None if one is None or reference is None else reference - one


if __name__ == "__main__":
    main()
