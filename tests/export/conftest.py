"""A detector small enough to export in a second, and the real one exported once for all tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from edgedet.models import checkpoint  # noqa: E402
from edgedet.models.base import Candidates, Detector, Normalization  # noqa: E402
from edgedet.models.checkpoint import Checkpoint  # noqa: E402
from edgedet.models.yolox import decode_boxes  # noqa: E402

STRIDE = 8


class Small(Detector):
    """One convolution a stride of 8, two classes; pixels are normalised in RGB order."""

    family = "small"
    normalization = Normalization("rgb", (10.0, 20.0, 30.0), (50.0, 60.0, 70.0))

    def __init__(self) -> None:
        super().__init__("test", 2, (64, 96))
        self.conv = torch.nn.Conv2d(3, 8, STRIDE, STRIDE)
        self.box = torch.nn.Conv2d(8, 4, 1)
        self.score = torch.nn.Conv2d(8, 2, 1)

    def forward(self, images):
        features = self.conv(images).relu()
        return {"box": self.box(features), "score": self.score(features)}

    def loss(self, raw, targets):
        raise NotImplementedError

    def decode(self, raw):
        best, label = raw["score"].float().sigmoid().flatten(2).max(dim=1)
        return Candidates(decode_boxes(raw["box"], STRIDE), best, label.int())


@pytest.fixture
def small() -> Checkpoint:
    """An untrained detector whose scores are spread over [0, 1] and whose boxes overlap; 64x96 pixels, 96 candidates."""
    torch.manual_seed(0)
    detector = Small().eval()
    with torch.no_grad():
        detector.box.bias += torch.tensor([0.0, 0.0, 1.2, 1.2])
        detector.score.weight *= 3
    spec = checkpoint.describe(detector, ("ball", "cube"))
    return Checkpoint(detector, replace(spec, batch=1))


@pytest.fixture(scope="session")
def nano(yolox_nano_pth: Path) -> Checkpoint:
    """The COCO-trained YOLOX-nano, one image at once."""
    detector, spec = checkpoint.load(yolox_nano_pth)
    return Checkpoint(detector, replace(spec, batch=1))


@pytest.fixture(scope="session")
def nano_file(nano: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The fp32 ONNX file of YOLOX-nano in an NMS mode, written on first use."""
    from edgedet.export.to_onnx import to_onnx

    folder = tmp_path_factory.mktemp("nano")

    def write(mode: str) -> Path:
        path = folder / f"{mode}.onnx"
        if not path.exists():
            to_onnx(nano.detector, replace(nano.spec, suppression=replace(nano.spec.suppression, mode=mode)), path)
        return path

    return write
