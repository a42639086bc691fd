"""Plans of TensorRT-RTX, compiled here without a GPU: what is in them, what is refused, and that nothing half-made is left.

The reference for what a plan holds is the ONNX file, read here by the type of each convolution's weights; for the
errors it is TensorRT itself, which refuses each graph when it is asked directly.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import types
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed; pip install -e '.[dev]'")
import qdq_graphs
import quantizable

from edgedet import artifact, engine
from edgedet.calibration.encode import encode, float_by_rule
from edgedet.calibration.network import Network
from edgedet.calibration.observe import observe
from edgedet.calibration.table import ImageSet, Range, RangeTable, fingerprints
from edgedet.errors import ExportError, GateFailed, RuntimeUnavailable, UsageError
from edgedet.export import onnx_file, typed_layers
from edgedet.export.to_fp16 import to_fp16
from edgedet.export.to_tensorrt import BuildOptions, Compiler, to_tensorrt

AMPERE = BuildOptions(targets=("SM86",))
CONVOLUTIONS = len(quantizable.LAYERS)


@cache
def left_float() -> dict[str, str]:
    return float_by_rule(Network(quantizable.model()).layers(), "tensorrt")


@cache
def table() -> RangeTable:
    model, images = quantizable.model(), [frame[None] for frame in quantizable.frames(4)]
    ranges = {name: Range.of(one, "minmax") for name, one in observe(model, Network(model).activations(), images).items()}
    return RangeTable(fingerprints(model, quantizable.spec()), ImageSet("frames", "0" * 64, 4), "minmax", ranges, {})


def written(folder: Path, precision: str, *, listed: dict[str, str] | None = None, batch: int | None = 1) -> Path:
    """The small detector as a typed ONNX file; listed: the layers that its spec says are left in float."""
    base = quantizable.model(batch=batch)
    spec = quantizable.spec(batch=batch)
    path = onnx_file.write(folder / f"{precision}.onnx", base, spec)
    if precision.startswith("int8"):
        found = encode(base, table(), encoding="tensorrt", left_float=left_float())
        spec = replace(spec, precision="int8", encoding="tensorrt")
        spec = spec.with_provenance(calibration={"left_float": left_float() if listed is None else listed})
        path = onnx_file.write(folder / "int8.onnx", found, spec)
    return to_fp16(path, folder / f"{precision}.onnx") if precision.endswith("fp16") else path


def foreign(folder: Path, model: onnx.ModelProto) -> Path:
    """A graph of the tests with a spec, so that the compiler takes it; not written by onnx_file, which would refuse some."""
    model.metadata_props.add(key="edgedet.spec", value=quantizable.spec().to_json())
    onnx.save(model, folder / "graph.onnx")
    return folder / "graph.onnx"


@pytest.mark.parametrize(
    ("precision", "expected"),
    [
        ("fp32", {"f32": CONVOLUTIONS}),
        ("fp16", {"f16": CONVOLUTIONS}),
        ("int8", {"int8": CONVOLUTIONS - 4, "f32": 4}),
        ("int8+fp16", {"int8": CONVOLUTIONS - 4, "f16": 4}),
    ],
)
def test_every_layer_is_built_in_the_precision_asked_for(tmp_path, precision, expected):
    source, target = written(tmp_path, precision), tmp_path / "model.engine"
    facts = to_tensorrt(source, target, AMPERE)
    assert set(left_float()) == {"stem", "depthwise", "score", "box"}  # the four that stay in float
    assert Counter(layer.built for layer in facts.layers) == expected
    assert {layer.name for layer in facts.layers} == set(quantizable.LAYERS)
    assert {layer.name for layer in facts.layers if layer.reason} == (set(left_float()) if "int8" in precision else set())
    assert target.stat().st_size > 100_000
    assert facts.spec.precision == precision


def test_int8_and_fp16_weights_take_the_memory_that_their_types_say(tmp_path):
    """One byte, two, four a weight; the builder adds biases, constants and padding of its own, 20 kB at most here."""
    weights = {name: value.size for name, value in quantizable.weights().items()}
    bytes_of = {p: to_tensorrt(written(tmp_path, p), tmp_path / "m.engine", AMPERE).weights_bytes for p in ("fp32", "fp16")}
    total = sum(weights.values())
    assert 0 <= bytes_of["fp32"] - 4 * total <= 20_000
    assert 0 <= bytes_of["fp16"] - 2 * total <= 20_000


def test_the_sidecar_tells_what_the_plan_was_compiled_from_and_that_it_did_not_run(tmp_path):
    source, target = written(tmp_path, "fp32"), tmp_path / "model.engine"
    facts = to_tensorrt(source, target, BuildOptions(targets=("SM86", "SM89"), workspace_mib=64))
    assert facts == engine.read_facts(target)
    assert facts.onnx_sha256 == artifact.sha256(source)
    assert facts.compute_capabilities == ("SM86", "SM89")
    assert (facts.flavour, facts.version) == ("tensorrt_rtx", __import__("tensorrt_rtx").__version__)
    assert (facts.state, facts.device, facts.workspace_mib) == ("compiled, not run here", None, 64)
    assert not target.read_bytes().startswith(b"{")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fp32.onnx", "model.engine", "model.engine.json"]


def test_a_free_batch_gets_a_profile(tmp_path):
    facts = to_tensorrt(written(tmp_path, "fp16", batch=None), tmp_path / "m.engine", replace(AMPERE, batch=(1, 2, 8)))
    assert facts.batches == (1, 2, 8)


def test_progress_reaches_its_end_and_never_goes_back(tmp_path):
    told: list[tuple[str, int, int]] = []
    to_tensorrt(written(tmp_path, "fp32"), tmp_path / "m.engine", AMPERE, progress=lambda *step: told.append(step))
    done = [step for _, step, _ in told]
    assert done == sorted(done)
    assert told[-1][1] == told[-1][2] > 1


def test_a_layer_in_float_that_nothing_lists_is_an_error_that_names_it(tmp_path):
    source = written(tmp_path, "int8", listed={k: v for k, v in left_float().items() if k != "stem"})
    with pytest.raises(GateFailed, match=r"m\.engine is not written: 1 of 8 layers are wider .*: stem is f32 instead of int8"):
        to_tensorrt(source, tmp_path / "m.engine", AMPERE)
    assert [path.name for path in tmp_path.iterdir() if "engine" in path.name] == []


def test_what_the_builder_made_wider_is_an_error_that_names_it():
    """Scales by channel make TensorRT-RTX run the convolution in float, as docs/decisions/0005 found."""
    model = qdq_graphs.built(qdq_graphs.per_channel_activation)
    (layer,) = typed_layers.layers(model, replace(quantizable.spec(), precision="int8", encoding="tensorrt"))
    assert (layer.asked, layer.written) == ("int8", "int8")
    with pytest.raises(GateFailed, match=r"1 of 1 layers are wider than asked for: .* is f32 instead of int8"):
        typed_layers.compared([layer], {layer.node: "f32"}, where="m.engine")


def test_a_convolution_that_tensorrt_runs_in_float_is_found_in_its_plan(tmp_path):
    path = foreign(tmp_path, qdq_graphs.built(qdq_graphs.per_channel_activation))
    model, spec = onnx_file.read(path)
    model.metadata_props[0].value = replace(spec, precision="int8", encoding="tensorrt").to_json()
    onnx.save(model, path)
    with pytest.raises(GateFailed, match="is f32 instead of int8"):
        to_tensorrt(path, tmp_path / "m.engine", AMPERE)


def nonzero(g: qdq_graphs.Graph) -> str:
    return g.add("Cast", g.add("NonZero", "rows"), to=onnx.TensorProto.FLOAT)


def efficient_nms(g: qdq_graphs.Graph) -> str:
    numbers = {"score_threshold": 0.1, "iou_threshold": 0.5, "max_output_boxes": 10, "background_class": -1}
    return g.add("EfficientNMS_TRT", "boxes", "rows", outputs=2, plugin_version="1", **numbers)


def suppression(g: qdq_graphs.Graph) -> str:
    scores = g.add("Unsqueeze", g.add("ReduceMax", "boxes", g.constant(np.int64([2])), keepdims=0), g.constant(np.int64([1])))
    limits = [g.constant(value) for value in (np.int64([10]), np.float32([0.5]), np.float32([0]))]
    return g.add("Cast", g.add("NonMaxSuppression", "boxes", scores, *limits), to=onnx.TensorProto.FLOAT)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (qdq_graphs.TENSORRT["zero-point"][0], r"\(QuantizeLinear\): TensorRT takes only Q/DQ with zero-point 0; calibrate"),
        (qdq_graphs.TENSORRT["int32-dequantized"][0], r"\(DequantizeLinear\): TensorRT takes no int32 bias"),
        (qdq_graphs.TENSORRT["uint8-not-cast"][0], r"transpose0 \(Transpose\): .* only Cast may read it; put the Cast first"),
        (qdq_graphs.TENSORRT["topk-too-long"][0], r"topk0 \(TopK\): TensorRT's TopK takes 3840 at most"),
        (nonzero, r"nonzero0 \(NonZero\): it is a plugin that this TensorRT does not bring"),
        (efficient_nms, r"efficientnms_trt0 \(EfficientNMS_TRT\): it is a plugin .*--nms matrix"),
        (suppression, r"\(NonMaxSuppression\): TensorRT-RTX reads NonMaxSuppression but cannot build it; .*--nms matrix"),
    ],
)
def test_what_tensorrt_refuses_is_told_with_node_operator_reason_and_remedy(tmp_path, build, words):
    with pytest.raises(ExportError, match=words) as raised:
        to_tensorrt(foreign(tmp_path, qdq_graphs.built(build)), tmp_path / "m.engine", AMPERE)
    assert "\n" not in str(raised.value)
    assert "_src/" not in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["graph.onnx"]


@pytest.mark.parametrize(
    ("options", "batch", "words"),
    [
        (AMPERE, None, r"its batch is free, .* give --batch MIN,OPT,MAX"),
        (replace(AMPERE, batch=(1, 2, 8)), 1, r"its batch is 1, but --batch 1,2,8 is for a free one"),
        (BuildOptions(targets=("SM87",)), 1, r"--targets SM87: TensorRT-RTX .* compiles ahead of time for SM75, SM80"),
        (replace(AMPERE, dla=0), 1, r"--dla: fp32\.onnx is fp32, and a DLA computes in float16 and int8 alone"),
    ],
)
def test_an_option_that_does_not_fit_is_refused_before_the_build(tmp_path, options, batch, words):
    with pytest.raises(UsageError, match=words):
        to_tensorrt(written(tmp_path, "fp32", batch=batch), tmp_path / "m.engine", options)
    assert [path.name for path in tmp_path.iterdir()] == ["fp32.onnx"]


def test_a_plan_is_named_as_one(tmp_path):
    with pytest.raises(ExportError, match=r"name it model\.engine"):
        to_tensorrt(written(tmp_path, "fp32"), tmp_path / "model.onnx", AMPERE)


def test_the_full_tensorrt_is_asked_for_by_name(tmp_path):
    with pytest.raises(RuntimeUnavailable, match=r"tensorrt cannot be imported .*JetPack"):
        to_tensorrt(written(tmp_path, "fp32"), tmp_path / "m.engine", BuildOptions(flavour="tensorrt"))


INTERRUPTED = """
import sys
from pathlib import Path
from edgedet.export.to_tensorrt import BuildOptions, to_tensorrt
def progress(*step):
    print("building", flush=True)
to_tensorrt(Path(sys.argv[1]), Path(sys.argv[2]), BuildOptions(targets=("SM86",)), progress=progress)
"""


def test_an_interrupted_build_ends_orderly_and_leaves_nothing(tmp_path):
    """Not by a crash: an exception in a callback of the C++ builder would be SIGABRT, −6."""
    source = written(tmp_path, "int8")
    command = [sys.executable, "-c", INTERRUPTED, str(source), str(tmp_path / "m.engine")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        child.stdout.readline()  # the builder is at work
        child.send_signal(signal.SIGINT)
        started = time.monotonic()
        _, errors = child.communicate(timeout=60)
    assert child.returncode == -signal.SIGINT, errors
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert time.monotonic() - started < 30
    assert [path.name for path in tmp_path.iterdir()] == ["int8.onnx"]


@pytest.fixture
def jetson(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module `tensorrt` without what TensorRT-RTX alone has, on a GPU of compute capability 8.7.

    It shows that the path for TensorRT proper holds together. TensorRT-RTX compiles underneath: nothing is learnt of a Jetson.
    """
    rtx = sys.modules["tensorrt_rtx"]
    names = [name for name in dir(rtx) if not name.startswith("__") and name not in ("ComputeCapability", "IRuntimeCache")]
    proper = types.ModuleType("tensorrt")
    vars(proper).update({name: getattr(rtx, name) for name in names}, __version__="10.3.0")
    monkeypatch.setitem(sys.modules, "tensorrt", proper)
    monkeypatch.setattr("edgedet.export.to_tensorrt._device", lambda name: ("Orin (nvgpu)", "SM87"))


@pytest.mark.filterwarnings("ignore:Use Deprecated")
def test_tensorrt_proper_compiles_for_its_own_gpu_and_keeps_its_timings(jetson, tmp_path):
    cache = tmp_path / "timing.cache"
    cache.write_bytes(b"of another TensorRT")  # begun anew
    facts = to_tensorrt(written(tmp_path, "int8"), tmp_path / "m.engine", BuildOptions(timing_cache=cache))
    assert (facts.flavour, facts.version) == ("tensorrt", "10.3.0")
    assert (facts.device, facts.compute_capabilities) == ("Orin (nvgpu)", ("SM87",))
    assert cache.read_bytes() != b"of another TensorRT"
    again = to_tensorrt(written(tmp_path, "int8"), tmp_path / "m.engine", BuildOptions(timing_cache=cache))
    assert again.layers == facts.layers


def test_a_dla_takes_no_free_batch(tmp_path):
    with pytest.raises(UsageError, match=r"--dla: the batch of fp16\.onnx is free"):
        to_tensorrt(written(tmp_path, "fp16", batch=None), tmp_path / "m.engine", replace(AMPERE, batch=(1, 2, 4), dla=0))


def test_a_convolution_that_a_dla_does_not_take_is_an_error_and_no_word_in_a_log(jetson, tmp_path):
    """TensorRT-RTX, which has no DLA, says of every layer that none takes it."""
    compiler = Compiler(BuildOptions(flavour="tensorrt"))
    source = written(tmp_path, "fp16")
    compiler.options = replace(compiler.options, dla=0)
    with pytest.raises(ExportError, match=r"8 convolutions cannot run on a DLA: node_stem, .* and 3 more; leave --dla out"):
        compiler.build(source, onnx_file.read(source)[0])


def test_a_dla_core_that_is_not_there_is_refused_on_tensorrt_proper(jetson, tmp_path):
    with pytest.raises(UsageError, match=r"--dla 1: TensorRT 10\.3\.0 finds no DLA here"):
        to_tensorrt(written(tmp_path, "fp16"), tmp_path / "m.engine", BuildOptions(dla=1))
