"""Whether an ONNX file suppresses as it should, on drawn crowds: the part of it behind the candidates, by itself.

What a detector finds in pictures without objects is too little to tell.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgedet.errors import GateFailed
from edgedet.runtimes import efficient_nms
from edgedet.runtimes.detector import suppress_candidates
from edgedet.runtimes.run_onnxruntime import read_graph
from edgedet.spec import CANDIDATES, FINAL, ModelSpec

IMAGES, OBJECTS = 4, 40
CONSISTENT = 0.98
"""Share of the detections that must be the expected ones: an IoU within rounding of the threshold may go either way."""


def check(path: Path, spec: ModelSpec) -> int:
    """How many detections were compared with those that the spec's rule gives; GateFailed where they differ."""
    if spec.suppression.mode == "none":
        return 0
    session, count = _open(path)
    agreed = differing = 0
    for seed in range(IMAGES):
        boxes, scores, labels = draw(seed, count, spec)
        size = spec.batch or 1
        feeds = {name: np.stack([part] * size) for name, part in zip(CANDIDATES, (boxes, scores, labels), strict=True)}
        found = [part[-1] for part in session.run(FINAL, feeds)]
        used = found[2] >= 0
        ours = _rows(*suppress_candidates(boxes, scores, labels, spec.suppression))
        theirs = _rows(*(part[used] for part in found))
        agreed += len(ours & theirs)
        differing += len(ours ^ theirs) + sum(bool(part[~used].any()) for part in found[:2])
    if not agreed >= CONSISTENT * (agreed + differing):
        raise GateFailed(
            f"{path.name} is not written: of its detections in drawn crowds {agreed / (agreed + differing):.1%} are as its "
            f"rule gives them, limit {CONSISTENT:.0%}; its suppression ({spec.suppression.mode}) is at fault"
        )
    return agreed


def _open(path: Path) -> tuple[Any, int]:
    """The part of a file behind its candidates, loaded by ONNX Runtime, and how many candidates it takes."""
    import onnx
    import onnxruntime

    model = onnx.shape_inference.infer_shapes(read_graph(path))
    wanted, nodes = set(FINAL), []
    for node in reversed(model.graph.node):
        if wanted & set(node.output):
            wanted |= set(node.input) - set(CANDIDATES)
            nodes.append(node)
    behind = efficient_nms.part(model, nodes[::-1], list(CANDIDATES), list(FINAL))
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    load = partial(onnxruntime.InferenceSession, sess_options=settings, providers=["CPUExecutionProvider"])
    session = efficient_nms.PluginSession(behind, load) if efficient_nms.is_in(behind) else load(behind.SerializeToString())
    return session, behind.graph.input[1].type.tensor_type.shape.dim[1].dim_value


def draw(seed: int, count: int, spec: ModelSpec) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Candidates about a few objects: boxes (K, 4) float32 in the input, scores (K,) without ties, labels (K,) int32."""
    random = np.random.default_rng(seed)
    height, width = spec.size_hw
    which = random.integers(OBJECTS, size=count)
    centres = random.uniform((0, 0), (width, height), (OBJECTS, 2))[which] + random.normal(0, 2, (count, 2))
    half = random.uniform(0.02, 0.15, (OBJECTS, 2))[which] * (width, height) * random.uniform(0.9, 1.1, (count, 2))
    labels = random.integers(len(spec.classes), size=OBJECTS)[which]
    labels = np.where(random.random(count) < 0.2, random.integers(len(spec.classes), size=count), labels)
    scores = random.permutation(np.linspace(0, 1, count, dtype=np.float32))
    return np.concatenate([centres - half, centres + half], axis=1).astype(np.float32), scores, labels.astype(np.int32)


def _rows(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> set[tuple[float, ...]]:
    """The detections as a set."""
    return set(map(tuple, np.column_stack([boxes, scores, labels]).tolist()))
