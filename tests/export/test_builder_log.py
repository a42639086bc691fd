"""What is read of a builder: TensorRT-RTX's lines, and an engine inspector's JSON as TensorRT's documentation shows it."""

from __future__ import annotations

import json

from edgedet.export import builder_log

LINES = """Layers:
Name: entry^bb^signal^2_myl0_0, LayerType: signal, Inputs: [], Outputs: [], TacticName: , StreamId: 0, Metadata:\x20
Name: __myl_CorrSilu_myl0_3, LayerType: runtime_fusion, Inputs: [ { Name: a, Dimensions: [1,12,208,208], Datatype: Half, \
Format: (NHWC) Channel major format }], Constants: [ { Name: c, Datatype: Half }], Metadata: [ONNX Layer: node_Conv_1948][ONNX \
Layer: node_Sigmoid_91]
Name: node_Conv_1954_myl0_8, LayerType: correlation, Inputs: [ { Name: b, Dimensions: [1,16,104,104], Datatype: Int8, Format: \
(NHWC) Channel major format }], Outputs: [ { Name: d, Datatype: Int32 }], Metadata: [ONNX Layer: node_Conv_1954][ONNX Layer: \
silu_2.DequantizeLinear]
Name: __myl_MulAdd_myl0_9, LayerType: kgen, Inputs: [ { Name: d, Datatype: Int32 }], Metadata: [ONNX Layer: node_Conv_1954]
Name: node_MatMul_7_myl0_9, LayerType: gemm, Inputs: [ { Name: e, Datatype: Float }], Metadata: [ONNX Layer: node_MatMul_7]
""".splitlines()


def test_the_kernel_that_multiplies_tells_a_layers_precision_and_no_other_of_its_kernels():
    found = builder_log.from_log(LINES)
    assert {name: found[name] for name in ("node_Conv_1948", "node_Conv_1954", "node_MatMul_7")} == {
        "node_Conv_1948": "f16",
        "node_Conv_1954": "int8",
        "node_MatMul_7": "f32",
    }


def test_an_inspectors_layers_are_read_by_their_first_input():
    """The keys are those of the developer guide's example, `Engine Inspector`; a plan without details has names alone."""

    def layer(kind: str, words: str, node: str) -> dict[str, object]:
        inputs = [{"Name": "x", "Location": "Device", "Dimensions": [1, 16, 8, 8], "Format/Datatype": words}]
        return {"Name": node, "LayerType": kind, "Inputs": inputs, "Metadata": f"[ONNX Layer: {node}]"}

    layers = [
        layer("CaskConvolution", "Thirty-two wide channel vectorized row major Int8 format", "conv_1"),
        layer("CaskConvolution", "Channel major FP16 format where channel % 8 == 0", "conv_2"),
        layer("gemm", "Row major linear FP32", "matmul_3"),
        layer("Reformat", "Row major linear FP32", "conv_1"),
    ]
    expected = {"conv_1": "int8", "conv_2": "f16", "matmul_3": "f32"}
    assert builder_log.from_inspector(json.dumps({"Layers": layers, "Bindings": ["x"]})) == expected
    assert builder_log.from_inspector(json.dumps({"Layers": ["conv_1", "conv_2"]})) == {}
    assert builder_log.from_inspector("") == {}
