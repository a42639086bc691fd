"""TensorRT plans, real ones: what is refused before they are loaded. No test here but those marked gpu runs a plan."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_gpu import FakeCuda

from edgedet import engine
from edgedet.engine import EngineFacts
from edgedet.errors import ArtifactError, RuntimeUnavailable, SpecError, UsageError
from edgedet.export.to_tensorrt import BuildOptions, to_tensorrt
from edgedet.runtimes import cuda_memory, run_onnxruntime, run_tensorrt
from edgedet.runtimes.detector import open_session
from edgedet.runtimes.session import Options


def _gpu_is_here() -> bool:
    pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
    try:
        return cuda_memory.gpu_count() > 0
    except RuntimeUnavailable:
        return False


@pytest.fixture(scope="module")
def rtx_plan(write_bright_cells: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real plan of TensorRT-RTX for SM86, with its sidecar."""
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    path = tmp_path_factory.mktemp("plan") / "bright.engine"
    to_tensorrt(write_bright_cells(mode="matrix"), path, BuildOptions(targets=("SM86",)))
    return path


@pytest.fixture
def plan(rtx_plan: Path, tmp_path: Path) -> Path:
    """The same in a folder of its own, to be altered."""
    for path in (rtx_plan, engine.sidecar(rtx_plan)):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path / rtx_plan.name


def _alter(plan: Path, **facts: object) -> EngineFacts:
    """The plan's sidecar with other facts in it."""
    altered = replace(engine.read_facts(plan), **facts)
    engine.sidecar(plan).write_text(altered.to_json())
    return altered


def test_a_plan_without_its_sidecar_is_refused_with_the_reason(plan: Path) -> None:
    engine.sidecar(plan).unlink()
    with pytest.raises(ArtifactError, match=r"bright.engine: has no bright.engine.json beside it.*compile it"):
        run_tensorrt.open(plan, Options())


def test_a_plan_that_is_not_the_sidecars_is_refused_by_its_sha256(plan: Path) -> None:
    plan.write_bytes(plan.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match=r"its sha256 is .* but bright.engine.json is about"):
        run_tensorrt.open(plan, Options())


def test_a_sidecar_that_is_no_json_is_refused(plan: Path) -> None:
    engine.sidecar(plan).write_text("plan")
    with pytest.raises(SpecError, match=r"bright.engine.json: its engine facts are not readable"):
        run_tensorrt.open(plan, Options())


def test_another_version_is_refused_with_both_and_what_to_do(plan: Path) -> None:
    import tensorrt_rtx

    _alter(plan, version="1.6.0")
    with pytest.raises(RuntimeUnavailable) as refused:
        run_tensorrt.open(plan, Options())
    assert str(refused.value) == (
        "bright.engine is refused: it was compiled by TensorRT-RTX 1.6.0 but this is TensorRT-RTX "
        f"{tensorrt_rtx.__version__}; compile it here with `edgedet export bright-cells-64-fp32.onnx --to tensorrt`, "
        "or a bundle's with `edgedet up`"
    )


def test_a_plan_of_a_flavour_that_is_not_here_is_refused(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    _alter(plan, flavour="tensorrt", version="10.3.0")
    with pytest.raises(RuntimeUnavailable, match=r"compiled by TensorRT 10\.3\.0, which is not here: tensorrt cannot be"):
        run_tensorrt.open(plan, Options())


def test_a_machine_without_a_driver_says_so(plan: Path) -> None:
    if _gpu_is_here():
        pytest.skip("a GPU is here")
    for refused in (lambda: run_tensorrt.open(plan, Options()), lambda: open_session(plan)):
        with pytest.raises(RuntimeUnavailable, match=r"no NVIDIA driver is here|cudaErrorNoDevice"):
            refused()
    assert str(run_tensorrt.available()).startswith(("no NVIDIA driver is here", "CUDA refused (cudaErrorNoDevice"))


def test_cuda_bindings_that_are_absent_are_named_with_their_extra(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(RuntimeUnavailable, match=r"cuda-bindings cannot be imported.*pip install 'edgedet\[tensorrt\]'"):
        run_tensorrt.open(plan, Options())
    assert "edgedet[tensorrt]" in str(run_tensorrt.available())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (Options(inference_precision="f16"), UsageError, r"has no f16 mode; compile one with .*--precision fp16"),
        (Options(graph_optimization="off"), UsageError, r"optimised the graph when it compiled it"),
        (Options(outputs="candidates"), ArtifactError, r"its candidates are not among them.*--nms none"),
        (Options(device="cpu"), RuntimeUnavailable, r"runs on its GPU only; .*bright-cells-64-fp32.onnx"),
        (Options(device="tpu"), UsageError, r"no device 'tpu'; use auto, gpu or cuda:N"),
        (Options(device="cuda:x"), UsageError, r"no device 'cuda:x'"),
        (Options(device="cuda:3"), RuntimeUnavailable, r"'cuda:3' was asked for but CUDA finds 1 GPU"),
    ],
)
def test_what_a_plan_cannot_do_is_refused(
    plan: Path, cuda: FakeCuda, options: Options, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        run_tensorrt.open(plan, options)


@pytest.mark.parametrize(
    "call",
    [
        lambda resources, queue, array: cuda_memory.gpu(0),
        lambda resources, queue, array: cuda_memory.use(0),
        lambda resources, queue, array: cuda_memory.stream(resources),
        lambda resources, queue, array: cuda_memory.page_locked(resources, 10),
        lambda resources, queue, array: cuda_memory.on_gpu(resources, 10),
        lambda resources, queue, array: cuda_memory.to_gpu(4096, array, queue),
        lambda resources, queue, array: cuda_memory.to_host(array, 4096, queue),
        lambda resources, queue, array: cuda_memory.wait(queue),
        lambda resources, queue, array: cuda_memory.replayable(resources, queue, lambda: None),
        lambda resources, queue, array: cuda_memory.replay(cuda_memory.cudart().cudaGraphExec_t(8), queue),
    ],
)
def test_the_real_cuda_takes_every_argument_and_refuses_for_want_of_a_driver_alone(
    call: Callable[[ExitStack, Any, np.ndarray], object],
) -> None:
    if _gpu_is_here():
        pytest.skip("a GPU is here")
    with ExitStack() as resources, pytest.raises(RuntimeUnavailable, match=r"no NVIDIA driver|cudaErrorNoDevice"):
        call(resources, cuda_memory.cudart().cudaStream_t(0), np.zeros(10, np.uint8))


def test_what_frees_takes_what_was_given() -> None:
    """As `cuda_memory` calls them, through ExitStack: a TypeError would rise, a code of CUDA's is given back."""
    if _gpu_is_here():
        pytest.skip("a GPU is here")
    cudart = cuda_memory.cudart()
    for free, value in [
        (cudart.cudaFree, 0),
        (cudart.cudaFreeHost, 0),
        (cudart.cudaStreamDestroy, cudart.cudaStream_t(0)),
        (cudart.cudaGraphExecDestroy, cudart.cudaGraphExec_t(0)),
        (cudart.cudaGraphDestroy, cudart.cudaGraph_t(0)),
        (cudart.cudaStreamEndCapture, cudart.cudaStream_t(0)),
    ]:
        assert isinstance(free(value)[0], cudart.cudaError_t)
    assert cudart.cudaGraphInstantiate(cudart.cudaGraph_t(0), 0)[0] != cudart.cudaError_t.cudaSuccess
    assert cudart.cudaStreamEndCapture(cudart.cudaStream_t(0))[1] is None


# From here on CUDA is a fake.


def test_another_compute_capability_is_refused_before_loading(plan: Path, cuda: FakeCuda) -> None:
    cuda.capability = (8, 9)
    with pytest.raises(RuntimeUnavailable, match=r"it was compiled for SM86 but this GPU \(Fake 0\) is SM89; compile it here"):
        run_tensorrt.open(plan, Options())
    assert run_tensorrt.differences(engine.read_facts(plan)) == ["it was compiled for SM86 but this GPU (Fake 0) is SM89"]
    _alter(plan, compute_capabilities=())
    assert run_tensorrt.differences(engine.read_facts(plan)) == []


def test_a_real_plan_that_tensorrt_cannot_load_says_tensorrts_reason(plan: Path, cuda: FakeCuda) -> None:
    """The real TensorRT-RTX, which finds no driver behind the fake CUDA, gives None."""
    from cuda.bindings import runtime

    if int(runtime.cudaGetDeviceCount()[0]) == 0:
        pytest.skip("a driver is here")
    with pytest.raises(
        RuntimeUnavailable, match=r"bright.engine: TensorRT-RTX .* cannot load it \(.*cudaError 35.*\); compile it here"
    ):
        run_tensorrt.open(plan, Options())
    assert cuda.held() == 0


# From here on a GPU is needed.


@pytest.mark.gpu
@pytest.mark.parametrize("performance", ["latency", "throughput"])
@pytest.mark.parametrize("batch", [None, 1])
def test_a_plan_says_what_onnx_runtime_says_of_its_onnx(
    write_bright_cells: Callable[..., Path], tmp_path: Path, batch: int | None, performance: str
) -> None:
    """Boxes and labels exactly, scores within 1e-5: a mean over 768 float32 values."""
    if problem := run_tensorrt.available():
        pytest.skip(f"TensorRT cannot run here: {problem}")
    source = write_bright_cells(mode="matrix", batch=batch)
    to_tensorrt(source, tmp_path / "bright.engine", BuildOptions(batch=None if batch else (1, 2, 4)))
    session = run_tensorrt.open(tmp_path / "bright.engine", Options(performance=performance))
    reference = run_onnxruntime.open(source, Options(device="cpu"))
    waiting = []
    for seed in range(20):
        images = np.random.default_rng(seed).integers(0, 256, (batch or 1 + seed % 6, 64, 64, 3), np.uint8)
        waiting.append((images, session.submit(images)))
    for images, future in waiting:
        expected, found = reference.infer(images), future.result()
        np.testing.assert_array_equal(found["labels"], expected["labels"])
        np.testing.assert_array_equal(found["boxes"], expected["boxes"])
        np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-5)
    assert session.facts["cuda_graph"] == ("replayed" if batch else "its batch varies")
    session.close()


@pytest.mark.gpu
def test_the_gpu_is_described_as_cuda_describes_it() -> None:
    if not _gpu_is_here():
        pytest.skip("CUDA finds no GPU")
    name, capability = cuda_memory.gpu(0)
    assert name
    assert capability.startswith("SM")
    assert run_tensorrt.devices()[0] == "cuda:0"
