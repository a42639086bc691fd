"""PyTorch itself, the reference: a checkpoint run through the very graph that gets exported."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgedet.errors import RuntimeUnavailable
from edgedet.runtimes.contract import as_input, require_open
from edgedet.runtimes.precision import Layer
from edgedet.runtimes.session import Options, Outputs
from edgedet.spec import CANDIDATES, FINAL, ModelSpec

if TYPE_CHECKING:
    from edgedet.export.graph import ExportGraph

SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".tar", ".weights")


def available() -> str | None:
    """None where torch is installed, otherwise what to install."""
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed; pip install 'edgedet[export]'"
    return None


def version() -> str:
    """The version of torch."""
    import torch

    return torch.__version__


def devices() -> list[str]:
    """`cpu`, and `gpu` where torch finds a CUDA device."""
    import torch

    return ["cpu"] + ["gpu"] * torch.cuda.is_available()


def open(path: Path, options: Options) -> TorchSession:
    """The session of a checkpoint: float32, any batch."""
    if reason := available():
        raise RuntimeUnavailable(f"{path}: {reason}")
    from edgedet.export.graph import ExportGraph
    from edgedet.models import checkpoint

    if options.inference_precision != "f32":
        raise RuntimeUnavailable(
            f"torch is the reference and runs in f32, not {options.inference_precision}; export the model for less"
        )
    device = _device(options.device)
    detector, spec = checkpoint.load(path)
    if options.like is not None:
        suppression = replace(options.like.suppression, mode=spec.suppression.mode)
        spec = replace(spec, size_hw=options.like.size_hw, suppression=suppression)
    return TorchSession(ExportGraph(detector, spec), device=device, outputs=options.outputs)


def _device(name: str) -> str:
    """torch's name of the device, `auto` being the GPU where there is one."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    name = "cuda" if name == "gpu" else name
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or not (index or "0").isdigit():
        raise RuntimeUnavailable(f"the torch runtime knows no device {name!r}; use auto, cpu, gpu or cuda:N")
    if kind == "cuda" and not (torch.cuda.is_available() and int(index or 0) < torch.cuda.device_count()):
        raise RuntimeUnavailable(f"torch {torch.__version__} finds no device {name!r} here; use --device cpu")
    return name


class TorchSession:
    """An ExportGraph, run eagerly. One request at a time; `submit` queues."""

    slots = 1

    def __init__(self, graph: ExportGraph, *, device: str = "cpu", outputs: str = "final") -> None:
        self.spec: ModelSpec = graph.spec
        self.facts = {"device": device, "precision": "f32"}
        self._graph = graph.to(device)
        self._device = device
        self._outputs = outputs
        self.closed = False
        self._queue = ThreadPoolExecutor(max_workers=1, thread_name_prefix="torch")

    def infer(self, images: np.ndarray) -> Outputs:
        """The graph's outputs for one batch, as the Session protocol says; all arrays on the host."""
        return self.submit(images).result()

    def submit(self, images: np.ndarray) -> Future[Outputs]:
        """The same, in the background."""
        require_open(self)
        return self._queue.submit(self._run, images)

    def layers(self) -> Sequence[Layer]:
        """None: all of torch's arithmetic is in float32."""
        return ()

    def close(self) -> None:
        """Wait for what is queued, then free the thread."""
        self._queue.shutdown()
        self.closed = True

    def _run(self, images: np.ndarray) -> Outputs:
        import torch

        with torch.inference_mode():
            candidates = self._graph.candidates(torch.from_numpy(as_input(images, self.spec)).to(self._device))
            found: dict[str, torch.Tensor] = {}
            if self.spec.suppression.mode != "none":
                found |= zip(FINAL, self._graph.finish(candidates), strict=True)
            if self._outputs == "candidates" or not found:
                found |= zip(CANDIDATES, candidates, strict=True)
            return {name: tensor.cpu().numpy() for name, tensor in found.items()}
