"""What TensorRT will refuse, from the table of facts; the reference is TensorRT-RTX itself, asked for the same graphs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import qdq_graphs
import quantizable
from onnx import TensorProto

from edgedet.export.platforms import PLATFORM_NAMES, PLATFORMS
from edgedet.export.preflight import built_for_nothing, preflight
from edgedet.export.to_tensorrt import BuildOptions

AMPERE = BuildOptions(targets=("SM86",))


def nonzero(g: qdq_graphs.Graph) -> str:
    return g.add("Cast", g.add("NonZero", "rows"), to=TensorProto.FLOAT)


def suppression(g: qdq_graphs.Graph, *, boxes: str = "boxes") -> str:
    scores = g.add("Unsqueeze", g.add("ReduceMax", boxes, g.constant(np.int64([2])), keepdims=0), g.constant(np.int64([1])))
    limits = [g.constant(value) for value in (np.int64([10]), np.float32([0.5]), np.float32([0]))]
    return g.add("Cast", g.add("NonMaxSuppression", boxes, scores, *limits), to=TensorProto.FLOAT)


def many_boxes(g: qdq_graphs.Graph) -> str:
    return suppression(
        g, boxes=g.add("Expand", g.constant(np.zeros((1, 1, 4), np.float32)), g.constant(np.int64([1, 5001, 4])))
    )


def plugin(g: qdq_graphs.Graph) -> str:
    return g.add("EfficientNMS_TRT", "boxes", "rows", outputs=2, plugin_version="1", max_output_boxes=10)


def double(g: qdq_graphs.Graph) -> str:
    return g.add("Cast", g.add("Cast", "rows", to=TensorProto.DOUBLE), to=TensorProto.FLOAT)


def longest_topk(g: qdq_graphs.Graph) -> str:
    return g.add("TopK", "rows", g.constant(np.int64([3840])), outputs=2)


REFUSED = {
    "uint8 zero-point": (qdq_graphs.TENSORRT["not-int8"][0], "QuantizeLinear", "it is uint8"),
    "zero-point": (qdq_graphs.TENSORRT["zero-point"][0], "QuantizeLinear", "is not 0"),
    "computed scale": (qdq_graphs.TENSORRT["scale-not-constant"][0], "QuantizeLinear", "ends TensorRT's parser"),
    "int32 bias": (qdq_graphs.TENSORRT["int32-dequantized"][0], "DequantizeLinear", "is int32: biases"),
    "integer operator": (qdq_graphs.TENSORRT["integer-operator"][0], "ConvInteger", "Q/DQ alone"),
    "uint8 transposed": (qdq_graphs.TENSORRT["uint8-not-cast"][0], "Transpose", "reads the uint8 value images"),
    "TopK 3841": (qdq_graphs.TENSORRT["topk-too-long"][0], "TopK", "k is 3841"),
}
RTX_ALONE = {
    "NonZero": (nonzero, "NonZero", "plugin"),
    "NonMaxSuppression": (suppression, "NonMaxSuppression", "cannot build it"),
    "EfficientNMS": (plugin, "EfficientNMS_TRT", "none of TensorRT's plugins"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("platform", PLATFORM_NAMES)
def test_what_no_tensorrt_takes_is_named_with_its_node_on_every_platform(platform, name):
    build, operator, words = REFUSED[name]
    found = preflight(qdq_graphs.built(build), platform)
    assert any(fault.operator == operator and words in fault.reason and fault.node and fault.remedy for fault in found), found


@pytest.mark.parametrize("name", RTX_ALONE)
def test_what_rtx_alone_refuses_is_allowed_on_jetpack(name):
    build, operator, words = RTX_ALONE[name]
    model = qdq_graphs.built(build)
    (fault,) = preflight(model, "rtx")
    assert fault.operator == operator
    assert words in fault.reason
    assert preflight(model, "jetpack6") == preflight(model, "jetpack7") == []


def test_the_plugin_is_told_of_as_gone_in_tensorrt_11():
    (fault,) = preflight(qdq_graphs.built(plugin), "tensorrt11")
    assert "deprecated since TensorRT 10.12" in fault.reason
    assert fault.remedy == "export with --nms matrix"


@pytest.mark.parametrize("platform", PLATFORM_NAMES)
@pytest.mark.parametrize("build", [qdq_graphs.clean, longest_topk])
def test_a_clean_graph_has_no_fault(platform, build):
    assert preflight(qdq_graphs.built(build), platform) == []
    assert preflight(quantizable.model(), platform) == []


def test_types_sizes_and_opsets_that_do_not_exist_there_are_named():
    (fault,) = preflight(qdq_graphs.built(double), "jetpack6")
    assert "is double, a type TensorRT has not" in fault.reason
    (fault,) = preflight(qdq_graphs.built(many_boxes), "jetpack6")
    assert "5001 boxes, TensorRT's layer takes 5000 at most" in fault.reason
    (fault,) = preflight(qdq_graphs.built(qdq_graphs.clean, opset=21), "jetpack6")
    assert "opset 21, JetPack 6 (TensorRT 10.3) takes 9 to 20" in fault.reason
    assert preflight(qdq_graphs.built(qdq_graphs.clean, opset=21), "tensorrt11") == []


def test_a_free_batch_needs_a_profile_and_no_other_side_may_be_free():
    model = quantizable.model(batch=None)
    (fault,) = preflight(model, "jetpack6")
    assert fault.remedy.startswith("give --batch MIN,OPT,MAX")
    assert preflight(model, "jetpack6", batch=(1, 2, 8)) == []
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "height"
    (fault,) = preflight(model, "jetpack6", batch=(1, 2, 8))
    assert "a side besides the batch is free" in fault.reason


def test_a_dla_is_told_of_as_absent_where_tensorrt_has_none():
    found = {name: [f.operator for f in preflight(quantizable.model(), name, dla=0)] for name in PLATFORM_NAMES}
    assert found == {"jetpack6": [], "jetpack7": ["DLA"], "tensorrt11": [], "rtx": ["DLA"]}


@pytest.fixture(scope="module")
def trt():
    return pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed; pip install -e '.[dev]'")


CRASHES = "computed scale"
"""TensorRT's parser ends the process on it."""
READ_AS_INT8 = "uint8 zero-point"
"""TensorRT-RTX takes it with a warning, and reads it as int8."""


@pytest.mark.parametrize("name", sorted({*REFUSED, *RTX_ALONE} - {CRASHES, READ_AS_INT8}))
def test_tensorrt_rtx_refuses_what_the_table_says(trt, tmp_path: Path, name):
    model = qdq_graphs.built((REFUSED | RTX_ALONE)[name][0])
    onnx.save(model, tmp_path / "graph.onnx")
    assert built_for_nothing(tmp_path / "graph.onnx", model, AMPERE)


@pytest.mark.parametrize("build", [qdq_graphs.clean, longest_topk])
def test_tensorrt_rtx_builds_what_the_table_lets_pass(trt, tmp_path: Path, build):
    model = qdq_graphs.built(build)
    onnx.save(model, tmp_path / "graph.onnx")
    assert built_for_nothing(tmp_path / "graph.onnx", model, AMPERE) == []


def test_the_build_backs_the_table_with_the_precisions_too(trt, tmp_path: Path):
    """Scales by channel are no fault of the table, but TensorRT-RTX runs the convolution in float."""
    model = qdq_graphs.built(qdq_graphs.per_channel_activation)
    spec = replace(quantizable.spec(), precision="int8", encoding="tensorrt")
    model.metadata_props.add(key="edgedet.spec", value=spec.to_json())
    onnx.save(model, tmp_path / "graph.onnx")
    (fault,) = built_for_nothing(tmp_path / "graph.onnx", model, AMPERE)
    assert "is f32 instead of int8" in fault.reason


def test_the_operators_that_the_table_refuses_rtx_refuses_itself(trt):
    """Every operator of onnx: the table for RTX says no where the parser says no; the rest of the table is about the build."""

    class Quiet(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity, message) -> None:
            pass

    logger = Quiet()
    builder = trt.Builder(logger)
    parser = trt.OnnxParser(builder.create_network(1), logger)
    known = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
    refused = set(PLATFORMS["rtx"].refused)
    assert {name for name in known if not parser.supports_operator(name)} <= refused
    assert {name for name in refused & known if parser.supports_operator(name)} == {"NonMaxSuppression", "NonZero", "RoiAlign"}
