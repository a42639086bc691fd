"""YOLOv1 against the paper's figure, Darknet's files and their published sizes, and an evaluation of its own; its loss."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import compiled
import pytest
import torch
import yolov1_reference as reference
from agreement import as_rgb, assert_exports, assert_same_detections, detect, pictures

from edgedet.classes import VOC
from edgedet.errors import UsageError
from edgedet.models import checkpoint, darknet, darknet_cfg, yolov1
from edgedet.models.base import Target
from edgedet.models.checkpoint import Checkpoint

MIB = 1 << 20
SLOW = pytest.mark.slow
SMALL = "8 m 12 m 16-1 24-3-2"
"""A trunk for 64 pixels and 8 cells."""


class Small(yolov1.YOLOv1):
    """YOLOv1 of 64×64 pixels."""

    size_multiple = 64


def small(variant: str, folder, classes: int = 3) -> tuple[Checkpoint, str]:
    """A narrow network with 8 × 8 cells and a variant's ending, with a file's random numbers; and its cfg."""
    text = reference.cfg(variant, classes, trunk=SMALL, side=64, cells=8)
    numbers = reference.random_numbers(text, as_rgb(pictures((64, 64), 2)))
    (folder / "a.cfg").write_text(text)
    cfg = darknet_cfg.parse(folder / "a.cfg")
    detector = Small(variant, cfg).eval()
    detector.load_state_dict(darknet.tensors(cfg, numbers))
    return Checkpoint(detector, checkpoint.describe(detector, ("a", "b", "c"))), text


def assert_same(loaded: Checkpoint, text: str, numbers, images, *, at_least: int) -> None:
    """Raw outputs agree to 1e-4 of the largest, and the detections within the floors."""
    detector, spec = loaded
    with torch.inference_mode():
        raw = detector(detector.normalize(torch.from_numpy(images).permute(0, 3, 1, 2).float()))
        wanted = reference.run(text, as_rgb(images), reference.reading(numbers))
    torch.testing.assert_close(raw, wanted, rtol=0, atol=1e-4 * wanted.abs().max().item())
    theirs = [reference.detect(row.numpy(), text, spec.size_hw[0]) for row in wanted]
    floor = max(found.scores.min().item() for found in theirs)  # only the best 300 of either side are there
    assert_same_detections(detect(detector, spec, images), theirs, floor=floor, at_least=at_least)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("variant", ["tiny", *(pytest.param(name, marks=SLOW) for name in ("local", ""))])
def test_a_file_of_darknets_gives_darknets_outputs_and_detections(variant, tmp_path):
    images, text = pictures((448, 448), 1), reference.cfg(variant, 20)
    numbers = reference.random_numbers(text, as_rgb(images))
    loaded = checkpoint.load(reference.write(tmp_path / "a.weights", numbers, text))
    assert (loaded.spec.family, loaded.spec.variant, loaded.spec.classes) == ("yolov1", variant, VOC)
    assert (loaded.spec.size_hw, loaded.spec.letterbox_anchor) == ((448, 448), "stretch")
    assert_same(loaded, text, numbers, images, at_least=200)


@pytest.mark.parametrize("variant", yolov1.VARIANTS)
def test_every_ending_gives_darknets_outputs_and_detections(variant, tmp_path):
    loaded, text = small(variant, tmp_path)
    images = pictures((64, 64), 2)
    assert_same(loaded, text, reference.random_numbers(text, as_rgb(images)), images, at_least=200)


@pytest.mark.parametrize("variant", yolov1.VARIANTS)
def test_a_published_cfg_is_the_network_we_build(variant, tmp_path):
    (tmp_path / "a.cfg").write_text(reference.cfg(variant, 7))
    assert darknet_cfg.parse(tmp_path / "a.cfg") == yolov1.published_cfg(variant, 7)


@pytest.mark.parametrize(("variant", "mebibytes"), [("local", 753), ("tiny", 103)])
def test_a_file_of_vocs_classes_is_as_large_as_the_published_one(variant, mebibytes):
    with torch.device("meta"):
        state = yolov1.build(variant, 20).state_dict()
    count = sum(value.numel() for name, value in state.items() if not name.endswith("num_batches_tracked"))
    assert count == darknet.size(yolov1.published_cfg(variant, 20))
    assert round((20 + 4 * count) / MIB) == mebibytes


def test_the_papers_network_has_its_24_convolutions_shapes_and_parameters():
    cfg = yolov1.published_cfg("", 20)
    stages = [after for layer, after in zip(cfg.layers, darknet.output_shapes(cfg)) if isinstance(layer, darknet_cfg.Maxpool)]
    assert stages == [(64, 112, 112), (192, 56, 56), (512, 28, 28), (1024, 14, 14)]
    assert darknet.output_shapes(cfg)[27] == (1024, 7, 7)
    assert darknet.output_shapes(cfg)[30] == (7 * 7 * 30, 1, 1)
    with torch.device("meta"):
        detector = yolov1.build("", 20)
    assert sum(isinstance(module, torch.nn.Conv2d) for module in detector.modules()) == 24
    kernels, inputs = 0, 3
    for outputs, size in [(64, 7), (192, 3), (128, 1), (256, 3), (256, 1), (512, 3), *[(256, 1), (512, 3)] * 4, (512, 1),
                          (1024, 3), *[(512, 1), (1024, 3)] * 2, (1024, 3), (1024, 3), (1024, 3), (1024, 3)]:  # fmt: skip
        kernels += inputs * outputs * size * size + 2 * outputs  # a batch norm's scale and bias
        inputs = outputs
    connected = (7 * 7 * 1024 + 1) * 4096 + (4096 + 1) * 7 * 7 * 30
    assert sum(p.numel() for p in detector.parameters()) == kernels + connected


@pytest.mark.parametrize("variant", yolov1.VARIANTS)
@pytest.mark.parametrize("classes", [1, 7, 20])
def test_every_variant_and_class_count_is_recognised_from_its_tensors(variant, classes):
    with torch.device("meta"):
        state = yolov1.build(variant, classes).state_dict()
    assert yolov1.recognise(state) == (variant, classes)
    del state[next(name for name in reversed(state) if name.endswith("linear.weight"))]
    assert yolov1.recognise(state) is None


def test_another_input_size_is_refused(tmp_path):
    (detector, _), _ = small("tiny", tmp_path)
    with pytest.raises(UsageError, match="take 64x64 pixels only, not 128x64"):
        detector(torch.zeros(1, 3, 64, 128))


def empty(classes: int) -> tuple[yolov1.YOLOv1, torch.Tensor, yolov1.Predictions]:
    """A network of 8×8 cells of 8 pixels, and an output of zeros with a view of its parts."""
    layers = (darknet_cfg.Connected(8 * 8 * (classes + 10)), darknet_cfg.Detection(classes, 4, side=8, num=2, sqrt=1))
    with torch.device("meta"):
        detector = yolov1.YOLOv1("tiny", darknet_cfg.Cfg((replace(layers[0], activation="linear"), layers[1]), 64, 64))
    raw = torch.zeros(1, 64 * (classes + 10))
    return detector, raw, detector.split(raw)


def test_a_box_lies_where_its_cell_offsets_and_squared_sides_say():
    detector, raw, found = empty(2)
    found.boxes[0, 2 * 8 + 3, 1] = torch.tensor([0.5, 0.25, 0.5, -1.0])  # row 2, column 3: centre (28, 18), 16 × 64
    found.confidence[0, 2 * 8 + 3, 1] = 0.5
    found.classes[0, 2 * 8 + 3] = torch.tensor([0.5, 4.0])
    boxes, scores, labels = detector.decode(raw)
    assert boxes.shape == (1, 8 * 8 * 2 * 2, 4)
    assert boxes[0, :2].tolist() == 2 * [[20, -14, 36, 50]]
    assert scores[0, :3].tolist() == [1.0, 0.25, 0.0]
    assert labels[0, :2].tolist() == [1, 0]
    assert labels.dtype == torch.int32


def test_loss_of_one_object_is_what_hand_computation_gives():
    detector, raw, found = empty(2)
    cell = 2 * 8 + 3
    found.boxes[0, cell, 0] = torch.tensor([0.5, 0.5, 0.5, 0.5])  # 16 × 16 pixels around (28, 20)
    found.boxes[0, cell, 1] = torch.tensor([0.5, 0.5, 0.1, 0.1])
    found.confidence[0, cell] = torch.tensor([0.7, 0.4])
    found.confidence[0, 0, 0] = 2.0
    found.classes[0, cell] = torch.tensor([0.2, 0.9])
    found.classes[0, 0] = 5.0  # of an empty cell: of no concern
    truth = Target(torch.tensor([[20.0, 16.0, 36.0, 24.0]]), torch.tensor([1]))  # 16 × 8 around (28, 20): IoU .5
    losses = detector.loss(raw, [truth])
    assert losses["box"].item() == pytest.approx(5 * (0.5 - math.sqrt(1 / 8)) ** 2)
    assert losses["objectness"].item() == pytest.approx((0.7 - 0.5) ** 2 + 0.5 * (0.4**2 + 2.0**2))
    assert losses["classes"].item() == pytest.approx(0.2**2 + 0.1**2)
    twice = detector.loss(raw.repeat(2, 1), [truth, Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))])
    assert twice["box"].item() == pytest.approx(losses["box"].item() / 2)
    assert twice["classes"].item() == pytest.approx(losses["classes"].item() / 2)


def test_of_a_cells_boxes_the_largest_overlap_answers_the_nearest_where_none_does_and_no_box_for_two():
    detector, _, found = empty(1)
    found.boxes[0, 0] = torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.5, 0.5, 0.35, 0.35]])
    found.boxes[0, 63] = torch.tensor([[9.0, 0.0, 0.1, 0.1], [5.0, 0.0, 0.1, 0.1]])
    boxes = torch.tensor([[0.0, 0, 8, 8], [0, 0, 8, 8], [0, 0, 8, 8], [58, 58, 62, 62]])
    objects = detector.match(found.boxes, [Target(boxes, torch.zeros(4, dtype=torch.long))])
    assert objects.cell.tolist() == [0, 0, 63]  # the third finds its cell full
    assert objects.box.tolist() == [1, 0, 1]
    torch.testing.assert_close(objects.offsets[2], torch.tensor([0.5, 0.5, 0.25, 0.25]))


def test_centres_on_the_far_edge_belong_to_the_last_cell():
    detector, _, found = empty(1)
    objects = detector.match(found.boxes, [Target(torch.tensor([[60.0, 60, 68, 68]]), torch.tensor([0]))])
    assert objects.cell.tolist() == [63]


def test_gradients_are_finite_and_an_image_without_objects_costs_only_confidence(tmp_path):
    (detector, _), _ = small("local", tmp_path)
    none = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
    raw = detector(torch.rand(2, 3, 64, 64))
    losses = detector.loss(raw, [Target(torch.tensor([[5.0, 5, 40, 50]]), torch.tensor([2])), none])
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in detector.parameters())
    assert all(p.grad.abs().sum() > 0 for p in detector.parameters())
    losses = detector.loss(raw[:1], [none])
    assert losses["box"].item() == losses["classes"].item() == 0
    assert losses["objectness"].item() > 0


@pytest.mark.parametrize("variant", ["local", pytest.param("tiny", marks=SLOW)])
@pytest.mark.parametrize("mode", ["onnx", pytest.param("matrix", marks=SLOW), pytest.param("none", marks=SLOW)])
def test_its_files_give_pytorchs_answers(variant, mode, tmp_path):
    loaded, _ = small(variant, tmp_path)
    assert_exports(*loaded, mode, tmp_path, at_least=200)


@SLOW
@pytest.mark.parametrize("variant", ["local", "tiny"])
@pytest.mark.parametrize("precision", compiled.PRECISIONS)
def test_tensorrt_builds_every_precision_as_it_is_written(variant, precision, tmp_path):
    layers = compiled.layers(small(variant, tmp_path)[0], precision, tmp_path)
    built = Counter(layer.built for layer in layers if layer.name.startswith("layers."))
    assert built["int8"] == (4 if precision.startswith("int8") else 0)  # all convolutions, no matrix
