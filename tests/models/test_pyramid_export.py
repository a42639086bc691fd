"""RetinaNet and FCOS compiled by TensorRT-RTX: their heads, which all levels share, in the precision asked for."""

from __future__ import annotations

import compiled
import pytest
import test_fcos
import test_retinanet
from torch import nn

LEVELS = 5
TINY = {
    "retinanet": lambda: test_retinanet.tiny(norm=False),
    "retinanet-v2": lambda: test_retinanet.tiny(norm=True),
    "fcos": test_fcos.tiny,
}


def convolutions(detector: nn.Module) -> tuple[int, int]:
    """How many there are in the file, those of the head once a level; and how many of them predict."""
    count = left = 0
    for name, module in detector.named_modules():
        if isinstance(module, nn.Conv2d):
            times = LEVELS if name.startswith("head.") else 1
            count += times
            left += times * ("cls_logits" in name or "bbox_" in name)
    return count, left


@pytest.mark.slow
@pytest.mark.parametrize("precision", compiled.PRECISIONS)
@pytest.mark.parametrize("name", TINY)
def test_tensorrt_builds_every_precision(name, precision, tmp_path):
    loaded = TINY[name]()
    count, left = convolutions(loaded.detector)
    compiled.assert_built(compiled.layers(loaded, precision, tmp_path), precision, convolutions=count, left=left)
