"""What quantisation sees of a network, against the tiny detector's plan and YOLOX-nano's published size."""

from __future__ import annotations

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
import quantizable  # noqa: E402
from onnx import helper, numpy_helper  # noqa: E402

from edgedet.calibration.network import Layer, Network  # noqa: E402
from edgedet.errors import ExportError  # noqa: E402


def layers(model: onnx.ModelProto) -> dict[str, Layer]:
    return {layer.name: layer for layer in Network(model).layers()}


def node_of(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.name == name)


def test_layers_are_named_as_in_the_checkpoint_and_have_a_role_each():
    found = layers(quantizable.model())
    assert tuple(found) == quantizable.LAYERS
    roles = {"stem": "pixels", "depthwise": "depthwise", "score": "prediction", "box": "prediction"}
    assert {name: layer.role for name, layer in found.items()} == {n: roles.get(n, "plain") for n in quantizable.LAYERS}


@pytest.mark.parametrize("batch", [1, 2, None])
def test_multiply_accumulates_are_those_of_one_image(batch):
    """O · I / groups · kh · kw · H · W."""
    for name, layer in layers(quantizable.model(batch=batch)).items():
        out, inner, height, width = quantizable.SHAPES[name]
        assert layer.macs == out * inner * height * width * quantizable.SIDES[name] ** 2


def test_yolox_nano_has_the_multiply_accumulates_that_its_authors_state(yolox_nano_onnx):
    """1.08 GFLOPs of 416x416, two a multiply-accumulate: 522.6 M in the convolutions, the rest in other operators.

    The file was exported by somebody else, so its heads are given names here.
    """
    model = onnx.load(yolox_nano_onnx)
    for index, output in enumerate(model.graph.output):
        model.graph.node.append(helper.make_node("Identity", [output.name], [f"head_{index}"]))
    total = sum(layer.macs for layer in Network(model).layers())
    assert total == pytest.approx(522.6e6, rel=1e-4)
    assert 2 * total == pytest.approx(1.08e9, rel=0.05)


@pytest.mark.parametrize("layout", ["uint8-nhwc", "float32-nchw"])
def test_pixels_are_traced_through_what_only_moves_them(layout):
    """Cast, Transpose, Slice and Concat of one layout, Identity, Slice and Concat of the other."""
    assert layers(quantizable.model(layout=layout))["stem"].role == "pixels"


def test_normalised_pixels_are_no_pixels():
    model = quantizable.model()
    model.graph.initializer.append(numpy_helper.from_array(np.float32(255), "most"))
    place = next(i for i, node in enumerate(model.graph.node) if node.op_type == "Transpose")
    model.graph.node[place].output[0] = "whole"
    model.graph.node.insert(place + 1, helper.make_node("Div", ["whole", "most"], ["planes"]))
    assert layers(model)["stem"].role == "plain"


def test_pixels_beside_something_else_are_no_pixels():
    """As where coordinates of the pixels go in beside them."""
    model = quantizable.model()
    concat = next(node for node in model.graph.node if node.output[0] == "focus")
    place = list(model.graph.node).index(concat)
    concat.input[3] = "wave"
    model.graph.node.insert(place, helper.make_node("Sin", ["part_11"], ["wave"]))
    assert layers(model)["stem"].role == "plain"


def test_residuals_are_additions_of_two_maps_before_the_heads():
    """Neither the addition in the decode nor that of a constant is one."""
    model = quantizable.model()
    constant = numpy_helper.from_array(np.ones((1, 8, 1, 1), np.float32), "one")
    model.graph.initializer.append(constant)
    place = list(model.graph.node).index(node_of(model, "node_inner"))
    model.graph.node[place].input[0] = "shifted"
    model.graph.node.insert(place, helper.make_node("Add", ["silu_2", "one"], ["shifted"], "node_shift"))
    network = Network(model)
    assert [node.name for node in network.residuals()] == ["node_add"]
    assert [node.name for node in network.pools()] == ["node_pool"]


def test_ranges_are_wanted_of_what_an_encoding_may_quantise_each_once():
    found = Network(quantizable.model()).activations()
    expected = {"focus", "silu_1", "depthwise_out", "silu_2", "silu_3", "sum", "both", "silu_4"}
    assert set(found) == expected
    assert len(found) == len(expected)


def test_what_has_weights_but_no_int8_form_is_listed_with_the_reason():
    model = quantizable.model()
    weight = numpy_helper.from_array(np.zeros((8, 8, 1, 1), np.float32), "up.weight")
    model.graph.initializer.append(weight)
    place = list(model.graph.node).index(node_of(model, "node_inner"))
    model.graph.node[place].input[0] = "up"
    model.graph.node.insert(place, helper.make_node("ConvTranspose", ["silu_2", "up.weight"], ["up"], "node_up"))
    network = Network(model)
    assert network.unquantizable() == {"node_up": "edgedet has no INT8 form of ConvTranspose"}
    assert tuple(layer.name for layer in network.layers()) == quantizable.LAYERS


def test_a_convolution_of_computed_weights_is_left_alone():
    model = quantizable.model()
    node = node_of(model, "node_inner")
    place = list(model.graph.node).index(node)
    model.graph.node.insert(place, helper.make_node("Abs", [node.input[1]], ["computed"]))
    node.input[1] = "computed"
    network = Network(model)
    assert "inner" not in [layer.name for layer in network.layers()]
    assert list(network.unquantizable()) == ["node_inner"]


def test_a_graph_without_named_heads_is_refused():
    model = quantizable.model()
    for node in model.graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                names[index] = name.replace("head_", "out_")
    with pytest.raises(ExportError, match=r"names no head_0, .* is unknown; export it with this edgedet"):
        Network(model)
