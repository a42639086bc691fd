"""The precision every layer was asked for and ran in, against what runtimes say elsewhere; encodings that are refused."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgedet.errors import RuntimeUnavailable
from edgedet.runtimes import precision
from edgedet.runtimes.detector import open_session
from edgedet.runtimes.precision import Layer
from edgedet.runtimes.session import Options
from edgedet.spec import KEY, ModelSpec

onnx = pytest.importorskip("onnx")
import quantizable  # noqa: E402

Write = Callable[[str], Path]
RUNTIMES = ["onnxruntime", "openvino"]
FLOAT = {"score", "box"}
X86 = platform.machine().lower() in ("x86_64", "amd64")


def layers_of(path: Path, runtime: str, **options: object) -> dict[str, Layer]:
    with closing(open_session(path, runtime=runtime, options=Options(**options))) as session:
        return {layer.name: layer for layer in session.layers()}


def layer(name: str, asked: str, executed: str, macs: int) -> Layer:
    return Layer(name, "Conv", asked, executed, macs)


def test_shares_are_of_the_multiply_accumulates_and_not_of_the_layers():
    layers = [layer("a", "int8", "int8", 86), layer("b", "f32", "f32", 10), layer("c", "f32", "f32", 4)]
    assert precision.shares(layers) == {"int8": 0.86, "f32": 0.14}
    assert precision.summary(layers) == "int8 (86 % of the MACs), rest f32"
    assert precision.float_precision(layers) == "f32"


def test_one_precision_is_named_alone():
    assert precision.summary([layer("a", "f32", "f32", 1), layer("b", "f32", "bf16", 9)]) == "bf16"
    assert precision.summary([layer("a", "int8", "int8", 1)]) == "int8"
    assert precision.summary([]) == "unknown"
    assert precision.shares([layer("a", "f32", "f32", 0)]) == {}


def test_a_complaint_names_the_first_layers_and_counts_the_rest():
    layers = [layer(f"l{i}", "int8", "f32", 1) for i in range(7)] + [layer("same", "f32", "f32", 1)]
    assert precision.complaints(layers) == [
        "7 of 8 layers were asked for in int8 and ran in f32: l0, l1, l2, l3, l4 and 2 more"
    ]
    assert len(precision.differing(layers)) == 7
    assert not precision.complaints(layers[7:])


def test_a_layer_is_called_as_in_the_checkpoint_or_as_its_node():
    assert precision.layer_name("whole.detector.backbone.stem.conv.weight.q", "node_1") == "backbone.stem.conv"
    assert precision.layer_name("onnx::Conv_123", "node_1") == "node_1"


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_what_is_between_quantizers_is_asked_for_in_int8_and_runs_so(quantized_onnx: Write, runtime: str):
    found = layers_of(quantized_onnx("cpu"), runtime)
    assert set(found) == set(quantizable.LAYERS)
    asked = {name: layer.asked for name, layer in found.items()}
    assert asked == {name: "f32" if name in FLOAT else "int8" for name in quantizable.LAYERS}
    assert {name: layer.executed for name, layer in found.items()} == asked


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("quantized", [False, True])
def test_multiply_accumulates_are_weights_times_output_pixels(
    quantizable_onnx: Path, quantized_onnx: Write, runtime: str, quantized: bool
):
    """Exactly: every weight is multiplied once at every output pixel."""
    found = layers_of(quantized_onnx("cpu") if quantized else quantizable_onnx, runtime)
    expected = {name: int(np.prod(quantizable.SHAPES[name])) * quantizable.SIDES[name] ** 2 for name in quantizable.LAYERS}
    assert {name: layer.macs for name, layer in found.items()} == expected


def test_onnxruntime_counts_the_kernels_of_the_graph_it_really_runs(quantized_onnx: Write, tmp_path: Path):
    """The graph optimised in full, channels rearranged and all, holds one QLinearConv a layer that is said to run in INT8."""
    import onnxruntime

    for encoding in ("cpu", "tensorrt"):
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 3
        settings.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        onnxruntime.InferenceSession(str(quantized_onnx(encoding)), settings, providers=["CPUExecutionProvider"])
        kernels = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
        found = layers_of(quantized_onnx(encoding), "onnxruntime").values()
        assert kernels["QLinearConv"] == sum(layer.executed == "int8" for layer in found)


def test_openvino_profiles_the_kernels_that_are_said_to_run(quantized_onnx: Write):
    """OpenVINO's profiler, which measures an inference, calls an INT8 kernel so."""
    import openvino

    core = openvino.Core()
    config = {"PERF_COUNT": True, "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(core.read_model(quantized_onnx("cpu")), "CPU", config).create_infer_request()
    request.infer([quantizable.frames(1)])
    kernels = [info.exec_type for info in request.profiling_info if info.node_type.endswith("Convolution")]
    found = layers_of(quantized_onnx("cpu"), "openvino").values()
    assert sum(kernel.endswith("_I8") for kernel in kernels) == sum(layer.executed == "int8" for layer in found) == 6
    assert len(kernels) == len(found)


@pytest.mark.skipif(not X86, reason="what ONNX Runtime fuses is another thing on other processors")
def test_int8_that_onnxruntime_runs_in_float_is_told(quantized_onnx: Write):
    found = list(layers_of(quantized_onnx("tensorrt"), "onnxruntime").values())
    assert precision.complaints(found) == [
        "5 of 8 layers were asked for in int8 and ran in f32: stem, point, inner, narrow, mix"
    ]


def test_without_optimisation_onnxruntime_fuses_nothing(quantized_onnx: Write):
    found = layers_of(quantized_onnx("cpu"), "onnxruntime", graph_optimization="off")
    assert {layer.executed for layer in found.values()} == {"f32"}
    assert {layer.asked for name, layer in found.items() if name not in FLOAT} == {"int8"}


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_quantized_file_says_how_much_of_it_runs_in_int8(quantized_onnx: Write, runtime: str):
    with closing(open_session(quantized_onnx("cpu"), runtime=runtime)) as session:
        assert session.facts == {"device": "cpu", "precision": "int8 (99.9 % of the MACs), rest f32"}


def test_an_openvino_file_and_a_cached_one_tell_the_same(quantized_onnx: Write, tmp_path: Path):
    import openvino

    model = openvino.Core().read_model(quantized_onnx("cpu"))
    model.set_rt_info(model.get_rt_info(["framework", KEY]).value, KEY)
    openvino.save_model(model, tmp_path / "int8.xml", compress_to_fp16=False)
    expected = layers_of(quantized_onnx("cpu"), "openvino")
    for _ in ("compiled", "from the cache"):
        assert layers_of(tmp_path / "int8.xml", "openvino", cache=tmp_path / "cache") == expected


def test_an_fp16_file_is_asked_for_in_f16_in_onnxruntime(quantizable_onnx: Path, tmp_path: Path):
    from edgedet.export.to_fp16 import to_fp16

    model = onnx.load(quantizable_onnx)
    for index, node in enumerate(model.graph.node):
        node.name = node.name or f"node_{index}"  # as the exporter names all
    onnx.save(model, tmp_path / "named.onnx")
    found = layers_of(to_fp16(tmp_path / "named.onnx", tmp_path / "fp16.onnx"), "onnxruntime")
    assert {layer.asked for layer in found.values()} == {"f16"}
    if X86:
        assert {layer.executed for layer in found.values()} == {"f32"}, "there are no float16 kernels on x86"


@pytest.mark.parametrize("wanted", ["bf16", "f16"])
def test_the_float_rest_of_a_quantized_file_runs_as_asked_or_is_refused(quantized_onnx: Write, wanted: str):
    import openvino

    native = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if {"bf16": "BF16", "f16": "FP16"}[wanted] in native:
        found = layers_of(quantized_onnx("cpu"), "openvino", inference_precision=wanted)
        assert {found[name].executed for name in FLOAT} == {found[name].asked for name in FLOAT} == {wanted}
    else:
        with pytest.raises(RuntimeUnavailable, match=f"{wanted} was asked for but OpenVINO on this cpu runs"):
            layers_of(quantized_onnx("cpu"), "openvino", inference_precision=wanted)


def test_the_encoding_that_openvino_computes_wrong_is_refused_by_name(quantized_onnx: Write):
    path = quantized_onnx("tensorrt")
    with pytest.raises(RuntimeUnavailable, match=r"int8-tensorrt\.onnx .*tensorrt encoding.*Concat.*calibrate .*--for cpu"):
        open_session(path, runtime="openvino")
    open_session(path, runtime="onnxruntime").close()


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("encoding", [None, "cpu", "cpu-asymmetric"])
def test_every_other_encoding_is_taken(quantized_onnx: Write, tmp_path: Path, runtime: str, encoding: str | None):
    model = onnx.load(quantized_onnx("cpu"))
    entry = next(entry for entry in model.metadata_props if entry.key == KEY)
    entry.value = replace(ModelSpec.from_json(entry.value, where="test"), encoding=encoding).to_json()
    onnx.save(model, tmp_path / "other.onnx")
    open_session(tmp_path / "other.onnx", runtime=runtime).close()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_taps_give_inner_values_and_pass_over_what_a_file_has_not(quantizable_onnx: Path, runtime: str):
    """Against the graph run node by node, to 1e-4 of values about 1."""
    taps = ("stem_out", "sum", "nowhere")
    images = quantizable.frames(1)
    with closing(open_session(quantizable_onnx, runtime=runtime, options=Options(taps=taps))) as session:
        found = session.infer(images)
    assert set(found) == {"boxes", "scores", "labels", "stem_out", "sum"}
    for name, expected in quantizable.run(quantizable.model(), images, ["stem_out", "sum"]).items():
        np.testing.assert_allclose(found[name], expected, atol=1e-4)
