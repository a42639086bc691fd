"""`edgedet validate`: does a model give the answers of its reference, on the user's own images and clips?"""

from __future__ import annotations

import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from edgedet import artifact, assets, console
from edgedet.errors import EdgedetError, UsageError

if TYPE_CHECKING:
    from edgedet.runtimes.figures import Comparison, GateResult, Report
    from edgedet.runtimes.recording import Target
    from edgedet.runtimes.track_parity import TrackReport
    from edgedet.spec import ModelSpec

BISECTED_IMAGES = 3
"""Of those that differ most."""


def command(
    reference: str = typer.Argument(help="The model to trust: a checkpoint, or an exported file."),
    others: list[str] = typer.Argument(
        ..., metavar="OTHER...", help="What to compare with it; `model.onnx@openvino` names the runtime."
    ),
    data: Path | None = typer.Option(None, "--data", "-d", help="COCO JSON, VOC or YOLO folder, or plain images."),
    video: str | None = typer.Option(None, help="A clip, or a folder of its frames: compare what is tracked in it."),
    split: str | None = typer.Option(None, help="train or val, where the data has them; all by default."),
    max_images: int | None = typer.Option(None, min=1, help="Use only the first so many."),
    min_score: float = typer.Option(0.05, min=0, max=1, help="Compare detections that score at least this on either side."),
    max_ap_drop: float | None = typer.Option(None, help="Gate: the reference's AP minus the other's, such as 0.002."),
    max_box_error: float | None = typer.Option(
        None, min=0, help="Gate: the worst coordinate of a matched box, in image pixels."
    ),
    max_score_drift: float | None = typer.Option(None, min=0, help="Gate: the worst change of a matched score."),
    min_match: float | None = typer.Option(
        None, min=0, max=1, help="Gate: share of the detections with a partner, such as 0.999."
    ),
    tracker: str = typer.Option("bytetrack", help="Who tracks in --video."),
    track_score: float = typer.Option(0.3, min=0, max=1, help="What starts a track, as `stream --min-score`."),
    classes: str | None = typer.Option(None, help="Track these classes only in --video, as in person,car."),
    max_frames: int | None = typer.Option(None, min=1, help="Use only the first so many of --video."),
    min_idf1: float | None = typer.Option(
        None, min=0, max=1, help="Gate: share of tracked boxes whose identity agrees with the reference's, such as 0.95."
    ),
    max_id_switches: int | None = typer.Option(None, min=0, help="Gate: ids that change over the whole clip."),
    max_count_error: float | None = typer.Option(
        None, min=0, help="Gate: objects a frame, and distinct tracks, off by this share of the reference's, such as 0.02."
    ),
    device: str = typer.Option("auto", help="auto, cpu, gpu, or a runtime's own name."),
    inference_precision: Literal["f32", "bf16", "f16"] = typer.Option(
        "f32", help="What the others compute in; the reference stays at f32."
    ),
    graph_optimization: Literal["default", "off"] = typer.Option(
        "default", help="off shows what the others' optimiser changes."
    ),
    bisect: bool = typer.Option(
        False, "--bisect", help="Where a gate is missed, or none was asked for, name the operators that diverge first."
    ),
    out: Path | None = typer.Option(None, help="Where report.json and report.html go; by default below runs/validate."),
    json: bool = typer.Option(False, "--json", help="Print report.json instead of the table."),
) -> None:
    """Compare models with a reference on your images, on a clip, or on both; exit 1 where a gate is missed.

    Example: `edgedet validate yolox_nano.pth yolox-nano-416-fp16.onnx --data coco128/instances_val.json --max-ap-drop 0.002`

    Tracks: `edgedet validate yolox-nano-416-fp32.onnx yolox-nano-416-int8.onnx@openvino --video clip.mp4 --min-idf1 0.95`
    """
    from edgedet.cli import video_comparison
    from edgedet.runtimes import figures, parity, report
    from edgedet.runtimes.figures import Gates
    from edgedet.runtimes.recording import Target
    from edgedet.runtimes.session import Options
    from edgedet.runtimes.track_parity import TrackGates

    gates = Gates(max_ap_drop, max_box_error, max_score_drift, min_match)
    track_gates = TrackGates(min_idf1, max_id_switches, max_count_error)
    _require_material(
        data, "--data", {"split": split, "max_images": max_images, "bisect": bisect or None, **vars(gates)}, video
    )
    _require_material(video, "--video", {"classes": classes, "max_frames": max_frames, **vars(track_gates)}, data)
    report.require_libraries()
    options = Options(device=device, inference_precision=inference_precision, graph_optimization=graph_optimization)
    parsed = [Target.parse(reference, Options(device=device)), *(Target.parse(other, options) for other in others)]
    trusted, *targets = (replace(target, path=assets.named(target.path)) for target in parsed)
    folder = out or Path("runs/validate") / _folder_name(reference, others)
    _require_folder(folder)
    if bisect:
        _require_graphs(trusted, targets)
    clip = None
    if video is not None:
        wanted = None if classes is None else [name.strip() for name in classes.split(",")]
        clip = video_comparison.ClipOptions(video, tracker, track_score, wanted, max_frames)
        video_comparison.require_watchable(trusted, clip)
    found = tracks = None
    if data is not None:
        found = parity.validate(trusted, targets, data, split=split, max_images=max_images, min_score=min_score, gates=gates)
    if found is not None and bisect:
        found = _bisect(found, trusted, targets)
    if clip is not None:
        tracks = video_comparison.compare(trusted, targets, clip, gates=track_gates)
    facts, page = report.write(folder, found, tracks=tracks, command=_command_line())
    if json:
        print(facts.read_text(encoding="utf-8"), end="")
    else:
        _show(found, tracks)
    console.say(f"report: {page}")
    figures.require_none([failure for part in (found, tracks) if part for failure in part.failures])


def _require_material(given: object | None, name: str, options: Mapping[str, object], instead: object | None) -> None:
    """Refuse options that need what is not given: a gate must never go unseen; `instead` is what else can be compared on."""
    if given is None and instead is None:
        raise UsageError("give --data, images to compare detections on, or --video, a clip to compare tracks on, or both")
    asked = [f"--{option.replace('_', '-')}" for option, value in options.items() if value is not None]
    if given is None and asked:
        raise UsageError(f"{asked[0]} needs {name}, which is not given; add it, or leave {asked[0]} out")


def _folder_name(reference: str, others: list[str]) -> str:
    """The one other's name, or the reference's where there are several."""
    return Path(others[0] if len(others) == 1 else reference).name.replace("@", "-in-")


def _require_folder(folder: Path) -> None:
    """Refuse an --out that cannot be written to before minutes of work; nothing of the trial stays."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {folder} is a file; name a folder")
    absent = [place for place in (folder, *folder.parents) if not place.exists()]
    with artifact.output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        for place in absent:
            place.rmdir()


def _require_graphs(trusted: Target, targets: list[Target]) -> None:
    """Refuse what cannot be bisected, and absent libraries, before any long work."""
    import onnx  # noqa: F401

    from edgedet.runtimes import run_torch

    if trusted.path.suffix.lower() == ".xml":
        raise UsageError(
            f"--bisect runs the reference operator by operator, which takes an ONNX file or a checkpoint, not {trusted.name}"
        )
    for target in targets:
        if target.path.suffix.lower() in run_torch.SUFFIXES:
            raise UsageError(f"--bisect looks into exported files, not into the checkpoint {target.name}; export it")


def _bisect(found: Report, trusted: Target, targets: list[Target]) -> Report:
    """The report with the operators that diverge, for each file that misses a gate or had none to keep."""
    from edgedet.runtimes import divergence

    comparisons = []
    with tempfile.TemporaryDirectory() as folder:
        for comparison, target in zip(found.comparisons, targets, strict=True):
            if not comparison.gates or not all(gate.passed for gate in comparison.gates):
                console.say(f"{comparison.other.label}: looking for the operators that diverge")
                frames = [image.sample.read() for image in comparison.worst[:BISECTED_IMAGES]]
                try:
                    reference = _as_onnx(trusted.path, comparison.other.spec, Path(folder))
                    comparison = replace(comparison, bisection=divergence.find(reference, target, frames))
                except EdgedetError as error:  # the figures are worth their report all the same
                    comparison = replace(comparison, notes=(*comparison.notes, f"not bisected: {error}"))
            comparisons.append(comparison)
    return replace(found, comparisons=tuple(comparisons))


def _as_onnx(path: Path, like: ModelSpec, folder: Path) -> Path:
    """The reference as an ONNX file: itself, or the checkpoint in FP32 with the input and the suppression of another file."""
    if path.suffix.lower() == ".onnx":
        return path
    from edgedet.export.to_onnx import to_onnx
    from edgedet.models import checkpoint

    loaded = checkpoint.load(path)
    names = ("size_hw", "batch", "input_layout", "suppression")
    spec = replace(loaded.spec, **{name: getattr(like, name) for name in names})
    return to_onnx(loaded.detector, spec, folder / "reference.onnx")


def _show(found: Report | None, tracks: TrackReport | None) -> None:
    """Print the tables of figures, each comparison's gates and what explains them, then what was wrong with the data."""
    from edgedet.runtimes import report, track_report

    if found:
        columns, rows = report.summary(found)
        console.print_table(columns, rows, title=f"{found.images} images of {found.dataset}; AP against {found.truth}")
        for comparison in found.comparisons:
            _show_comparison(comparison)
        if found.problems:
            console.say(f"data: {found.problems}")
        for message in found.unreadable:
            console.say(f"data: {message}")
    if tracks:
        columns, rows = track_report.summary(tracks)
        console.print_table(columns, rows, title=f"{len(tracks.times_s)} frames of {tracks.clip}, tracked by {tracks.tracker}")
        for followed in tracks.comparisons:
            _show_gates(followed.other.label, followed.gates)


def _show_gates(label: str, gates: Sequence[GateResult]) -> None:
    for gate in gates:
        print(f"{'passed' if gate.passed else 'MISSED'}  {label}: {gate}")


def _show_comparison(comparison: Comparison) -> None:
    """Print one model's gates and the threshold to run it at, say what explains the figures, and where it diverges."""
    from edgedet.runtimes import precision, report

    label, operating = comparison.other.label, comparison.operating
    _show_gates(label, comparison.gates)
    if operating and operating.other_threshold != operating.reference_threshold:
        there, here = operating.reference_threshold, operating.other_threshold
        print(f"threshold  {label}: run it at {here:.2f} where the reference runs at {there:.2f}")
    for note in (*comparison.notes, *precision.complaints(comparison.other.layers)):
        console.say(f"{label}: {note}")
    columns, rows = report.bisection_rows(comparison)
    if rows:
        console.print_table(columns, rows, title=f"{label}: where it diverges, the gravest first")
    elif comparison.bisection:
        console.say(f"{label}: no operator differs by more than rounding does")


def _command_line() -> str:
    """The command as typed, absolute paths cut to their names."""
    return shlex.join(["edgedet", *(Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:])])
