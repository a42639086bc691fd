"""What TensorRT-RTX makes of a family, without a GPU: its file in every precision, checked, compiled, and read back."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from edgedet.calibration.encode import encode, float_by_rule
from edgedet.calibration.lint import lint
from edgedet.calibration.network import Network
from edgedet.calibration.table import ImageSet, Range, RangeTable, fingerprints
from edgedet.engine import EngineLayer
from edgedet.export import onnx_file
from edgedet.export.preflight import preflight
from edgedet.export.suppression import MATRIX_ROUNDS
from edgedet.export.to_fp16 import to_fp16
from edgedet.export.to_onnx import to_onnx
from edgedet.export.to_tensorrt import BuildOptions, to_tensorrt
from edgedet.models.checkpoint import Checkpoint

PRECISIONS = ("fp32", "fp16", "int8", "int8+fp16")


def quantised(path: Path) -> Path:
    """The file in INT8 as TensorRT takes it, ranges of −6 to 6 everywhere: what is compiled does not depend on them."""
    model, spec = onnx_file.read(path)
    network = Network(model)
    left = float_by_rule(network.layers(), "tensorrt") | network.unquantizable()
    ranges = dict.fromkeys(network.activations(), Range(-6, 6, 6, -6, 6))
    table = RangeTable(fingerprints(model, spec), ImageSet("none", "0" * 64, 1), "minmax", ranges, {})
    spec = replace(spec, precision="int8", encoding="tensorrt").with_provenance(calibration={"left_float": left})
    return onnx_file.write(path.with_name("int8.onnx"), encode(model, table, encoding="tensorrt", left_float=left), spec)


def layers(loaded: Checkpoint, precision: str, folder: Path) -> list[EngineLayer]:
    """The layers of its plan, with matrix suppression; no rule of any TensorRT's is broken on the way."""
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed; pip install -e '.[dev]'")
    spec = replace(loaded.spec, batch=1, suppression=replace(loaded.spec.suppression, mode="matrix"))
    path = to_onnx(loaded.detector, spec, folder / "m.onnx")
    path = quantised(path) if precision.startswith("int8") else path
    path = to_fp16(path, folder / "narrow.onnx") if precision.endswith("fp16") else path
    model, _ = onnx_file.read(path)
    assert lint(model, "tensorrt") == []
    for platform in ("jetpack6", "jetpack7", "tensorrt11", "rtx"):
        assert preflight(model, platform, batch=None) == []
    facts = to_tensorrt(path, folder / "m.engine", BuildOptions(targets=("SM86", "SM89")))
    assert (folder / "m.engine").stat().st_size > facts.weights_bytes
    return list(facts.layers)


def assert_built(
    layers: list[EngineLayer], precision: str, *, convolutions: int, left: int, silent: tuple[str, ...] = ()
) -> None:
    """Every convolution is in the precision asked for; `left` of them are in float where the others are in INT8.

    silent: how the names end of layers that the builder may not list.
    """
    assert all(layer.built or layer.name.endswith(silent) for layer in layers)
    built = Counter(layer.built or layer.asked for layer in layers)
    built["f16"] -= MATRIX_ROUNDS  # of the suppression: a product of zeros and ones each
    wide = "f16" if precision.endswith("fp16") else "f32"
    wanted = {"int8": convolutions - left, wide: left} if precision.startswith("int8") else {wide: convolutions}
    assert +built == Counter(wanted)
