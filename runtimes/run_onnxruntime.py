"""ONNX Runtime: `.onnx` files on the CPU, or on an NVIDIA GPU with the onnxruntime-gpu package."""

from __future__ import annotations

import importlib.util
import platform
import tempfile
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from edgedet.artifact import require_file
from edgedet.errors import ArtifactError, RuntimeUnavailable, UsageError
from edgedet.runtimes import efficient_nms
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
from edgedet.runtimes.machine import usable_cores
from edgedet.runtimes.precision import Layer, summary
from edgedet.runtimes.session import Options, Outputs
from edgedet.spec import CANDIDATES, KEY, ModelSpec

SUFFIXES = (".onnx",)
_ERRORS_ONLY = 3
_CUDA = "CUDAExecutionProvider"


def available() -> str | None:
    """None where onnxruntime imports, otherwise why not and what to install."""
    try:
        import onnxruntime  # noqa: F401
    except ImportError as error:
        return f"onnxruntime cannot be imported ({error}); pip install onnxruntime"
    return None


def version() -> str:
    """The version of onnxruntime."""
    import onnxruntime

    return onnxruntime.__version__


def devices() -> list[str]:
    """`cpu`, and `gpu` where the package was built for CUDA."""
    import onnxruntime

    return ["cpu"] + ["gpu"] * (_CUDA in onnxruntime.get_available_providers())


def open(path: Path, options: Options) -> OnnxRuntimeSession:
    """The session of an ONNX file that `edgedet export` wrote."""
    return OnnxRuntimeSession(path, options)


class OnnxRuntimeSession:
    """An ONNX file loaded by ONNX Runtime; `infer` may run from several threads at once."""

    def __init__(self, path: Path, options: Options) -> None:
        providers = _providers(options)
        if options.inference_precision != "f32":
            raise UsageError(
                f"ONNX Runtime runs the precision that is in the file and has no {options.inference_precision} mode; "
                "export with --precision fp16, or use --runtime openvino"
            )
        self._session: Any = _load(path, options, providers)
        on_gpu = self._session.get_providers()[0] == _CUDA
        if len(providers) > 1 and not on_gpu and options.device != "auto":
            raise RuntimeUnavailable(
                f"{path.name}: ONNX Runtime could not start on CUDA; install CUDA and cuDNN, or use --device cpu"
            )
        self.spec = read_spec(lambda: self._session.get_modelmeta().custom_metadata_map.get(KEY), path)
        self.slots = usable_cores() if options.performance == "throughput" and not on_gpu else 1
        check_encoding(self.spec, path, runtime="onnxruntime")
        self._on_gpu, self._source = on_gpu, (path, options, providers)
        entry = self._session.get_inputs()[0]
        check_input([side if isinstance(side, int) else None for side in entry.shape], self.spec, path)
        self._input = entry.name
        self._outputs = [output.name for output in self._session.get_outputs()]
        check_outputs(self._outputs, self.spec, path)
        self.closed = False
        self._pool = ThreadPoolExecutor(self.slots, thread_name_prefix="onnxruntime")

    def infer(self, images: np.ndarray) -> Outputs:
        """The file's outputs for (B, H, W, 3) uint8 letterboxed BGR images."""
        require_open(self)
        values = self._session.run(self._outputs, {self._input: as_input(images, self.spec)})
        return dict(zip(self._outputs, values, strict=True))

    @cached_property
    def facts(self) -> dict[str, str]:
        """Device and precision; of a quantised file the executed one, which takes a second session to find out."""
        layers = self.layers() if self.spec.precision.startswith("int8") else ()
        executed = summary(layers) if layers else _float_precision(self.spec, on_gpu=self._on_gpu)
        evaluated = isinstance(self._session, efficient_nms.PluginSession)
        plugins = {"plugins": f"{PLUGIN} evaluated in NumPy"} if evaluated else {}
        return {"device": "gpu" if self._on_gpu else "cpu", "precision": executed, **plugins}

    def layers(self) -> Sequence[Layer]:
        """The layers as the optimised graph runs them; none where the onnx package, which reads it, is absent."""
        return self._layers if importlib.util.find_spec("onnx") else ()

    @cached_property
    def _layers(self) -> tuple[Layer, ...]:
        return _read_layers(*self._source)

    def submit(self, images: np.ndarray) -> Future[Outputs]:
        """The same, in the background."""
        require_open(self)
        return self._pool.submit(self.infer, images)

    def close(self) -> None:
        """Wait for what is in flight and free the model."""
        self._pool.shutdown(cancel_futures=True)
        self.closed, self._session = True, None


def _float_precision(spec: ModelSpec, *, on_gpu: bool) -> str:
    """What float arithmetic runs in: x86 has no float16 kernels, so ONNX Runtime casts an FP16 file to float32 there."""
    on_x86 = not on_gpu and platform.machine().lower() in ("x86_64", "amd64")
    return "f32" if spec.precision == "fp32" or (spec.precision == "fp16" and on_x86) else "as in the file"


def _providers(options: Options) -> list[Any]:
    """Execution providers for the device asked for; a GPU that is not there is an error, never a fall-back."""
    kind, _, index = options.device.lower().partition(":")
    if kind not in ("auto", "cpu", "gpu", "cuda") or (index and not (kind in ("gpu", "cuda") and index.isdigit())):
        raise UsageError(f"ONNX Runtime knows no device {options.device!r}; use auto, cpu, gpu or cuda:N")
    has_gpu = "gpu" in devices()
    if kind == "cpu" or (kind == "auto" and not has_gpu):
        return ["CPUExecutionProvider"]
    if not has_gpu:
        raise RuntimeUnavailable(
            f"device {options.device!r} was asked for, but this onnxruntime ({version()}) has no CUDA; "
            "pip uninstall onnxruntime, pip install onnxruntime-gpu, or use --device cpu"
        )
    # TF32 keeps ten bits of a float32's mantissa: never unasked.
    return [(_CUDA, {"device_id": index or "0", "use_tf32": "0"}), "CPUExecutionProvider"]


def _load(path: Path, options: Options, providers: list[Any]) -> Any:
    """The onnxruntime.InferenceSession of a file."""
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    onnxruntime.set_default_logger_severity(_ERRORS_ONLY)
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = _ERRORS_ONLY
    # Idle threads that spin take the core that decoding or another model needs: measured beside one busy process on two
    # cores, 57 ms and 34 ms of CPU a YOLOX-nano frame with spinning, 32 ms and 17 ms without.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if options.graph_optimization == "off":
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if options.performance == "throughput":
        settings.intra_op_num_threads = 1  # one core a request, as many requests as cores
    refusals = (
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.NoModel,
        state.NotImplemented,
    )
    require_file(path)
    load = partial(onnxruntime.InferenceSession, sess_options=settings, providers=providers)
    model = _with_outputs(path, options) if options.outputs == "candidates" or options.taps else None
    try:
        if options.plugins == "evaluated" and efficient_nms.is_in(read_graph(path, with_weights=False)):
            return efficient_nms.PluginSession(model or read_graph(path), load)
        return load(model.SerializeToString() if model else str(path))
    except (*refusals, state.RuntimeException) as error:
        if PLUGIN in str(error):
            raise plugin_refusal(path, runtime="ONNX Runtime") from error
        reason = str(error).splitlines()[0].partition("failed:")[2] or str(error).splitlines()[0]
        raise ArtifactError(
            f"{path}: ONNX Runtime cannot load it ({reason}); it is truncated or no ONNX file: export it again"
        ) from error


def _with_outputs(path: Path, options: Options) -> Any:
    """The model with the boxes before suppression, and the taps it has, added to its outputs."""
    onnx = _onnx("comparing candidates and inner values in ONNX Runtime")
    model = read_graph(path)
    graph = model.graph
    made = {name for node in graph.node for name in node.output}
    present = {output.name for output in graph.output}
    candidates = CANDIDATES if options.outputs == "candidates" else ()
    if missing := [name for name in candidates if name not in made]:
        raise ArtifactError(
            f"{path}: has no tensor {missing[0]!r}, so its candidates cannot be compared; write it with `edgedet export`"
        )
    for name in dict.fromkeys((*candidates, *(tap for tap in options.taps if tap in made))):
        if name not in present:
            graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    return model


def _without_plugin(path: Path) -> str | bytes:
    """The file, or where it holds TensorRT's plugin the model before that, serialized."""
    if not efficient_nms.is_in(read_graph(path, with_weights=False)):
        return str(path)
    return efficient_nms.cut(read_graph(path))[0].SerializeToString()


def _onnx(purpose: str) -> Any:
    """The onnx package, which runs nothing but reads graphs."""
    try:
        import onnx
    except ImportError as error:
        raise RuntimeUnavailable(f"{purpose} needs the onnx package ({error}); pip install onnx") from error
    return onnx


def read_graph(path: Path, *, with_weights: bool = True) -> Any:
    """The onnx.ModelProto of a file."""
    from google.protobuf.message import DecodeError

    try:
        return _onnx("reading the graph").load(str(path), load_external_data=with_weights)
    except DecodeError as error:
        raise ArtifactError(f"{path}: not an ONNX file, or truncated ({error}); export it again") from error


def _read_layers(path: Path, options: Options, providers: list[Any]) -> tuple[Layer, ...]:
    """The layers of a file and what ONNX Runtime makes of them, as the graph tells that it optimises at the side.

    Where it rearranges channels for the CPU's caches it renames nodes, so that is left out here; it changes no precision.
    """
    import onnxruntime

    from edgedet.runtimes.onnx_layers import OnnxGraph

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = _ERRORS_ONLY
    levels = onnxruntime.GraphOptimizationLevel
    off = options.graph_optimization == "off"
    settings.graph_optimization_level = levels.ORT_DISABLE_ALL if off else levels.ORT_ENABLE_EXTENDED
    # Weights in a file of their own, or a large model would not fit into protobuf's 2 GiB.
    settings.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights")
    settings.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / "optimized.onnx"
        settings.optimized_model_filepath = str(optimized)
        onnxruntime.InferenceSession(_without_plugin(path), settings, providers=providers)
        ran = OnnxGraph(read_graph(optimized, with_weights=False)).executed()
    written = OnnxGraph(read_graph(path, with_weights=False)).layers()
    return tuple(replace(layer, kind=ran[name][0], executed=ran[name][1]) for name, layer in written if name in ran)
