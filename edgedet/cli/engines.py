"""The TensorRT side of `edgedet export`: plans, compiled from just the ONNX files that were compared, and what would fail."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast, get_args

from edgedet import artifact, console, engine
from edgedet.cli.exported import Exported, as_dict, publish, show
from edgedet.errors import GateFailed, RuntimeUnavailable, UsageError

if TYPE_CHECKING:
    import onnx

    from edgedet.cli.quantization import Purpose
    from edgedet.engine import EngineFacts
    from edgedet.export.fault import Fault
    from edgedet.export.platforms import PlatformName
    from edgedet.export.to_tensorrt import BuildOptions
    from edgedet.spec import ModelSpec

_TABLE_KNOWS = {
    "not-int8",
    "zero-point",
    "int32-dequantized",
    "scale-not-constant",
    "integer-operator",
    "uint8-not-cast",
    "topk-too-long",
    "data-dependent-output",
}
"""Rules of lint that preflight's table has too, by platform."""


@dataclass(frozen=True)
class Wish:
    """What `--to tensorrt` is to do. platform: whose rules hold and whose plan it is, None for any; check: build nothing."""

    options: BuildOptions
    platform: PlatformName | None = None
    check: bool = False


def parse_for(text: str | None, targets: Sequence[str]) -> tuple[Purpose, PlatformName | None]:
    """What INT8 is spelt for and whose TensorRT is meant, of `--for`; a platform means the spelling `tensorrt`."""
    from edgedet.cli.quantization import Purpose
    from edgedet.export.platforms import PLATFORM_NAMES

    if text is None:
        return ("tensorrt" if "tensorrt" in targets else "cpu"), None
    if text in PLATFORM_NAMES:
        return "tensorrt", cast("PlatformName", text)
    if text not in get_args(Purpose):
        raise UsageError(
            f"--for {text!r} is neither what int8 is written for ({', '.join(get_args(Purpose))}) "
            f"nor a TensorRT ({', '.join(PLATFORM_NAMES)})"
        )
    if "tensorrt" in targets and text != "tensorrt":
        raise UsageError(f"--for {text} --to tensorrt: TensorRT takes int8 with zero-point 0 alone; leave --for out")
    return cast("Purpose", text), None


def parse_wish(
    targets: Sequence[str],
    platform: PlatformName | None,
    batch: tuple[int, int, int] | None,
    *,
    workspace: int | None,
    timing_cache: Path | None,
    dla: int | None,
    gpus: str | None,
    check: bool,
) -> Wish | None:
    """What TensorRT is to do, None where it is not asked for; what no TensorRT here can do is refused before any work."""
    from edgedet.export.platforms import PLATFORMS
    from edgedet.export.to_tensorrt import BuildOptions

    given = {"--workspace": workspace, "--timing-cache": timing_cache, "--dla": dla, "--targets": gpus}
    named = [name for name, value in given.items() if value is not None] + ["--check"] * check
    if "tensorrt" not in targets:
        if named:
            raise UsageError(f"{named[0]} is for TensorRT; add --to tensorrt")
        return None
    if gpus and platform not in (None, "rtx"):
        raise UsageError(f"--targets {gpus} --for {platform}: only TensorRT-RTX compiles for other GPUs; use --for rtx")
    chosen = tuple(dict.fromkeys(gpu.strip().upper() for gpu in gpus.split(",") if gpu.strip())) if gpus else ()
    if gpus is not None and not chosen:
        raise UsageError(f"--targets {gpus!r} names no GPU; give them as in --targets SM86,SM89")
    flavour = PLATFORMS[platform].flavour if platform else None
    wish = Wish(BuildOptions(workspace, timing_cache, dla, chosen, batch, flavour), platform, check)
    if not check:
        _require_compiler(wish)
    return wish


def _require_compiler(wish: Wish) -> None:
    """Refuse a build for which there is no TensorRT here, and options that it does not have."""
    from edgedet.export.to_tensorrt import Compiler

    try:
        compiler = Compiler(wish.options)
    except RuntimeUnavailable as error:
        raise RuntimeUnavailable(f"{error}. --check says without it what would fail; --to onnx writes the file") from error
    if wish.options.timing_cache is not None and compiler.ahead_of_time:
        raise UsageError(
            f"--timing-cache {wish.options.timing_cache}: {compiler.name} measures no timings and keeps none; leave it out"
        )


def require_nms(wish: Wish | None, mode: str) -> None:
    """Refuse at once a suppression that TensorRT-RTX cannot build, where that is what compiles here."""
    from edgedet.export.platforms import PLATFORMS
    from edgedet.export.to_tensorrt import Compiler

    operator = {"onnx": "NonMaxSuppression", "efficientnms": "EfficientNMS_TRT"}.get(mode)
    if wish and not wish.check and operator and Compiler(wish.options).flavour == PLATFORMS["rtx"].flavour:
        reason, remedy = PLATFORMS["rtx"].refused[operator]
        raise UsageError(f"--nms {mode} --to tensorrt: {reason}, and what compiles here is that; {remedy}")


def compile_file(file: Exported, wish: Wish, folder: Path) -> Exported:
    """The plan of an ONNX file, in a scratch folder; run against the file first where a GPU can."""
    from edgedet.export import onnx_file
    from edgedet.export.fault import Refused
    from edgedet.export.to_tensorrt import to_tensorrt

    model, _ = onnx_file.read(file.path)
    if faults := list(_linted(model)):
        raise Refused(f"{file.path.name}: TensorRT would not run it as it is written", faults)
    target = folder / f"{file.path.stem}.engine"
    with console.steps(f"compiling {target.name}") as progress:
        facts = to_tensorrt(file.path, target, wish.options, progress=progress)
    facts = _run_here(target, file.path, facts)
    return Exported(target, "tensorrt", file.spec, facts)


def _run_here(plan: Path, source: Path, facts: EngineFacts) -> EngineFacts:
    """The facts, with what came of running the plan beside its ONNX file; GateFailed where they differ."""
    from edgedet.runtimes import run_onnxruntime, run_tensorrt, selfcheck
    from edgedet.runtimes.session import Options

    problem = run_tensorrt.available() or "; ".join(run_tensorrt.differences(facts))
    if problem:
        console.say(f"{plan.name}: {engine.NOT_RUN} ({problem})")
        return facts
    options = Options(device="cpu", plugins="evaluated")
    with closing(run_onnxruntime.open(source, options)) as reference, closing(run_tensorrt.open(plan, Options())) as session:
        compared = selfcheck.compare(reference, session, name=plan.name)
    if compared == 0:
        console.say(
            f"{plan.name}: runs here, but finds nothing in drawn pictures to compare; `edgedet validate` it on your images"
        )
        return facts
    facts = replace(facts, state=engine.VERIFIED)
    artifact.write_text(engine.sidecar(plan), facts.to_json())
    return facts


def export_onnx(model: Path, wish: Wish | None, out: Path, *, asked: Mapping[str, object], json: bool) -> None:
    """Write the plan of an ONNX file that edgedet exported into the folder `out`, or check it; torch is not needed.

    asked: options that belong to a checkpoint, by name, None or empty where they were not given.
    """
    from edgedet.export import onnx_file

    if wish is None:
        raise UsageError(f"{model}: is an ONNX file already; add --to tensorrt to compile it, or give the checkpoint")
    if wish.check:
        check([model], wish, json=json)
        return
    _, spec = onnx_file.read(model)
    fixed: dict[str, object] = {"--precision": [spec.precision], "--nms": spec.suppression.mode}
    fixed |= {"--batch": str(spec.batch or "dynamic"), "--input": spec.input_layout}
    for name, value in asked.items():
        if value and value != fixed.get(name):
            raise UsageError(f"{name} is for a checkpoint: {model.name} is exported already ({_described(spec)}); leave it out")
    with artifact.scratch(out) as scratch:
        plan = compile_file(Exported(model, "onnx", spec), wish, scratch)
        written = publish([plan], out, scratch)
    if json:
        console.print_json(list(map(as_dict, written)))
    else:
        show(written)


def _described(spec: ModelSpec) -> str:
    return f"{spec.precision}, NMS {spec.suppression.mode}, batch {spec.batch or 'dynamic'}"


def check(files: Sequence[Path], wish: Wish, *, json: bool = False) -> None:
    """Print what of the files will fail on the platform meant, or on any; GateFailed where there is something."""
    from edgedet.export import onnx_file
    from edgedet.export.platforms import PLATFORM_NAMES, PLATFORMS

    platforms = [wish.platform] if wish.platform else list(PLATFORM_NAMES)
    found: list[tuple[Path, PlatformName, Fault]] = []
    for path in files:
        model = onnx_file.load(path)
        found += [(path, platform, fault) for platform in platforms for fault in _faults(path, model, platform, wish.options)]
    if json:
        console.print_json([{"file": path.name, "platform": platform, **asdict(fault)} for path, platform, fault in found])
    elif found:
        rows = [[p.name, PLATFORMS[name].title, f.node, f.operator, f.reason, f.remedy] for p, name, f in found]
        console.print_table(["file", "on", "node", "operator", "what fails", "what mends it"], rows)
    if found:
        where = ", ".join(dict.fromkeys(platform for _, platform, _ in found))
        names = ", ".join(dict.fromkeys(path.name for path, _, _ in found))
        raise GateFailed(f"{names} will fail on {where}: {len(found)} {'places' if len(found) > 1 else 'place'}, listed above")
    console.say(f"{', '.join(path.name for path in files)}: nothing found that fails on {', '.join(platforms)}")


def _faults(path: Path, model: onnx.ModelProto, platform: PlatformName, options: BuildOptions) -> list[Fault]:
    """What of a file fails on a platform: from the table, from lint and, for TensorRT-RTX, from its build."""
    from edgedet.export.preflight import built_for_nothing, preflight

    faults = [*preflight(model, platform, batch=options.batch, dla=options.dla), *_linted(model, known=_TABLE_KNOWS)]
    if platform != "rtx" or faults:
        return faults
    built = built_for_nothing(path, model, replace(options, flavour="tensorrt_rtx"))
    if built is None:
        console.say("rtx: from the table alone; TensorRT-RTX is not installed here: pip install tensorrt-rtx-cu13")
    return built or []


def _linted(model: onnx.ModelProto, *, known: set[str] | None = None) -> Iterator[Fault]:
    """What lint finds for TensorRT, as faults, without the rules that are known otherwise."""
    from edgedet.calibration.lint import lint
    from edgedet.export.fault import Fault

    for finding in lint(model, "tensorrt"):
        if finding.rule not in (known or {"data-dependent-output"}):  # the parser tells of it, where it is refused
            yield Fault(finding.node, finding.rule, finding.message, finding.reason)
