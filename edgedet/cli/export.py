"""`edgedet export`: a checkpoint becomes files that runtimes serve, each measured against PyTorch before it gets its name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import typer

from edgedet import artifact, assets, console
from edgedet.cli.export_options import Precision, Target, chosen, file_stem, parse_batch, parse_size, read_classes
from edgedet.cli.exported import RUNTIME, Exported, as_dict, publish, show
from edgedet.errors import GateFailed, OutputError, UsageError

if TYPE_CHECKING:
    import numpy as np

    from edgedet.cli.quantization import Purpose, Request
    from edgedet.cli.trials import Trial
    from edgedet.letterbox import Letterbox
    from edgedet.models.checkpoint import Checkpoint
    from edgedet.runtimes.session import Session
    from edgedet.spec import ModelSpec

Nms = Literal["onnx", "matrix", "efficientnms", "none"]
AUTO: tuple[Precision, ...] = ("fp32", "fp16", "int8")
"""What `--precision auto` writes and measures, beside bf16, which is a way to run the fp32 file."""
AP_BUDGET = 0.005


def command(
    checkpoint: Path = typer.Argument(
        help="A .pth, .safetensors or Darknet .weights file; street-nano; published weights by name, as in retinanet-r50@coco; "
        "or an exported .onnx, for --to tensorrt."
    ),
    to: list[str] = typer.Option(
        [],
        metavar="onnx|openvino|tensorrt",
        help="Format; repeat for several. [onnx; for precision auto onnx and openvino, where OpenVINO is there]",
    ),
    precision: list[str] = typer.Option(
        [],
        metavar="fp32|fp16|int8|int8+fp16|auto",
        help="Repeat for several; int8 needs --images. auto measures all here and keeps the fastest within --max-ap-drop. "
        "[fp32; --to tensorrt with --images int8+fp16]",
    ),
    images: Path | None = typer.Option(None, help="Calibration images for int8: a folder, a data set or a video."),
    method: str = typer.Option("mse", metavar="minmax|percentile|entropy|mse", help="How int8 ranges are found."),
    purpose: str | None = typer.Option(
        None,
        "--for",
        metavar="cpu|tensorrt|jetpack6|jetpack7|tensorrt11|rtx",
        help="What int8 is written for, and whose TensorRT --check speaks of. [cpu; any TensorRT]",
    ),
    max_ap_drop: float | None = typer.Option(None, min=0, max=1, help="Budget of int8 and auto on --verify. [0.005]"),
    force: bool = typer.Option(False, "--force", help="Calibrate on few, blank or duplicate images; recorded in the file."),
    nms: Nms | None = typer.Option(
        None,
        help="onnx: NonMaxSuppression, the default. matrix: plain arithmetic, default for TensorRT. none: candidates out. "
        "efficientnms: the plugin of TensorRT 10, which deprecates it.",
    ),
    batch: str | None = typer.Option(
        None, metavar="N|dynamic|MIN,OPT,MAX", help="Images at once; the last for TensorRT, what its plan is to serve. [1]"
    ),
    size: str | None = typer.Option(None, metavar="N|HxW", help="Input size in pixels. Default: the checkpoint's own."),
    input: Literal["uint8-nhwc", "float32-nchw"] = typer.Option("uint8-nhwc", help="Input; BGR 0-255 either way."),
    classes: str | None = typer.Option(None, help="Names, as a file with one a line or as a,b,c."),
    simplify: bool = typer.Option(False, "--simplify", help="Run onnxsim."),
    verify: Path | None = typer.Option(None, metavar="DATA", help="Also validate on these images, with gates on AP and boxes."),
    workspace: int | None = typer.Option(None, min=1, max=1 << 20, metavar="MIB", help="TensorRT's scratch memory at most."),
    timing_cache: Path | None = typer.Option(None, metavar="FILE", help="TensorRT's timings, read and written: faster builds."),
    dla: int | None = typer.Option(None, min=0, metavar="N", help="A Jetson's DLA core for the network."),
    gpus: str | None = typer.Option(None, "--targets", metavar="SM86,SM89", help="GPUs that TensorRT-RTX compiles for here."),
    check: bool = typer.Option(False, "--check", help="Build nothing; say what TensorRT will refuse. Needs no GPU."),
    out: Path = typer.Option(Path("runs/export"), help="Folder for the files."),
    json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Write a checkpoint as ONNX or OpenVINO files or TensorRT plans: pixels in, boxes out, NMS inside.

    Every file is compared with PyTorch before it gets its name; one that differs is not written (exit 1). A TensorRT plan is
    compiled from an ONNX file that was, and stands beside it.

    Example: `edgedet export yolox_nano.pth --to onnx --to openvino --precision fp32 --precision fp16`
    """
    from edgedet.cli import engines, quantization
    from edgedet.cli import trials as trying

    if "auto" in precision and len(precision) > 1:
        raise UsageError("--precision auto stands alone: it tries all of them")
    auto = precision == ["auto"]
    targets: list[Target] = chosen("--to", to, get_args(Target)) or _default_targets(auto=auto)
    spelling, platform = engines.parse_for(purpose, targets)
    size_hw, (batch_size, profile) = parse_size(size) if size else None, parse_batch(batch or "1")
    wish = engines.parse_wish(
        targets, platform, profile, workspace=workspace, timing_cache=timing_cache, dla=dla, gpus=gpus, check=check
    )
    if checkpoint.suffix == ".onnx":
        asked: dict[str, object] = {"--precision": precision, "--nms": nms, "--images": images, "--classes": classes}
        asked |= {"--size": size, "--simplify": simplify, "--verify": verify, "--max-ap-drop": max_ap_drop}
        asked |= {"--batch": None if profile else batch, "--input": None if input == "uint8-nhwc" else input}
        engines.export_onnx(checkpoint, wish, out, asked=asked, json=json)
        return
    from edgedet.export.graph import ExportGraph, with_input
    from edgedet.models import checkpoint as checkpoints

    precisions = list(AUTO) if auto else _precisions(precision, targets, calibrated=images is not None)
    mode: Nms = nms or ("matrix" if spelling == "tensorrt" else "onnx")
    request = _request(precisions, targets, images, method, spelling, verify, max_ap_drop, force=force)
    if mode == "efficientnms":
        _allow_plugin(targets, request, auto=auto)
    engines.require_nms(wish, mode)
    if auto and verify is None:
        raise UsageError("--precision auto needs --verify DATA, annotated images to hold the accuracy budget on")
    _require_profile(targets, batch, profile, auto=auto)
    loaded = checkpoints.load(assets.named(checkpoint), classes=read_classes(classes) if classes else None)
    spec = with_input(loaded.spec, size_hw=size_hw, batch=batch_size)
    loaded = loaded._replace(spec=replace(spec, input_layout=input, suppression=replace(spec.suppression, mode=mode)))
    ExportGraph(*loaded)  # refuses what cannot be written, before any long work
    _require_places(loaded.spec, [(p, t) for p in precisions for t in targets], out)
    if verify:
        _require_data(loaded, verify)
    if request and request.max_ap_drop is not None:
        quantization.require_libraries(request, spec)
    trials: list[Trial] = []
    with artifact.scratch(out) as scratch:
        base = _write_base(loaded, scratch, simplify=simplify)
        if wish and check:
            engines.check([_source(base, one, request, out) for one in precisions], wish, json=json)
            return
        reference = _reference(loaded)
        files: list[Exported] = []
        for one in console.track(precisions, "export", total=len(precisions)):
            try:
                source = _source(base, one, request, out)
                files += [_write(source, target, reference, request) for target in _formats(targets)]
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
        if wish:
            files += [engines.compile_file(file, wish, scratch) for file in files if file.target == "onnx"]
        written = publish(files, out, scratch)
    if json:
        decision = [asdict(trial.figures) for trial in trials]
        shown = list(map(as_dict, written))
        console.print_json({"files": shown, "decision": decision} if auto else shown)
    else:
        trying.show(trials, written)
        show(written)


def _request(
    precisions: Sequence[Precision],
    targets: Sequence[Target],
    images: Path | None,
    method: str,
    purpose: Purpose,
    data: Path | None,
    max_ap_drop: float | None,
    *,
    force: bool,
) -> Request | None:
    """How int8 is made, None where it is not asked for."""
    from edgedet.cli import quantization

    spelt = quantization.parse_method(method)
    if not any(name.startswith("int8") for name in precisions):
        return None
    if "int8+fp16" in precisions and purpose != "tensorrt":
        raise UsageError("--precision int8+fp16 is TensorRT's: no CPU computes in float16; add --for tensorrt, or ask for int8")
    if images is None:
        raise UsageError("--precision int8 and auto need --images, what the ranges are calibrated on")
    if not images.exists():
        raise UsageError(f"--images {images}: no such file or folder; name a folder of images, a data set or a video")
    if max_ap_drop is not None and data is None:
        raise UsageError("--max-ap-drop needs --verify DATA, annotated images to measure AP on")
    if purpose == "tensorrt" and "openvino" in targets:
        raise UsageError("--for tensorrt --to openvino: OpenVINO computes that spelling wrong beside a Concat; use --for cpu")
    return quantization.Request(images, spelt, purpose, data, max_ap_drop, force=force)


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


def _precisions(given: Sequence[str], targets: Sequence[Target], *, calibrated: bool) -> list[Precision]:
    """The precisions asked for; unasked fp32, for TensorRT with calibration images int8 with float16 around it."""
    unasked = "int8+fp16" if calibrated and list(targets) == ["tensorrt"] else "fp32"
    return chosen("--precision", given or [unasked], get_args(Precision))


def _require_profile(targets: Sequence[Target], batch: str | None, profile: object, *, auto: bool) -> None:
    """Refuse a free batch without what TensorRT needs to know of it, and that without TensorRT."""
    if auto and "tensorrt" in targets:
        raise UsageError("--precision auto --to tensorrt: what is fastest shows on the device alone; name the precisions")
    if "tensorrt" in targets and batch == "dynamic":
        raise UsageError("--batch dynamic --to tensorrt: give MIN,OPT,MAX, the batches its plan is to serve, as in 1,4,8")
    if profile and "tensorrt" not in targets:
        raise UsageError(f"--batch {batch} is for TensorRT; add --to tensorrt, or give --batch dynamic")


def _formats(targets: Sequence[Target]) -> list[Target]:
    """What is written and compared here: a plan is compiled from ONNX."""
    return list(dict.fromkeys("onnx" if target == "tensorrt" else target for target in targets))


def _default_targets(*, auto: bool) -> list[Target]:
    """ONNX; for the fastest of all OpenVINO too, or a word on why not."""
    from edgedet.runtimes import run_openvino

    if not auto:
        return ["onnx"]
    if missing := run_openvino.available():
        console.say(f"OpenVINO, and so bf16, is not tried: {missing}")
        return ["onnx"]
    return ["onnx", "openvino"]


def _require_places(spec: ModelSpec, jobs: list[tuple[Precision, Target]], out: Path) -> None:
    """OutputError where something that is no file has the name of a file to be written."""
    onnx = (".onnx", ".onnx.data")
    suffixes = {"onnx": onnx, "openvino": (".xml", ".bin"), "tensorrt": (*onnx, ".engine", ".engine.json")}
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
    if precision.startswith("int8") and request is not None and request.purpose == "tensorrt":
        spec = replace(spec, encoding="tensorrt")
    path = base.with_name(f"{file_stem(spec, precision)}.onnx")
    if precision == "fp16":
        return to_fp16(base, path)
    if precision == "int8+fp16":
        return to_fp16(_source(base, "int8", request, out), path)
    if precision == "int8" and not path.exists():
        assert request is not None
        from edgedet.cli import quantization

        console.say("calibrating")
        return quantization.to_int8(base, path, request, out / f"{quantization.stem(base)}.ranges.json")
    return path if precision == "int8" else base


def _write(source: Path, target: Target, reference: Session, request: Request | None) -> Exported:
    """One file in the scratch folder, compared with PyTorch."""
    from edgedet.export import onnx_file
    from edgedet.export.to_openvino import to_openvino
    from edgedet.runtimes import selfcheck

    _, spec = onnx_file.read(source)
    path = to_openvino(source, source.with_suffix(".xml")) if target == "openvino" else source
    images = _calibrated_on(request, spec.letterbox) if request and spec.precision.startswith("int8") else None
    agreement = selfcheck.check(reference, path, runtime=RUNTIME[target], images=images)
    return Exported(path, target, spec.with_provenance(check=asdict(agreement)))


@cache
def _calibrated_on(request: Request, letterbox: Letterbox) -> np.ndarray:
    """(N, H, W, 3) uint8 some of the calibration images, letterboxed; of those that were found readable."""
    import numpy as np

    from edgedet.calibration.images import open_images
    from edgedet.runtimes.selfcheck import PICTURES

    images = open_images(request.images, limit=request.max_images, force=True)
    wanted = {place * len(images) // PICTURES for place in range(PICTURES)}
    return np.stack([letterbox.apply(image)[0] for index, image in enumerate(images) if index in wanted])


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
        if file.spec.precision.startswith("int8") and max_ap_drop is not None:
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
