"""Files with TensorRT's plugin: what stands in them, that they are measured, and that other runtimes refuse them in words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from edgedet.errors import RuntimeUnavailable
from edgedet.export import onnx_file
from edgedet.export.graph import ExportGraph
from edgedet.export.simplify import simplify
from edgedet.export.to_fp16 import to_fp16
from edgedet.export.to_onnx import to_onnx
from edgedet.runtimes import efficient_nms, run_onnxruntime, run_openvino, selfcheck
from edgedet.runtimes.run_torch import TorchSession
from edgedet.runtimes.session import Options
from edgedet.spec import CANDIDATES, FINAL

EVALUATED = Options(plugins="evaluated")


@pytest.fixture(scope="module")
def write(tmp_path_factory: pytest.TempPathFactory):
    """small, mode → its file of any batch."""
    folder = tmp_path_factory.mktemp("plugin")

    def to_file(small, mode: str = "efficientnms") -> Path:
        path = folder / f"{mode}.onnx"
        spec = replace(small.spec, batch=None, suppression=replace(small.spec.suppression, mode=mode, max_detections=40))
        return path if path.exists() else to_onnx(small.detector, spec, path)

    return to_file


def pictures(spec, batch: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (batch, *spec.size_hw, 3), np.uint8)


def test_the_node_is_what_tensorrts_parser_looks_for(small, write):
    """Its name in any domain, and each attribute in the type that the plugin declares; boxes and one column a class."""
    model = onnx.load(write(small))
    (node,) = [node for node in model.graph.node if node.op_type == "EfficientNMS_TRT"]
    assert {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute} == {
        "score_threshold": 0.5,
        "iou_threshold": pytest.approx(0.65, abs=1e-7),
        "max_output_boxes": 40,
        "background_class": -1,
        "score_activation": 0,
        "class_agnostic": 0,
        "box_coding": 0,
        "plugin_version": b"1",
    }
    assert node.name == "EfficientNMS_TRT"
    types = {a.name: a.type for a in node.attribute}
    assert types["class_agnostic"] == types["score_activation"] == onnx.AttributeProto.INT
    assert types["score_threshold"] == types["iou_threshold"] == onnx.AttributeProto.FLOAT
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": 19, node.domain: 1}
    shapes = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.value_info}
    assert [shapes[name] for name in node.input] == [["batch", 96, 4], ["batch", 96, 2]]
    assert [shapes[name] for name in node.output] == [["batch", 1], ["batch", 40, 4], ["batch", 40], ["batch", 40]]
    outputs = {v.name: v.type.tensor_type for v in model.graph.output}
    assert [outputs[name].elem_type for name in FINAL] == [onnx.TensorProto.FLOAT] * 2 + [onnx.TensorProto.INT32]


@pytest.mark.parametrize("batch", [1, 3])
def test_evaluated_it_gives_pytorchs_detections(small, write, batch):
    images = pictures(small.spec, batch)
    found = run_onnxruntime.open(write(small), EVALUATED).infer(images)
    graph = ExportGraph(small.detector, onnx_file.read(write(small))[1])
    with torch.inference_mode():
        wanted = graph(torch.from_numpy(images))
    assert (found["labels"] >= 0).sum() > 5 * batch
    for name, tensor in zip(FINAL, wanted, strict=True):
        np.testing.assert_allclose(found[name], tensor.numpy(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("change", [None, to_fp16, simplify])
def test_every_form_of_the_file_passes_the_check_that_gives_files_their_names(small, write, tmp_path, change):
    path = write(small)
    if change:
        path = change(path, tmp_path / "changed.onnx")
    reference = TorchSession(ExportGraph(small.detector, onnx_file.read(path)[1]), outputs="candidates")
    agreement = selfcheck.check(reference, path, runtime="onnxruntime")
    assert agreement.detections > 10
    assert agreement.consistent == 1
    assert agreement.crowd_detections > 100
    assert "EfficientNMS_TRT evaluated in NumPy" in agreement.runtime


def test_the_evaluated_file_gives_candidates_too(small, write):
    session = run_onnxruntime.open(write(small), replace(EVALUATED, outputs="candidates"))
    assert session.infer(pictures(small.spec, 1)).keys() == {*FINAL, *CANDIDATES}
    assert session.facts["plugins"] == "EfficientNMS_TRT evaluated in NumPy"


def test_a_file_without_the_plugin_is_run_as_ever(small, write):
    session = run_onnxruntime.open(write(small, "matrix"), EVALUATED)
    assert "plugins" not in session.facts


@pytest.mark.parametrize(("runtime", "name"), [(run_onnxruntime, "ONNX Runtime"), (run_openvino, "OpenVINO")])
def test_other_runtimes_refuse_the_file_in_one_sentence(small, write, runtime, name):
    with pytest.raises(RuntimeUnavailable) as raised:
        runtime.open(write(small), Options())
    message = str(raised.value)
    assert message.startswith("efficientnms.onnx holds EfficientNMS_TRT (--nms efficientnms), a plugin that TensorRT has and ")
    assert f"and {name} has not; compile it with `edgedet export efficientnms.onnx --to tensorrt`" in message
    assert "--nms onnx or matrix" in message


def build(model: onnx.ModelProto, profiles: dict[str, tuple[tuple[int, ...], ...]], target: str = "SM86") -> tuple[bool, str]:
    """Whether TensorRT-RTX parses the model, and the builder's error, empty where it builds a plan for the target."""
    trt = pytest.importorskip("tensorrt_rtx")

    class Log(trt.ILogger):
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: object, message: str) -> None:
            if severity in (trt.Logger.ERROR, trt.Logger.INTERNAL_ERROR):
                self.errors.append(message)

    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(model.SerializeToString()):
        return False, parser.get_error(0).desc()
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, target), 0)
    profile = builder.create_optimization_profile()
    for name, sizes in profiles.items():
        profile.set_shape(name, *sizes)
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    return True, "" if plan is not None else log.errors[0]


def test_tensorrt_rtx_compiles_everything_about_the_plugin(small, write):
    """What it lacks is the plugin alone."""
    whole = onnx.load(write(small))
    before, plugin, behind = efficient_nms.cut(whole)
    types = {value.name: value for value in (*whole.graph.value_info, *whole.graph.output)}
    for value in (*before.graph.output, *behind.graph.input, *behind.graph.output):
        value.CopyFrom(types[value.name])
    images = {"images": ((1, 64, 96, 3), (2, 64, 96, 3), (4, 64, 96, 3))}
    assert build(before, images) == (True, "")
    profiles = {}
    for value in behind.graph.input:
        sides = [side.dim_value for side in value.type.tensor_type.shape.dim][1:]
        profiles[value.name] = tuple((batch, *sides) for batch in (1, 2, 4))
    assert {plugin.output[0], plugin.output[2]} <= profiles.keys()
    assert build(behind, profiles) == (True, "")
    parsed, reason = build(whole, images)
    assert not parsed
    assert "Plugin not found" in reason


@pytest.mark.parametrize("target", ["SM75", "SM80", "SM89", "SM120"])
def test_the_matrix_mode_compiles_for_every_generation_of_gpus(small, write, target: str):
    """For Turing, SM75, TensorRT-RTX has no float32 matrix product."""
    images = {"images": ((1, 64, 96, 3), (2, 64, 96, 3), (4, 64, 96, 3))}
    assert build(onnx.load(write(small, "matrix")), images, target) == (True, "")


def test_tensorrt_rtx_compiles_everything_about_non_max_suppression(small, write):
    """It parses the operator and has no kernel for it; of its data-dependent output only the number of rows is left here."""
    whole = onnx.load(write(small, "onnx"))
    images = {"images": ((1, 64, 96, 3), (2, 64, 96, 3), (4, 64, 96, 3))}
    parsed, reason = build(whole, images)
    assert parsed
    assert "has no runners that implement it" in reason
    (node,) = [node for node in whole.graph.node if node.op_type == "NonMaxSuppression"]
    whole.graph.input.append(onnx.helper.make_tensor_value_info(node.output[0], onnx.TensorProto.INT64, ["selected", 3]))
    whole.graph.node.remove(node)
    assert build(whole, {**images, node.output[0]: ((0, 3), (40, 3), (160, 3))}) == (True, "")
