"""Slots, buffers and graphs of TensorRT plans, on a fake GPU: no plan runs here.

`fake_gpu` proves the bookkeeping: order, no buffer in two hands, nothing left behind, every refusal told.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_gpu import FakeCuda, FakeTensorRt, answer

from edgedet import artifact, engine
from edgedet.engine import EngineFacts, EngineLayer
from edgedet.errors import ArtifactError, RuntimeUnavailable, SpecError, UsageError
from edgedet.runtimes import run_tensorrt
from edgedet.runtimes.detector import load
from edgedet.runtimes.run_tensorrt import TensorRtSession
from edgedet.runtimes.session import Options
from edgedet.spec import ModelSpec, Suppression

SIDE = 8


class Bench:
    """A fake GPU with a fake TensorRT, and a plan on the disk that they load."""

    def __init__(self, cuda: FakeCuda, folder: Path) -> None:
        self.cuda, self.trt, self.path = cuda, FakeTensorRt(cuda, side=SIDE), folder / "fake.engine"
        self.path.write_bytes(b"plan")
        self.facts = EngineFacts(
            flavour="tensorrt",
            version=FakeTensorRt.__version__,
            compute_capabilities=("SM86",),
            plan_sha256=artifact.sha256(self.path),
            onnx="fake.onnx",
            onnx_sha256="",
            spec=ModelSpec(
                family="fake",
                variant="gpu",
                classes=("even", "odd"),
                size_hw=(SIDE, SIDE),
                suppression=Suppression(mode="matrix", min_score=0.001, max_detections=3),
            ),
            device="Fake 0",
        )
        self.write()

    def write(self, **facts: object) -> None:
        self.facts = replace(self.facts, **facts)
        engine.sidecar(self.path).write_text(self.facts.to_json())

    def any_batch(self, least: int, most: int) -> None:
        self.trt.batches = (least, most)
        self.write(spec=replace(self.facts.spec, batch=None), batches=(least, most, most))

    def open(self, **options: object) -> TensorRtSession:
        return run_tensorrt.open(self.path, Options(**options))


@pytest.fixture
def bench(cuda: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    made = Bench(cuda, tmp_path)
    monkeypatch.setitem(sys.modules, "tensorrt", made.trt)
    yield made
    assert cuda.held() == 0, "something was left on the GPU"


def _images(count: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)


def _expect(found: dict[str, np.ndarray], images: np.ndarray) -> None:
    for name, value in answer(images).items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_every_request_gets_its_own_answer_through_a_replayed_graph(bench: Bench) -> None:
    session = bench.open()
    started = len(bench.cuda.calls)
    found = [session.infer(_images(seed=seed)) for seed in range(5)]
    for seed, outputs in enumerate(found):  # all at the end: an output must not be a view of a buffer
        _expect(outputs, _images(seed=seed))
    assert bench.cuda.calls[started:].count("cudaGraphLaunch") == 5
    assert "cudaMemcpyAsync" not in bench.cuda.calls[started:]
    assert session.facts == {"device": "Fake 0, SM86, cuda:0", "precision": "as in the file", "cuda_graph": "replayed"}
    session.close()


def test_a_graph_that_cannot_be_captured_is_told_once_and_the_answers_stay_right(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.trt.capturable = False
    session = bench.open(performance="throughput")
    for seed in range(4):
        _expect(session.infer(_images(seed=seed)), _images(seed=seed))
    session.close()
    assert capsys.readouterr().err.count("runs without a CUDA graph: TensorRT does not run: operation not permitted") == 1
    assert bench.cuda.capturing == {}


def test_a_graph_that_cuda_refuses_is_told_too(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.cuda.failing["cudaGraphInstantiate"] = bench.cuda.cudaError_t.cudaErrorStreamCaptureUnsupported
    session = bench.open()
    _expect(session.infer(_images()), _images())
    assert session.facts["cuda_graph"].startswith("CUDA refused (cudaErrorStreamCaptureUnsupported")
    assert "fake.engine runs without a CUDA graph" in capsys.readouterr().err
    session.close()


@pytest.mark.parametrize("count", [1, 2, 3, 8, 9, 20])
def test_any_number_of_images_runs_on_a_profile_from_two_to_eight(bench: Bench, count: int) -> None:
    """One is padded, twenty run in three pieces."""
    bench.any_batch(2, 8)
    session = bench.open()
    _expect(session.infer(_images(8, seed=7)), _images(8, seed=7))
    _expect(session.infer(_images(count, seed=count)), _images(count, seed=count))
    session.close()


def test_a_second_context_takes_the_profile_that_only_the_first_starts_with(bench: Bench) -> None:
    bench.any_batch(1, 4)
    session = bench.open(performance="throughput")
    assert session.slots == 2
    for seed in range(4):
        _expect(session.submit(_images(3, seed=seed)).result(), _images(3, seed=seed))
    session.close()


def test_outputs_whose_size_only_their_values_tell_grow_and_shrink(bench: Bench) -> None:
    bench.trt.varying = True
    session = bench.open()
    assert "varies in size" in session.facts["cuda_graph"]
    for rows in (2, 0, 200, 3, 255):
        images = _images(seed=rows)
        images.flat[0] = rows
        found = session.infer(images)
        assert {name: value.shape[1] for name, value in found.items()} == dict.fromkeys(("boxes", "scores", "labels"), rows)
        np.testing.assert_array_equal(found["boxes"][0], np.repeat(answer(images)["boxes"][0], rows + 1, axis=0)[:rows])
    session.close()


def test_memory_that_an_output_cannot_have_is_our_error_and_not_tensorrts_crash(bench: Bench) -> None:
    bench.trt.varying = True
    session = bench.open()
    images = np.full((1, SIDE, SIDE, 3), 250, np.uint8)
    bench.cuda.failing["cudaMalloc"] = bench.cuda.cudaError_t.cudaErrorMemoryAllocation
    with pytest.raises(RuntimeUnavailable, match="the GPU's memory is full; close what else uses it"):
        session.infer(images)
    bench.cuda.failing.clear()
    assert session.infer(images)["labels"].shape == (1, 250)
    session.close()


def test_two_slots_are_in_flight_at_once_and_no_buffer_is_in_two_hands(bench: Bench) -> None:
    session = bench.open(performance="throughput")
    barrier = threading.Barrier(2, timeout=10)
    bench.cuda.gate = barrier.wait  # a stream works only when the other slot's does
    waiting = [(seed, session.submit(_images(seed=seed))) for seed in range(20)]
    for seed, future in waiting:
        _expect(future.result(), _images(seed=seed))
    bench.cuda.gate = lambda: None
    session.close()


def test_more_threads_than_slots_take_turns(bench: Bench) -> None:
    session = bench.open(performance="throughput")
    with ThreadPoolExecutor(8) as threads:
        for seed, outputs in enumerate(threads.map(lambda seed: session.infer(_images(seed=seed)), range(100))):
            _expect(outputs, _images(seed=seed))
    session.close()


def test_every_thread_turns_to_the_gpu_of_the_session(bench: Bench) -> None:
    """The fake refuses calls from a thread that was left on GPU 0."""
    bench.cuda.gpus = 2
    bench.write(device="Fake 1")
    session = bench.open(device="cuda:1")
    _expect(session.submit(_images()).result(), _images())
    assert session.facts["device"].endswith("cuda:1")
    session.close()


def test_a_driver_too_old_for_cuda_bindings_is_told_with_both_versions(bench: Bench) -> None:
    """As on JetPack 6 with the newest cuda-bindings."""
    bench.cuda.failing["cudaGetDeviceCount"] = bench.cuda.cudaError_t.cudaErrorInsufficientDriver
    told = "the NVIDIA driver is for CUDA 12.6 but cuda-bindings for 13.5; update the driver, or pip install "
    assert run_tensorrt.available() == f"{told}'cuda-bindings<13'"


def test_a_plan_of_tensorrt_proper_is_for_the_model_of_gpu_it_was_tuned_on(bench: Bench) -> None:
    bench.write(device="Orin")
    with pytest.raises(RuntimeUnavailable, match=r"it was compiled on Orin but this GPU is Fake 0; compile it here"):
        bench.open()


@pytest.mark.parametrize(
    ("failing", "message"),
    [
        ("execute", "TensorRT does not run: operation not permitted"),
        ("shape", "TensorRT does not take 2 images at once: it does not say why"),
    ],
)
def test_a_failed_request_leaves_the_next_one_right(bench: Bench, failing: str, message: str) -> None:
    bench.any_batch(1, 4)
    session = bench.open()
    bench.trt.failing.add(failing)
    with pytest.raises(RuntimeUnavailable, match=message):
        session.infer(_images(2, seed=1))
    bench.trt.failing.clear()
    _expect(session.infer(_images(2, seed=2)), _images(2, seed=2))
    session.close()


def test_an_error_of_the_gpu_while_it_works_is_ours(bench: Bench) -> None:
    session = bench.open()
    bench.cuda.failing["cudaStreamSynchronize"] = bench.cuda.cudaError_t.cudaErrorIllegalAddress
    with pytest.raises(RuntimeUnavailable, match=r"CUDA refused \(cudaErrorIllegalAddress: .*load the model again"):
        session.submit(_images()).result()
    bench.cuda.failing.clear()
    session.close()


def test_a_session_that_cannot_be_opened_leaves_nothing_on_the_gpu(bench: Bench) -> None:
    """Each call of CUDA in turn fails, those that free apart."""
    bench.open(performance="throughput").close()
    calls, frees = list(bench.cuda.calls), ("Free", "Destroy", "GetLastError")
    opening = next(index for index, name in enumerate(calls) if name == "cudaStreamDestroy" or "Free" in name)
    refused = 0
    for index, name in enumerate(calls[:opening]):
        if any(part in name for part in frees):
            continue
        bench.cuda.calls.clear()
        bench.cuda.fail_at = index
        told = ""
        try:
            bench.open(performance="throughput").close()
        except RuntimeUnavailable as error:
            told = str(error)
        assert not told or "the GPU's memory is full" in told
        refused += bool(told)
        bench.cuda.fail_at = None
        assert bench.cuda.held() == 0, f"call {index}, {name}"
    assert refused >= 20


def test_a_context_that_tensorrt_does_not_give_is_told(bench: Bench) -> None:
    bench.trt.failing.add("context")
    with pytest.raises(RuntimeUnavailable, match="gives no execution context; free some of the GPU's memory"):
        bench.open()


def test_a_plan_that_tensorrt_does_not_load_is_told_with_its_reason(bench: Bench) -> None:
    bench.trt.loads = False
    with pytest.raises(RuntimeUnavailable, match=r"TensorRT 10.3.0 cannot load it \(the plan is of another build\); compile"):
        bench.open()


@pytest.mark.parametrize(
    ("types", "side", "message"),
    [
        ({"images": "FLOAT"}, SIDE, r"its input is float32 but its spec says uint8-nhwc"),
        ({"scores": "BF16"}, SIDE, r"its scores is of type BF16"),
        ({}, SIDE + 1, r"its input is \(1, 9, 9, 3\) but its spec says \(1, 8, 8, 3\)"),
    ],
)
def test_a_plan_that_is_not_what_its_spec_says_is_refused(bench: Bench, types: dict[str, str], side: int, message: str) -> None:
    bench.trt.types |= types
    bench.trt.side = side
    with pytest.raises((SpecError, ArtifactError), match=message):
        bench.open()


def test_an_output_that_the_spec_promises_and_the_plan_lacks_is_named(bench: Bench) -> None:
    del bench.trt.types["scores"]
    with pytest.raises(SpecError, match="has no output scores, only boxes, labels"):
        bench.open()


def test_a_dla_core_that_is_not_here_is_refused(bench: Bench) -> None:
    bench.write(dla=1)
    with pytest.raises(RuntimeUnavailable, match=r"compiled for DLA core 1 but this device has 0; compile .* without --dla"):
        bench.open()


def test_a_session_closes_twice_and_then_says_that_it_is_closed(bench: Bench) -> None:
    session = bench.open()
    session.close()
    session.close()
    for ask in (session.infer, session.submit):
        with pytest.raises(UsageError, match="closed"):
            ask(_images())
    session.closed = False  # as the threads found it that were waiting for a slot
    for _ in range(2):
        with pytest.raises(UsageError, match="closed"):
            session.infer(_images())


def test_closing_waits_for_what_is_in_flight_and_wakes_who_waits_for_a_slot(bench: Bench) -> None:
    session = bench.open()
    begun, go_on = threading.Event(), threading.Event()

    def gate() -> None:
        begun.set()
        assert go_on.wait(10)

    bench.cuda.gate = gate
    with ThreadPoolExecutor(3) as threads:
        first = threads.submit(session.infer, _images(seed=1))
        assert begun.wait(10)
        second = threads.submit(session.infer, _images(seed=2))
        closing = threads.submit(session.close)
        assert not closing.done()
        go_on.set()
        _expect(first.result(10), _images(seed=1))
        closing.result(10)
        error = second.exception(10)  # whether it had its turn before the closing is chance
        assert error is None or isinstance(error, UsageError)


def test_the_layers_are_what_the_builder_told(bench: Bench) -> None:
    layers = [("stem", "f32", "f32"), ("deep", "int8", "int8"), ("dark", "int8", None)]
    bench.write(layers=tuple(EngineLayer(*layer) for layer in layers))
    session = bench.open()
    assert [(layer.name, layer.asked, layer.executed) for layer in session.layers()] == layers[:2]
    assert session.facts["precision"] == "int8 (1 of 2 layers), rest f32"
    session.close()


def test_a_frame_goes_through_the_detector_like_any_other_file(bench: Bench) -> None:
    with load(bench.path) as detector:
        found = detector(np.full((SIDE, SIDE, 3), 255, np.uint8))
    np.testing.assert_allclose(found.scores, [1, 0.75, 0.5], atol=1e-6)
    assert found.labels.tolist() == [1, 1, 1]
