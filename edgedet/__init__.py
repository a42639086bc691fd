"""edgedet: a trained PyTorch detector goes in, a real-time engine proven to give the same answers comes out.

    detector = edgedet.load("model.onnx")
    objects = detector(frame)                      # frame: (H, W, 3) uint8 BGR
    for frame, objects in edgedet.stream("clip.mp4", detector, tracker="bytetrack"): ...

The public names are resolved on first use, so that importing edgedet imports
neither torch nor a runtime.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "Detections": "edgedet.detections",
    "EdgedetError": "edgedet.errors",
    "GateFailed": "edgedet.errors",
    "Letterbox": "edgedet.letterbox",
    "ModelSpec": "edgedet.spec",
    "load": "edgedet.runtimes.detector",
    "stream": "edgedet.streaming.pipeline",
}
__all__ = ["__version__", *sorted(_HOME)]

if TYPE_CHECKING:
    from edgedet.detections import Detections as Detections
    from edgedet.errors import EdgedetError as EdgedetError
    from edgedet.errors import GateFailed as GateFailed
    from edgedet.letterbox import Letterbox as Letterbox
    from edgedet.runtimes.detector import load as load
    from edgedet.spec import ModelSpec as ModelSpec
    from edgedet.streaming.pipeline import stream as stream


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'edgedet' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
