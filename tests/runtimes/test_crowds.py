"""A file's suppression held against its rule on drawn crowds: right ones pass, wrong ones are found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from edgedet.errors import GateFailed  # noqa: E402
from edgedet.export import suppression  # noqa: E402
from edgedet.models.base import Candidates  # noqa: E402
from edgedet.runtimes import crowds  # noqa: E402
from edgedet.spec import CANDIDATES, FINAL, ModelSpec, Suppression  # noqa: E402

COUNT = 600
RULE = Suppression(max_detections=100)


@pytest.fixture(scope="module")
def write(tmp_path_factory: pytest.TempPathFactory):
    """mode → a file that is suppression alone, of 600 candidates, and its spec."""
    folder = tmp_path_factory.mktemp("crowds")

    def to_file(mode: str) -> tuple[Path, ModelSpec]:
        rule = replace(RULE, mode=mode)
        spec = ModelSpec("test", "crowds", ("cat", "dog", "cow"), (416, 416), suppression=rule)
        path = folder / f"{mode}.onnx"
        if not path.exists():
            program = torch.onnx.export(
                Suppressed(rule).eval(),
                (torch.rand(1, COUNT, 4), torch.rand(1, COUNT), torch.zeros(1, COUNT, dtype=torch.int32)),
                dynamo=True,
                opset_version=19,
                verbose=False,
                input_names=list(CANDIDATES),
                output_names=list(FINAL),
                custom_translation_table=suppression.translation_table(),
            )
            program.save(path)
        return path, spec

    return to_file


class Suppressed(torch.nn.Module):
    def __init__(self, rule: Suppression) -> None:
        super().__init__()
        self.rule = rule

    def forward(self, boxes, scores, labels):
        return suppression.suppress(Candidates(boxes, scores, labels), self.rule, num_classes=3)


@pytest.mark.parametrize("mode", ["onnx", "matrix", "efficientnms"])
def test_every_mode_gives_what_the_rule_gives(write, mode: str):
    assert crowds.check(*write(mode)) > 100


def test_a_file_without_suppression_has_none_to_check(write):
    path, spec = write("onnx")
    assert crowds.check(path, replace(spec, suppression=replace(spec.suppression, mode="none"))) == 0


def altered(path: Path, folder: Path, change) -> Path:
    """A copy of the file with its graph changed."""
    model = onnx.load(path)
    change(model.graph)
    onnx.save(model, folder / path.name)
    return folder / path.name


@pytest.mark.parametrize("mode", ["onnx", "efficientnms"])
def test_another_threshold_than_the_spec_says_is_found(write, tmp_path: Path, mode: str):
    def change(graph) -> None:
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.name == "iou_threshold":
                    attribute.f = 0.3
                elif attribute.name == "value" and attribute.t.data_type == onnx.TensorProto.FLOAT:
                    value = onnx.numpy_helper.to_array(attribute.t)
                    if value.size == 1 and abs(value.item() - 0.65) < 1e-5:
                        attribute.t.CopyFrom(onnx.numpy_helper.from_array(np.full_like(value, 0.3)))
        for tensor in graph.initializer:
            value = onnx.numpy_helper.to_array(tensor)
            if value.size == 1 and value.dtype == np.float32 and abs(value.item() - 0.65) < 1e-5:
                tensor.CopyFrom(onnx.numpy_helper.from_array(np.full_like(value, 0.3), tensor.name))

    path, spec = write(mode)
    with pytest.raises(GateFailed, match=rf"{mode}.onnx is not written: of its detections in drawn crowds .* \({mode}\)"):
        crowds.check(altered(path, tmp_path, change), spec)


def test_suppression_across_classes_is_found(write, tmp_path: Path):
    """All labels taken for one class: what `class_agnostic` would do."""

    def change(graph) -> None:
        (node,) = [node for node in graph.node if node.op_type == "EfficientNMS_TRT"]
        everywhere = onnx.helper.make_node("ReduceMax", [node.input[1], "class_axis"], ["best"], "best", keepdims=1)
        graph.initializer.append(onnx.numpy_helper.from_array(np.int64([2]), "class_axis"))
        graph.node.insert(list(graph.node).index(node), everywhere)
        node.input[1] = "best"

    path, spec = write("efficientnms")
    with pytest.raises(GateFailed, match="suppression"):
        crowds.check(altered(path, tmp_path, change), spec)
