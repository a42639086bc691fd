"""Other people's detectors, as references."""

from __future__ import annotations

import importlib
import sys

import pytest
from places import SHARED


@pytest.fixture(scope="session")
def torchvision():
    """torchvision, whose operators ../shared/tools defines for a torch without CUDA."""
    tools = SHARED / "tools"
    if not (tools / "torchvision_on_cpu.py").exists():
        pytest.skip("shared tools are absent: torchvision_on_cpu.py")
    sys.path.insert(0, str(tools))
    try:
        importlib.import_module("torchvision_on_cpu")
    finally:
        sys.path.remove(str(tools))
    importlib.import_module("torchvision.models.detection")
    return importlib.import_module("torchvision")


@pytest.fixture(scope="session")
def effdet(torchvision):
    """effdet, the reference of EfficientDet."""
    return importlib.import_module("effdet")
