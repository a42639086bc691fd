"""The gate of every export: a file whose candidates are right but whose detections are not does not pass."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from edgedet.errors import GateFailed  # noqa: E402
from edgedet.export import onnx_file  # noqa: E402
from edgedet.export.graph import ExportGraph  # noqa: E402
from edgedet.export.to_fp16 import to_fp16  # noqa: E402
from edgedet.export.to_onnx import to_onnx  # noqa: E402
from edgedet.models import checkpoint, yolox  # noqa: E402
from edgedet.runtimes import run_onnxruntime, selfcheck  # noqa: E402
from edgedet.runtimes.run_torch import TorchSession  # noqa: E402
from edgedet.runtimes.session import Options  # noqa: E402


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[TorchSession, dict[str, Path]]:
    """PyTorch, and its files by precision, of a random network that sees something everywhere; 64x96 pixels."""
    torch.manual_seed(0)
    detector = yolox.build("nano", 2)
    with torch.no_grad():
        for prediction in (*detector.head.cls_preds, *detector.head.obj_preds):
            prediction.bias.fill_(0.5)
            prediction.weight.mul_(20)
    spec = replace(checkpoint.describe(detector, ("cat", "dog"), size_hw=(64, 96)), batch=1)
    folder = tmp_path_factory.mktemp("selfcheck")
    fp32 = to_onnx(detector, spec, folder / "fp32.onnx")
    reference = TorchSession(ExportGraph(detector, replace(spec, batch=None)), outputs="candidates")
    return reference, {"fp32": fp32, "fp16": to_fp16(fp32, folder / "fp16.onnx")}


def with_output(path: Path, name: str, operator: str, *constants: float) -> Path:
    """A copy of the file with an operator put behind one of its outputs."""
    model, spec = onnx_file.read(path)
    for node in model.graph.node:
        for i, output in enumerate(node.output):
            if output == name:
                node.output[i] = "whole"
    inputs = [f"broken_{i}" for i in range(len(constants))]
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.float32(value), key) for key, value in zip(inputs, constants, strict=True)
    )
    model.graph.node.append(onnx.helper.make_node(operator, ["whole", *inputs], [name]))
    return onnx_file.write(path.with_name(f"broken-{path.name}"), model, spec)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_sound_file_agrees_with_itself_and_with_pytorch(exported, precision: str):
    reference, files = exported
    agreement = selfcheck.check(reference, files[precision], runtime="onnxruntime")
    assert agreement.detections > 20
    assert agreement.consistent == 1
    assert agreement.final_box_error_px < 0.1


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(
    ("name", "operator", "constants"),
    [("boxes", "Mul", [0.0]), ("boxes", "Add", [2.0]), ("scores", "Sqrt", []), ("scores", "Mul", [float("nan")])],
)
def test_a_broken_final_output_is_refused(
    exported: tuple[TorchSession, dict[str, Path]], precision: str, name: str, operator: str, constants: list[float]
):
    reference, files = exported
    with pytest.raises(GateFailed, match="not written"):
        selfcheck.check(reference, with_output(files[precision], name, operator, *constants), runtime="onnxruntime")


def test_a_shift_too_small_for_the_fp16_gate_is_still_no_work_of_its_own_candidates(
    exported: tuple[TorchSession, dict[str, Path]],
):
    """Half a pixel is within FP16's limit of 1 px against PyTorch."""
    reference, files = exported
    broken = with_output(files["fp16"], "boxes", "Add", 0.5)
    with pytest.raises(GateFailed, match="its own candidates"):
        selfcheck.check(reference, broken, runtime="onnxruntime")


def test_the_pairs_are_held_to_pytorch_too(exported: tuple[TorchSession, dict[str, Path]], monkeypatch: pytest.MonkeyPatch):
    """Were the candidates no witness, the error of the pairs would still tell."""
    reference, files = exported
    monkeypatch.setattr(selfcheck, "CONSISTENT", 0.0)
    with pytest.raises(GateFailed, match="final_box_error_px"):
        selfcheck.check(reference, with_output(files["fp32"], "boxes", "Add", 0.5), runtime="onnxruntime")


def test_an_fp16_file_says_what_it_runs_in(exported: tuple[TorchSession, dict[str, Path]], tmp_path: Path):
    """ONNX Runtime's own optimised graph tells: what the weights of its convolutions are in is what it computes in."""
    onnxruntime = pytest.importorskip("onnxruntime")
    from edgedet.runtimes import run_onnxruntime
    from edgedet.runtimes.session import Options

    path = exported[1]["fp16"]
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    graph = onnx.load(tmp_path / "optimised.onnx").graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    weights = {types[node.input[1]] for node in graph.node if "Conv" in node.op_type}
    session = run_onnxruntime.open(path, Options(device="cpu"))
    assert (session.facts["precision"] == "f32") == (weights == {onnx.TensorProto.FLOAT})
    session.close()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_plan_is_held_to_the_file_it_was_compiled_from(exported, precision: str):
    _, files = exported
    with opened(files["fp32"]) as reference, opened(files[precision]) as other:
        assert selfcheck.compare(reference, other, name="plan") > 20


@pytest.mark.parametrize(
    ("operator", "constants"),
    [("Add", (2.0,)), ("Mul", (float("nan"),)), ("Mul", (0.0,))],
    ids=["moved", "no numbers", "boxes of nothing"],
)
def test_a_plan_that_finds_something_else_is_refused(exported, operator: str, constants: tuple[float, ...]):
    _, files = exported
    broken = with_output(files["fp32"], "boxes", operator, *constants)
    with opened(files["fp32"]) as reference, opened(broken) as other, pytest.raises(GateFailed, match="plan is not written"):
        selfcheck.compare(reference, other, name="plan")


def test_a_plan_that_finds_nothing_is_refused(exported):
    _, files = exported
    with opened(files["fp32"]) as reference, opened(files["fp32"]) as other:
        found = other.infer
        other.infer = lambda images: {
            name: np.full_like(array, -1 if name == "labels" else 0) for name, array in found(images).items()
        }
        with pytest.raises(GateFailed, match=r"detections are its own or its ONNX file's alone, 0 are both's"):
            selfcheck.compare(reference, other, name="plan")


def opened(path: Path):
    return closing(run_onnxruntime.open(path, Options(device="cpu")))


def test_images_that_are_given_stand_for_the_drawn_ones(exported, monkeypatch: pytest.MonkeyPatch):
    """INT8 is compared on what it was calibrated on."""
    reference, files = exported
    images = selfcheck.pictures(reference.spec.size_hw, 5)
    monkeypatch.setattr(selfcheck, "pictures", lambda size_hw, count: 1 / 0)
    agreement = selfcheck.check(reference, files["fp32"], runtime="onnxruntime", images=images)
    assert agreement.pictures == 5
    assert agreement.detections > 30
