"""TensorRT's plugin EfficientNMS_TRT as its documentation says, in NumPy, so that an export that holds it can be measured.

Only TensorRT has the plugin. Here a file is cut at it: ONNX Runtime runs what
lies before and behind, NumPy the plugin. That is slow and for measuring alone.

Documentation: https://github.com/NVIDIA/TensorRT/tree/main/plugin/efficientNMSPlugin
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgedet.boxes import iou_matrix
from edgedet.errors import ArtifactError
from edgedet.runtimes.contract import PLUGIN

if TYPE_CHECKING:
    import onnx

MOST_SCORES = 4096
"""How many of an image's scores the plugin looks at, highest first."""
_KINDS = (6, 1, 1, 6)
"""onnx.TensorProto.DataType of its outputs: int32, float32, float32, int32."""
_FIXED = {"background_class": -1, "score_activation": 0, "class_agnostic": 0, "box_coding": 0, "plugin_version": b"1"}
"""What edgedet writes; other values have another meaning, which is not evaluated here."""


def efficient_nms(
    boxes: np.ndarray, scores: np.ndarray, *, score_threshold: float, iou_threshold: float, max_output_boxes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The plugin's outputs: number of detections (B, 1) int32, boxes (B, D, 4), scores (B, D), classes (B, D) int32.

    boxes: (B, K, 4) float32 xyxy. scores: (B, K, C) float32. D: max_output_boxes.
    A score below its threshold takes no part; of the others, highest first, one
    is dropped where a kept one of its class overlaps it by an IoU of the
    threshold or more. Rows behind the number of detections are unspecified:
    here they hold the lowest score that took part, as memory may, so that a
    graph which reads them gives a false detection.
    """
    images = [
        _one_image(image, table, np.float32(score_threshold), np.float32(iou_threshold), max_output_boxes)
        for image, table in zip(boxes, scores, strict=True)
    ]
    number, out_boxes, out_scores, out_classes = (np.stack(parts) for parts in zip(*images, strict=True))
    return number, out_boxes, out_scores, out_classes


def _one_image(
    boxes: np.ndarray, scores: np.ndarray, score_threshold: np.float32, iou_threshold: np.float32, most: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Number (1,), boxes (D, 4), scores (D,) and classes (D,) of boxes (K, 4) and scores (K, C)."""
    rows, classes = np.nonzero(scores >= score_threshold)
    order = np.argsort(-scores[rows, classes], kind="stable")[:MOST_SCORES]
    rows, classes = rows[order], classes[order].astype(np.int32)
    if not len(rows):
        return np.zeros(1, np.int32), np.zeros((most, 4), np.float32), np.zeros(most, np.float32), np.zeros(most, np.int32)
    kept = _greedy(boxes[rows], classes, iou_threshold, most)
    shown = np.array([*kept, *[len(rows) - 1] * (most - len(kept))])
    return np.array([len(kept)], np.int32), boxes[rows[shown]], scores[rows, classes][shown], classes[shown]


def _greedy(boxes: np.ndarray, classes: np.ndarray, iou_threshold: np.float32, most: int) -> list[int]:
    """The first `most` rows that no kept one before them removes; boxes (N, 4) and classes (N,) by descending score."""
    alive = np.ones(len(boxes), bool)
    kept: list[int] = []
    for row in range(len(boxes)):
        if alive[row] and len(kept) < most:
            kept.append(row)
            overlap = iou_matrix(boxes[row : row + 1], boxes[row + 1 :])[0] >= iou_threshold
            alive[row + 1 :] &= ~(overlap & (classes[row + 1 :] == classes[row]))
    return kept


def is_in(model: onnx.ModelProto) -> bool:
    """Whether the model holds the plugin."""
    return any(node.op_type == PLUGIN for node in model.graph.node)


class PluginSession:
    """A model with the plugin, in the place of an onnxruntime.InferenceSession: what edgedet asks of one, it answers.

    load: gives the InferenceSession of a serialized model.
    """

    def __init__(self, model: onnx.ModelProto, load: Callable[[bytes], Any]) -> None:
        before, self._plugin, behind = cut(model)
        self._thresholds = _thresholds(self._plugin)
        self._before, self._behind = load(before.SerializeToString()), load(behind.SerializeToString())
        self._outputs = list(model.graph.output)
        self.get_inputs, self.get_modelmeta = self._before.get_inputs, self._before.get_modelmeta
        self.get_providers = self._before.get_providers

    def get_outputs(self) -> list[onnx.ValueInfoProto]:
        """The model's outputs, each with its `name`."""
        return self._outputs

    def run(self, names: Sequence[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        """The named outputs."""
        values = _run(self._before, feeds)
        boxes, scores = (values[name] for name in self._plugin.input)
        values |= zip(self._plugin.output, efficient_nms(boxes, scores, **self._thresholds), strict=True)
        values |= _run(self._behind, values)
        return [values[name] for name in names]


def _run(session: Any, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All outputs of a session, by name; values: its inputs, and maybe more."""
    names = [output.name for output in session.get_outputs()]
    feeds = {entry.name: values[entry.name] for entry in session.get_inputs()}
    return dict(zip(names, session.run(names, feeds), strict=True))


def _thresholds(plugin: onnx.NodeProto) -> dict[str, Any]:
    """The keyword arguments of `efficient_nms` in the plugin's attributes."""
    import onnx

    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in plugin.attribute}
    for name, wanted in _FIXED.items():
        if attributes.pop(name, wanted) != wanted:
            raise ArtifactError(f"{PLUGIN} with another {name} than {wanted!r} is not evaluated here; export the model again")
    return attributes


def cut(model: onnx.ModelProto) -> tuple[onnx.ModelProto, onnx.NodeProto, onnx.ModelProto]:
    """The model before the plugin, the plugin's node, and the model behind it; the first gives what the others take."""
    import onnx

    model = onnx.shape_inference.infer_shapes(model)
    plugin = next(node for node in model.graph.node if node.op_type == PLUGIN)
    behind = set(plugin.output)
    late = []
    for node in model.graph.node:
        if behind & set(node.input):
            behind |= set(node.output)
            late.append(node)
    early = [node for node in model.graph.node if not behind & set(node.output)]
    early_values = {name for node in early for name in node.output}
    outputs = [output.name for output in model.graph.output]
    read = dict.fromkeys(name for node in late for name in node.input)
    crossing = [name for name in read if name in early_values]
    given = dict.fromkeys([*plugin.input, *crossing, *(name for name in outputs if name in early_values)])
    inputs = [value.name for value in model.graph.input]
    return (
        part(model, early, inputs, list(given)),
        plugin,
        part(model, late, [*crossing, *(name for name in plugin.output if name in read)], [o for o in outputs if o in behind]),
    )


def part(model: onnx.ModelProto, nodes: list[onnx.NodeProto], inputs: list[str], outputs: list[str]) -> onnx.ModelProto:
    """Some nodes of a model whose shapes were inferred as a model, with the weights they read."""
    import onnx

    types = {value.name: value for value in (*model.graph.input, *model.graph.value_info, *model.graph.output)}
    for node in model.graph.node:
        if node.op_type == PLUGIN:
            types |= {name: onnx.helper.make_tensor_value_info(name, kind, None) for name, kind in zip(node.output, _KINDS)}
    used = {name for node in nodes for name in node.input}
    graph = onnx.GraphProto(name=model.graph.name)
    graph.node.extend(nodes)
    graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in used)
    graph.input.extend(types[name] for name in inputs)
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)  # their types are inferred
    made = onnx.ModelProto(ir_version=model.ir_version, graph=graph)
    made.opset_import.extend(model.opset_import)
    made.metadata_props.extend(model.metadata_props)
    return made
