"""Rules that a quantised ONNX file keeps or breaks, for the runtime it is meant for, each with its reason.

What each runtime does with a file that breaks a rule was tried, on TensorRT-RTX 1.7.1's parser and builder, ONNX Runtime
1.31 and OpenVINO 2026.4; `docs/decisions/0005-lint.md` has the table. A file without Q/DQ is linted too: rules on inputs,
TopK and suppression are about every file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, get_args

from edgedet.calibration import misread, rules
from edgedet.calibration.quantized import QuantizedGraph
from edgedet.errors import UsageError

if TYPE_CHECKING:
    import onnx

Runtime = Literal["tensorrt", "onnxruntime", "openvino"]


@dataclass(frozen=True)
class Finding:
    """One place where a file breaks a rule.

    node: its name in the graph, or its first output's where it has none.
    message: which value is wrong and how. reason: what the runtime makes of it.
    """

    rule: str
    node: str
    message: str
    reason: str


@dataclass(frozen=True)
class _Rule:
    name: str
    broken: Callable[[QuantizedGraph], rules.Broken]
    reason: str


_COMMON = (
    _Rule(
        "scale-not-positive",
        rules.scale_not_positive,
        "values are divided by the scale: 0, NaN or next to 0 gives nothing usable",
    ),
    _Rule(
        "scale-length",
        rules.scale_length,
        "ONNX wants one scale for a tensor or one for each channel, and a zero-point for each",
    ),
    _Rule("per-channel-opset", rules.per_channel_before_13, "scales by channel exist from opset 13; before it runtimes differ"),
    _Rule("pair-mismatch", rules.pair_mismatch, "what DequantizeLinear gives back is the value scaled or shifted"),
    _Rule("requantized", rules.requantized, "a value rounded twice, to two grids, loses more than by either"),
    _Rule("quantize-alone", rules.quantize_alone, "without DequantizeLinear the operator computes on bare integers"),
    _Rule("quantized-output", rules.quantized_output, "255 steps for all boxes or scores: errors of pixels, small scores gone"),
    _Rule("quantized-decode", rules.quantized_decode, "no convolution runs faster for it, and boxes and scores are rounded"),
    _Rule("weights-saturated", rules.weights_saturated, "the scale is too small for the weights, which are clipped"),
)
_NO_PLUGIN = _Rule("tensorrt-plugin", rules.tensorrt_plugin, "only TensorRT has this operator; export with another --nms")
_RULES: dict[Runtime, tuple[_Rule, ...]] = {
    "tensorrt": (
        *_COMMON,
        _Rule("not-int8", rules.not_int8, "TensorRT refuses it, or reads uint8 with zero-point 0 as int8"),
        _Rule("zero-point", rules.zero_point, "TensorRT's parser refuses every zero-point but 0"),
        _Rule("int32-dequantized", rules.int32_dequantized, "TensorRT's parser refuses it; leave biases in float"),
        _Rule(
            "scale-not-constant", rules.scale_not_constant, "TensorRT takes constant scales only; its parser crashes on others"
        ),
        _Rule("activation-per-channel", rules.activation_per_channel, "TensorRT then runs the convolution in float"),
        _Rule(
            "weight-axis",
            partial(rules.weight_axis, kinds=("Conv", "Gemm", "MatMul")),
            "TensorRT then runs the operator in float",
        ),
        _Rule("weight-per-tensor", rules.weight_per_tensor, "channels of small weights keep few of the 255 steps"),
        _Rule("quantized-sigmoid", rules.quantized_sigmoid, "TensorRT's fused SiLU is split by it, and small values are lost"),
        _Rule(
            "residual-half-quantized",
            rules.residual_half_quantized,
            "TensorRT then reads that input at full width",
        ),
        _Rule("integer-operator", rules.integer_operator, "TensorRT's parser knows Q/DQ only; quantise in that format"),
        _Rule("uint8-not-cast", rules.uint8_not_cast, "TensorRT takes uint8 at the input alone: Cast first, then Transpose"),
        _Rule(
            "topk-too-long",
            rules.topk_too_long,
            f"TensorRT's TopK takes {rules.LARGEST_K} at most; it parses, and the build fails",
        ),
        _Rule("data-dependent-output", rules.data_dependent_output, "TensorRT-RTX builds none; export with --nms matrix"),
    ),
    "onnxruntime": (
        *_COMMON,
        _NO_PLUGIN,
        _Rule(
            "activation-per-channel",
            rules.activation_per_channel,
            "its fused convolution takes one scale: the first inference fails",
        ),
        _Rule(
            "weight-axis",
            partial(rules.weight_axis, kinds=("MatMul",)),
            "its fused MatMul takes them for the columns: it fails, or the answer is wrong",
        ),
    ),
    "openvino": (
        *_COMMON,
        _NO_PLUGIN,
        _Rule("int8-beside-concat", misread.beside_concat, "OpenVINO loses the scale; write it as uint8 with zero-point 128"),
        _Rule("permuted-channels", misread.permuted_channels, "OpenVINO applies the inverse permutation; permute the weights"),
        _Rule("quantized-maximum", misread.quantized_maximum, "OpenVINO rounds before it compares; quantise in front of it"),
    ),
}


def lint(model: onnx.ModelProto, runtime: Runtime) -> list[Finding]:
    """Where the model breaks a rule of the runtime; nothing for a clean one.

    Branches and loops inside the graph are not read. UsageError for a runtime without rules.
    """
    if runtime not in get_args(Runtime):
        raise UsageError(f"no rules for {runtime!r}; known: {', '.join(get_args(Runtime))}")
    graph = QuantizedGraph(model)
    found: dict[tuple[str, str], Finding] = {}
    for rule in _RULES[runtime]:
        for node, message in rule.broken(graph):
            # A Q and its DQ break a rule together: one finding.
            name = node.name or next(iter(node.output), node.op_type)
            found.setdefault((rule.name, message), Finding(rule.name, name, message, rule.reason))
    return list(found.values())
