"""Q/DQ in the graph: every value against its formula in NumPy, every file as ONNX Runtime executes it without optimisation."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
import quantizable  # noqa: E402
from onnx import helper, numpy_helper  # noqa: E402

from edgedet.calibration.encode import bias_shift, encode, float_by_rule, int8_share, weight_scales  # noqa: E402
from edgedet.calibration.means import channel_means  # noqa: E402
from edgedet.calibration.network import Network  # noqa: E402
from edgedet.calibration.observe import observe  # noqa: E402
from edgedet.calibration.table import ImageSet, Range, RangeTable, fingerprints  # noqa: E402
from edgedet.errors import DataError  # noqa: E402

ENCODINGS = ["cpu", "cpu-asymmetric", "tensorrt"]
LEFT = ("depthwise", "score", "box")
"""What the rules leave in float of the tiny detector."""
IMAGES = quantizable.frames(8)


def table_of(model: onnx.ModelProto, images: Collection[np.ndarray], **fields: object) -> RangeTable:
    """Ranges that cut the tails, so that clipping is seen, and means."""
    network = Network(model)
    ranges = {name: Range.of(one, "mse") for name, one in observe(model, network.activations(), images).items()}
    means = channel_means(model, list(dict.fromkeys(layer.data for layer in network.layers())), images)
    prints = fingerprints(model, quantizable.spec())
    return RangeTable(prints, ImageSet("frames", "0" * 64, len(images)), "mse", ranges, fields.get("means", means))


@cache
def table() -> RangeTable:
    return table_of(quantizable.model(), [frame[None] for frame in IMAGES])


def encoded(encoding: str, left_float: Collection[str] = LEFT, **variant: object) -> onnx.ModelProto:
    return encode(quantizable.model(**variant), table(), encoding=encoding, left_float=left_float)


def arrays(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def node_of(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.name == name)


def maker_of(model: onnx.ModelProto, value: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if value in node.output)


def pairs(model: onnx.ModelProto) -> dict[str, tuple[onnx.NodeProto, onnx.NodeProto]]:
    """Q and DQ by the value they quantise."""
    found = {}
    for first in model.graph.node:
        if first.op_type == "QuantizeLinear":
            (second,) = (node for node in model.graph.node if first.output[0] in node.input)
            found[first.input[0]] = (first, second)
    return found


def quantized_weights(model: onnx.ModelProto, layer: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Integers, scales and zero-points that a convolution reads."""
    dequantize = maker_of(model, node_of(model, f"node_{layer}").input[1])
    assert dequantize.op_type == "DequantizeLinear"
    assert {a.name: a.i for a in dequantize.attribute} == {"axis": 0}
    known = arrays(model)
    return tuple(known[name] for name in dequantize.input)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_value_is_rounded_and_clipped_by_the_formula(encoding):
    """clip(rint(x / s) + z) - z, times s; equal to the last bit but for float32 products, 1e-6 of the peak."""
    model = encoded(encoding)
    known = arrays(model)
    for name, (first, second) in pairs(model).items():
        assert list(first.input[1:]) == list(second.input[1:])
        scale, zero = (known[part] for part in first.input[1:])
        found = quantizable.run(model, IMAGES[:1], [name, second.output[0]])
        values = found[name]
        limits = np.iinfo(zero.dtype)
        whole = np.clip(np.rint(values / scale) + int(zero), limits.min, limits.max)
        np.testing.assert_allclose(found[second.output[0]], (whole - int(zero)) * scale, atol=1e-6 * np.abs(values).max())


@pytest.mark.parametrize(("encoding", "kind"), [("cpu", np.uint8), ("cpu-asymmetric", np.uint8), ("tensorrt", np.int8)])
def test_zero_points_are_those_of_the_encoding(encoding, kind):
    model = encoded(encoding)
    known = arrays(model)
    for name, (first, _) in pairs(model).items():
        scale, zero = (known[part] for part in first.input[1:])
        assert (zero.dtype, scale.dtype, scale.shape, zero.shape) == (kind, np.float32, (), ())
        if name == "focus":
            continue
        values = table().ranges[name]
        if encoding == "cpu-asymmetric":
            assert scale == pytest.approx((values.high - values.low) / 255)
            # Both ends of the range are levels, to half a step.
            ends = (np.array([0, 255]) - float(zero)) * scale
            np.testing.assert_allclose(ends, [values.low, values.high], atol=scale / 2)
        else:
            assert scale == pytest.approx(values.amplitude / 127)
            assert zero == (0 if encoding == "tensorrt" else 128)


@pytest.mark.parametrize("encoding", ["cpu", "cpu-asymmetric"])
def test_pixels_are_exact_in_uint8(encoding):
    model = encoded(encoding)
    found = quantizable.run(model, IMAGES[:1], ["focus", "focus.dq"])
    np.testing.assert_array_equal(found["focus"], found["focus.dq"])


def test_pixels_have_steps_of_two_in_int8():
    """255 / 127, and all of them from 0 to 255 in range."""
    found = quantizable.run(encoded("tensorrt", ()), IMAGES[:1], ["focus", "focus.dq"])
    assert np.abs(found["focus"] - found["focus.dq"]).max() <= 255 / 127 / 2 + 1e-4


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_weights_are_whole_multiples_of_the_largest_of_their_channel_by_127(encoding):
    model = encoded(encoding)
    original = quantizable.weights()
    for layer in ("stem", "point", "inner", "narrow", "mix"):
        integers, scales, zeros = quantized_weights(model, layer)
        weight = original[f"{layer}.weight"]
        want = np.array([np.abs(channel).max() / 127 for channel in weight])
        np.testing.assert_allclose(scales, want, rtol=1e-6)
        assert (integers.dtype, zeros.dtype) == (np.int8, np.int8)
        assert not zeros.any()
        assert np.abs(integers.astype(int)).max() == 127
        for channel in range(len(weight)):
            assert np.abs(integers[channel] * scales[channel] - weight[channel]).max() <= 0.5001 * scales[channel]


def test_biases_give_back_what_rounding_of_weights_adds_to_the_mean():
    """b - Σ (Ŵ - W)·E[x], one product after the other, E[x] by ONNX Runtime unoptimised; to 1e-5."""
    model = encoded("cpu")
    original = quantizable.weights()
    for layer, data in (("stem", "focus"), ("point", "depthwise_out"), ("narrow", "sum"), ("mix", "both")):
        values = [quantizable.run(quantizable.model(), frame[None], [data])[data] for frame in IMAGES]
        means = np.concatenate(values).astype(np.float64).mean(axis=(0, 2, 3))
        integers, scales, _ = quantized_weights(model, layer)
        weight, bias = original[f"{layer}.weight"].astype(np.float64), original[f"{layer}.bias"]
        for out in range(len(weight)):
            shift = sum(
                (integers[out, channel, row, column] * float(scales[out]) - weight[out, channel, row, column]) * means[channel]
                for channel, row, column in np.ndindex(weight.shape[1:])
            )
            found = arrays(model)[node_of(model, f"node_{layer}").input[2]][out]
            assert found == pytest.approx(bias[out] - shift, abs=1e-5)


def test_corrected_biases_bring_the_mean_of_each_output_back():
    """Of a 1x1 convolution the shift is exact: the mean error falls to rounding, 1e-4 of what it was without."""
    draw = np.random.default_rng(0)
    weight = draw.standard_normal((6, 8)).astype(np.float32)
    values = draw.standard_normal((8, 1000)).astype(np.float32) + draw.standard_normal((8, 1)).astype(np.float32) * 5
    rounded = np.round(weight * 4) / 4
    shift = bias_shift(weight[..., None, None], rounded[..., None, None], values.mean(axis=1))
    drift = (rounded @ values - weight @ values).mean(axis=1)
    assert np.abs(drift - shift).max() <= 1e-4 * np.abs(drift).max()


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_the_shift_of_a_grouped_convolution_is_what_onnxruntime_computes(groups):
    """Every channel is constant, so that a 3x3 window holds its mean; to 1e-4 of the outputs."""
    from onnx.reference import ReferenceEvaluator

    draw = np.random.default_rng(groups)
    weight = draw.standard_normal((16, 8 // groups, 3, 3)).astype(np.float32)
    rounded = (np.round(weight * 4) / 4).astype(np.float32)
    means = draw.standard_normal(8).astype(np.float32) * 3
    node = helper.make_node("Conv", ["x", "w"], ["y"], group=groups)
    infos = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in "xwy"]
    conv = ReferenceEvaluator(helper.make_model(helper.make_graph([node], "conv", infos[:2], infos[2:])))
    field = np.broadcast_to(means[None, :, None, None], (1, 8, 3, 3))
    before, after = (conv.run(None, {"x": field, "w": one})[0].reshape(-1) for one in (weight, rounded))
    np.testing.assert_allclose(bias_shift(weight, rounded, means), after - before, atol=1e-4 * np.abs(before).max())


def test_without_means_biases_stay_as_they_are():
    model = encode(quantizable.model(), table_of(quantizable.model(), [IMAGES[:1]], means={}), encoding="cpu", left_float=LEFT)
    found = arrays(model)[node_of(model, "node_stem").input[2]]
    np.testing.assert_array_equal(found, quantizable.weights()["stem.bias"])


def test_both_spellings_of_the_symmetric_table_are_the_same_arithmetic():
    """All outputs and heads of eight images, stem in float in both, because pixels have other steps; to 1e-5."""
    names = ["head_0", "head_1", "boxes", "scores"]
    left = (*LEFT, "stem")
    for frame in IMAGES:
        first, second = (quantizable.run(encoded(e, left), frame[None], names) for e in ("cpu", "tensorrt"))
        for name in names:
            np.testing.assert_allclose(first[name], second[name], atol=1e-5 * np.abs(first[name]).max())


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_detections_stay_near_those_in_float(encoding):
    """Scores to 0.15 at worst and 0.03 on average, in float32 from 0 to 1."""
    model = encoded(encoding, float_by_rule(Network(quantizable.model()).layers(), encoding))
    floats, found = (
        np.concatenate([quantizable.run(m, f[None], ["candidate_scores"])["candidate_scores"] for f in IMAGES])
        for m in (quantizable.model(), model)
    )
    errors = np.abs(floats - found)
    assert 0 < errors.mean() < 0.03
    assert errors.max() < 0.15


@pytest.mark.parametrize("left", [(), ("stem",), LEFT, quantizable.LAYERS[:-1]])
def test_the_layers_named_stay_in_float_and_only_they(left):
    model = encoded("cpu", left)
    for layer in quantizable.LAYERS:
        node = node_of(model, f"node_{layer}")
        makers = [maker_of(model, name).op_type for name in node.input[:2] if name not in arrays(model)]
        assert ("DequantizeLinear" in makers) is (layer not in left), layer
        if layer in left:
            assert node == node_of(quantizable.model(), f"node_{layer}")


def test_with_every_layer_in_float_the_model_is_as_it_was():
    before, after = quantizable.model(), encoded("cpu", quantizable.LAYERS)
    assert list(after.graph.node) == list(before.graph.node)
    assert not pairs(after)


def test_residual_additions_read_both_inputs_quantised_and_pools_theirs():
    model = encoded("cpu")
    assert list(node_of(model, "node_add").input) == ["silu_2.dq", "silu_3.dq"]
    assert list(node_of(model, "node_pool").input) == ["sum.dq"]


def test_one_pair_serves_all_that_read_a_value():
    """silu_2: a convolution and the addition; sum: a convolution and the pool."""
    model = encoded("cpu")
    assert sum(node.op_type == "QuantizeLinear" for node in model.graph.node) == 6
    assert set(pairs(model)) == {"focus", "depthwise_out", "silu_2", "silu_3", "sum", "both"}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_decode_and_suppression_are_untouched(encoding):
    """Every node behind the heads is the one it was, even with all layers quantised."""
    before, after = quantizable.model(), encoded(encoding, ())
    start = next(i for i, node in enumerate(before.graph.node) if "head_0" in node.input)
    tail = [node for node in before.graph.node[start:] if node.op_type != "Conv"]
    assert [node for node in after.graph.node if node in tail] == tail
    assert not any(name.endswith(".dq") for node in tail for name in node.input)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    "variant",
    [{"batch": None}, {"batch": 2}, {"layout": "float32-nchw"}, {"mode": "none"}, {"mode": "matrix"}],
    ids=["dynamic", "two", "float32", "candidates", "matrix"],
)
def test_every_form_of_file_is_whole_and_gives_the_same_numbers(variant, encoding):
    """One table serves them, because values inside have one name; candidates to 1e-4 of those of the batch-1 uint8 file."""
    model = encoded(encoding, **variant)
    onnx.checker.check_model(model, full_check=True)
    images = IMAGES[: 1 if variant.get("batch", 1) == 1 else 2]
    want = [quantizable.run(encoded(encoding), image[None], ["candidate_scores"])["candidate_scores"] for image in images]
    fed = images if "layout" not in variant else images.transpose(0, 3, 1, 2).astype(np.float32)
    found = quantizable.run(model, fed, ["candidate_scores"])["candidate_scores"]
    np.testing.assert_allclose(found, np.concatenate(want), atol=1e-4)


def test_unread_weights_are_not_kept_and_the_given_model_stays_as_it_was():
    model = quantizable.model()
    before = model.SerializeToString()
    found = encode(model, table(), encoding="cpu", left_float=LEFT)
    assert model.SerializeToString() == before
    read = {name for node in found.graph.node for name in node.input}
    assert set(arrays(found)) <= read
    assert "whole.detector.stem.weight" not in arrays(found)
    assert "whole.detector.depthwise.weight" in arrays(found)


def test_weights_that_a_branch_reads_are_kept():
    model = quantizable.model()
    inner = helper.make_node("Identity", ["only_here"], ["inner_value"])
    info = helper.make_tensor_value_info("inner_value", onnx.TensorProto.FLOAT, [3])
    branch = helper.make_graph([inner], "branch", [], [info])
    model.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "only_here"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node.append(helper.make_node("If", ["yes"], ["chosen"], "if", then_branch=branch, else_branch=branch))
    found = encode(model, table(), encoding="cpu", left_float=LEFT)
    assert "only_here" in arrays(found)
    assert quantizable.run(found, IMAGES[:1], ["chosen"])["chosen"].tolist() == [1, 1, 1]


def test_nodes_need_no_names():
    model = quantizable.model()
    for node in model.graph.node:
        node.name = ""
    found = encode(model, table(), encoding="cpu", left_float=LEFT)
    names = ["head_0", "head_1"]
    want = quantizable.run(encoded("cpu"), IMAGES[:1], names)
    for name, values in quantizable.run(found, IMAGES[:1], names).items():
        np.testing.assert_array_equal(values, want[name])


def test_convolutions_that_share_weights_and_bias_are_each_corrected_for_their_own_data():
    """As the heads of detectors that use one head on every level."""
    model = quantizable.model()
    del node_of(model, "node_inner").input[1:]
    node_of(model, "node_inner").input.extend(node_of(model, "node_point").input[1:])
    mine = table_of(model, [IMAGES[:1]])
    found = encode(model, mine, encoding="cpu", left_float=LEFT)
    onnx.checker.check_model(found, full_check=True)
    integers, scales, _ = quantized_weights(found, "point")
    np.testing.assert_array_equal(integers, quantized_weights(found, "inner")[0])
    weight, bias = (quantizable.weights()[f"point.{part}"] for part in ("weight", "bias"))
    for layer, data in (("point", "depthwise_out"), ("inner", "silu_2")):
        error = (integers * scales.reshape(-1, 1, 1, 1) - weight)[:, :, 0, 0]
        corrected = arrays(found)[node_of(found, f"node_{layer}").input[2]]
        np.testing.assert_allclose(corrected, bias - error @ np.array(mine.means[data]), atol=1e-5)
    quantizable.run(found, IMAGES[:1], ["head_0"])


@pytest.mark.parametrize("size", [0.0, 1e-10, 1e-30])
@pytest.mark.parametrize("optimised", ["onnxruntime", "openvino"])
def test_a_dead_channel_keeps_its_bias_in_optimising_runtimes(size, optimised, tmp_path):
    """Where Q follows a convolution, its bias becomes int32 in steps of both scales: 5 came out as 0. To 2 % and a step."""
    import onnxruntime

    if optimised == "openvino":
        openvino = pytest.importorskip("openvino")
    model = quantizable.model()
    weight = next(tensor for tensor in model.graph.initializer if tensor.name.endswith("depthwise.weight"))
    values = numpy_helper.to_array(weight).copy()
    values[3] *= np.float32(size)
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    bias = next(tensor for tensor in model.graph.initializer if tensor.name.endswith("depthwise.bias"))
    shifts = numpy_helper.to_array(bias).copy()
    shifts[3] = 5
    bias.CopyFrom(numpy_helper.from_array(shifts, bias.name))
    found = encode(model, table_of(model, [IMAGES[:1]]), encoding="cpu", left_float=("score", "box"))
    found.graph.output.append(onnx.ValueInfoProto(name="point_out"))
    want = quantizable.run(found, IMAGES[:1], ["point_out"])["point_out"]
    if optimised == "onnxruntime":
        session = onnxruntime.InferenceSession(found.SerializeToString(), providers=["CPUExecutionProvider"])
        (given,) = session.run(["point_out"], {"images": IMAGES[:1]})
    else:
        onnx.save(found, tmp_path / "dead.onnx")
        compiled = openvino.Core().compile_model(tmp_path / "dead.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        given = compiled(IMAGES[:1])["point_out"]
    # The dead channel weighs into every output: without its bias the mean error is above 1.
    assert np.abs(given - want).mean() <= 0.02 * np.abs(want).mean() + float(table().ranges["depthwise_out"].amplitude) / 127


def test_weight_scales_are_float32_above_zero_and_make_every_bias_fit_int32():
    weight = np.array([[1.0, -2.0], [0, 0], [1e-12, 0]], np.float32)
    scales = weight_scales(weight, np.array([0.5, 3, -1e4], np.float32), 0.01)
    assert scales.dtype == np.float32
    assert scales[0] == np.float32(2 / 127)
    assert (np.abs([0.5, 3, -1e4]) / (0.01 * scales) < 2**31).all()
    assert (weight_scales(np.zeros((2, 3), np.float32)) > 0).all()


def test_what_the_rules_leave_in_float_has_a_reason_each():
    layers = Network(quantizable.model()).layers()
    for encoding in ("cpu", "cpu-asymmetric"):
        assert set(float_by_rule(layers, encoding)) == set(LEFT)
    left = float_by_rule(layers, "tensorrt")
    assert set(left) == {*LEFT, "stem"}
    assert "seven of the pixels' eight bits" in left["stem"]
    assert "depthwise" in left["depthwise"]
    assert left["score"] == left["box"]


def test_the_share_of_int8_is_by_multiply_accumulates():
    layers = Network(quantizable.model()).layers()
    total = sum(layer.macs for layer in layers)
    assert int8_share(layers, ()) == 1
    assert int8_share(layers, quantizable.LAYERS) == 0
    assert int8_share(layers, ("stem",)) == pytest.approx(1 - quantizable.SIDES["stem"] ** 2 * 8 * 12 * 9 / total)
    assert int8_share([], ()) == 0


def test_a_table_without_a_value_is_refused_by_its_name():
    mine = table()
    ranges = {name: values for name, values in mine.ranges.items() if name != "sum"}
    short = RangeTable(mine.model_sha256, mine.images, mine.method, ranges, mine.means)
    with pytest.raises(DataError, match="the table of ranges has none for sum; calibrate again"):
        encode(quantizable.model(), short, encoding="cpu", left_float=LEFT)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_embedded_detector_is_written_whole_in_each_encoding(street_onnx, encoding):
    """Its real graph with suppression, by the ONNX checker; weights in INT8 are 95 % of the multiply-accumulates."""
    model = onnx.load(street_onnx)
    network = Network(model)
    layers = network.layers()
    ranges = {name: Range(-1, 8, 8.0, -8 / 15, 8.0) for name in network.activations()}
    prints = {"weights": "", "graph": "", "preprocessing": ""}
    left = float_by_rule(layers, encoding)
    found = encode(model, RangeTable(prints, ImageSet("", "", 1), "mse", ranges), encoding=encoding, left_float=left)
    onnx.checker.check_model(found, full_check=True)
    integers = [t for t in found.graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 4]
    assert len(integers) == len(layers) - len(left)
    assert int8_share(layers, left) > (0.8 if encoding == "tensorrt" else 0.95)
