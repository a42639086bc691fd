"""YOLOX against an ONNX file that somebody else exported from the same weights, and its sizes against the published ones."""

import numpy as np
import pytest
import torch

from edgedet.data.dataset import open_dataset
from edgedet.letterbox import Letterbox
from edgedet.models import checkpoint, yolox
from edgedet.models.base import Target


@pytest.fixture(scope="module")
def photos(coco_val) -> np.ndarray:
    """(4, 3, 416, 416) float32 BGR 0–255, letterboxed."""
    samples = open_dataset(coco_val).samples[:4]
    boxed = [Letterbox((416, 416)).apply(sample.read())[0] for sample in samples]
    return np.stack(boxed).transpose(0, 3, 1, 2).astype(np.float32)


def test_raw_heads_agree_with_the_published_onnx_on_photos_to_1e_3(photos, yolox_nano_pth, yolox_nano_onnx):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(str(yolox_nano_onnx), providers=["CPUExecutionProvider"])
    theirs = np.concatenate([session.run(None, {"images": photo[None]})[0] for photo in photos])
    detector = checkpoint.load(yolox_nano_pth).detector
    with torch.no_grad():
        levels = detector(torch.from_numpy(photos))
    flat = [torch.cat([lv.box, lv.objectness.sigmoid(), lv.classes.sigmoid()], 1).flatten(2) for lv in levels]
    ours = torch.cat(flat, 2).transpose(1, 2).numpy()
    assert ours.shape == theirs.shape == (4, 3549, 85)
    np.testing.assert_allclose(ours, theirs, atol=1e-3)


@pytest.mark.parametrize(
    ("variant", "millions"), [("nano", 0.91), ("tiny", 5.06), ("s", 8.97), ("m", 25.3), ("l", 54.2), ("x", 99.1)]
)
def test_parameter_counts_are_the_published_ones_to_half_a_percent(variant, millions):
    with torch.device("meta"):
        detector = yolox.build(variant, 80)
    assert sum(p.numel() for p in detector.parameters()) / 1e6 == pytest.approx(millions, rel=5e-3)


@pytest.mark.parametrize("variant", yolox.VARIANTS)
@pytest.mark.parametrize("classes", [1, 7])
def test_every_variant_and_class_count_is_recognised_from_its_tensors(variant, classes):
    with torch.device("meta"):
        state = yolox.build(variant, classes).state_dict()
    assert yolox.recognise(state) == (variant, classes)


def test_decode_places_a_zero_offset_cell_at_its_corner_with_the_stride_as_size():
    detector = yolox.build("nano", 2)
    raw = [
        yolox.HeadLevel(
            torch.zeros(1, 4, 64 // s, 64 // s), torch.zeros(1, 1, 64 // s, 64 // s), torch.zeros(1, 2, 64 // s, 64 // s)
        )
        for s in detector.strides
    ]
    raw[1].objectness[0, 0, 2, 3] = 20.0  # stride 16, row 2, column 3: centre (48, 32)
    raw[1].classes[0, 1, 2, 3] = 20.0
    boxes, scores, labels = detector.decode(raw)
    best = int(scores[0].argmax())
    assert boxes[0, best].tolist() == [40, 24, 56, 40]
    assert scores[0, best].item() == pytest.approx(1.0, abs=1e-6)
    assert labels[0, best].item() == 1
    assert boxes.shape == (1, 64 + 16 + 4, 4)
    assert labels.dtype == torch.int32


def test_a_step_down_the_gradient_lowers_the_loss():
    torch.manual_seed(0)
    detector = yolox.build("nano", 2).train()
    images = torch.rand(2, 3, 96, 96) * 255
    targets = [
        Target(torch.tensor([[10.0, 10, 60, 70]]), torch.tensor([1])),
        Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)),
    ]
    optimizer = torch.optim.AdamW(detector.parameters(), lr=2e-3)
    losses = []
    for _ in range(20):
        loss = sum(detector.loss(detector(images), targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
