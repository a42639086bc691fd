"""YOLOv3's and v4's files against PyTorch in every NMS mode, and as TensorRT-RTX plans in every precision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import darknet_reference
import pytest
import torch
from agreement import as_rgb, assert_exports, pictures
from darknet_networks import NETWORKS

from edgedet.calibration.encode import encode, float_by_rule
from edgedet.calibration.lint import lint
from edgedet.calibration.network import Network
from edgedet.calibration.table import ImageSet, Range, RangeTable, fingerprints
from edgedet.export import onnx_file
from edgedet.export.graph import with_input
from edgedet.export.preflight import preflight
from edgedet.export.to_fp16 import to_fp16
from edgedet.export.to_onnx import to_onnx
from edgedet.export.to_tensorrt import BuildOptions, to_tensorrt
from edgedet.models import checkpoint, darknet, darknet_cfg, yolov3, yolov4
from edgedet.models.checkpoint import Checkpoint

SIZE_HW = (96, 128)
BUILDS: dict[str, Callable[..., torch.nn.Module]] = {"yolov3": yolov3.YOLOv3, "yolov4": yolov4.YOLOv4}
QUICK = [("yolov3-tiny", "onnx"), ("yolov4-tiny", "none")]
REST = [(name, mode) for name in NETWORKS for mode in ("onnx", "matrix", "none") if (name, mode) not in QUICK]


def narrow(name: str, folder: Path) -> Checkpoint:
    """The network with an eighth of the channels and five classes; its norms have the statistics of the pictures."""
    family, _, variant = name.partition("-")
    text = NETWORKS[name](classes=5, narrow=8)
    numbers = darknet_reference.random_numbers(text, as_rgb(pictures(SIZE_HW, 2)), objectness=-3.0)
    (folder / "a.cfg").write_text(text)
    cfg = darknet_cfg.parse(folder / "a.cfg")
    detector = BUILDS[family](variant, cfg).eval()
    detector.load_state_dict(darknet.tensors(cfg, numbers), strict=False)
    return Checkpoint(detector, with_input(checkpoint.describe(detector, tuple("abcde")), size_hw=SIZE_HW))


@pytest.mark.parametrize(("name", "mode"), QUICK)
def test_files_give_pytorchs_answers(name, mode, tmp_path):
    assert_exports(*narrow(name, tmp_path), mode, tmp_path, at_least=200)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "mode"), REST)
def test_files_of_all_other_modes_give_pytorchs_answers(name, mode, tmp_path):
    assert_exports(*narrow(name, tmp_path), mode, tmp_path, at_least=200)


def typed(base: Path, folder: Path, precision: str, encoding: str = "tensorrt") -> Path:
    """The file in a precision; ranges of -1 to 6 everywhere."""
    if precision.startswith("int8"):
        model, spec = onnx_file.read(base)
        network = Network(model)
        left = float_by_rule(network.layers(), encoding)
        ranges = dict.fromkeys(network.activations(), Range(-1, 6, 6, -1, 6))
        table = RangeTable(fingerprints(model, spec), ImageSet("none", "0" * 64, 1), "minmax", ranges, {})
        spec = replace(spec, precision="int8", encoding=encoding).with_provenance(calibration={"left_float": left})
        base = onnx_file.write(folder / "int8.onnx", encode(model, table, encoding=encoding, left_float=left), spec)
    return to_fp16(base, folder / "narrow.onnx") if precision.endswith("fp16") else base


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int8+fp16"])
@pytest.mark.parametrize("name", ["yolov3-tiny", "yolov4-tiny", "yolov4"])
def test_tensorrt_rtx_builds_what_is_written_with_all_but_the_predictions_quantised(name, precision, tmp_path):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed; pip install -e '.[dev]'")
    detector, spec = narrow(name, tmp_path)
    spec = replace(spec, batch=1, suppression=replace(spec.suppression, mode="matrix"))
    source = typed(to_onnx(detector, spec, tmp_path / "a.onnx"), tmp_path, precision)
    model, _ = onnx_file.read(source)
    assert lint(model, "tensorrt") == []
    for platform in ("jetpack6", "jetpack7", "tensorrt11", "rtx"):
        assert preflight(model, platform, batch=None) == []
    facts = to_tensorrt(source, tmp_path / "a.engine", BuildOptions(targets=("SM86", "SM89")))
    built = Counter(layer.built for layer in facts.layers)
    convolutions = sum(isinstance(module, torch.nn.Conv2d) for module in detector.modules())
    kept = len(detector.heads)
    wide = "f16" if precision.endswith("fp16") else "f32"
    built["f16"] -= 20  # matrix products of the suppression
    wanted = {"int8": convolutions - kept, wide: kept} if precision.startswith("int8") else {wide: convolutions}
    assert +built == Counter(wanted)
