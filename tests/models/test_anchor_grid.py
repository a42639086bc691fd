"""YOLOv3 and v4 against Darknet's files run and decoded anew: raw maps to 1e-4, boxes to .05 pixels, scores to 1e-4."""

from __future__ import annotations

from pathlib import Path

import cv2
import darknet_reference
import numpy as np
import pytest
import torch
from darknet_networks import NETWORKS, PUBLISHED_BYTES

from edgedet.detections import Detections
from edgedet.export.graph import ExportGraph, with_input
from edgedet.models import anchor_grid, checkpoint, darknet, darknet_cfg, yolov3, yolov4
from edgedet.models.anchor_grid import AnchorGridDetector
from edgedet.models.checkpoint import Checkpoint
from edgedet.models.darknet_layers import Anchors
from edgedet.runtimes.matching import match

CLASSES = 5
TINY = ("yolov3-tiny", "yolov4-tiny")
LARGE = {"yolov3": yolov3.YOLOv3, "yolov4": yolov4.YOLOv4}


def picture(side: int) -> np.ndarray:
    """(1, side, side, 3) uint8 BGR: soft blots, as noise would vanish in the means of deep layers and leave their rounding."""
    blots = np.random.default_rng(3).integers(0, 256, (side // 16, side // 16, 3), np.uint8)
    return cv2.resize(blots, (side, side), interpolation=cv2.INTER_LINEAR)[None]


def rgb(images: np.ndarray) -> torch.Tensor:
    """What Darknet's first layer gets."""
    return torch.from_numpy(images[..., ::-1].astype(np.float32) / 255).permute(0, 3, 1, 2).contiguous()


def assert_parity(loaded: Checkpoint, text: str, numbers: np.ndarray, side: int, *, at_least: int) -> None:
    """Raw maps and detections are those of the reference for one picture."""
    images = picture(side)
    spec = with_input(loaded.spec, size_hw=(side, side))
    graph = ExportGraph(loaded.detector, spec)
    with torch.inference_mode():
        theirs = darknet_reference.run(text, rgb(images), darknet_reference.reading(numbers))
        ours = graph.raw(torch.from_numpy(images))
        boxes, scores, labels = (found[0].numpy() for found in graph(torch.from_numpy(images)))
    for one, (_, other) in zip(ours, theirs, strict=True):
        assert (one - other).abs().max() <= 1e-4 * other.abs().max()
    wanted = darknet_reference.detect(theirs, side)
    limit = spec.suppression.max_detections
    assert at_least <= len(wanted.scores)
    used = labels >= 0
    found = match(
        Detections(*(np.asarray(v[:limit], t) for v, t in zip(wanted, (np.float32, np.float32, np.int32), strict=True))),
        Detections(boxes[used], scores[used], labels[used]),
        min_score=0.00501 if len(wanted.scores) <= limit else wanted.scores[limit - 1] + 1e-5,
    )
    lone = len(found.only_reference) + len(found.only_other)
    assert len(found.reference) / (len(found.reference) + lone) >= 0.999
    assert found.box_errors.max() <= 0.05
    assert np.abs(found.score_drifts).max() <= 1e-4


@pytest.mark.parametrize("name", TINY)
def test_a_tiny_networks_file_gives_darknets_detections(name, tmp_path):
    side = 96
    text = NETWORKS[name](classes=CLASSES)
    numbers = darknet_reference.random_numbers(text, rgb(picture(side)), objectness=-1.0)
    path = darknet_reference.write(tmp_path / "a.weights", numbers, text=text)
    assert_parity(checkpoint.load(path), text, numbers, side, at_least=100)


@pytest.mark.parametrize("name", LARGE)
def test_a_large_network_of_an_eighth_of_the_channels_gives_darknets_detections(name, tmp_path):
    side = 96
    text = NETWORKS[name](classes=CLASSES, narrow=8)
    numbers = darknet_reference.random_numbers(text, rgb(picture(side)), objectness=-3.0)
    (tmp_path / "a.cfg").write_text(text)
    cfg = darknet_cfg.parse(tmp_path / "a.cfg")
    detector = LARGE[name]("", cfg).eval()
    checkpoint._load_strictly(Path("a"), detector, darknet.tensors(cfg, numbers))
    spec = checkpoint.describe(detector, [f"class_{i}" for i in range(CLASSES)])
    assert_parity(Checkpoint(detector, spec), text, numbers, side, at_least=100)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_full_network_of_80_classes_gives_darknets_detections(name, tmp_path):
    text = NETWORKS[name]()
    cfg = darknet_cfg.parse(_written(tmp_path / "a.cfg", text))
    numbers = darknet_reference.random_numbers(text, rgb(picture(cfg.width)), objectness=-7.5 if name in TINY else -8.5)
    path = darknet_reference.write(tmp_path / "a.weights", numbers)
    assert path.stat().st_size == PUBLISHED_BYTES[name]
    (tmp_path / "a.cfg").unlink()  # the size alone tells the network
    loaded = checkpoint.load(path)
    assert (loaded.spec.name, loaded.spec.size_hw) == (name, (cfg.width, cfg.width))
    assert_parity(loaded, text, numbers, cfg.width, at_least=50)


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("module", "variant", "millions"),
    [(yolov3, "", 61.95), (yolov3, "tiny", 8.85), (yolov4, "", 64.36), (yolov4, "tiny", 6.06)],
)
def test_parameter_counts_are_the_published_ones(module, variant, millions):
    with torch.device("meta"):
        detector = module.build(variant, 80)
    assert sum(p.numel() for p in detector.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


def maps_of(detector: AnchorGridDetector, side: int) -> list[torch.Tensor]:
    """Raw maps in which nothing is to be seen."""
    maps = [torch.zeros(1, 3 * (5 + detector.num_classes), side // s, side // s) for s in detector.strides]
    for level in maps:
        level.view(3, 5 + detector.num_classes, -1)[:, 4] = -20
    return maps


def test_decode_places_the_middle_of_a_cell_with_its_anchor_as_size():
    detector = yolov3.build("tiny", 2)
    raw = maps_of(detector, 128)
    view = raw[0].view(3, 7, 4, 4)  # the second anchor of row 2, column 1 at stride 32
    view[1, 4, 2, 1] = 20.0
    view[1, 5:, 2, 1] = torch.tensor([20.0, 0.0])
    boxes, scores, labels = detector.decode(raw)
    centre, half = np.array([48, 80]), np.array([135, 169]) / 2
    for place, (score, label) in enumerate(((1.0, 0), (0.5, 1))):
        np.testing.assert_allclose(boxes[0, place], [*(centre - half), *(centre + half)], rtol=1e-6)
        assert scores[0, place].item() == pytest.approx(score, abs=1e-6)
        assert labels[0, place].item() == label
    assert scores[0, 2] < 1e-6


def test_scale_x_y_lets_a_centre_reach_the_cells_edges_and_beyond():
    head = Anchors(darknet_cfg.Yolo((10.0, 20.0), scale_x_y=1.2, count=1))
    raw = torch.tensor([-50.0, 50.0, 0.0, 0.0, 0.0, 0.0]).view(1, 6, 1, 1)
    box = anchor_grid.boxes_of(anchor_grid.predictions([raw], [head])[..., :4], anchor_grid.grid([raw], [head], [16]))
    np.testing.assert_allclose(box[0, 0], [-1.6 - 5, 17.6 - 10, -1.6 + 5, 17.6 + 10], rtol=1e-5)


def test_candidates_are_as_many_as_suppression_takes():
    detector = yolov4.build("tiny", 80)
    boxes, scores, labels = detector.decode(maps_of(detector, 96))
    assert boxes.shape == (1, 135, 4)[:1] + (1000, 4)[0:2]
    assert scores.shape == labels.shape == (1, detector.suppression.candidates)
    assert labels.dtype == torch.int32


def test_a_class_that_both_data_sets_name_keeps_its_rows_at_every_anchor():
    torch.manual_seed(0)
    old, new = yolov4.build("tiny", 3), yolov4.build("tiny", 2)
    before = {name: tensor.clone() for name, tensor in new.state_dict().items()}
    kept = checkpoint.transfer(new, old.state_dict(), old=("car", "dog", "bus"), new=("tree", "dog"))
    assert kept == []
    for number in (29, 36):
        name = f"layers.{number}.conv.weight"
        after = new.state_dict()[name].unflatten(0, (3, 7))
        source, start = old.state_dict()[name].unflatten(0, (3, 8)), before[name].unflatten(0, (3, 7))
        assert torch.equal(after[:, :5], source[:, :5])  # boxes and objectness
        assert torch.equal(after[:, 6], source[:, 6])  # dog
        assert torch.equal(after[:, 5], start[:, 5])  # tree
