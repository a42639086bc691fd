"""Where tests find real data, and what they say when it is absent."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"


def _shared(relative: str) -> Path:
    path = SHARED / relative
    if not path.exists():
        pytest.skip(f"shared data is absent: {relative}")
    return path


@pytest.fixture(scope="session")
def coco_val() -> Path:
    """COCO annotations of 64 photos (val half); the images lie in `images/` beside it."""
    return _shared("data/coco128/instances_val.json")


@pytest.fixture(scope="session")
def coco_calib() -> Path:
    """COCO annotations of the other 64 photos."""
    return _shared("data/coco128/instances_calib.json")


@pytest.fixture(scope="session")
def bccd() -> Path:
    """Blood-cell images with Pascal VOC boxes, train.txt and val.txt."""
    return _shared("data/bccd")


@pytest.fixture(scope="session")
def yolox_nano_pth() -> Path:
    """COCO-trained YOLOX-nano in the form its users hold."""
    return _shared("data/weights/yolox_nano.pth")


@pytest.fixture(scope="session")
def yolox_nano_onnx() -> Path:
    """The same weights, exported by somebody else: raw heads before decode."""
    return _shared("data/weights/yolox_nano_reference.onnx")


@pytest.fixture(scope="session")
def people_mp4() -> Path:
    """Persons walking past a fixed camera, 768x432, 10 fps, 1394 frames."""
    return _shared("data/video/people.mp4")


@pytest.fixture(scope="session")
def tud_campus() -> Path:
    """MOTChallenge detections and ground truth of TUD-Campus."""
    return _shared("data/mot/TUD-Campus")
