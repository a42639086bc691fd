"""Every precision, suppression and batch of YOLOX-nano and -s as a TensorRT-RTX plan for SM86 and SM89, built without a GPU.

Weights and ranges are made up: what is compiled does not depend on them. How many convolutions are INT8 and what the
weights weigh is counted on the PyTorch modules.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed; pip install -e '.[dev]'")

from edgedet.calibration.encode import encode, float_by_rule  # noqa: E402
from edgedet.calibration.lint import lint  # noqa: E402
from edgedet.calibration.network import Network  # noqa: E402
from edgedet.calibration.table import ImageSet, Range, RangeTable, fingerprints  # noqa: E402
from edgedet.classes import COCO  # noqa: E402
from edgedet.export import onnx_file  # noqa: E402
from edgedet.export.preflight import preflight  # noqa: E402
from edgedet.export.suppression import MATRIX_ROUNDS  # noqa: E402
from edgedet.export.to_fp16 import to_fp16  # noqa: E402
from edgedet.export.to_onnx import to_onnx  # noqa: E402
from edgedet.export.to_tensorrt import BuildOptions, to_tensorrt  # noqa: E402
from edgedet.models import checkpoint, yolox  # noqa: E402
from edgedet.models.base import Detector  # noqa: E402

PRECISIONS = ("fp32", "fp16", "int8", "int8+fp16")
FLOAT = {"fp32": "f32", "fp16": "f16", "int8": "f32", "int8+fp16": "f16"}
BYTES = {"int8": 1, "f16": 2, "f32": 4}
PROFILE = (1, 2, 4)
SLACK = 0.1
"""Of the weights' size: the builder adds constants of the decode and pads kernels; 3 to 7 % on all that are built here."""


class Case(NamedTuple):
    variant: str
    mode: str
    batch: int | None


QUICK = [Case("nano", "matrix", 1), Case("nano", "none", None)]
REST = [Case(v, m, b) for v in ("nano", "s") for m in ("none", "matrix") for b in (1, None) if Case(v, m, b) not in QUICK]


@cache
def detector(variant: str) -> Detector:
    torch.manual_seed(0)
    return yolox.build(variant, len(COCO)).eval()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Case], Path]:
    """The fp32 ONNX file of a case, traced once."""
    folder = tmp_path_factory.mktemp("base")

    def write(case: Case) -> Path:
        path = folder / f"{case.variant}-{case.mode}-{case.batch}.onnx"
        if not path.exists():
            spec = checkpoint.describe(detector(case.variant), COCO)
            suppression = replace(spec.suppression, mode=case.mode)
            to_onnx(detector(case.variant), replace(spec, batch=case.batch, suppression=suppression), path)
        return path

    return write


def typed(base: Path, folder: Path, precision: str) -> Path:
    """The file in a precision; ranges of -1 to 6 everywhere."""
    if precision == "fp32":
        return base
    if precision.startswith("int8"):
        model, spec = onnx_file.read(base)
        network = Network(model)
        left = float_by_rule(network.layers(), "tensorrt")
        ranges = dict.fromkeys(network.activations(), Range(-1, 6, 6, -1, 6))
        table = RangeTable(fingerprints(model, spec), ImageSet("none", "0" * 64, 1), "minmax", ranges, {})
        spec = replace(spec, precision="int8", encoding="tensorrt").with_provenance(calibration={"left_float": left})
        base = onnx_file.write(folder / "int8.onnx", encode(model, table, encoding="tensorrt", left_float=left), spec)
    return to_fp16(base, folder / "narrow.onnx") if precision.endswith("fp16") else base


def convolutions(variant: str, precision: str) -> tuple[Counter[str], int]:
    """How many convolutions there are in each precision, and the bytes of their weights, as PyTorch has them."""
    found: Counter[str] = Counter()
    size = 0
    for name, module in detector(variant).named_modules():
        if isinstance(module, torch.nn.Conv2d):
            left = module.groups > 1 or ".stem.conv" in name or "preds" in name
            kind = FLOAT[precision] if left or not precision.startswith("int8") else "int8"
            found[kind] += 1
            size += module.weight.numel() * BYTES[kind]
    return found, size


def check(base: Path, case: Case, precision: str, folder: Path) -> None:
    source = typed(base, folder, precision)
    model, _ = onnx_file.read(source)
    profile = None if case.batch else PROFILE
    assert lint(model, "tensorrt") == []
    for platform in ("jetpack6", "jetpack7", "tensorrt11", "rtx"):
        assert preflight(model, platform, batch=profile) == []
    facts = to_tensorrt(source, folder / "m.engine", BuildOptions(targets=("SM86", "SM89"), batch=profile))
    expected, size = convolutions(case.variant, precision)
    expected["f16"] += MATRIX_ROUNDS if case.mode == "matrix" else 0  # one matrix product each, of zeros and ones
    assert Counter(layer.built for layer in facts.layers) == expected
    assert facts.weights_bytes is not None
    assert 0 <= facts.weights_bytes - size <= SLACK * size
    assert (folder / "m.engine").stat().st_size > facts.weights_bytes
    assert facts.batches == profile


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("case", QUICK, ids=str)
def test_nano_is_built_as_it_is_written(base, tmp_path: Path, case: Case, precision: str):
    check(base(case), case, precision, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("case", REST, ids=str)
def test_every_other_combination_is_built_as_it_is_written(base, tmp_path: Path, case: Case, precision: str):
    check(base(case), case, precision, tmp_path)
