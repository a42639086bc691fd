"""CUDA through cuda-bindings: GPUs, streams, page-locked memory and graphs; its error codes become edgedet's errors."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np

from edgedet.errors import RuntimeUnavailable

REMEDIES = {
    "cudaErrorNoDevice": "look at nvidia-smi and CUDA_VISIBLE_DEVICES; a container needs the NVIDIA runtime",
    "cudaErrorMemoryAllocation": (
        "the GPU's memory is full; close what else uses it, or take one slot with --performance latency"
    ),
}


def cudart() -> Any:
    """cuda-bindings' module of the CUDA runtime, which imports without a driver."""
    from cuda.bindings import runtime

    return runtime


def check(returned: tuple[Any, ...]) -> Any:
    """The value that a call of cuda-bindings gives beside its error code; RuntimeUnavailable where the call failed."""
    error, *values = returned
    if error == cudart().cudaError_t.cudaErrorInsufficientDriver:
        raise RuntimeUnavailable(_driver_problem())
    if error != cudart().cudaError_t.cudaSuccess:
        _, text = cudart().cudaGetErrorString(error)
        remedy = REMEDIES.get(error.name, "the GPU cannot go on with this session; load the model again")
        raise RuntimeUnavailable(f"CUDA refused ({error.name}: {text.decode()}); {remedy}")
    return values[0] if values else None


def _driver_problem() -> str:
    """That there is no driver, or which CUDA it is for and which one cuda-bindings are for."""
    (_, driver), (_, needed) = cudart().cudaDriverGetVersion(), cudart().cudaRuntimeGetVersion()
    if not driver:
        return "no NVIDIA driver is here; install it with the GPU, or run the ONNX file on the CPU"
    versions = [f"{version // 1000}.{version % 1000 // 10}" for version in (driver, needed)]
    return (
        f"the NVIDIA driver is for CUDA {versions[0]} but cuda-bindings for {versions[1]}; update the driver, or "
        f"pip install 'cuda-bindings<{driver // 1000 + 1}'"
    )


def gpu_count() -> int:
    """How many GPUs CUDA shows to this process."""
    return int(check(cudart().cudaGetDeviceCount()))


def gpu(index: int) -> tuple[str, str]:
    """A GPU's name and its compute capability, such as `SM87`."""
    properties = check(cudart().cudaGetDeviceProperties(index))
    return properties.name.decode(), f"SM{properties.major}{properties.minor}"


def use(index: int) -> None:
    """Make this thread's calls go to that GPU; every thread starts at GPU 0."""
    check(cudart().cudaSetDevice(index))


def stream(resources: ExitStack) -> Any:
    """A stream beside the default one, destroyed with `resources`."""
    made = check(cudart().cudaStreamCreateWithFlags(cudart().cudaStreamNonBlocking))
    resources.callback(cudart().cudaStreamDestroy, made)
    return made


def page_locked(resources: ExitStack, count: int) -> np.ndarray:
    """(count,) uint8 of host memory that the GPU copies from and to by itself, freed with `resources`; keep no view longer."""
    address = check(cudart().cudaHostAlloc(max(count, 1), cudart().cudaHostAllocDefault))
    resources.callback(cudart().cudaFreeHost, address)
    return np.ctypeslib.as_array((ctypes.c_uint8 * count).from_address(int(address)))


def on_gpu(resources: ExitStack, count: int) -> int:
    """The address of `count` bytes on the GPU, freed with `resources`."""
    address = int(check(cudart().cudaMalloc(max(count, 1))))
    resources.callback(cudart().cudaFree, address)
    return address


def to_gpu(address: int, host: np.ndarray, queue: Any) -> None:
    """Queue the copy of a page-locked array to the GPU."""
    check(
        cudart().cudaMemcpyAsync(address, host.ctypes.data, host.nbytes, cudart().cudaMemcpyKind.cudaMemcpyHostToDevice, queue)
    )


def to_host(host: np.ndarray, address: int, queue: Any) -> None:
    """Queue the copy from the GPU that fills a page-locked array."""
    check(
        cudart().cudaMemcpyAsync(host.ctypes.data, address, host.nbytes, cudart().cudaMemcpyKind.cudaMemcpyDeviceToHost, queue)
    )


def wait(queue: Any) -> None:
    """Return when all that was queued on a stream is done."""
    check(cudart().cudaStreamSynchronize(queue))


class Growing:
    """Memory for an output whose size only its values tell: on the GPU, as large as the largest so far, and on the host.

    shape: of the newest output. error: why the GPU gave no memory, None where it did.
    """

    def __init__(self, resources: ExitStack) -> None:
        self.shape: tuple[int, ...] = ()
        self.error: RuntimeUnavailable | None = None
        self._address, self._size = 0, 0
        self._host = np.empty(0, np.uint8)
        self._memory = resources.enter_context(ExitStack())

    def fit(self, size: int) -> int:
        """The address of at least `size` bytes on the GPU, 0 where there are not as many: TensorRT cannot take exceptions."""
        if self._address and size <= self._size:
            return self._address
        try:
            self._memory.close()
            self._address = 0
            self._address, self._host, self._size = on_gpu(self._memory, size), page_locked(self._memory, size), size
        except RuntimeUnavailable as error:
            self.error, self._address = error, 0
        return self._address

    def read(self, dtype: np.dtype, queue: Any) -> np.ndarray:
        """A copy of the newest output, when the stream has come to it."""
        count = int(np.prod(self.shape)) * dtype.itemsize
        host = self._host[:count]
        to_host(host, self._address, queue)
        wait(queue)
        return host.view(dtype).reshape(self.shape).copy()


def replayable(resources: ExitStack, queue: Any, work: Callable[[], None]) -> tuple[Any, str]:
    """A CUDA graph of the work that `work()` queues on a stream, and an empty text; or None and why it cannot be captured."""
    runtime = cudart()
    # Thread-local, so that another session's thread may allocate meanwhile.
    check(runtime.cudaStreamBeginCapture(queue, runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal))
    reason = ""
    try:
        work()
    except RuntimeUnavailable as error:
        reason = str(error)
    ended, graph = runtime.cudaStreamEndCapture(queue)  # after a refusal too, or the stream stays in capture
    try:
        check((ended,))
        if not reason:
            made = check(runtime.cudaGraphInstantiate(graph, 0))
            resources.callback(runtime.cudaGraphExecDestroy, made)
            return made, ""
    except RuntimeUnavailable as error:
        reason = reason or str(error)
    finally:
        if graph is not None:
            runtime.cudaGraphDestroy(graph)
    runtime.cudaGetLastError()  # a refused capture leaves its error behind for whoever asks next
    return None, reason


def replay(graph: Any, queue: Any) -> None:
    """Queue the work of a CUDA graph."""
    check(cudart().cudaGraphLaunch(graph, queue))
