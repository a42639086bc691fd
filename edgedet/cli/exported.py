"""The files that `edgedet export` wrote: put under their names all at once, and shown with their figures."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedet import artifact, console
from edgedet.cli.export_options import Target
from edgedet.engine import TITLES

if TYPE_CHECKING:
    from edgedet.engine import EngineFacts
    from edgedet.spec import ModelSpec

RUNTIME: dict[Target, str] = {"onnx": "onnxruntime", "openvino": "openvino", "tensorrt": "tensorrt"}


@dataclass(frozen=True)
class Exported:
    """One file; its spec's provenance holds its figures against PyTorch: `check` on drawn pictures, INT8 on
    calibration images; `verification` on data."""

    path: Path
    target: Target
    spec: ModelSpec
    engine: EngineFacts | None = None

    @property
    def runtime(self) -> str:
        """Which runtime serves the format."""
        return RUNTIME[self.target]


def publish(files: list[Exported], out: Path, folder: Path) -> list[Exported]:
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


def as_dict(file: Exported) -> dict[str, Any]:
    """What `--json` says of a file."""
    facts = file.spec.provenance
    plan = {"engine": _of_engine(file.engine)} if file.engine else {}
    return {
        "path": file.path,
        "format": file.target,
        "bytes": sum(part.stat().st_size for part in artifact.parts(file.path)),
        "sha256": artifact.sha256(file.path),
        "precision": file.spec.precision,
        "nms": file.spec.suppression.mode,
        "check": facts.get("check"),
        "verification": facts.get("verification"),
        "decision": facts.get("decision"),
        **plan,
    }


def _of_engine(facts: EngineFacts) -> dict[str, Any]:
    """What is told of a plan; layers: how many were built in each precision, `unknown` where nothing tells."""
    built = [layer.built or "unknown" for layer in facts.layers]
    return {
        "state": facts.state,
        "tensorrt": f"{TITLES[facts.flavour]} {facts.version}",
        "compute_capabilities": facts.compute_capabilities,
        "onnx_sha256": facts.onnx_sha256,
        "batches": facts.batches,
        "weights_bytes": facts.weights_bytes,
        "layers": {name: built.count(name) for name in sorted(set(built))},
    }


def show(files: list[Exported]) -> None:
    """A table of the files and of how far each is from PyTorch."""
    columns = ["file", "MB", "precision", "NMS", "checked in", "box error\npx", "score error", "detections\nmatched"]
    rows = []
    for file in map(as_dict, files):
        check, verification = file["check"], file["verification"]
        row = [file["path"].name, f"{file['bytes'] / 1e6:.2f}", file["precision"], file["nms"]]
        if "engine" in file:  # its figures are those of the ONNX file it was compiled from
            row += [file["engine"]["state"], "–", "–", "–"]
        else:
            row.append(check["runtime"])
            row += [f"{check[error]:.2g} (p{check['percentile']})" for error in ("box_error_px", "score_error")]
            row.append(str(check["detections"]))
        if verification:
            drop, matched = verification["ap_drop"], verification["matched"]
            row += ["–" if drop is None else f"{drop:+.4f}", "–" if matched is None else f"{matched:.4f}"]
        rows.append(row)
    if any(file.spec.provenance.get("verification") for file in files):
        columns += ["AP drop", "matched\non data"]
    looked_at = "drawn pictures, INT8 on calibration images"
    console.print_table(columns, rows, title=f"written to {files[0].path.parent}; compared with PyTorch on {looked_at}")
    for facts in (file.engine for file in files if file.engine):
        layers = ", ".join(f"{count} {name}" for name, count in _of_engine(facts)["layers"].items())
        gpus = ", ".join(facts.compute_capabilities) or "every GPU that it serves"
        console.say(f"{TITLES[facts.flavour]} {facts.version} for {gpus}: {layers} layers; from {facts.onnx}")
