"""The project's floors as assertions: a family against its reference, and its exported files against PyTorch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from edgedet.detections import Detections
from edgedet.export.graph import ExportGraph
from edgedet.export.to_onnx import to_onnx
from edgedet.models.base import Detector
from edgedet.runtimes import run_onnxruntime, run_openvino
from edgedet.runtimes.matching import compare_candidates, match
from edgedet.runtimes.session import Options
from edgedet.spec import CANDIDATES, FINAL, ModelSpec, NmsMode

MATCHED, BOX_PX, SCORE = 0.999, 0.05, 1e-4


def pictures(size_hw: tuple[int, int], count: int) -> np.ndarray:
    """(count, H, W, 3) uint8 BGR: colours that change slowly, and noise."""
    random = np.random.default_rng(3)
    height, width = size_hw
    coarse = torch.from_numpy(random.random((count, 3, 6, 6), np.float32) * 255)
    smooth = nn.functional.interpolate(coarse, (height, width), mode="bilinear").permute(0, 2, 3, 1).numpy()
    return np.clip(smooth + random.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)


def as_rgb(images: np.ndarray) -> torch.Tensor:
    """(B, 3, H, W) float32 RGB in [0, 1] of (B, H, W, 3) uint8 BGR: what most references take."""
    return torch.from_numpy(images[..., ::-1].copy()).permute(0, 3, 1, 2).float() / 255


def settle(network: nn.Module, inputs: torch.Tensor, *, bias: float = 0.0) -> None:
    """Give batch norms weights and biases of chance and the statistics of the inputs, so that activations stay of one size.

    bias: the biases' mean. From 2 on hardly any value is cut off: a deep network of chance, which otherwise makes much of
    the last bit of its inputs, is then nearly linear.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, mean=bias, std=0.2)
        norm.momentum = 1.0
    network.train()
    with torch.no_grad():
        network(inputs)
    network.eval()


def spread(convolution: nn.Conv2d, outputs: Iterable[torch.Tensor], *, std: float, bias: float) -> None:
    """Scale a last convolution so that what it gave with the old weights would be spread by `std` around `bias`."""
    given = torch.cat([output.flatten() for output in outputs])
    with torch.no_grad():
        convolution.weight *= std / given.std()
        convolution.bias.fill_(bias)


def rows(boxes: object, scores: object, labels: object) -> Detections:
    """One image's detections of arrays or tensors; rows with label −1 are left out."""
    boxes, scores, labels = (np.asarray(array) for array in (boxes, scores, labels))
    return Detections(boxes[labels >= 0], scores[labels >= 0], labels[labels >= 0].astype(np.int32))


def assert_same_detections(ours: list[Detections], theirs: list[Detections], *, floor: float, at_least: int) -> None:
    """Matched ≥ .999, box ≤ .05 px, score ≤ 1e-4, over so many detections at least; floor: the lowest score of both."""
    assert sum(map(len, theirs)) >= at_least
    pairs = lone = 0
    for one, other in zip(ours, theirs, strict=True):
        # What scores just above the floor may lie just below it on the other side.
        found = match(other, one, min_score=floor + SCORE)
        pairs += len(found.reference)
        lone += len(found.only_reference) + len(found.only_other)
        assert found.box_errors.max(initial=0) <= BOX_PX
        assert np.abs(found.score_drifts).max(initial=0) <= SCORE
    assert pairs / (pairs + lone) >= MATCHED


def detect(detector: Detector, spec: ModelSpec, images: np.ndarray) -> list[Detections]:
    """The detections of letterboxed pixels (B, H, W, 3) through the very graph that is exported."""
    with torch.inference_mode():
        found = ExportGraph(detector, spec)(torch.from_numpy(images))
    return [rows(*row) for row in zip(*found, strict=True)]


def assert_exports(detector: Detector, spec: ModelSpec, mode: NmsMode, folder: Path, *, at_least: int) -> None:
    """The file of an NMS mode gives PyTorch's answers in ONNX Runtime and OpenVINO, on two pictures at once."""
    spec = replace(spec, batch=2, suppression=replace(spec.suppression, mode=mode))
    images = pictures(spec.size_hw, 2)
    path = to_onnx(detector, spec, folder / f"{mode}.onnx")
    floor = spec.suppression.min_score
    for runtime in (run_onnxruntime, run_openvino):
        found = runtime.open(path, Options()).infer(images)
        if mode == "none":
            with torch.inference_mode():
                wanted = ExportGraph(detector, spec)(torch.from_numpy(images))
            _assert_same_candidates(found, wanted, floor, spec, at_least)
        else:
            theirs = [rows(*(found[name][row] for name in FINAL)) for row in range(2)]
            assert_same_detections(theirs, detect(detector, spec, images), floor=floor, at_least=at_least)


def _assert_same_candidates(found: object, wanted: object, floor: float, spec: ModelSpec, at_least: int) -> None:
    counted = 0
    for row in range(2):
        reference = {name: tensor[row].numpy() for name, tensor in zip(CANDIDATES, wanted, strict=True)}
        other = {name: found[name][row] for name in CANDIDATES}
        differences = compare_candidates(reference, other, min_score=floor, order=spec.candidate_order)
        assert differences.boxes.max(initial=0) <= BOX_PX
        assert np.abs(differences.scores).max(initial=0) <= SCORE
        assert differences.labels_changed == 0
        counted += len(differences.boxes)
    assert counted >= at_least
