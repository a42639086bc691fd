"""What is YOLOv4's own: where its detection layers are, its activation, and its frames."""

from __future__ import annotations

import pytest
import torch

from edgedet.models import yolov4


@pytest.mark.parametrize(("variant", "strides", "keys"), [("", [8, 16, 32], 654), ("tiny", [32, 16], 122)])
def test_the_large_networks_detections_begin_at_the_finest_map(variant, strides, keys):
    with torch.device("meta"):
        detector = yolov4.build(variant, 80)
        shapes = [tuple(maps.shape) for maps in detector(torch.zeros(1, 3, 416, 416))]
    assert detector.strides == strides
    assert shapes == [(1, 255, 416 // stride, 416 // stride) for stride in strides]
    assert len(detector.state_dict()) == keys


def test_the_backbone_has_mish_and_the_rest_leaky_relus():
    with torch.device("meta"):
        layers = yolov4.build("", 80).layers
    kinds = {number: type(layer.act).__name__ for number, layer in enumerate(layers) if hasattr(layer, "act")}
    assert {kind for number, kind in kinds.items() if number <= 104} == {"Mish"}
    assert {kind for number, kind in kinds.items() if number > 104} == {"LeakyReLU", "Identity"}
    assert sum(kind == "Identity" for kind in kinds.values()) == 3


@pytest.mark.parametrize(("variant", "side"), [("", 608), ("tiny", 416)])
def test_the_size_is_the_published_cfgs_and_frames_are_stretched(variant, side):
    with torch.device("meta"):
        detector = yolov4.build(variant, 1)
    assert (detector.letterbox_anchor, detector.default_size_hw) == ("stretch", (side, side))
