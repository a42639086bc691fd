"""A GPU that is none, to inject faults and to hold the bookkeeping of `run_tensorrt`: never evidence that a plan runs.

FakeCuda keeps "GPU" memory on the host and does a stream's work only when somebody waits for it, so that whoever reads too
early reads stale values, and an address that was freed is an error. FakeTensorRt runs one known function, `answer`.
"""

from __future__ import annotations

import ctypes
import enum
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

ROWS = 3


def answer(images: np.ndarray) -> dict[str, np.ndarray]:
    """What the fake network says of (B, H, W, 3) uint8: ROWS boxes an image, scored by its brightness."""
    scores = np.float32(images.reshape(len(images), -1).mean(1) / 255)[:, None] * np.float32([1, 0.75, 0.5])
    boxes = np.repeat(scores[..., None] * 10, 4, axis=2)
    labels = np.repeat(np.int32(images.reshape(len(images), -1)[:, :1] % 2), ROWS, axis=1)
    return {"boxes": boxes, "scores": scores, "labels": labels}


class FakeCuda:
    """The functions of `cuda.bindings.runtime` that edgedet calls; its constants are the real ones.

    failing: name of a function → the error it gives. fail_at: the call, counted over all, that gives one. gate: waited
    for by each stream before it works. calls: the names, in order.
    """

    def __init__(self, *, gpus: int = 1, capability: tuple[int, int] = (8, 6)) -> None:
        from cuda.bindings import runtime

        self.real = runtime
        self.gpus, self.capability = gpus, capability
        self.failing: dict[str, Any] = {}
        self.fail_at: int | None = None
        self.gate: Callable[[], object] = lambda: None
        self.calls: list[str] = []
        self.memory: dict[int, Any] = {}
        self.streams: dict[int, list[Callable[[], None]]] = {}
        self.capturing: dict[int, list[Callable[[], None]] | None] = {}
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.thread = threading.local()
        self.made = 0

    def __getattr__(self, name: str) -> Any:
        method = type(self).__dict__.get(f"_{name}")
        return getattr(self.real, name) if method is None else lambda *arguments: self._call(name, method, arguments)

    def _call(self, name: str, method: Callable[..., tuple], arguments: tuple) -> tuple:
        success = self.real.cudaError_t.cudaSuccess
        self.calls.append(name)
        error = self.failing.get(name, success)
        if len(self.calls) - 1 == self.fail_at:
            error = self.real.cudaError_t.cudaErrorMemoryAllocation
        if error != success:
            return error, None
        return success, *method(self, *arguments)

    def held(self) -> int:
        """Pieces of memory, streams and graphs that nobody freed."""
        return len(self.memory) + len(self.streams) + len(self.graphs)

    def _new(self) -> int:
        self.made += 1
        return self.made

    def _cudaGetDeviceCount(self) -> tuple:
        return (self.gpus,)

    def _cudaDriverGetVersion(self) -> tuple:
        return (12060,)

    def _cudaRuntimeGetVersion(self) -> tuple:
        return (13050,)

    def _cudaGetDeviceProperties(self, index: int) -> tuple:
        return (SimpleNamespace(name=f"Fake {index}".encode(), major=self.capability[0], minor=self.capability[1]),)

    def _cudaSetDevice(self, index: int) -> tuple:
        self.thread.device = index
        return ()

    def _allocate(self, size: int) -> tuple:
        block = (ctypes.c_uint8 * size)(*([0xAA] * min(size, 64)))
        self.memory[ctypes.addressof(block)] = block
        return (ctypes.addressof(block),)

    def _cudaMalloc(self, size: int) -> tuple:
        return self._allocate(size)

    def _cudaHostAlloc(self, size: int, flags: int) -> tuple:
        return self._allocate(size)

    def _cudaFree(self, address: int) -> tuple:
        del self.memory[address]
        return ()

    def _cudaFreeHost(self, address: int) -> tuple:
        del self.memory[address]
        return ()

    def _cudaStreamCreateWithFlags(self, flags: int) -> tuple:
        self.streams[number := self._new()] = []
        return (number,)

    def _cudaStreamDestroy(self, queue: int) -> tuple:
        del self.streams[queue]
        return ()

    def put(self, queue: int, work: Callable[[], None]) -> None:
        """Queue work, or record it where the stream is captured."""
        recorded = self.capturing.get(queue)
        (self.streams[queue] if queue not in self.capturing else recorded if recorded is not None else []).append(work)

    def bytes_at(self, address: int, count: int) -> np.ndarray:
        """(count,) uint8 of memory that is allocated from `address` on."""
        block = self.memory[address]
        assert count <= len(block), f"{count} bytes of {len(block)}"
        return np.ctypeslib.as_array(block)[:count]

    def _cudaMemcpyAsync(self, target: int, source: int, count: int, kind: Any, queue: int) -> tuple:
        def copy() -> None:
            self.bytes_at(target, count)[:] = self.bytes_at(source, count)

        self.put(queue, copy)
        return ()

    def _cudaStreamSynchronize(self, queue: int) -> tuple:
        work, self.streams[queue] = self.streams[queue], []
        if work:
            self.gate()
        for one in work:
            one()
        return ()

    def _cudaStreamBeginCapture(self, queue: int, mode: Any) -> tuple:
        self.capturing[queue] = []
        return ()

    def _cudaStreamEndCapture(self, queue: int) -> tuple:
        return (self.capturing.pop(queue) or [],)

    def _cudaGraphInstantiate(self, graph: list, flags: int) -> tuple:
        self.graphs[number := self._new()] = graph
        return (number,)

    def _cudaGraphLaunch(self, number: int, queue: int) -> tuple:
        self.streams[queue] += self.graphs[number]
        return ()

    def _cudaGraphExecDestroy(self, number: int) -> tuple:
        del self.graphs[number]
        return ()

    def _cudaGraphDestroy(self, graph: list) -> tuple:
        return ()

    def _cudaGetLastError(self) -> tuple:
        return ()


class FakeTensorRt:
    """The parts of the `tensorrt` module that edgedet uses to run a plan, whatever the plan holds.

    batches: least and largest, or the fixed one. varying: outputs get as many rows as the image's first value says.
    capturable: whether a CUDA graph can be made. failing: names of methods that refuse.
    """

    __version__ = "10.3.0"
    TensorIOMode = enum.Enum("TensorIOMode", ["NONE", "INPUT", "OUTPUT"])

    class ILogger:
        ERROR, INTERNAL_ERROR, WARNING = range(3)

    class IOutputAllocator:
        pass

    def __init__(self, cuda: FakeCuda, *, batches: tuple[int, int] | int = 1, side: int = 8) -> None:
        self.cuda, self.batches, self.side = cuda, batches, side
        self.varying, self.capturable, self.loads = False, True, True
        self.failing: set[str] = set()
        self.types = {"images": "UINT8", "boxes": "FLOAT", "scores": "FLOAT", "labels": "INT32"}
        self.device: int | None = None

    def Runtime(self, log: Any) -> Any:
        def deserialize(plan: bytes) -> Any:
            self.device = self.cuda.thread.device
            if not self.loads:
                log.log(self.ILogger.ERROR, "the plan is of another build")
            return FakeEngine(self, log) if self.loads else None

        return SimpleNamespace(deserialize_cuda_engine=deserialize, num_DLA_cores=0)


class FakeEngine:
    """An engine of FakeTensorRt's."""

    def __init__(self, trt: FakeTensorRt, log: Any) -> None:
        self.trt, self.log = trt, log
        self.names = list(trt.types)
        self.num_io_tensors = len(self.names)
        self.contexts = 0

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name=self.trt.types[name])

    def get_tensor_mode(self, name: str) -> Any:
        return self.trt.TensorIOMode.INPUT if name == "images" else self.trt.TensorIOMode.OUTPUT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes(self.trt.batches if isinstance(self.trt.batches, int) else -1)[name]

    def shapes(self, batch: int) -> dict[str, tuple[int, ...]]:
        rows, side = -1 if self.trt.varying else ROWS, self.trt.side
        outputs = {"boxes": (batch, rows, 4), "scores": (batch, rows), "labels": (batch, rows)}
        return {"images": (batch, side, side, 3), **{name: outputs.get(name, (1,)) for name in self.names[1:]}}

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        least, most = self.trt.batches
        return [(batch, *self.shapes(batch)[name][1:]) for batch in (least, most, most)]

    def create_execution_context(self) -> Any:
        self.contexts += 1
        return FakeContext(self, profile=0 if self.contexts == 1 else -1) if "context" not in self.trt.failing else None


class FakeContext:
    """An execution context; one request at a time, as TensorRT's."""

    def __init__(self, engine: FakeEngine, *, profile: int) -> None:
        self.engine, self.trt = engine, engine.trt
        self.active_optimization_profile = profile
        self.batch = self.trt.batches if isinstance(self.trt.batches, int) else None
        self.addresses: dict[str, int] = {}
        self.allocators: dict[str, Any] = {}
        self.busy = False

    def set_optimization_profile_async(self, profile: int, queue: int) -> bool:
        self.active_optimization_profile = profile
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, most = self.trt.batches
        assert self.active_optimization_profile == 0
        if "shape" in self.trt.failing:
            return False
        self.batch = shape[0]
        return least <= shape[0] <= most

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.engine.shapes(-1 if self.batch is None else self.batch)[name]

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def set_output_allocator(self, name: str, allocator: Any) -> bool:
        self.allocators[name] = allocator
        return True

    def execute_async_v3(self, queue: int) -> bool:
        cuda = self.trt.cuda
        assert cuda.thread.device == self.trt.device, "this thread's calls go to another GPU than the engine's"
        assert not self.busy, "a context was started while it was at work"
        captured = queue in cuda.capturing
        if "execute" in self.trt.failing or (captured and not self.trt.capturable):
            self.engine.log.log(self.trt.ILogger.ERROR, "operation not permitted")
            return False
        self.busy = not captured
        if self.trt.varying:  # the sizes must be known before memory can be asked for
            cuda._cudaStreamSynchronize(queue)
            return self._run_varying()
        cuda.put(queue, self._run)
        return True

    def _images(self) -> np.ndarray:
        shape = self.get_tensor_shape("images")
        return self.trt.cuda.bytes_at(self.addresses["images"], int(np.prod(shape))).reshape(shape).copy()

    def _run(self) -> None:
        for name, value in answer(self._images()).items():
            self._write(self.addresses[name], value)
        self.busy = False

    def _run_varying(self) -> bool:
        images = self._images()
        self.busy = False
        for name, value in answer(images).items():
            rows = np.repeat(value, int(images.flat[0]) + 1, axis=1)[:, : int(images.flat[0])]
            try:
                address = self.allocators[name].reallocate_output_async(name, 0, rows.nbytes, 256, 1)
            except Exception as error:
                raise AssertionError("an exception inside TensorRT ends the process") from error
            if not address:
                return False
            self._write(address, rows)
            self.allocators[name].notify_shape(name, rows.shape)
        return True

    def _write(self, address: int, value: np.ndarray) -> None:
        self.trt.cuda.bytes_at(address, value.nbytes)[:] = np.frombuffer(value.tobytes(), np.uint8)
