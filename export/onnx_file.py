"""ONNX files with their ModelSpec in the metadata: read, checked, written whole or not at all. Torch-free."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgedet import artifact
from edgedet.errors import ArtifactError, ExportError, SpecError
from edgedet.spec import CANDIDATES, FINAL, KEY, ModelSpec

if TYPE_CHECKING:
    import onnx

OPSET = 19
IR_VERSION = 10
"""The newest that ONNX Runtime 1.18 reads."""
PLUGIN_DOMAIN = "TRT"
"""Of TensorRT's plugins. Its parser looks for the operator's name and takes any domain; onnx's checker wants one of its own."""
EXTERNAL_BYTES = 1_900_000_000
"""Above it weights go to a file beside: protobuf takes 2 GiB at most."""
HEAD = "head_"
"""Raw heads are values named head_0, head_1, …: what lies behind them, decode and suppression, stays FP32."""


def read(path: Path) -> tuple[onnx.ModelProto, ModelSpec]:
    """The model of an ONNX file that edgedet wrote, and its spec."""
    model = load(path)
    return model, spec_of(model, where=path.name)


def load(path: Path) -> onnx.ModelProto:
    """The model of any ONNX file."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        return onnx.load(artifact.require_file(path))
    except (DecodeError, onnx.checker.ValidationError, FileNotFoundError) as error:
        raise ArtifactError(f"{path}: not a whole ONNX file ({error}); copy or export it again") from error


def spec_of(model: onnx.ModelProto, *, where: str) -> ModelSpec:
    """The ModelSpec in the model's metadata; `where` names the file in errors."""
    for entry in model.metadata_props:
        if entry.key == KEY:
            return ModelSpec.from_json(entry.value, where=where)
    raise SpecError(f"{where}: carries no edgedet spec, so what it takes and gives is unknown; make it with `edgedet export`")


def write(path: Path, model: onnx.ModelProto, spec: ModelSpec) -> Path:
    """Write the model with the spec in its metadata, checked in full; returns the path."""
    import onnx

    for entry in [e for e in model.metadata_props if e.key == KEY]:
        model.metadata_props.remove(entry)
    model.metadata_props.add(key=KEY, value=spec.to_json())
    opset = {entry.domain: entry.version for entry in model.opset_import if entry.domain != PLUGIN_DOMAIN}
    if opset != {"": OPSET}:
        raise ExportError(f"{path.name}: needs opsets {opset}, but only opset {OPSET} runs on every target; report this")
    weights = path.with_name(path.name + ".data")
    targets = (path, weights) if weight_bytes(model) > EXTERNAL_BYTES else (path,)
    with artifact.writing(*targets) as (temporary, *_):
        if len(targets) > 1:
            onnx.save(model, temporary, save_as_external_data=True, location=weights.name, size_threshold=1024)
        else:
            onnx.save(model, temporary)
        onnx.checker.check_model(temporary, full_check=True)
    return path


def annotate(path: Path, spec: ModelSpec) -> Path:
    """Replace the spec in a file, as when its verification figures are known; returns the path."""
    model, _ = read(path)
    return write(path, model, spec)


def weight_bytes(model: onnx.ModelProto) -> int:
    """Bytes of the model's weights."""
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer)


def tidy(model: onnx.ModelProto, spec: ModelSpec) -> onnx.ModelProto:
    """The same model with its final outputs only, and nothing in it of the machine that made it."""
    from edgedet import __version__

    del model.metadata_props[:], model.graph.metadata_props[:]
    for item in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del item.metadata_props[:]
        item.doc_string = ""
    for node in model.graph.node:
        if node.domain == PLUGIN_DOMAIN:
            node.name = node.op_type  # the exporter's own word is for a symbol
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version = "edgedet", __version__
    model.doc_string = f"{spec.name}: images {spec.input_layout} to boxes, scores and labels"
    model.graph.name = spec.name
    final = CANDIDATES if spec.suppression.mode == "none" else FINAL
    outputs = {output.name: output for output in model.graph.output}
    declared = {value.name for value in model.graph.value_info}
    model.graph.value_info.extend(value for name, value in outputs.items() if name not in final and name not in declared)
    del model.graph.output[:]
    model.graph.output.extend(outputs[name] for name in final)
    return model


def expose_inner(model: onnx.ModelProto) -> None:
    """Make candidates and raw heads outputs in place, so that a tool which rewrites the graph keeps their names."""
    present = {output.name for output in model.graph.output}
    inner = [v for v in model.graph.value_info if v.name in CANDIDATES or v.name.startswith(HEAD)]
    model.graph.output.extend(v for v in inner if v.name not in present)
