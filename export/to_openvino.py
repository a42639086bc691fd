"""ONNX → OpenVINO IR: an .xml with its .bin, in the precision of the ONNX file, the ModelSpec in its rt_info."""

from __future__ import annotations

import errno
from pathlib import Path

from edgedet import artifact
from edgedet.errors import ExportError
from edgedet.export import onnx_file
from edgedet.spec import KEY, ModelSpec


def to_openvino(source: Path, path: Path) -> Path:
    """Write the OpenVINO form of an ONNX file of edgedet's; path: the .xml, whose .bin goes beside it. Returns the path."""
    _, spec = onnx_file.read(source)
    if path.suffix != ".xml":
        raise ExportError(f"{path}: an OpenVINO model is an .xml with its .bin; name it {path.with_suffix('.xml').name}")
    return _write(source, path, spec)


def annotate(path: Path, spec: ModelSpec) -> Path:
    """Replace the spec in an OpenVINO file, as when its verification figures are known; returns the path."""
    return _write(path, path, spec)


def _write(source: Path, path: Path, spec: ModelSpec) -> Path:
    import openvino

    model = openvino.Core().read_model(source)
    model.set_rt_info(spec.to_json(), KEY)
    with artifact.writing(path, path.with_suffix(".bin")) as (temporary, _):
        try:
            # The precision is the file's: OpenVINO's own narrowing to FP16 would go unasked and unseen.
            openvino.save_model(model, temporary, compress_to_fp16=False)
            whole = temporary.read_bytes().rstrip().endswith(b"</net>")
        except RuntimeError as error:
            if "iostream" not in str(error):
                raise
            whole = False
        if not whole:
            # C++ streams do not say why; in a folder that could be created it is the space.
            raise OSError(errno.ENOSPC, "no space left for the OpenVINO model")
    return path
