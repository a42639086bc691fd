"""EfficientDet's files against PyTorch, and that cutting effdet's 5000 pairs to what TensorRT's TopK gives loses nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import compiled
import numpy as np
import pytest
import torch
from agreement import assert_exports, assert_same_detections, pictures, rows, settle, spread

from edgedet.export.graph import with_input
from edgedet.export.suppression import suppress
from edgedet.models import anchors as priors
from edgedet.models import checkpoint, efficientdet
from edgedet.models.checkpoint import Checkpoint
from edgedet.models.losses import pairwise_iou

CLASSES = ("a", "b", "c")


TINY = efficientdet.Variant(128, (0.25, 0.25), 16, 1, 1, levels=4)
BUILDS = {
    "tiny": lambda: efficientdet.EfficientDet("d0", len(CLASSES), TINY),
    "tiny-lite": lambda: efficientdet.EfficientDetLite("lite0", len(CLASSES), replace(TINY, fusion="sum", lite=True)),
    "tiny-pt": lambda: efficientdet.EfficientDet("d0-pt", len(CLASSES), replace(TINY, ported=False)),
}


def random_detector(
    build: Callable[[], efficientdet.EfficientDet], size_hw: tuple[int, int], *, bias: float = 0.0
) -> Checkpoint:
    """Weights of chance that detect a few hundred objects."""
    torch.manual_seed(0)
    detector = build()
    images = detector.normalize(torch.from_numpy(pictures((256, 256), 2)).permute(0, 3, 1, 2).float())
    settle(detector, images, bias=bias)
    with torch.no_grad():
        raw = detector(images)
    spread(detector.class_net.predict.conv_pw, [level.classes for level in raw], std=1.5, bias=-4.0)
    spread(detector.box_net.predict.conv_pw, [level.box for level in raw], std=0.3, bias=0.0)
    return Checkpoint(detector, with_input(checkpoint.describe(detector, CLASSES), size_hw=size_hw))


@pytest.mark.parametrize(
    "mode", ["onnx", pytest.param("matrix", marks=pytest.mark.slow), pytest.param("none", marks=pytest.mark.slow)]
)
def test_files_of_every_nms_mode_give_pytorchs_answers(mode, tmp_path):
    assert_exports(*random_detector(BUILDS["tiny"], (96, 160)), mode, tmp_path, at_least=150)


@pytest.mark.slow
@pytest.mark.parametrize("tiny", ["tiny-lite", "tiny-pt"])
def test_files_of_sums_and_of_symmetric_padding_give_pytorchs_answers(tiny, tmp_path):
    assert_exports(*random_detector(BUILDS[tiny], (64, 96)), "none", tmp_path, at_least=150)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["d0", "lite0", "d0-pt"])
def test_files_of_the_variants_give_pytorchs_answers(variant, tmp_path):
    built = random_detector(lambda: efficientdet.build(variant, len(CLASSES)), (128, 128), bias=2.0)
    assert_exports(*built, "onnx", tmp_path, at_least=150)


def convolutions(detector: efficientdet.EfficientDet) -> tuple[int, int]:
    """How many there are in the file, those of the heads once a level; and how many of them are depthwise or predict."""
    count = left = 0
    for name, module in detector.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            times = detector.config.levels if "_net." in name else 1
            count += times
            left += times * (module.groups > 1 or name.endswith("predict.conv_pw"))
    return count, left


@pytest.mark.slow
@pytest.mark.parametrize("precision", compiled.PRECISIONS)
@pytest.mark.parametrize("tiny", BUILDS)
def test_tensorrt_rtx_builds_what_is_written(tiny, precision, tmp_path):
    loaded = random_detector(BUILDS[tiny], (64, 64))
    count, left = convolutions(loaded.detector)
    layers = compiled.layers(loaded, precision, tmp_path)
    # The builder does not list what it makes of a weighting of channels, a convolution of one pixel.
    compiled.assert_built(layers, precision, convolutions=count, left=left, silent=("se.conv_expand",))


def crowd(detector: efficientdet.EfficientDet, across: int) -> list[efficientdet.HeadLevel]:
    """Raw heads of 512x512 pixels with across² objects, each seen by all anchors that match it; the rest is noise."""
    random = torch.Generator().manual_seed(0)
    maps = [torch.zeros(1, 1, 512 >> level, 512 >> level) for level in range(3, 8)]
    anchors = detector.anchors([efficientdet.HeadLevel(x, x) for x in maps])
    pitch = 512 / across
    corner = torch.cartesian_prod(torch.arange(across), torch.arange(across)) * pitch
    size = pitch * (0.8 + 0.4 * torch.rand(len(corner), 2, generator=random))
    objects = torch.cat([corner, corner + size], dim=1)
    found = efficientdet.assign(pairwise_iou(objects, anchors))
    seen = found >= 0
    logits = -7 + 0.5 * torch.randn(len(anchors), len(CLASSES), generator=random)
    confidence = 3 * torch.rand(len(objects), generator=random) - 2
    label = torch.arange(len(objects)) % len(CLASSES)
    logits[seen, label[found[seen]]] = confidence[found[seen]] + 0.3 * torch.randn(int(seen.sum()), generator=random)
    offsets = 0.2 * torch.randn(len(anchors), 4, generator=random)
    offsets[seen] = priors.encode(objects[found[seen]], anchors[seen]) + 0.03 * offsets[seen]
    return as_maps(logits, offsets[:, [1, 0, 3, 2]], maps)


def as_maps(logits: torch.Tensor, offsets: torch.Tensor, maps: list[torch.Tensor]) -> list[efficientdet.HeadLevel]:
    """(A, K) and (A, 4) as the heads give them."""
    counts = [9 * x.numel() for x in maps]
    return [
        efficientdet.HeadLevel(*(part.view(*x.shape[2:], -1).permute(2, 0, 1)[None].contiguous() for part in (classes, box)))
        for classes, box, x in zip(logits.split(counts), offsets.split(counts), maps, strict=True)
    ]


def of_effdet(effdet, raw: list[efficientdet.HeadLevel]):
    """The detections that effdet makes of raw heads, 5000 pairs going into its suppression."""
    anchors = effdet.anchors.Anchors(3, 7, 3, [(1.0, 1.0), (1.4, 0.7), (0.7, 1.4)], 4.0, (512, 512)).boxes
    classes, box = ([level[i] for level in raw] for i in (0, 1))
    best = effdet.bench._post_process(classes, box, num_levels=5, num_classes=len(CLASSES), max_detection_points=5000)
    logits, offsets, indices, labels = (tensor[0] for tensor in best)
    found = effdet.anchors.generate_detections(logits, offsets, anchors, indices, labels, None, None)
    return rows(found[:, :4], found[:, 4], found[:, 5] - 1)


def test_in_a_crowd_the_hundred_detections_of_3840_pairs_are_those_of_effdets_5000(effdet):
    """144 objects seen by more than 3840 anchors, so that the cut goes through what is seen."""
    detector = efficientdet.build("d0", len(CLASSES))
    raw = crowd(detector, 12)
    seen = torch.cat([level.classes.flatten() for level in raw]) > -4
    assert int(seen.sum()) > 3840
    candidates = detector.decode(raw)
    found = suppress(candidates, detector.suppression, num_classes=len(CLASSES))
    wanted = of_effdet(effdet, raw)
    assert_same_detections([rows(*(tensor[0] for tensor in found))], [wanted], floor=0.001, at_least=100)
    assert float(wanted.scores.min()) > float(candidates.scores[0, -1])
    np.testing.assert_array_equal(np.bincount(wanted.labels, minlength=3) > 20, [True] * 3)


def test_3840_pairs_hold_all_anchors_that_see_a_hundred_objects():
    """An object is seen by some 31 anchors, whatever its place and size from 32 to 300 pixels."""
    detector = efficientdet.build("d0", 1)
    maps = [torch.zeros(1, 1, 512 >> level, 512 >> level) for level in range(3, 8)]
    random = torch.Generator().manual_seed(0)
    size = 32 * (300 / 32) ** torch.rand(300, 1, generator=random) * 2 ** (torch.rand(300, 2, generator=random) - 0.5)
    corner = torch.rand(300, 2, generator=random) * (512 - size)
    overlaps = pairwise_iou(
        torch.cat([corner, corner + size], 1), detector.anchors([efficientdet.HeadLevel(x, x) for x in maps])
    )
    assert 25 < float((overlaps >= efficientdet.MATCH_IOU).sum(1).float().mean()) < 38
