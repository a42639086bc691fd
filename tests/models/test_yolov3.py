"""What is YOLOv3's own: where its detection layers are and what its frames and scores are like."""

from __future__ import annotations

import pytest
import torch

from edgedet.models import yolov3


@pytest.mark.parametrize(("variant", "strides", "keys"), [("", [32, 16, 8], 444), ("tiny", [32, 16], 74)])
def test_detections_begin_at_the_coarsest_map(variant, strides, keys):
    with torch.device("meta"):
        detector = yolov3.build(variant, 80)
        shapes = [tuple(maps.shape) for maps in detector(torch.zeros(1, 3, 416, 416))]
    assert detector.strides == strides
    assert shapes == [(1, 255, 416 // stride, 416 // stride) for stride in strides]
    assert len(detector.state_dict()) == keys


def test_frames_lie_amid_grey_bars_as_redmons_program_lays_them():
    detector = yolov3.build("tiny", 1)
    assert (detector.letterbox_anchor, detector.letterbox_fill, detector.default_size_hw) == ("center", 128, (416, 416))
    pixels = torch.tensor([51.0, 102, 255]).view(1, 3, 1, 1)  # blue, green, red
    assert detector.normalize(pixels).flatten().tolist() == pytest.approx([1, 0.4, 0.2])


def test_an_untrained_detector_expects_little():
    torch.manual_seed(0)
    detector = yolov3.build("tiny", 3).eval()
    with torch.no_grad():
        scores = detector.decode(detector(torch.rand(1, 3, 96, 96))).scores
    assert 0.001 < scores.max() < 0.05
