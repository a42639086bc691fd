"""ONNX → TensorRT plan: `X.engine`, raw, and `X.engine.json` beside it, from a typed ONNX file of edgedet's. Torch-free.

One path for TensorRT ≥ 10.3, 11.x and TensorRT-RTX, which are told apart by what they have, never by their version: a
strongly typed network, so that the precisions are the file's own; a profile where the batch is free; no TF32, because
nothing is narrowed unasked.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedet import artifact, engine
from edgedet.engine import EngineFacts, Flavour
from edgedet.errors import ExportError, RuntimeUnavailable, UsageError
from edgedet.export import builder_log, building, fault, onnx_file, typed_layers
from edgedet.export.building import Progress
from edgedet.export.fault import Fault, Refused

if TYPE_CHECKING:
    import onnx

    from edgedet.spec import ModelSpec

SUFFIXES = (".engine", ".plan")


@dataclass(frozen=True)
class BuildOptions:
    """How a plan is compiled.

    workspace_mib: most scratch memory, the device's all where None. timing_cache: a file that is read where it is there
    and written after, so that the next build is quicker; TensorRT-RTX measures nothing and keeps none. dla: which DLA
    core, None for the GPU. targets: GPUs such as `SM86` to compile ahead of time for, TensorRT-RTX only; none for every
    GPU it serves. batch: least, usual and largest, where the file's batch is free. flavour: which TensorRT, None for the
    first that imports.
    """

    workspace_mib: int | None = None
    timing_cache: Path | None = None
    dla: int | None = None
    targets: tuple[str, ...] = ()
    batch: tuple[int, int, int] | None = None
    flavour: Flavour | None = None


def to_tensorrt(
    source: Path, target: Path, options: BuildOptions | None = None, *, progress: Progress | None = None
) -> EngineFacts:
    """Compile an ONNX file of edgedet's and write the plan with its facts, both or neither; returns the facts.

    ExportError where TensorRT refuses it, GateFailed where a layer is wider than asked for.
    """
    options = options or BuildOptions()
    if target.suffix not in SUFFIXES:
        raise ExportError(f"{target}: a TensorRT plan is called .engine or .plan; name it {target.with_suffix('.engine').name}")
    model, spec = onnx_file.read(source)
    if options.dla is not None:
        _require_for_dla(spec, where=source.name)
    compiler = Compiler(options)
    with artifact.writing(target, engine.sidecar(target)) as (temporary, beside):
        plan = compiler.build(source, model, progress=progress)
        layers = typed_layers.compared(typed_layers.layers(model, spec), compiler.built(plan), where=target.name)
        temporary.write_bytes(plan)
        facts = EngineFacts(
            flavour=compiler.flavour,
            version=str(compiler.trt.__version__),
            compute_capabilities=compiler.compute_capabilities(),
            plan_sha256=artifact.sha256(temporary),
            onnx=source.name,
            onnx_sha256=artifact.sha256(source),
            spec=spec,
            layers=layers,
            device=compiler.device and compiler.device[0],
            batches=options.batch,
            workspace_mib=options.workspace_mib,
            dla=options.dla,
            weights_bytes=compiler.log.weights_bytes,
        )
        beside.write_text(facts.to_json(), encoding="utf-8")
        compiler.keep_timing_cache()
    return facts


class Compiler:
    """One TensorRT and how it is to compile; options that it does not have are refused before any work."""

    def __init__(self, options: BuildOptions) -> None:
        flavours = ("tensorrt_rtx",) if options.targets else (options.flavour,) if options.flavour else engine.FLAVOURS
        self.flavour, self.trt = engine.module(flavours)
        self.name = f"{engine.TITLES[self.flavour]} {self.trt.__version__}"
        self.ahead_of_time = hasattr(self.trt, "ComputeCapability")
        self.options = options
        self.log = builder_log.listener(self.trt)
        if hasattr(self.trt, "init_libnvinfer_plugins"):  # without it the parser finds none of TensorRT's own plugins
            self.trt.init_libnvinfer_plugins(self.log, "")
        self.device = None if self.ahead_of_time else _device(self.name)
        self._builder = self.trt.Builder(self.log)
        if self._builder is None:
            raise RuntimeUnavailable(f"{self.name} cannot start its builder; `edgedet doctor` says what it finds here")
        self._config = self._builder.create_builder_config()
        self._configure()

    def compute_capabilities(self) -> tuple[str, ...]:
        """The GPUs that the plan runs on."""
        return self.options.targets if self.device is None else (self.device[1],)

    def build(self, source: Path, model: onnx.ModelProto, *, progress: Progress | None = None) -> Any:
        """The plan, a buffer of bytes; ExportError says what TensorRT refuses."""
        self._parse(source)
        self._add_profile(model, source)
        if self.options.dla is not None:
            self._require_convolutions_on_dla(source)
        stop = threading.Event()
        if hasattr(self.trt, "IProgressMonitor"):
            self._config.progress_monitor = self._monitor = building.monitor(self.trt, stop, progress)
        plan = building.interruptible(lambda: self._builder.build_serialized_network(self._network, self._config), stop)
        if plan is None:
            faults = list(dict.fromkeys(_placed(fault.explained(words), model) for words in self.log.errors))
            faults = faults or [Fault("", "", "TensorRT gives no plan and no reason", "run it again with more --workspace")]
            raise Refused(f"{source.name}: {self.name} cannot build it", faults)
        return plan

    def built(self, plan: Any) -> dict[str, str]:
        """The precision of each layer by its ONNX node, none where nothing tells."""
        if found := builder_log.from_log(self.log.layer_lines):
            return found
        runtime = self.trt.Runtime(self.log)
        loaded = runtime.deserialize_cuda_engine(plan) if runtime is not None else None
        if loaded is None:
            return {}
        inspector = loaded.create_engine_inspector()
        return builder_log.from_inspector(inspector.get_engine_information(self.trt.LayerInformationFormat.JSON))

    def keep_timing_cache(self) -> None:
        """Write what the builder measured, for the next build."""
        if self.options.timing_cache is not None and not self.ahead_of_time:
            with artifact.writing(self.options.timing_cache) as (temporary,):
                temporary.write_bytes(self._config.get_timing_cache().serialize())

    def _configure(self) -> None:
        trt, config, options = self.trt, self._config, self.options
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        config.clear_flag(trt.BuilderFlag.TF32)
        if options.workspace_mib is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
        self._set_targets()
        self._set_timing_cache()
        self._set_dla()

    def _set_targets(self) -> None:
        """Ahead of time for the GPUs asked for."""
        known = getattr(self.trt, "ComputeCapability", None)
        for index, target in enumerate(self.options.targets):
            members = [name for name in getattr(known, "__members__", {}) if name.startswith("SM")]
            if target not in members:
                raise UsageError(f"--targets {target}: {self.name} compiles ahead of time for {', '.join(members)} only")
            self._config.num_compute_capabilities = len(self.options.targets)
            self._config.set_compute_capability(getattr(known, target), index)

    def _set_timing_cache(self) -> None:
        """What was measured before; a cache of another TensorRT or another GPU tells nothing and is begun anew."""
        path = self.options.timing_cache
        if path is None or self.ahead_of_time:
            return
        cache = self._config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
        if cache is None or not self._config.set_timing_cache(cache, False):
            self._config.set_timing_cache(self._config.create_timing_cache(b""), False)

    def _set_dla(self) -> None:
        """The network on a DLA core, and on the GPU what it does not take: decode and suppression, but no convolution."""
        core, cores = self.options.dla, self._builder.num_DLA_cores
        if core is None:
            return
        if self.ahead_of_time or cores == 0:
            raise UsageError(
                f"--dla {core}: {self.name} finds no DLA here (an Orin has it, with TensorRT to 10.7 or from 11.4.1); "
                "leave --dla out and the GPU runs it"
            )
        if core >= cores:
            raise UsageError(f"--dla {core}: there are {cores} DLA cores here, counted from 0")
        self._config.default_device_type = self.trt.DeviceType.DLA
        self._config.DLA_core = core
        self._config.set_flag(self.trt.BuilderFlag.GPU_FALLBACK)

    def _parse(self, source: Path) -> None:
        """Read the file into a network; ExportError names each node that the parser refuses."""
        flags = self.trt.NetworkDefinitionCreationFlag
        chosen = 0
        for name in ("EXPLICIT_BATCH", "STRONGLY_TYPED"):  # what this TensorRT has no word for, it does anyway
            chosen |= 1 << int(getattr(flags, name)) if hasattr(flags, name) else 0
        self._network = self._builder.create_network(chosen)
        self._parser = self.trt.OnnxParser(self._network, self.log)  # owns the weights until the plan is built
        if not self._parser.parse_from_file(str(source)):
            errors = [self._parser.get_error(index) for index in range(self._parser.num_errors)]
            faults = [fault.explained(e.desc(), node=e.node_name(), operator=e.node_operator()) for e in errors]
            raise Refused(f"{source.name}: {self.name} cannot read it", faults)

    def _require_convolutions_on_dla(self, source: Path) -> None:
        """ExportError names the convolutions that TensorRT would put on the GPU with a word in its log alone."""
        layers = [self._network.get_layer(index) for index in range(self._network.num_layers)]
        kinds = (self.trt.LayerType.CONVOLUTION, self.trt.LayerType.DECONVOLUTION)
        off = [layer.name for layer in layers if layer.type in kinds and not self._config.can_run_on_DLA(layer)]
        if off:
            more = f" and {len(off) - fault.LISTED} more" if len(off) > fault.LISTED else ""
            raise ExportError(
                f"{source.name}: {len(off)} convolutions cannot run on a DLA: {', '.join(off[: fault.LISTED])}{more}; "
                "leave --dla out and the GPU runs them all"
            )

    def _add_profile(self, model: onnx.ModelProto, source: Path) -> None:
        """Which batches the plan is for, where the file's is free."""
        batches = self.options.batch
        inputs = [self._network.get_input(index) for index in range(self._network.num_inputs)]
        free = [value for value in inputs if -1 in tuple(value.shape)]
        require_profile(model, batches, where=source.name)
        if not free or batches is None:
            return
        profile = self._builder.create_optimization_profile()
        for value in free:
            profile.set_shape(value.name, *((batch, *tuple(value.shape)[1:]) for batch in batches))
        if self._config.add_optimization_profile(profile) < 0:
            raise UsageError(f"--batch {','.join(map(str, batches))}: {self.name} refuses this profile")


def require_profile(model: onnx.ModelProto, batches: tuple[int, int, int] | None, *, where: str) -> None:
    """UsageError where a free batch has no profile, a fixed one has, or more than the batch is free."""
    for value in model.graph.input:
        sides = value.type.tensor_type.shape.dim
        if any(not side.HasField("dim_value") for side in sides[1:]):
            raise ExportError(f"{where}: input {value.name} has a free side besides the batch; export it with a fixed --size")
        free = bool(sides) and not sides[0].HasField("dim_value")
        if free and batches is None:
            raise UsageError(
                f"{where}: its batch is free, so TensorRT needs its least, usual and largest value; give --batch MIN,OPT,MAX, "
                "as in --batch 1,4,8"
            )
        if not free and batches is not None:
            raise UsageError(
                f"{where}: its batch is {sides[0].dim_value if sides else 'absent'}, but --batch "
                f"{','.join(map(str, batches))} is for a free one; export it with that --batch from the checkpoint"
            )


def _require_for_dla(spec: ModelSpec, *, where: str) -> None:
    """UsageError where a DLA cannot take the file."""
    if spec.precision == "fp32":
        raise UsageError(f"--dla: {where} is fp32, and a DLA computes in float16 and int8 alone; export with --precision fp16")
    if spec.batch is None:
        raise UsageError(f"--dla: the batch of {where} is free, and a DLA takes fixed shapes alone; export with --batch 1")


def _device(name: str) -> tuple[str, str]:
    """The GPU's name and compute capability, such as `SM87`; RuntimeUnavailable where there is none."""
    from cuda.bindings import runtime as cudart

    error, properties = cudart.cudaGetDeviceProperties(0)
    if int(error):
        raise RuntimeUnavailable(
            f"{name} compiles on the GPU that will run the plan, and none answers here ({error.name}); run this on the device, "
            "or see what it will say there with --check"
        )
    return properties.name.decode(), f"SM{properties.major}{properties.minor}"


def _placed(found: Fault, model: onnx.ModelProto) -> Fault:
    """The fault with the operator of the ONNX node that its layer's name begins with."""
    if not found.node or found.operator:
        return found
    for node in model.graph.node:
        if found.node == node.name or found.node.startswith(f"{node.name}_"):
            return Fault(node.name, node.op_type, found.reason, found.remedy)
    return found
