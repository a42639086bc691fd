"""onnxsim on a file of edgedet's: fewer nodes, the same answers, which the caller checks again."""

from __future__ import annotations

from pathlib import Path

from edgedet.errors import ExportError
from edgedet.export import onnx_file


def simplify(source: Path, path: Path) -> Path:
    """Write the simplified form of an ONNX file that `to_onnx` wrote; returns the path.

    Candidates and raw heads are outputs meanwhile, so that they keep their names.
    """
    import onnxsim

    model, spec = onnx_file.read(source)
    onnx_file.expose_inner(model)
    try:
        smaller, same = onnxsim.simplify(model)
    except RuntimeError as error:
        raise ExportError(f"{source.name}: onnxsim cannot simplify it ({error}); export without --simplify") from error
    if not same:
        raise ExportError(f"{source.name}: onnxsim changed its answers; export without --simplify")
    spec = spec.with_provenance(simplified=f"onnxsim {onnxsim.__version__}")
    return onnx_file.write(path, onnx_file.tidy(smaller, spec), spec)
