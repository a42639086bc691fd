"""YOLOv3's and v4's files against PyTorch in every NMS mode, and as TensorRT-RTX plans in every precision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import compiled
import darknet_reference
import pytest
import torch
from agreement import as_rgb, assert_exports, pictures
from darknet_networks import NETWORKS

from edgedet.export.graph import with_input
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


@pytest.mark.slow
@pytest.mark.parametrize("precision", compiled.PRECISIONS)
@pytest.mark.parametrize("name", ["yolov3-tiny", "yolov4-tiny", "yolov4"])
def test_tensorrt_rtx_builds_what_is_written_with_all_but_the_predictions_quantised(name, precision, tmp_path):
    loaded = narrow(name, tmp_path)
    convolutions = sum(isinstance(module, torch.nn.Conv2d) for module in loaded.detector.modules())
    layers = compiled.layers(loaded, precision, tmp_path)
    compiled.assert_built(layers, precision, convolutions=convolutions, left=len(loaded.detector.heads))
