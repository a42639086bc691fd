"""Observers against NumPy's histogram, and observed models against the ONNX reference evaluator."""

from __future__ import annotations

import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from edgedet.calibration.observe import BINS, Observer, observe
from edgedet.calibration.ranges import Histogram
from edgedet.errors import DataError, ExportError

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

SIZE = 12


def arrays(count: int = 6) -> list[np.ndarray]:
    """(2, 3, 16, 20) float32 each, the channels of unlike range, the arrays of growing one."""
    draw = np.random.default_rng(3)
    spread = np.array([0.01, 1, 40], np.float32).reshape(3, 1, 1)
    return [(draw.standard_normal((2, 3, 16, 20)) * spread * 2**index).astype(np.float32) for index in range(count)]


def assert_is_histogram_of(found: Histogram, values: np.ndarray) -> None:
    """Exact: a bin's edges are floats without rounding."""
    reach = 2.0 ** (np.floor(np.log2(np.abs(values).max())) + 1)
    np.testing.assert_array_equal(found.counts, np.histogram(values.astype(np.float64), BINS, range=(-reach, reach))[0])
    assert (found.least, found.greatest, found.reach) == (values.min(), values.max(), reach)


@pytest.mark.parametrize("order", [1, -1])
def test_arrays_one_by_one_give_the_histogram_of_all(order):
    observer = Observer()
    for values in arrays()[::order]:
        observer.update(values)
    assert_is_histogram_of(observer.histogram, np.stack(arrays()))


@pytest.mark.parametrize("order", [1, -1])
def test_each_channel_has_the_histogram_of_its_values(order):
    observer = Observer(axis=1)
    for values in arrays()[::order]:
        observer.update(values)
    for channel, found in enumerate(observer.histograms):
        assert_is_histogram_of(found, np.stack(arrays())[:, :, channel])
    assert_is_histogram_of(observer.histogram, np.stack(arrays()))


def test_zeros_before_the_first_value_stay_counted_at_zero():
    observer = Observer()
    observer.update(np.zeros(100, np.float32))
    assert observer.histogram.counts[BINS // 2] == 100
    observer.update(np.full(10, 1e-4, np.float32))
    observer.update(np.full(10, -1e4, np.float32))
    assert observer.histogram.counts[BINS // 2] == 110
    assert (observer.histogram.least, observer.histogram.greatest) == (-1e4, np.float32(1e-4))


@pytest.mark.parametrize("extreme", [3.4e38, 1.0, 2.0**-99, 1e-45])
def test_every_float32_has_a_bin(extreme):
    values = np.array([extreme, -extreme, np.nextafter(np.float32(extreme), np.float32(0))], np.float32)
    observer = Observer()
    observer.update(values)
    assert observer.histogram.counts.sum() == 3
    assert observer.histogram.peak == np.float32(extreme)


@pytest.mark.parametrize("axis", [None, 1])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_refused_with_the_tensors_name(axis, bad):
    values = arrays(1)[0]
    values[1, 2, 3, 4] = bad
    with pytest.raises(ExportError, match=r"silu_3: the model gives NaN or infinity here .* check its weights"):
        Observer("silu_3", axis=axis).update(values)


def test_nothing_observed_is_refused_and_empty_arrays_are_nothing():
    observer = Observer("silu_3")
    observer.update(np.zeros((1, 0, 4), np.float32))
    with pytest.raises(DataError, match="silu_3: no value was observed; calibrate with at least one image"):
        _ = observer.histogram


def test_channels_that_change_in_number_are_refused():
    observer = Observer("cat", axis=1)
    observer.update(np.ones((1, 3, 2), np.float32))
    with pytest.raises(ExportError, match="cat: has 4 channels now and had 3; observe it as a whole"):
        observer.update(np.ones((1, 4, 2), np.float32))


@pytest.mark.parametrize("axis", [None, 1])
def test_memory_does_not_grow_with_the_arrays(axis):
    """To 64 KiB between 5 and 200 arrays, a tenth of one; tracemalloc sees NumPy's memory."""
    values = np.random.default_rng(0).standard_normal((1, 32, 64, 64)).astype(np.float32)
    observer = Observer(axis=axis)
    tracemalloc.start()
    peaks = []
    for count in (5, 200):
        for _ in range(count):
            observer.update(values)
        peaks.append(tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
    assert peaks[1] <= peaks[0] + 2**16


@pytest.mark.parametrize("axis", [None, 1])
def test_five_million_values_take_less_than_150_ms(axis):
    """The best of five, in time of this thread: about 12 ms where nothing else runs."""
    values = np.random.default_rng(0).standard_normal((1, 64, 280, 280)).astype(np.float32)
    observer = Observer(axis=axis)
    times = []
    for _ in range(5):
        start = time.thread_time()
        observer.update(values)
        times.append(time.thread_time() - start)
    assert min(times) < 0.15


def network(batch: int | str | None = 1, *, tail: str = "Sigmoid", domain: str = "") -> onnx.ModelProto:
    """Pixels → convolution → SiLU, and a further node on its end, which none of these tests asks for."""
    weight = np.random.default_rng(1).standard_normal((4, 3, 3, 3)).astype(np.float32) / 50
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["nchw", "weight"], ["conv"], "conv", strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Sigmoid", ["conv"], ["gate"]),
        helper.make_node("Mul", ["conv", "gate"], ["silu"]),
        helper.make_node(tail, ["silu"], ["out"], "tail", domain=domain),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, [batch, SIZE, SIZE, 3])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "net", [images], [out], [numpy_helper.from_array(weight, "weight")])
    opsets = [helper.make_opsetid("", 19), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def pictures(count: int) -> list[np.ndarray]:
    """Letterboxed inputs, (1, H, W, 3) uint8 each."""
    return list(np.random.default_rng(5).integers(0, 256, (count, 1, SIZE, SIZE, 3), dtype=np.uint8))


def reference(name: str, images: list[np.ndarray]) -> np.ndarray:
    """The values of a tensor for all images by ONNX's own evaluator."""
    from onnx.reference import ReferenceEvaluator

    model = network(None)
    model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return ReferenceEvaluator(model).run([name], {"images": np.concatenate(images)})[0]


def assert_close(found: Histogram, values: np.ndarray) -> None:
    """Extremes to 1e-5 of the peak, and every value in its bin or within that distance of it."""
    near = 1e-5 * found.peak
    assert found.least == pytest.approx(values.min(), abs=near)
    assert found.greatest == pytest.approx(values.max(), abs=near)
    edges = np.linspace(-found.reach, found.reach, BINS + 1)[1:]
    below, ordered = np.cumsum(found.counts), np.sort(values.reshape(-1).astype(np.float64))
    assert below[-1] == values.size
    assert (np.searchsorted(ordered, edges - near) <= below).all()
    assert (below <= np.searchsorted(ordered, edges + near)).all()


@pytest.mark.parametrize("batch", [1, 4, "n"])
def test_tensors_are_observed_over_all_images_whatever_the_batch(batch):
    """Six images in a batch of four: the last two are filled up, and the filling is not counted."""
    images = pictures(6)
    found = observe(network(batch), ["conv", "silu"], iter(images), total=6)
    for name in ("conv", "silu"):
        assert_close(found[name], reference(name, images))


def test_channels_are_observed_where_asked():
    images = pictures(3)
    found = observe(network(), ["conv", "silu"], images, per_channel={"silu"})
    assert isinstance(found["conv"], Histogram)
    assert len(found["silu"]) == 4
    for channel, histogram in enumerate(found["silu"]):
        assert_close(histogram, reference("silu", images)[:, channel])


def test_what_the_tensors_do_not_need_is_not_run():
    """A tail that ONNX Runtime does not know keeps the whole model from loading."""
    model = network(tail="Unheard", domain="nobody")
    assert_close(observe(model, ["silu"], pictures(2))["silu"], reference("silu", pictures(2)))


def test_the_model_stays_as_it_was():
    model = network()
    before = model.SerializeToString()
    observe(model, ["silu"], pictures(1))
    assert model.SerializeToString() == before


def test_a_float_input_is_observed_too():
    images = [picture.astype(np.float32) for picture in pictures(2)]
    model = network()
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
    assert observe(model, ["images", "silu"], images)["images"].greatest == np.max(images)
    assert observe(model, ["images"], images)["images"].counts.sum() == np.size(images)


def test_values_that_a_branch_reads_are_kept():
    def branch(name: str) -> onnx.GraphProto:
        inner = helper.make_node("Identity", [name], ["inner"])
        return helper.make_graph([inner], name, [], [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)])

    model = network()
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    node = helper.make_node("If", ["yes"], ["chosen"], then_branch=branch("silu"), else_branch=branch("conv"))
    model.graph.node.append(node)
    assert_close(observe(model, ["chosen"], pictures(2))["chosen"], reference("silu", pictures(2)))


def test_the_embedded_detector_is_observed_as_it_runs_unoptimised(street_onnx):
    """Counts of every convolution's input against ONNX Runtime without any optimisation: at most 2 in 100 000 differ."""
    import onnxruntime

    model = onnx.load(street_onnx)
    tensors = list(dict.fromkeys(node.input[0] for node in model.graph.node if node.op_type == "Conv"))
    _, height, width, _ = (side.dim_value for side in model.graph.input[0].type.tensor_type.shape.dim)
    images = np.random.default_rng(2).integers(0, 256, (1, height, width, 3), dtype=np.uint8)
    found = observe(model, tensors, [images])
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors)
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    for name, values in zip(tensors, session.run(tensors, {"images": images})):
        want = np.histogram(values, BINS, range=(-found[name].reach, found[name].reach))[0]
        assert np.abs(want - found[name].counts).sum() <= max(2, 2e-5 * values.size)


@pytest.mark.parametrize("kind", ["QuantizeLinear", "DequantizeLinear", "QLinearConv", "ConvInteger"])
def test_a_quantised_model_is_refused(kind):
    model = network(tail=kind)
    with pytest.raises(
        ExportError, match=f"net: is quantised already .*{kind} 'tail'.*calibrate the fp32 file it was made from"
    ):
        observe(model, ["silu"], pictures(1))


def test_an_fp16_model_is_refused():
    model = network()
    model.graph.node.append(helper.make_node("Cast", ["silu"], ["half"], to=TensorProto.FLOAT16))
    with pytest.raises(ExportError, match=r"half is tensor\(float16\); only float32 has a range: calibrate the fp32 file"):
        observe(model, ["half"], pictures(1))


def test_an_unknown_tensor_is_refused():
    with pytest.raises(ExportError, match="net: computes no tensor 'mish'; name outputs of its nodes"):
        observe(network(), ["silu", "mish"], pictures(1))


def test_a_graph_that_onnxruntime_refuses_is_refused():
    with pytest.raises(ExportError, match=r"net: ONNX Runtime cannot load it .*Unheard.*; export it again"):
        observe(network(tail="Unheard", domain="nobody"), ["out"], pictures(1))


def test_a_model_of_two_inputs_is_refused():
    model = network()
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))
    with pytest.raises(ExportError, match="net: takes more beside images; only models of one input can be calibrated"):
        observe(model, ["silu"], pictures(1))


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((1, SIZE, SIZE + 1, 3), np.uint8),
        np.zeros((SIZE, SIZE, 3), np.uint8),
        np.zeros((2, SIZE, SIZE, 3), np.uint8),
        np.zeros((1, SIZE, SIZE, 3), np.float32),
    ],
)
def test_an_image_of_another_form_is_refused(image):
    with pytest.raises(DataError, match=r"an image is \(.*\) \w+; the model takes \(1, 12, 12, 3\) uint8: letterbox it"):
        observe(network(), ["silu"], [image])


def test_no_images_are_refused():
    with pytest.raises(DataError, match="silu: no value was observed; calibrate with at least one image"):
        observe(network(), ["silu"], [])


@pytest.mark.slow
def test_five_hundred_images_take_no_more_memory_than_fifty(street_onnx: Path):
    """Peak memory of two processes, to 2 %."""
    program = """
import resource, sys
import numpy as np, onnx
from edgedet.calibration.observe import observe
model = onnx.load(sys.argv[1])
tensors = list(dict.fromkeys(node.input[0] for node in model.graph.node if node.op_type == "Conv"))
shape = [side.dim_value for side in model.graph.input[0].type.tensor_type.shape.dim]
draw = np.random.default_rng(0)
count = int(sys.argv[2])
observe(model, tensors, (draw.integers(0, 256, shape, dtype=np.uint8) for _ in range(count)))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    few, many = (
        int(subprocess.run([sys.executable, "-c", program, street_onnx, count], capture_output=True, check=True).stdout)
        for count in ("50", "500")
    )
    assert many <= 1.02 * few
