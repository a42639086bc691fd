"""The suppression alone as an ONNX model of any batch: boxes, scores, labels in, `b`, `s`, `l` out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from edgedet.export import suppression as modes
from edgedet.models.base import Candidates
from edgedet.spec import Suppression

if TYPE_CHECKING:
    import onnx


def exported(rule: Suppression, example: Candidates, *, classes: int) -> onnx.ModelProto:
    """The model; example: candidates of its shape, two images at least."""

    class Graph(torch.nn.Module):
        def forward(self, boxes, scores, labels):
            return modes.suppress(Candidates(boxes, scores, labels), rule, num_classes=classes)

    free = {0: torch.export.Dim("batch")}
    program = torch.onnx.export(
        Graph().eval(),
        tuple(example),
        dynamo=True,
        opset_version=19,
        verbose=False,
        input_names=["boxes", "scores", "labels"],
        output_names=["b", "s", "l"],
        dynamic_shapes=(free, free, free),
        custom_translation_table=modes.translation_table(),
    )
    return program.model_proto
