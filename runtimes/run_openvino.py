"""OpenVINO: `.xml` with its `.bin`, or `.onnx`, on Intel and other x86 and ARM CPUs, Intel GPUs and NPUs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from typing import Any

import numpy as np

from edgedet.artifact import output_errors, require_file
from edgedet.errors import ArtifactError, RuntimeUnavailable, UsageError
from edgedet.runtimes import openvino_layers, precision
from edgedet.runtimes.contract import (
    PLUGIN,
    as_input,
    check_encoding,
    check_input,
    check_outputs,
    plugin_refusal,
    read_spec,
    require_open,
)
from edgedet.runtimes.precision import Layer
from edgedet.runtimes.session import Options, Outputs
from edgedet.spec import CANDIDATES, FINAL, KEY

SUFFIXES = (".xml", ".onnx")
_ONE_AT_A_TIME = Lock()


def available() -> str | None:
    """None where openvino imports, otherwise why not and what to install."""
    try:
        import openvino  # noqa: F401
    except ImportError as error:
        return f"openvino cannot be imported ({error}); pip install 'edgedet[openvino]'"
    return None


def version() -> str:
    """The version of openvino, without its build number."""
    import openvino

    return openvino.__version__.split("-")[0]


def devices() -> list[str]:
    """OpenVINO's devices in small letters: `cpu`, `gpu`, `gpu.1`, `npu`."""
    import openvino

    return [name.lower() for name in openvino.Core().available_devices]


def open(path: Path, options: Options) -> OpenVinoSession:
    """The session of an OpenVINO or ONNX file that `edgedet export` wrote."""
    return OpenVinoSession(path, options)


class OpenVinoSession:
    """A model compiled by OpenVINO with a pool of infer requests; `infer` may run from several threads at once."""

    def __init__(self, path: Path, options: Options) -> None:
        import openvino

        with _ONE_AT_A_TIME:  # the first inferences of two threads would both make this table and wait for each other for ever
            openvino.Type.u8.to_dtype()
        core = openvino.Core()
        device = _device(options.device, [name.lower() for name in core.available_devices])
        model = _read(path)
        self.spec = read_spec(lambda: _spec_text(model), path)
        shape = model.input(0).partial_shape
        check_input([side.get_length() if side.is_static else None for side in shape], self.spec, path)
        check_encoding(self.spec, path, runtime="openvino")
        asked = openvino_layers.asked(model)
        if options.outputs == "candidates":
            _add_candidates(path, model)
        _add_taps(model, options.taps)
        self._compiled: Any = _compile(core, path, model, device, options)
        # Two more than it executes at once wait inside OpenVINO, so that no core idles until Python hands over the next.
        waiting = 2 if options.performance == "throughput" else 0
        self.slots = int(self._compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")) + waiting
        self._layers = openvino_layers.executed(self._compiled, asked, floats=options.inference_precision)
        self.facts = {"device": device, "precision": precision.summary(self._layers)}
        _refuse_other_precision(path, self._layers, asked=options.inference_precision, device=device)
        self._input = self._compiled.input(0)
        self._names = _names(self._compiled.outputs, options)
        check_outputs(list(self._names), self.spec, path)
        self.closed = False
        self._idle: SimpleQueue[Any] = SimpleQueue()
        for _ in range(self.slots):
            self._idle.put(self._compiled.create_infer_request())
        self._pool = ThreadPoolExecutor(self.slots, thread_name_prefix="openvino")

    def infer(self, images: np.ndarray) -> Outputs:
        """The file's outputs for (B, H, W, 3) uint8 letterboxed BGR images."""
        require_open(self)
        array = as_input(images, self.spec)
        request = self._idle.get()
        try:
            results = request.infer({self._input: array}, share_inputs=True)
            return {name: np.array(results[index]) for name, index in self._names.items()}
        finally:
            self._idle.put(request)

    def layers(self) -> Sequence[Layer]:
        """The layers as the compiled graph tells."""
        return self._layers

    def submit(self, images: np.ndarray) -> Future[Outputs]:
        """The same, in the background."""
        require_open(self)
        return self._pool.submit(self.infer, images)

    def close(self) -> None:
        """Wait for what is in flight and free the model."""
        self._pool.shutdown(cancel_futures=True)
        self.closed, self._idle, self._compiled = True, SimpleQueue(), None


def _device(asked: str, present: list[str]) -> str:
    """The device to compile for: a GPU before the CPU for `auto`, otherwise the one asked for or an error."""
    device = asked.lower()
    if device == "auto":
        return "gpu" if "gpu" in present else "cpu"
    if device not in present and not (device == "gpu" and "gpu.0" in present):
        raise RuntimeUnavailable(
            f"device {asked!r} was asked for but OpenVINO finds {', '.join(present)}; use --device cpu, or install its driver"
        )
    return device


def _config(options: Options) -> dict[str, Any]:
    """Properties for compile_model; always with the precision, because OpenVINO picks bf16 where the CPU has it."""
    if options.graph_optimization == "off":
        raise UsageError("OpenVINO always optimises the graph; --graph-optimization off is for ONNX Runtime")
    config: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": options.inference_precision,
        "PERFORMANCE_HINT": options.performance.upper(),
    }
    if options.cache is not None:
        with output_errors(options.cache):
            options.cache.mkdir(parents=True, exist_ok=True)
        config["CACHE_DIR"] = str(options.cache)
    return config


def _compile(core: Any, path: Path, model: Any, device: str, options: Options) -> Any:
    """The openvino.CompiledModel of a model."""
    config = _config(options)
    if device == "cpu":
        # Pinned threads wait for their core while another is free, and every process pins to the same first cores: beside
        # busy processes on two cores a YOLOX-nano frame took 40 ms to 53 ms pinned, 18 ms to 31 ms free.
        config["ENABLE_CPU_PINNING"] = False
    try:
        return core.compile_model(model, device.upper(), config)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise RuntimeUnavailable(
            f"{path}: OpenVINO cannot compile it for {device} ({reason}); use --device cpu or another runtime"
        ) from error


def _refuse_other_precision(path: Path, layers: Sequence[Layer], *, asked: str, device: str) -> None:
    """Raise where float arithmetic does not run in the precision asked for; OpenVINO takes bf16 for f16 without a word."""
    executed = precision.float_precision(layers)
    if executed in ("f32", "bf16", "f16") and executed != asked:
        raise RuntimeUnavailable(
            f"{path.name}: {asked} was asked for but OpenVINO on this {device} runs {executed}; "
            f"use --inference-precision {executed} to have that, or f32"
        )


def _read(path: Path) -> Any:
    """The openvino.Model of a file, read by the one front end that fits, so that others do not complain on stderr."""
    from openvino import frontend

    require_file(path)
    if path.suffix.lower() == ".xml":
        _check_weights(path)
    front_end = frontend.FrontEndManager().load_by_framework("ir" if path.suffix.lower() == ".xml" else "onnx")
    failures = (frontend.GeneralFailure, frontend.InitializationFailure, frontend.NotImplementedFailure)
    try:
        return front_end.convert(front_end.load(str(path)))
    except (*failures, frontend.OpConversionFailure, frontend.OpValidationFailure, RuntimeError) as error:
        if PLUGIN in str(error):
            raise plugin_refusal(path, runtime="OpenVINO") from error
        reason = str(error).strip().splitlines()[-1]
        raise ArtifactError(
            f"{path}: OpenVINO cannot read it ({reason}); it is truncated or of another kind: export it again"
        ) from error


def _check_weights(path: Path) -> None:
    """Raise where the .xml is cut off, or its .bin is absent or shorter than the .xml says; OpenVINO would read on."""
    text = path.read_text(encoding="utf-8", errors="replace")
    if not text.rstrip().endswith("</net>"):
        raise ArtifactError(f"{path}: not a whole OpenVINO model (no </net> at its end); export it again")
    needed = max((int(offset) + int(size) for offset, size in re.findall(r'offset="(\d+)" size="(\d+)"', text)), default=0)
    weights = path.with_suffix(".bin")
    if not weights.exists():
        raise ArtifactError(f"{path}: its weights {weights.name} are not beside it; copy both files")
    if weights.stat().st_size < needed:
        raise ArtifactError(f"{weights}: is truncated: {weights.stat().st_size} bytes of {needed}; copy or export it again")


def _spec_text(model: Any) -> str | None:
    """The JSON of the spec in the model's rt_info; OpenVINO keeps an ONNX file's metadata under `framework`."""
    for place in (KEY, ["framework", KEY]):
        if model.has_rt_info(place):
            return str(model.get_rt_info(place).value)
    return None


def _add_candidates(path: Path, model: Any) -> None:
    """Add the boxes before suppression to the model's outputs."""
    present = {name for output in model.outputs for name in output.get_names()}
    try:
        model.add_outputs([name for name in CANDIDATES if name not in present])
    except RuntimeError as error:
        raise ArtifactError(
            f"{path}: has no candidate tensors, so its candidates cannot be compared; write it with `edgedet export`"
        ) from error


def _add_taps(model: Any, names: Sequence[str]) -> None:
    """Add those of the named inner values to the outputs that the model has and does not give yet."""
    known = {name for node in model.get_ordered_ops() for output in node.outputs() for name in output.get_names()}
    present = {name for output in model.outputs for name in output.get_names()}
    model.add_outputs([name for name in names if name in known - present])


def _names(outputs: Sequence[Any], options: Options) -> dict[str, int]:
    """Place of each output by its name in the contract or as a tap; OpenVINO may keep several names for one value."""
    found: dict[str, int] = {}
    for index, output in enumerate(outputs):
        names = output.get_names()
        found |= dict.fromkeys([name for name in (*FINAL, *CANDIDATES) if name in names][:1] or [output.get_any_name()], index)
        found |= dict.fromkeys(names & set(options.taps), index)
    return found
