"""What TensorRT says while it builds: errors, the memory of the weights, and the precision of each layer it made.

A builder tells the layers in one of two ways. TensorRT-RTX 1.7.1 lists them in its verbose log after a message that
starts with `Layers:`, without a GPU; this is undocumented, and where it is absent nothing is told. Where the plan can be
loaded, on the device that will run it, the engine inspector tells them as JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

_COMPUTES = re.compile(r"correlation|gemm|conv|matmul|matrixmultiply|fusion|fullyconnected|deconv|foreignnode", re.IGNORECASE)
"""Types of layers that multiply; the others around a convolution quantise, activate or move its values."""
_ONNX = re.compile(r"\[ONNX Layer: (.*?)\]")
_NAMES = {"int8": "int8", "half": "f16", "fp16": "f16", "bfloat16": "bf16", "bf16": "bf16", "float": "f32", "fp32": "f32"}


def listener(trt: Any) -> Any:
    """A logger for TensorRT's builder that keeps what it is told: `errors`, `layer_lines`, `weights_bytes`."""

    class Listener(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.layer_lines: list[str] = []
            self.weights_bytes: int | None = None

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message)
            elif message.startswith("Layers:"):
                self.layer_lines += message.splitlines()
            elif found := re.match(r"Total Weights Memory: (\d+) bytes", message):
                self.weights_bytes = int(found.group(1))

    return Listener()


def from_log(lines: Iterable[str]) -> dict[str, str]:
    """Precision by ONNX node, of the lines after `Layers:`."""
    found: dict[str, str] = {}
    for line in lines:
        kind = re.search(r"LayerType: (\w+)", line)
        first_input = re.search(r"Inputs: \[ \{.*?Datatype: (\w+)", line)
        if kind and first_input:
            _note(found, kind.group(1), first_input.group(1), line)
    return found


def from_inspector(text: str) -> dict[str, str]:
    """Precision by ONNX node, of an engine inspector's JSON; none where the engine was built without details."""
    try:
        layers = json.loads(text).get("Layers", [])
    except ValueError:
        return {}
    found: dict[str, str] = {}
    for layer in layers:
        if isinstance(layer, Mapping) and layer.get("Inputs"):  # names alone where it was built without details
            first = layer["Inputs"][0]
            words = str(first.get("Format/Datatype", first.get("Datatype", "")))
            _note(found, str(layer.get("LayerType", "")), words, str(layer.get("Metadata", "")))
    return found


def _note(found: dict[str, str], kind: str, words: str, metadata: str) -> None:
    """Add the layer's precision for the ONNX nodes in its metadata, where it is one that multiplies."""
    precision = next((name for word, name in _NAMES.items() if word in words.lower()), None)
    if precision is not None and _COMPUTES.search(kind):
        found.update(dict.fromkeys(_ONNX.findall(metadata), precision))
