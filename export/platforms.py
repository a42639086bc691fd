"""The table of facts: what each TensorRT takes and what it refuses, and why. `preflight` holds a file against it.

Where they are from: `tried` on TensorRT-RTX 1.7.1 (its parser and its ahead-of-time builder, 2026-11: the parser was asked
for every operator of onnx 1.23, and each refusal below was built); the others are `documented`: onnx-tensorrt's
docs/operators.md and docs/Changelog.md of 10.3 to 10.15, NVIDIA's TensorRT release notes, plugin/README.md and, of 11.3 and
11.4.1, "Strongly Typed Networks for DLA". Nothing of JetPack's TensorRT was run here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from edgedet.engine import Flavour

PlatformName = Literal["jetpack6", "jetpack7", "tensorrt11", "rtx"]
PLATFORM_NAMES: tuple[PlatformName, ...] = get_args(PlatformName)

LARGEST_K = 3840
"""Of TopK, on all of them: it parses, and the build fails."""
MOST_BOXES = 5000
"""That INMSLayer takes, which NonMaxSuppression becomes."""
TYPES = frozenset({"FLOAT", "FLOAT16", "BFLOAT16", "INT8", "INT32", "INT64", "BOOL", "UINT8", "INT4", "FLOAT8E4M3FN"})
"""Of values, where they may stand at all; `preflight` knows that uint8 may only be an input and be cast."""

_MATRIX = "export with --nms matrix"
_REPLACE = "replace it in the network, or run the file in ONNX Runtime"
_NO_IMPORTER = ("its parser has no importer for this operator", _REPLACE)
_QUANTIZED = ("it knows INT8 as Q/DQ alone", "calibrate with --for tensorrt")
_UNKNOWN = (
    "AffineGrid Bernoulli BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor CenterCropPad Col2Im Compress "
    "ConcatFromSequence DFT Det ImageDecoder MaxRoiPool MaxUnpool MelWeightMatrix Multinomial NegativeLogLikelihoodLoss "
    "Optional OptionalGetElement OptionalHasElement RegexFullMatch SequenceAt SequenceConstruct SequenceEmpty SequenceErase "
    "SequenceInsert SequenceLength SequenceMap SoftmaxCrossEntropyLoss SplitToSequence StringConcat StringNormalizer "
    "StringSplit TfIdfVectorizer Unique"
)
_EVERYWHERE = {
    **dict.fromkeys(_UNKNOWN.split(), _NO_IMPORTER),
    **dict.fromkeys(["ConvInteger", "MatMulInteger", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul"], _QUANTIZED),
}
"""Operator → why it is refused and what mends it."""
_LATER = "Attention BlackmanWindow HammingWindow HannWindow RMSNormalization RotaryEmbedding STFT TensorScatter"
_NOT_YET_IN_10_3 = dict.fromkeys(_LATER.split(), ("its importer came after TensorRT 10.3", _REPLACE))
_GONE = {"EfficientNMS_ONNX_TRT": ("the plugin was removed in TensorRT 10.16", _MATRIX)}
_NO_PLUGINS = {
    "EfficientNMS_TRT": ("TensorRT-RTX brings none of TensorRT's plugins", _MATRIX),
    "NonMaxSuppression": ("TensorRT-RTX reads it but cannot build it", _MATRIX),
    "NonZero": ("its importer needs a plugin that TensorRT-RTX does not bring", "compare and multiply instead of indexing"),
    "RoiAlign": ("its importer needs a plugin, and that CUDA", "sample with GridSample"),
    "DeformConv": _NO_IMPORTER,
    "BitCast": _NO_IMPORTER,
    "CumProd": _NO_IMPORTER,
    "SwiGLU": _NO_IMPORTER,
}
_TENSORRT_10_ONLY = {
    "EfficientNMS_TRT": ("the plugin is deprecated since TensorRT 10.12, and promised for 10.x alone", _MATRIX),
}


@dataclass(frozen=True)
class Platform:
    """One TensorRT. opsets: the least and newest documented for its parser; refused: operator → reason and remedy.

    no_dla: why it has no DLA, empty where it may.
    """

    title: str
    flavour: Flavour
    opsets: tuple[int, int]
    refused: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    no_dla: str = ""


_DLA_ENDED = "TensorRT's DLA ended with 10.7 and began again with 11.4.1, for AGX Orin with JetPack 7.2.2"
PLATFORMS: Mapping[PlatformName, Platform] = {
    "jetpack6": Platform("JetPack 6 (TensorRT 10.3)", "tensorrt", (9, 20), {**_EVERYWHERE, **_NOT_YET_IN_10_3}),
    "jetpack7": Platform(
        "JetPack 7 (TensorRT 10.13 to 10.16)", "tensorrt", (9, 20), {**_EVERYWHERE, **_GONE}, no_dla=_DLA_ENDED
    ),
    "tensorrt11": Platform("TensorRT 11", "tensorrt", (9, 24), {**_EVERYWHERE, **_GONE, **_TENSORRT_10_ONLY}),
    "rtx": Platform(
        "TensorRT-RTX 1.7",
        "tensorrt_rtx",
        (9, 24),
        {**_EVERYWHERE, **_GONE, **_NO_PLUGINS},
        no_dla="TensorRT-RTX is for RTX GPUs, which have none",
    ),
}
