"""`edgedet export`: a checkpoint becomes files that runtimes serve, each measured against PyTorch before it gets its name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import typer

from edgedet import artifact, assets, console
from edgedet.errors import GateFailed, OutputError, UsageError

if TYPE_CHECKING:
    from edgedet.cli.quantization import Request
    from edgedet.cli.trials import Trial
    from edgedet.models.checkpoint import Checkpoint
    from edgedet.runtimes.session import Session
    from edgedet.spec import ModelSpec

Target = Literal["onnx", "openvino"]
Precision = Literal["fp32", "fp16", "int8"]
Nms = Literal["onnx", "matrix", "efficientnms", "none"]
AUTO: tuple[Precision, ...] = ("fp32", "fp16", "int8")
"""What `--precision auto` writes and measures, beside bf16, which is a way to run the fp32 file."""
AP_BUDGET = 0.005
SUFFIX: dict[Target, str] = {"onnx": ".onnx", "openvino": ".xml"}
RUNTIME: dict[Target, str] = {"onnx": "onnxruntime", "openvino": "openvino"}
MOST_PIXELS, MOST_IMAGES = 8192, 1024
"""Input side and batch beyond which no memory holds the activations."""


@dataclass(frozen=True)
class Exported:
    """One file; its spec's provenance holds its figures against PyTorch: `check` on drawn pictures, `verification` on data."""

    path: Path
    target: Target
    spec: ModelSpec

    @property
    def runtime(self) -> str:
        """Which runtime serves the format."""
        return RUNTIME[self.target]


def command(
    checkpoint: Path = typer.Argument(help="A .pth or .safetensors checkpoint, or street-nano, the embedded one."),
    to: list[str] = typer.Option(
        [], metavar="onnx|openvino", help="Format; repeat for several. [onnx; for precision auto both, where OpenVINO is there]"
    ),
    precision: list[str] = typer.Option(
        ["fp32"],
        metavar="fp32|fp16|int8|auto",
        help="Repeat for several; int8 needs --images. auto measures all here and keeps the fastest within --max-ap-drop.",
    ),
    images: Path | None = typer.Option(None, help="Calibration images for int8: a folder, a data set or a video."),
    method: str = typer.Option("mse", metavar="minmax|percentile|entropy|mse", help="How int8 ranges are found."),
    purpose: str = typer.Option("cpu", "--for", metavar="cpu|tensorrt", help="What int8 is written for."),
    max_ap_drop: float | None = typer.Option(None, min=0, max=1, help="Budget of int8 and auto on --verify. [0.005]"),
    force: bool = typer.Option(False, "--force", help="Calibrate on few, blank or duplicate images; recorded in the file."),
    nms: Nms | None = typer.Option(
        None,
        help="onnx: NonMaxSuppression, the default. matrix: plain arithmetic, default --for tensorrt. none: candidates out. "
        "efficientnms: the plugin of TensorRT 10, which deprecates it.",
    ),
    batch: str = typer.Option("1", metavar="N|dynamic", help="Images at once."),
    size: str | None = typer.Option(None, metavar="N|HxW", help="Input size in pixels. Default: the checkpoint's own."),
    input: Literal["uint8-nhwc", "float32-nchw"] = typer.Option("uint8-nhwc", help="Input; BGR 0-255 either way."),
    classes: str | None = typer.Option(None, help="Names, as a file with one a line or as a,b,c."),
    simplify: bool = typer.Option(False, "--simplify", help="Run onnxsim."),
    verify: Path | None = typer.Option(None, metavar="DATA", help="Also validate on these images, with gates on AP and boxes."),
    out: Path = typer.Option(Path("runs/export"), help="Folder for the files."),
    json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Write a checkpoint as ONNX or OpenVINO files: pixels in, boxes out, NMS inside.

    Every file is compared with PyTorch before it gets its name; one that differs is not written (exit 1).

    Example: `edgedet export yolox_nano.pth --to onnx --to openvino --precision fp32 --precision fp16`
    """
    from edgedet.cli import quantization
    from edgedet.cli import trials as trying
    from edgedet.export.graph import ExportGraph, with_input
    from edgedet.models import checkpoint as checkpoints

    if "auto" in precision and len(precision) > 1:
        raise UsageError("--precision auto stands alone: it tries all of them")
    auto = precision == ["auto"]
    targets: list[Target] = _chosen("--to", to, get_args(Target)) or _default_targets(auto=auto)
    precisions: list[Precision] = list(AUTO) if auto else _chosen("--precision", precision, get_args(Precision))
    mode: Nms = nms or ("matrix" if purpose == "tensorrt" else "onnx")
    request = _request(precisions, targets, images, method, purpose, verify, max_ap_drop, force=force)
    if mode == "efficientnms":
        _allow_plugin(targets, request, auto=auto)
    if auto and verify is None:
        raise UsageError("--precision auto needs --verify DATA, annotated images to hold the accuracy budget on")
    size_hw, batch_size = parse_size(size) if size else None, parse_batch(batch)
    loaded = checkpoints.load(assets.named(checkpoint), classes=read_classes(classes) if classes else None)
    spec = with_input(loaded.spec, size_hw=size_hw, batch=batch_size)
    loaded = loaded._replace(spec=replace(spec, input_layout=input, suppression=replace(spec.suppression, mode=mode)))
    ExportGraph(*loaded)  # refuses what cannot be written, before any long work
    jobs = [(p, t) for p in precisions for t in targets]
    _require_places(loaded.spec, jobs, out)
    if verify:
        _require_data(loaded, verify)
    if request and request.max_ap_drop is not None:
        quantization.require_libraries(request, spec)
    trials: list[Trial] = []
    with artifact.scratch(out) as scratch:
        base = _write_base(loaded, scratch, simplify=simplify)
        reference = _reference(loaded)
        files: list[Exported] = []
        for one in console.track(precisions, "export", total=len(precisions)):
            try:
                source = _source(base, one, request, out)
                files += [_write(source, target, reference) for target in targets]
            except GateFailed as error:
                if not auto or one == "fp32":
                    raise
                console.say(f"{one} is not tried: {error}")
        if auto and verify:
            trials = trying.try_all(files, verify)
            files = [trying.decide(trials, AP_BUDGET if max_ap_drop is None else max_ap_drop)]
        elif verify:
            files = _verify(loaded, files, verify, scratch, max_ap_drop)
        for file in files:
            _annotate(file)
        written = _publish(files, out, scratch)
    if json:
        decision = [asdict(trial.figures) for trial in trials]
        console.print_json(
            {"files": list(map(_as_dict, written)), "decision": decision} if auto else list(map(_as_dict, written))
        )
    else:
        trying.show(trials, written)
        _print(written)


def _request(
    precisions: Sequence[Precision],
    targets: Sequence[Target],
    images: Path | None,
    method: str,
    purpose: str,
    data: Path | None,
    max_ap_drop: float | None,
    *,
    force: bool,
) -> Request | None:
    """How int8 is made, None where it is not asked for."""
    from edgedet.cli import quantization

    chosen, spelt = quantization.parse_purpose(purpose), quantization.parse_method(method)
    if "int8" not in precisions:
        return None
    if images is None:
        raise UsageError("--precision int8 and auto need --images, what the ranges are calibrated on")
    if not images.exists():
        raise UsageError(f"--images {images}: no such file or folder; name a folder of images, a data set or a video")
    if max_ap_drop is not None and data is None:
        raise UsageError("--max-ap-drop needs --verify DATA, annotated images to measure AP on")
    if chosen == "tensorrt" and "openvino" in targets:
        raise UsageError("--for tensorrt --to openvino: OpenVINO computes that spelling wrong beside a Concat; use --for cpu")
    return quantization.Request(images, spelt, chosen, data, max_ap_drop, force=force)


def _allow_plugin(targets: Sequence[Target], request: Request | None, *, auto: bool) -> None:
    """Refuse `--nms efficientnms` where the file would have to run in another runtime than TensorRT; tell its deprecation."""
    if auto:
        raise UsageError("--nms efficientnms --precision auto: nothing here could time TensorRT's plugin; name the precisions")
    if "openvino" in targets:
        raise UsageError("--nms efficientnms --to openvino: only TensorRT has this plugin; use --nms onnx or matrix")
    if request and request.purpose != "tensorrt":
        raise UsageError("--nms efficientnms --precision int8: only TensorRT has this plugin; add --for tensorrt")
    console.say(
        "EfficientNMS_TRT is deprecated since TensorRT 10.12 and not in TensorRT-RTX; --nms matrix gives the same detections"
    )


def _default_targets(*, auto: bool) -> list[Target]:
    """ONNX; for the fastest of all OpenVINO too, or a word on why not."""
    from edgedet.runtimes import run_openvino

    if not auto:
        return ["onnx"]
    if missing := run_openvino.available():
        console.say(f"OpenVINO, and so bf16, is not tried: {missing}")
        return ["onnx"]
    return ["onnx", "openvino"]


def _chosen(option: str, values: Sequence[str], known: tuple[Any, ...]) -> list[Any]:
    """The values without repetition; UsageError where one is unknown."""
    for value in values:
        if value not in known:
            raise UsageError(f"{option} {value!r} is not one of {', '.join(known)}")
    return list(dict.fromkeys(values))


def read_classes(text: str) -> list[str]:
    """Class names out of `a,b,c`, out of a file with one a line, or the one name that is given."""
    if "," not in text and os.path.isfile(text):  # noqa: PTH113 (Path.is_file raises where a name is too long)
        try:
            lines = Path(text).read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise UsageError(
                f"--classes {text}: is no text in UTF-8 ({error.reason} at byte {error.start}); save it so"
            ) from error
    else:
        lines = text.split(",")
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise UsageError(f"--classes {text} holds no names; give a file of names, one a line, or names as in a,b,c")
    return names


def parse_size(text: str) -> tuple[int, int]:
    """Height and width in pixels of `416` or `384x640`."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(_is_number(part, most=MOST_PIXELS) for part in parts):
        raise UsageError(
            f"--size {text!r} is no input size up to {MOST_PIXELS}; give pixels as in 416, or height and width as in 384x640"
        )
    return int(parts[0]), int(parts[-1])


def parse_batch(text: str) -> int | None:
    """Images at once, None for any number."""
    if text == "dynamic":
        return None
    if not _is_number(text, most=MOST_IMAGES):
        raise UsageError(f"--batch {text!r} is neither a number from 1 to {MOST_IMAGES} nor `dynamic`")
    return int(text)


def _is_number(text: str, *, most: int) -> bool:
    """Whether the text is a whole number in [1, most]."""
    return text.isdecimal() and len(text) <= len(str(most)) and 1 <= int(text) <= most


def file_stem(spec: ModelSpec, precision: Precision) -> str:
    """What a file is called: family, variant, size and precision, and whatever is not the default."""
    height, width = spec.size_hw
    parts = [spec.name, str(height) if height == width else f"{height}x{width}", precision]
    if spec.encoding == "tensorrt":
        parts.append("tensorrt")
    if spec.suppression.mode != "onnx":
        parts.append(spec.suppression.mode)
    if spec.batch != 1:
        parts.append(f"b{spec.batch}" if spec.batch else "dynamic")
    if spec.input_layout != "uint8-nhwc":
        parts.append(spec.input_layout)
    return "-".join(parts)


def _require_places(spec: ModelSpec, jobs: list[tuple[Precision, Target]], out: Path) -> None:
    """OutputError where something that is no file has the name of a file to be written."""
    suffixes = {"onnx": (".onnx", ".onnx.data"), "openvino": (".xml", ".bin")}
    for precision, target in jobs:
        for suffix in suffixes[target]:
            path = out / f"{file_stem(spec, precision)}{suffix}"
            if path.exists() and not path.is_file():
                raise OutputError(
                    f"{path}: stands where a file is to be written and is none; remove it or choose another --out"
                )


def _require_data(loaded: Checkpoint, data: Path) -> None:
    """Refuse data that cannot be verified on, and absent libraries, before any long work."""
    import faster_coco_eval  # noqa: F401

    from edgedet.data.dataset import open_dataset

    open_dataset(data, classes=loaded.spec.classes)


def _write_base(loaded: Checkpoint, folder: Path, *, simplify: bool) -> Path:
    """The FP32 ONNX file that every other is made from."""
    from edgedet.export.simplify import simplify as simplify_file
    from edgedet.export.to_onnx import to_onnx

    console.say(f"tracing {loaded.spec.name}")
    path = to_onnx(loaded.detector, loaded.spec, folder / f"{file_stem(loaded.spec, 'fp32')}.onnx")
    return simplify_file(path, path) if simplify else path


def _reference(loaded: Checkpoint) -> Session:
    """PyTorch on the same graph, giving candidates too, for any number of uint8 images."""
    from edgedet.export.graph import ExportGraph
    from edgedet.runtimes.run_torch import TorchSession

    spec = replace(loaded.spec, batch=None, input_layout="uint8-nhwc")
    return TorchSession(ExportGraph(loaded.detector, spec), outputs="candidates")


def _source(base: Path, precision: Precision, request: Request | None, out: Path) -> Path:
    """The ONNX file of a precision in the scratch folder, made from the FP32 one."""
    from edgedet.export import onnx_file
    from edgedet.export.to_fp16 import to_fp16

    _, spec = onnx_file.read(base)
    if precision == "int8" and request is not None and request.purpose == "tensorrt":
        spec = replace(spec, encoding="tensorrt")
    path = base.with_name(f"{file_stem(spec, precision)}.onnx")
    if precision == "fp16":
        return to_fp16(base, path)
    if precision == "int8":
        assert request is not None
        from edgedet.cli import quantization

        console.say("calibrating")
        return quantization.to_int8(base, path, request, out / f"{quantization.stem(base)}.ranges.json")
    return base


def _write(source: Path, target: Target, reference: Session) -> Exported:
    """One file in the scratch folder, compared with PyTorch."""
    from edgedet.export import onnx_file
    from edgedet.export.to_openvino import to_openvino
    from edgedet.runtimes import selfcheck

    _, spec = onnx_file.read(source)
    path = to_openvino(source, source.with_suffix(".xml")) if target == "openvino" else source
    agreement = selfcheck.check(reference, path, runtime=RUNTIME[target])
    return Exported(path, target, spec.with_provenance(check=asdict(agreement)))


def _verify(loaded: Checkpoint, files: list[Exported], data: Path, folder: Path, max_ap_drop: float | None) -> list[Exported]:
    """The same files with their figures on the user's data; GateFailed where one misses its gates."""
    from edgedet.models import checkpoint as checkpoints
    from edgedet.runtimes import parity, recording
    from edgedet.runtimes.figures import FLOORS
    from edgedet.runtimes.session import Options

    reference = folder / f"{loaded.spec.name}.safetensors"
    checkpoints.save(reference, loaded.detector.state_dict(), replace(loaded.spec, input_layout="uint8-nhwc", batch=None))
    options = Options(plugins="evaluated")
    targets = [recording.Target(file.path, file.runtime, options) for file in files]
    report = parity.validate(recording.Target(reference, "torch"), targets, data)
    verified = []
    for file, comparison in zip(files, report.comparisons, strict=True):
        gates = FLOORS[file.spec.precision]
        if file.spec.precision == "int8" and max_ap_drop is not None:
            gates = replace(gates, max_ap_drop=max_ap_drop)
        missed = [str(gate) for gate in comparison.against(gates) if not gate.passed]
        if missed:
            raise GateFailed(f"{file.path.name} is not written: on {report.dataset} against PyTorch: {'; '.join(missed)}")
        figures = {
            "data": report.dataset,
            "images": report.images,
            "ap_drop": comparison.ap_drop,
            "matched": comparison.match_rate,
            "box_error_px_max": comparison.box_error_px and comparison.box_error_px.max,
            "score_drift_max": comparison.score_drift and comparison.score_drift.max,
        }
        verified.append(replace(file, spec=file.spec.with_provenance(verification=figures)))
    return verified


def _annotate(file: Exported) -> None:
    """Write the figures into the file's spec."""
    from edgedet.export import onnx_file, to_openvino

    (to_openvino if file.target == "openvino" else onnx_file).annotate(file.path, file.spec)


def _publish(files: list[Exported], out: Path, folder: Path) -> list[Exported]:
    """The files under their final names; where one cannot be put there, everything is again as it was."""
    replaced = folder / "replaced"
    replaced.mkdir()
    moved: list[Path] = []
    try:
        for part in (part for file in files for part in artifact.parts(file.path)):
            target = out / part.name
            if target.exists():
                target.replace(replaced / target.name)
            moved.append(target)
            part.replace(target)
    except BaseException:
        for target in moved:
            old = replaced / target.name
            if old.exists():
                old.replace(target)
            else:
                target.unlink(missing_ok=True)
        raise
    return [replace(file, path=out / file.path.name) for file in files]


def _as_dict(file: Exported) -> dict[str, Any]:
    facts = file.spec.provenance
    return {
        "path": file.path,
        "format": file.target,
        "bytes": sum(part.stat().st_size for part in artifact.parts(file.path)),
        "sha256": artifact.sha256(file.path),
        "precision": file.spec.precision,
        "nms": file.spec.suppression.mode,
        "check": facts["check"],
        "verification": facts.get("verification"),
        "decision": facts.get("decision"),
    }


def _print(files: list[Exported]) -> None:
    """A table of the files and of how far each is from PyTorch."""
    columns = ["file", "MB", "precision", "NMS", "checked in", "box error\npx", "score error", "detections\nmatched"]
    rows = []
    for file in map(_as_dict, files):
        check, verification = file["check"], file["verification"]
        row = [file["path"].name, f"{file['bytes'] / 1e6:.2f}", file["precision"], file["nms"], check["runtime"]]
        row += [f"{check[error]:.2g} (p{check['percentile']})" for error in ("box_error_px", "score_error")]
        row.append(str(check["detections"]))
        if verification:
            drop, matched = verification["ap_drop"], verification["matched"]
            row += ["–" if drop is None else f"{drop:+.4f}", "–" if matched is None else f"{matched:.4f}"]
        rows.append(row)
    if any(file.spec.provenance.get("verification") for file in files):
        columns += ["AP drop", "matched\non data"]
    console.print_table(columns, rows, title=f"written to {files[0].path.parent}; compared with PyTorch on drawn pictures")
