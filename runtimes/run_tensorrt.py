"""TensorRT: `.engine` and `.plan` files, compiled for one kind of NVIDIA GPU, with their facts as JSON beside them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

from edgedet import console, engine
from edgedet.engine import TITLES, EngineFacts
from edgedet.errors import ArtifactError, RuntimeUnavailable, SpecError, UsageError
from edgedet.runtimes import cuda_memory
from edgedet.runtimes.contract import as_input, check_input, check_outputs, require_open
from edgedet.runtimes.engine_slot import Port, Slot, logger, ports, reason
from edgedet.runtimes.precision import INT8, Layer
from edgedet.runtimes.session import Options, Outputs
from edgedet.spec import ModelSpec

SUFFIXES = (".engine", ".plan")
THROUGHPUT_SLOTS = 2
"""While the GPU computes one request, the other's copies and Python's part of it are done."""


def available() -> str | None:
    """None where TensorRT and cuda-bindings import and a GPU is there, otherwise why not and what to install."""
    try:
        engine.module()
        if problem := _cuda_problem():
            return problem
        if cuda_memory.gpu_count() == 0:
            return f"CUDA finds no GPU; {cuda_memory.REMEDIES['cudaErrorNoDevice']}"
    except RuntimeUnavailable as error:
        return str(error)
    return None


def version() -> str:
    """The version of TensorRT, or of TensorRT-RTX after its name."""
    flavour, trt = engine.module()
    return trt.__version__ if flavour == "tensorrt" else f"{TITLES[flavour]} {trt.__version__}"


def devices() -> list[str]:
    """The GPUs that CUDA finds: `cuda:0`, `cuda:1`."""
    return [f"cuda:{index}" for index in range(cuda_memory.gpu_count())]


def open(path: Path, options: Options) -> TensorRtSession:
    """The session of a plan that `edgedet export --to tensorrt` or `edgedet up` compiled on this kind of GPU."""
    return TensorRtSession(path, options)


def differences(facts: EngineFacts, device: int = 0) -> list[str]:
    """What keeps a plan from running here, each with both sides' values; none where it fits. device: the GPU's number."""
    return [*_software_differences(facts), *_hardware_differences(facts, device)]


def _software_differences(facts: EngineFacts) -> list[str]:
    title = TITLES[facts.flavour]
    try:
        _, trt = engine.module((facts.flavour,))
    except RuntimeUnavailable as error:
        return [f"it was compiled by {title} {facts.version}, which is not here: {error}"]
    if trt.__version__ == facts.version:
        return []
    return [f"it was compiled by {title} {facts.version} but this is {title} {trt.__version__}"]


def _hardware_differences(facts: EngineFacts, device: int) -> list[str]:
    """By compute capability; plans of TensorRT proper are tuned for one model of GPU as well."""
    name, capability = cuda_memory.gpu(device)
    if facts.compute_capabilities and capability not in facts.compute_capabilities:
        return [f"it was compiled for {', '.join(facts.compute_capabilities)} but this GPU ({name}) is {capability}"]
    if facts.flavour == "tensorrt" and facts.device not in (None, name):
        return [f"it was compiled on {facts.device} but this GPU is {name}"]
    return []


class TensorRtSession:
    """A plan with `slots` execution contexts; `infer` may run from several threads at once.

    A batch larger than the plan's profile runs in pieces, a smaller one is padded.
    """

    def __init__(self, path: Path, options: Options) -> None:
        _refuse_options(options)
        facts = engine.read_facts(path)
        self.spec, self._plan = facts.spec, facts
        _refuse_candidates(path, options, facts)
        if problem := _cuda_problem():
            raise RuntimeUnavailable(f"{path.name} cannot run here: {problem}")
        _refuse(path, facts, _software_differences(facts))
        device = _device(options.device, facts)
        _refuse(path, facts, _hardware_differences(facts, device))
        cuda_memory.use(device)
        _, trt = engine.module((facts.flavour,))
        errors: deque[str] = deque(maxlen=100)
        self._runtime, self._engine = _deserialize(trt, path, facts, errors)
        found = ports(trt, self._engine, path)
        _check_ports(found, self.spec, path)
        self.slots = THROUGHPUT_SLOTS if options.performance == "throughput" else 1
        self.facts = _facts(facts, device)
        slots = _slots(self.slots, lambda: Slot(trt, self._engine, found, errors, device=device))
        self._idle: SimpleQueue[Slot | None] = SimpleQueue()
        for slot in slots:
            self._idle.put(slot)
        without = slots[0].without_graph
        self.facts["cuda_graph"] = without or "replayed"
        if without:
            console.say(f"{path.name} runs without a CUDA graph: {without}")
        self.closed = False
        self._pool = ThreadPoolExecutor(self.slots, thread_name_prefix="tensorrt")

    def infer(self, images: np.ndarray) -> Outputs:
        """The plan's outputs for (B, H, W, 3) uint8 letterboxed BGR images."""
        require_open(self)
        array = as_input(images, self.spec)
        slot = self._idle.get()
        if slot is None:  # closed meanwhile; the next one that waits is to know too
            self._idle.put(None)
            raise UsageError(f"this detector of {self.spec.name} is closed; load it again")
        try:
            parts = [slot.run(array[start : start + slot.largest]) for start in range(0, len(array), slot.largest)]
        finally:
            self._idle.put(slot)
        return parts[0] if len(parts) == 1 else {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def layers(self) -> Sequence[Layer]:
        """The layers as the builder told what it made of them; it tells no multiply-accumulates, so they are 0."""
        built = [layer for layer in self._plan.layers if layer.built is not None]
        return [Layer(layer.name, TITLES[self._plan.flavour], layer.asked, layer.built or "", 0) for layer in built]

    def submit(self, images: np.ndarray) -> Future[Outputs]:
        """The same, in the background."""
        require_open(self)
        return self._pool.submit(self.infer, images)

    def close(self) -> None:
        """Wait for what is in flight and free the GPU's memory."""
        if self.closed:
            return
        self.closed = True
        self._pool.shutdown(cancel_futures=True)
        for _ in range(self.slots):  # each comes back when its request is done
            if slot := self._idle.get():
                slot.close()
        self._idle.put(None)
        self._engine, self._runtime = None, None


def _cuda_problem() -> str | None:
    """None where cuda-bindings imports, otherwise why not."""
    try:
        cuda_memory.cudart()
    except ImportError as error:
        return f"cuda-bindings cannot be imported ({error}); pip install 'edgedet[tensorrt]'"
    return None


def _refuse_options(options: Options) -> None:
    """UsageError for what a plan cannot be told any more: all that was decided when it was compiled."""
    if options.inference_precision != "f32":
        raise UsageError(
            f"TensorRT runs the precision that the plan was compiled in and has no {options.inference_precision} mode; "
            f"compile one with `edgedet export MODEL --to tensorrt --precision fp16`"
        )
    if options.graph_optimization == "off":
        raise UsageError("TensorRT optimised the graph when it compiled it; --graph-optimization off is for ONNX Runtime")


def _refuse_candidates(path: Path, options: Options, facts: EngineFacts) -> None:
    """ArtifactError where candidates are asked of a plan that ends behind suppression."""
    if options.outputs == "candidates" and facts.spec.suppression.mode != "none":
        raise ArtifactError(
            f"{path}: a plan gives the outputs it was compiled with, and its candidates are not among them; "
            "compare those of one compiled with --nms none"
        )


def _device(asked: str, facts: EngineFacts) -> int:
    """The number of the GPU asked for; the first for `auto` and `gpu`."""
    kind, _, index = asked.lower().partition(":")
    if kind == "cpu":
        raise RuntimeUnavailable(
            f"device {asked!r} was asked for, but a plan runs on its GPU only; use --device gpu, or {facts.onnx}, "
            "which it was compiled from, on the CPU"
        )
    if kind not in ("auto", "gpu", "cuda") or (index and not index.isdigit()):
        raise UsageError(f"TensorRT knows no device {asked!r}; use auto, gpu or cuda:N")
    count, number = cuda_memory.gpu_count(), int(index or 0)
    if number >= count:
        raise RuntimeUnavailable(f"device {asked!r} was asked for but CUDA finds {count} GPUs; use cuda:0 to cuda:{count - 1}")
    return number


def _refuse(path: Path, facts: EngineFacts, found: Sequence[str]) -> None:
    """RuntimeUnavailable where something differs."""
    if found:
        raise RuntimeUnavailable(f"{path.name} is refused: {'; '.join(found)}; {_compile_here(facts)}")


def _compile_here(facts: EngineFacts) -> str:
    return f"compile it here with `edgedet export {facts.onnx} --to tensorrt`, or a bundle's with `edgedet up`"


def _deserialize(trt: Any, path: Path, facts: EngineFacts, errors: deque[str]) -> tuple[Any, Any]:
    """TensorRT's runtime and the engine of a plan; the runtime must outlive it."""
    log = logger(trt, errors)
    if hasattr(trt, "init_libnvinfer_plugins"):
        trt.init_libnvinfer_plugins(log, "")
    runtime = trt.Runtime(log)
    if facts.dla is not None:
        if facts.dla >= runtime.num_DLA_cores:
            raise RuntimeUnavailable(
                f"{path.name} is refused: it was compiled for DLA core {facts.dla} but this device has "
                f"{runtime.num_DLA_cores}; {_compile_here(facts)} without --dla"
            )
        runtime.DLA_core = facts.dla
    loaded = runtime.deserialize_cuda_engine(path.read_bytes())
    if loaded is None:
        title = f"{TITLES[facts.flavour]} {facts.version}"
        raise RuntimeUnavailable(f"{path}: {title} cannot load it ({reason(errors)}); {_compile_here(facts)}")
    return runtime, loaded


def _check_ports(found: list[Port], spec: ModelSpec, path: Path) -> None:
    """Raise SpecError where the plan's inputs and outputs are not what its spec says."""
    inputs = [port for port in found if port.is_input]
    if len(inputs) != 1:
        raise SpecError(f"{path}: has {len(inputs)} inputs, a detector has one; compile a file that edgedet exported")
    check_input([None if side < 0 else side for side in inputs[0].shape], spec, path)
    told = np.dtype(np.uint8 if spec.input_layout == "uint8-nhwc" else np.float32)
    if inputs[0].dtype != told:
        raise SpecError(
            f"{path}: its input is {inputs[0].dtype} but its spec says {spec.input_layout}; one was altered: export it again"
        )
    check_outputs([port.name for port in found if not port.is_input], spec, path)


def _slots(count: int, make: Callable[[], Slot]) -> list[Slot]:
    """So many slots, or none where one cannot be had."""
    made: list[Slot] = []
    try:
        for _ in range(count):
            made.append(make())
    except BaseException:
        for slot in made:
            slot.close()
        raise
    return made


def _facts(facts: EngineFacts, device: int) -> dict[str, str]:
    """What serves and how: `precision` out of the layers as they were built, counted, where the builder told."""
    name, capability = cuda_memory.gpu(device)
    built = [layer.built for layer in facts.layers if layer.built]
    floats = sorted({kind for kind in built if kind != INT8})
    told = f"{INT8} ({built.count(INT8)} of {len(built)} layers), rest {' and '.join(floats)}" if floats else INT8
    return {
        "device": f"{name}, {capability}, cuda:{device}",
        "precision": "as in the file" if not built else told if INT8 in built else " and ".join(floats),
    }
