"""PyTorch → ONNX: pixels to boxes in one graph, opset 19, the ModelSpec inside."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from edgedet import __version__
from edgedet.errors import ExportError
from edgedet.export import onnx_file
from edgedet.export.graph import ExportGraph
from edgedet.export.suppression import translation_table
from edgedet.models.base import Detector
from edgedet.spec import CANDIDATES, FINAL, ModelSpec

if TYPE_CHECKING:
    import onnx


def to_onnx(detector: Detector, spec: ModelSpec, path: Path) -> Path:
    """Write the detector as an FP32 ONNX file that fulfils the spec; returns the path.

    The file's input is `images`; its outputs are `boxes`, `scores`, `labels`, or
    the candidates where the suppression's mode is `none`. Inside, the values
    `candidate_boxes`, `candidate_scores`, `candidate_labels` (aligned with the
    anchors, before any TopK) and the raw heads `head_0`, … keep these names, so
    that they can be made outputs again.
    """
    import onnx

    spec = spec.with_provenance(torch=torch.__version__, onnx=onnx.__version__, edgedet=__version__)
    model = _trace(ExportGraph(detector, spec))
    return onnx_file.write(path, onnx_file.tidy(model, spec), spec)


class _Taps(nn.Module):
    """The graph with its inner values as further outputs, because the exporter gives only outputs a name."""

    def __init__(self, graph: ExportGraph) -> None:
        super().__init__()
        self.whole = graph  # the name `graph` is fx's own

    def forward(self, images: Tensor) -> list[Tensor]:
        raw = self.whole.raw(images)
        candidates = self.whole.detector.decode(raw)
        final = [] if self.whole.spec.suppression.mode == "none" else self.whole.finish(candidates)
        return [*final, *candidates, *pytree.tree_leaves(raw)]


def _trace(graph: ExportGraph) -> onnx.ModelProto:
    """The ONNX model of a graph, with candidates and raw heads as outputs."""
    images = graph.example()
    taps = _Taps(graph).eval()
    with torch.inference_mode():
        heads = len(pytree.tree_leaves(graph.raw(images)))
    final = () if graph.spec.suppression.mode == "none" else FINAL
    with _quiet():
        program = torch.onnx.export(
            taps,
            (images,),
            dynamo=True,
            opset_version=onnx_file.OPSET,
            external_data=False,
            verbose=False,
            input_names=["images"],
            output_names=[*final, *CANDIDATES, *(f"{onnx_file.HEAD}{i}" for i in range(heads))],
            dynamic_shapes=None if graph.spec.batch else {"images": {0: torch.export.Dim("batch")}},
            custom_translation_table=translation_table(),
        )
    if program is None:
        raise ExportError(f"{graph.spec.name}: the exporter gave no model; this is a defect of torch {torch.__version__}")
    return program.model_proto


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress, log lines and warnings off the terminal; its errors still rise."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
