"""A request's place on the GPU: an execution context of a TensorRT engine, with a stream and buffers of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from edgedet.errors import ArtifactError, RuntimeUnavailable
from edgedet.runtimes import cuda_memory
from edgedet.runtimes.session import Outputs

DTYPES = {"FLOAT": np.float32, "HALF": np.float16, "INT64": np.int64, "INT32": np.int32, "INT8": np.int8, "UINT8": np.uint8}
"""TensorRT's names of the types that an input or output may have."""


@dataclass(frozen=True)
class Port:
    """An input or output of an engine; shape: -1 where the profile or the values decide."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    is_input: bool


def ports(trt: Any, engine: Any, path: Path) -> list[Port]:
    """The inputs and outputs of an engine, in its order."""
    found = []
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        kind = engine.get_tensor_dtype(name).name
        if kind not in DTYPES:
            raise ArtifactError(f"{path}: its {name} is of type {kind}; export the model again")
        is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        found.append(Port(name, tuple(engine.get_tensor_shape(name)), np.dtype(DTYPES[kind]), is_input))
    return found


def logger(trt: Any, errors: deque[str]) -> Any:
    """An ILogger that puts what TensorRT reports as errors into `errors`, and prints nothing."""

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                errors.append(msg.strip())

    return Logger()


def reason(errors: deque[str]) -> str:
    """The first error that TensorRT reported since somebody asked last: those after it are its consequences."""
    told = errors[0] if errors else "it does not say why"
    errors.clear()
    return told


def allocator(trt: Any, memory: cuda_memory.Growing) -> Any:
    """An IOutputAllocator of an output whose size TensorRT knows only once it has its values."""

    class Allocator(trt.IOutputAllocator):
        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)

        def reallocate_output(self, tensor_name: str, memory_now: int, size: int, alignment: int) -> int:
            return memory.fit(size)

        def reallocate_output_async(self, tensor_name: str, memory_now: int, size: int, alignment: int, stream: int) -> int:
            return memory.fit(size)

        def notify_shape(self, tensor_name: str, shape: Any) -> None:
            memory.shape = tuple(shape)

    return Allocator()


class Slot:
    """An execution context, a stream and buffers for up to the largest batch; one request at a time.

    largest: images at once. without_graph: why requests are queued call by call, empty where they are one CUDA graph.
    """

    def __init__(self, trt: Any, engine: Any, found: Sequence[Port], errors: deque[str], *, device: int) -> None:
        self._errors, self._device = errors, device
        self._resources = ExitStack()
        try:
            cuda_memory.use(device)
            self._queue = cuda_memory.stream(self._resources)
            self._context = self._new_context(engine)
            (self._input,) = (port for port in found if port.is_input)
            self._outputs = [port for port in found if not port.is_input]
            self._allocate(trt, engine)
            self._graph, self.without_graph = self._capture()
        except BaseException:
            self.close()
            raise

    def _new_context(self, engine: Any) -> Any:
        context = engine.create_execution_context()
        if context is None:
            raise self._refusal("gives no execution context; free some of the GPU's memory")
        # Only an engine's first context starts with its profile.
        if context.active_optimization_profile != 0:
            if not context.set_optimization_profile_async(0, int(self._queue)):
                raise self._refusal("does not take its optimization profile")
            cuda_memory.wait(self._queue)
        return context

    def _allocate(self, trt: Any, engine: Any) -> None:
        """Buffers of every port at the largest batch, and their addresses in the context."""
        self._is_dynamic = -1 in self._input.shape
        shape = self._input.shape
        least, _, most = engine.get_tensor_profile_shape(self._input.name, 0) if self._is_dynamic else (shape, shape, shape)
        self._least, self.largest = least[0], most[0]
        size = prod(most) * self._input.dtype.itemsize
        self._staging = cuda_memory.page_locked(self._resources, size).view(self._input.dtype).reshape(tuple(most))
        self._input_address = self._address(self._input.name, size)
        self._reshape(self.largest)
        self._fixed: dict[str, tuple[np.ndarray, int]] = {}
        self._growing: dict[str, cuda_memory.Growing] = {}
        self._allocators = []  # TensorRT keeps none alive
        for port in self._outputs:
            if -1 in self._shapes[port.name]:
                memory = self._growing[port.name] = cuda_memory.Growing(self._resources)
                self._allocators.append(allocator(trt, memory))
                if not self._context.set_output_allocator(port.name, self._allocators[-1]):
                    raise self._refusal(f"takes no allocator for {port.name}")
            else:
                size = prod(self._shapes[port.name]) * port.dtype.itemsize
                host = cuda_memory.page_locked(self._resources, size)
                self._fixed[port.name] = host, self._address(port.name, size)

    def _address(self, name: str, size: int) -> int:
        address = cuda_memory.on_gpu(self._resources, size)
        if not self._context.set_tensor_address(name, address):
            raise self._refusal(f"takes no memory for {name}")
        return address

    def _reshape(self, batch: int) -> None:
        """Make the context ready for so many images."""
        self._batch = 0  # none, should it fail
        if self._is_dynamic and not self._context.set_input_shape(self._input.name, (batch, *self._input.shape[1:])):
            raise self._refusal(f"does not take {batch} images at once")
        self._shapes = {port.name: tuple(self._context.get_tensor_shape(port.name)) for port in self._outputs}
        self._batch = batch

    def _capture(self) -> tuple[Any, str]:
        """One request's work as a CUDA graph; None and the reason where it has to be queued call by call."""
        self._graph = None
        self.run(np.zeros_like(self._staging))  # what TensorRT does only once must not be captured
        if self._growing:
            return None, f"{', '.join(self._growing)} varies in size"
        if self._is_dynamic:
            return None, "its batch varies"
        return cuda_memory.replayable(self._resources, self._queue, self._enqueue)

    def _enqueue(self) -> None:
        """Queue the copy to the GPU, the network, and the copies back."""
        cuda_memory.to_gpu(self._input_address, self._staging[: self._batch], self._queue)
        for memory in self._growing.values():
            memory.error = None
        if not self._context.execute_async_v3(int(self._queue)):
            failed = [memory.error for memory in self._growing.values() if memory.error]
            raise failed[0] if failed else self._refusal("does not run")
        for port in self._outputs:
            if port.name in self._fixed:
                host, address = self._fixed[port.name]
                cuda_memory.to_host(host[: self._bytes(port)], address, self._queue)

    def _bytes(self, port: Port) -> int:
        return prod(self._shapes[port.name]) * port.dtype.itemsize

    def run(self, images: np.ndarray) -> Outputs:
        """The outputs for one image up to `largest`, as arrays of their own."""
        cuda_memory.use(self._device)  # each thread has its own
        count = len(images)
        if max(count, self._least) != self._batch:
            self._reshape(max(count, self._least))
        self._staging[:count] = images  # in rows up to the least batch of the profile stays what was there
        try:
            if self._graph is None:
                self._enqueue()
            else:
                cuda_memory.replay(self._graph, self._queue)
        finally:
            cuda_memory.wait(self._queue)  # after a failure too: the next request must find the buffers at rest
        return {port.name: self._read(port)[:count] for port in self._outputs}

    def _read(self, port: Port) -> np.ndarray:
        if port.name in self._growing:
            return self._growing[port.name].read(port.dtype, self._queue)
        host = self._fixed[port.name][0][: self._bytes(port)]
        return host.view(port.dtype).reshape(self._shapes[port.name]).copy()

    def close(self) -> None:
        """Free the context, then the graph, the buffers and the stream."""
        self._context = None
        with suppress(RuntimeUnavailable):  # where the GPU is lost, so is its memory
            cuda_memory.use(self._device)
        self._resources.close()

    def _refusal(self, what: str) -> RuntimeUnavailable:
        return RuntimeUnavailable(f"TensorRT {what}: {reason(self._errors)}")
