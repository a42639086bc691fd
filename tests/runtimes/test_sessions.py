"""Sessions of ONNX Runtime and OpenVINO: the contract's outputs, and one clear refusal of what cannot serve."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgedet.errors import ArtifactError, RuntimeUnavailable, SpecError, UsageError
from edgedet.runtimes import run_onnxruntime, run_openvino
from edgedet.runtimes.detector import open_session
from edgedet.runtimes.machine import usable_cores
from edgedet.runtimes.session import Options
from edgedet.spec import CANDIDATES, FINAL, KEY, ModelSpec

RUNTIMES = ["onnxruntime", "openvino"]


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_outputs_have_the_contracts_names_shapes_and_types(bright_onnx: Path, images: np.ndarray, runtime: str) -> None:
    session = open_session(bright_onnx, runtime=runtime)
    found = session.infer(images)
    assert {name: (value.shape, value.dtype.name) for name, value in found.items()} == {
        "boxes": ((1, 4, 4), "float32"),
        "scores": ((1, 4), "float32"),
        "labels": ((1, 4), "int32"),
    }
    np.testing.assert_allclose(np.sort(session.submit(images).result()["scores"]), np.sort(found["scores"]), atol=1e-6)
    assert session.facts["device"] == "cpu"
    session.close()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_candidates_come_with_the_final_outputs_when_asked_for(bright_onnx: Path, images: np.ndarray, runtime: str) -> None:
    """Scores to 1e-6 of the cell means, computed here."""
    session = open_session(bright_onnx, runtime=runtime, options=Options(outputs="candidates"))
    found = session.infer(images)
    session.close()
    assert set(found) == {*FINAL, *CANDIDATES}
    means = images[0].reshape(4, 16, 4, 16, 3).mean(axis=(1, 3, 4)).ravel() / 255
    np.testing.assert_allclose(found["candidate_scores"][0], means, atol=1e-6)
    assert found["candidate_boxes"].shape == (1, 16, 4)
    assert found["candidate_labels"].dtype == np.int32


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_answers_are_the_callers_own_and_no_later_request_changes_them(
    bright_onnx: Path, images: np.ndarray, runtime: str
) -> None:
    session = open_session(bright_onnx, runtime=runtime)
    first = session.infer(images)
    kept = {name: value.copy() for name, value in first.items()}
    session.infer(255 - images)
    session.close()
    for name in FINAL:
        np.testing.assert_array_equal(first[name], kept[name])


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("shape", [(1, 32, 64, 3), (1, 64, 64, 4), (64, 64, 3), (2, 64, 64, 3), (0, 64, 64, 3)])
def test_images_of_another_shape_are_refused(bright_onnx: Path, runtime: str, shape: tuple[int, ...]) -> None:
    session = open_session(bright_onnx, runtime=runtime)
    with pytest.raises(UsageError, match=r"but got"):
        session.infer(np.zeros(shape, np.uint8))
    session.close()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_an_onnx_file_without_our_spec_says_how_to_make_one(write_bright_cells: Callable[..., Path], runtime: str) -> None:
    with pytest.raises(SpecError, match=r"holds no edgedet spec.*edgedet export"):
        open_session(write_bright_cells(with_spec=False), runtime=runtime)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_spec_that_contradicts_the_file_is_refused(bright_onnx: Path, tmp_path: Path, runtime: str) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(str(bright_onnx))
    spec = ModelSpec.from_json(model.metadata_props[0].value, where="test")
    model.metadata_props[0].value = replace(spec, size_hw=(96, 64)).to_json()
    onnx.save(model, str(tmp_path / "altered.onnx"))
    with pytest.raises(SpecError, match=r"input is \(1, 64, 64, 3\) but its spec says \(1, 96, 64, 3\)"):
        open_session(tmp_path / "altered.onnx", runtime=runtime)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("outputs", ["final", "candidates"])
@pytest.mark.parametrize("keep", [3, 0.3, 0.9])
def test_a_truncated_onnx_file_is_named(bright_onnx: Path, tmp_path: Path, runtime: str, outputs: str, keep: float) -> None:
    data = bright_onnx.read_bytes()
    path = tmp_path / "cut.onnx"
    path.write_bytes(data[: int(keep if keep > 1 else keep * len(data))])
    with pytest.raises(ArtifactError, match=r"cut.onnx.*truncated"):
        open_session(path, runtime=runtime, options=Options(outputs=outputs))


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("content", [b"", b"hello, I am no model\n" * 9, bytes(range(256)) * 9])
def test_what_is_no_onnx_file_is_named(tmp_path: Path, runtime: str, content: bytes) -> None:
    path = tmp_path / "other.onnx"
    path.write_bytes(content)
    with pytest.raises((ArtifactError, SpecError), match=r"other.onnx"):
        open_session(path, runtime=runtime)


def test_an_openvino_model_without_its_weights_is_refused(bright_xml: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(bright_xml, tmp_path))
    with pytest.raises(ArtifactError, match=r"weights .*\.bin are not beside it"):
        open_session(path)
    path.with_suffix(".bin").write_bytes(bright_xml.with_suffix(".bin").read_bytes()[:100])
    with pytest.raises(ArtifactError, match=r"is truncated: 100 bytes of \d+"):
        open_session(path)


@pytest.mark.parametrize("keep", [0, 40, 0.5, 0.99])
def test_a_truncated_openvino_file_is_named_and_said_once(
    bright_xml: Path, tmp_path: Path, keep: float, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cut.xml"
    data = bright_xml.read_bytes()
    path.write_bytes(data[: int(keep if keep > 1 else keep * len(data))])
    with pytest.raises(ArtifactError, match=r"cut.xml: not a whole OpenVINO model"):
        open_session(path)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_device_that_is_not_there_is_an_error_and_never_a_fall_back(
    bright_onnx: Path, runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = {"onnxruntime": run_onnxruntime, "openvino": run_openvino}[runtime]
    if "gpu" in module.devices():
        pytest.skip("a GPU is present")
    with pytest.raises(RuntimeUnavailable, match=r"'gpu' was asked for.*--device cpu"):
        open_session(bright_onnx, runtime=runtime, options=Options(device="gpu"))


@pytest.mark.parametrize(("device", "index"), [("auto", "0"), ("gpu", "0"), ("cuda:1", "1")])
def test_onnxruntime_takes_the_gpu_in_full_float32(monkeypatch: pytest.MonkeyPatch, device: str, index: str) -> None:
    """No GPU is needed: only what is asked of ONNX Runtime is looked at."""
    monkeypatch.setattr(run_onnxruntime, "devices", lambda: ["cpu", "gpu"])
    (name, settings), fallback = run_onnxruntime._providers(Options(device=device))
    assert name == "CUDAExecutionProvider"
    assert settings == {"device_id": index, "use_tf32": "0"}
    assert fallback == "CPUExecutionProvider"
    assert run_onnxruntime._providers(Options(device="cpu")) == ["CPUExecutionProvider"]


def test_an_unknown_device_lists_the_known_ones(bright_onnx: Path) -> None:
    with pytest.raises(UsageError, match=r"no device 'tpu'; use auto, cpu"):
        open_session(bright_onnx, options=Options(device="tpu"))
    with pytest.raises(RuntimeUnavailable, match=r"'tpu' was asked for but OpenVINO finds"):
        open_session(bright_onnx, runtime="openvino", options=Options(device="tpu"))


def test_onnxruntime_refuses_a_precision_that_is_not_in_the_file(bright_onnx: Path) -> None:
    with pytest.raises(UsageError, match=r"no bf16 mode"):
        open_session(bright_onnx, options=Options(inference_precision="bf16"))


@pytest.mark.parametrize("precision", ["f32", "bf16", "f16"])
def test_openvino_runs_in_the_precision_asked_for_or_refuses(bright_onnx: Path, precision: str) -> None:
    """Its own default is bf16 where the CPU has it, and it takes bf16 for f16 without a word."""
    import openvino

    native = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    options = Options(inference_precision=precision)
    if {"f32": "FP32", "bf16": "BF16", "f16": "FP16"}[precision] in native:
        session = open_session(bright_onnx, runtime="openvino", options=options)
        assert session.facts["precision"] == precision
        session.close()
    else:
        with pytest.raises(RuntimeUnavailable, match=f"{precision} was asked for but OpenVINO on this cpu runs"):
            open_session(bright_onnx, runtime="openvino", options=options)


def test_openvino_keeps_compiled_models_in_the_cache(bright_onnx: Path, tmp_path: Path) -> None:
    open_session(bright_onnx, runtime="openvino", options=Options(cache=tmp_path / "cache")).close()
    assert list((tmp_path / "cache").iterdir())


def test_graph_optimization_can_be_switched_off_where_the_runtime_can(bright_onnx: Path, images: np.ndarray) -> None:
    plain, optimized = (open_session(bright_onnx, options=Options(graph_optimization=level)) for level in ("off", "default"))
    np.testing.assert_allclose(plain.infer(images)["scores"], optimized.infer(images)["scores"], atol=1e-6)
    plain.close()
    optimized.close()
    with pytest.raises(UsageError, match="always optimises"):
        open_session(bright_onnx, runtime="openvino", options=Options(graph_optimization="off"))


def test_throughput_keeps_every_core_busy_in_onnxruntime(bright_onnx: Path) -> None:
    session = open_session(bright_onnx, options=Options(performance="throughput"))
    assert session.slots == usable_cores()
    session.close()


@pytest.mark.parametrize("needed", [True, False])
def test_the_host_suppresses_as_the_graph_does(needed: bool) -> None:
    """20 crowded scenes of 300 boxes against the exported operators; boxes and scores exactly, labels too."""
    torch = pytest.importorskip("torch")
    from edgedet.export import suppression
    from edgedet.models.base import Candidates
    from edgedet.runtimes.detector import suppress_candidates
    from edgedet.spec import Suppression

    rule = Suppression(mode="matrix", iou_threshold=0.5, min_score=0.2, candidates=200, max_detections=50, needed=needed)
    for seed in range(20):
        random = np.random.default_rng(seed)
        corners = random.uniform(0, 200, (300, 2))
        boxes = np.float32(np.concatenate([corners, corners + random.uniform(10, 60, (300, 2))], axis=1))
        scores, labels = (
            random.permutation(np.linspace(0.01, 0.99, 300, dtype=np.float32)),
            random.integers(0, 3, 300, np.int32),
        )
        tensors = Candidates(*(torch.from_numpy(value)[None] for value in (boxes, scores, labels)))
        expected = [value[0].numpy() for value in suppression.suppress(tensors, rule, num_classes=3)]
        used = expected[2] >= 0
        for mine, graphs in zip(suppress_candidates(boxes, scores, labels, rule), expected, strict=True):
            np.testing.assert_array_equal(mine, graphs[used])


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_first_inferences_of_a_process_may_come_from_several_threads_at_once(bright_onnx: Path, runtime: str) -> None:
    """OpenVINO 2026.4 by itself hangs here in ten runs of ten: its binding makes a table while it hands the GIL over."""
    code = f"""
import sys, threading, time
import numpy as np
from pathlib import Path
from edgedet.runtimes.detector import open_session
from edgedet.runtimes.session import Options
session = open_session(Path({str(bright_onnx)!r}), runtime={runtime!r}, options=Options(performance="throughput"))
images, go, found = np.zeros((1, 64, 64, 3), np.uint8), False, []
def first() -> None:
    while not go:
        pass
    found.append(session.infer(images))
sys.setswitchinterval(1e-6)
threads = [threading.Thread(target=first, daemon=True) for _ in range(4)]
for thread in threads:
    thread.start()
time.sleep(0.05)
go = True
for thread in threads:
    thread.join()
print(len(found))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "4\n"


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_session_closes_twice_and_then_says_that_it_is_closed(bright_onnx: Path, images: np.ndarray, runtime: str) -> None:
    session = open_session(bright_onnx, runtime=runtime)
    session.close()
    session.close()
    for ask in (session.infer, session.submit):
        with pytest.raises(UsageError, match="closed"):
            ask(images)


def _altered(path: Path, old: bytes, new: bytes, folder: Path) -> Path:
    """A copy of a model file, and of its weights, with some bytes replaced by as many others."""
    content = path.read_bytes()
    assert old in content
    assert len(old) == len(new)
    if path.suffix == ".xml":
        shutil.copy(path.with_suffix(".bin"), folder)
    changed = folder / path.name
    changed.write_bytes(content.replace(old, new))
    return changed


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_an_output_of_another_name_than_the_spec_promises_is_refused(bright_onnx: Path, tmp_path: Path, runtime: str) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(bright_onnx)
    for node in model.graph.node:
        node.output[:] = ["renamed" if name == "scores" else name for name in node.output]
    next(output for output in model.graph.output if output.name == "scores").name = "renamed"
    onnx.save(model, tmp_path / "renamed.onnx")
    with pytest.raises(SpecError, match=r"renamed.onnx: has no output scores, only boxes, renamed, labels"):
        open_session(tmp_path / "renamed.onnx", runtime=runtime)


@pytest.mark.parametrize("form", ["bright_onnx", "bright_xml"])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_spec_with_a_byte_that_is_no_text_is_refused(
    request: pytest.FixtureRequest, tmp_path: Path, form: str, runtime: str
) -> None:
    path = request.getfixturevalue(form)
    if runtime == "onnxruntime" and path.suffix == ".xml":
        pytest.skip("no file of ONNX Runtime's")
    with pytest.raises((ArtifactError, SpecError), match="bright-cells"):
        open_session(_altered(path, b"letterbox_fill", b"letterbox_\xffill", tmp_path), runtime=runtime)


def test_the_key_of_the_spec_is_the_same_in_every_format(bright_onnx: Path, bright_xml: Path) -> None:
    specs = [open_session(path).spec for path in (bright_onnx, bright_xml)]
    assert specs[0] == specs[1]
    assert KEY == "edgedet.spec"
