"""A detector of 64x64 pixels with all that quantisation meets, written in milliseconds without torch.

images → Cast → Transpose → focus → stem → SiLU → depthwise → point → SiLU ─┬─ inner → SiLU ─ + ─┬─ pool ───┐
                                                                            └─────────────────┘  └─ narrow ─┴─ Concat → mix
mix ─┬─ score → head_0 → Sigmoid → candidate_scores ─▶ TopK ─▶ boxes, scores, labels
     └─ box → head_1 → candidate_boxes
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgedet.spec import KEY, ModelSpec, Suppression

SIZE, CELL, GRID = 64, 16, 4
LAYERS = ("stem", "depthwise", "point", "inner", "narrow", "mix", "score", "box")
SHAPES = {
    "stem": (8, 12, 3, 3),
    "depthwise": (8, 1, 3, 3),
    "point": (8, 8, 1, 1),
    "inner": (8, 8, 1, 1),
    "narrow": (8, 8, 3, 3),
    "mix": (8, 16, 3, 3),
    "score": (1, 8, 1, 1),
    "box": (4, 8, 1, 1),
}
SIDES = {"stem": 32, "depthwise": 16, "point": 16, "inner": 16, "narrow": 8, "mix": 4, "score": 4, "box": 4}
"""Height and width of each output."""


def spec(*, batch: int | None = 1, layout: str = "uint8-nhwc", mode: str = "matrix") -> ModelSpec:
    """What the file says of itself."""
    return ModelSpec(
        family="quantizable",
        variant="test",
        classes=("even", "odd"),
        size_hw=(SIZE, SIZE),
        letterbox_fill=0,
        batch=batch,
        input_layout=layout,
        suppression=Suppression(mode=mode, min_score=0.01, max_detections=8),
    )


def weights() -> dict[str, np.ndarray]:
    """`stem.weight`, `stem.bias` and so on, float32; random, scaled so that scores spread over [0, 1]."""
    draw = np.random.default_rng(0)
    found = {}
    for name, shape in SHAPES.items():
        spread = {"stem": 0.02, "score": 2.0, "box": 0.5}.get(name, 1.4) / np.sqrt(np.prod(shape[1:]))
        found[f"{name}.weight"] = (draw.standard_normal(shape) * spread).astype(np.float32)
        found[f"{name}.bias"] = (draw.standard_normal(shape[0]) * 0.1).astype(np.float32)
    found["score.bias"] += 4
    return found


def _convolution(name: str, data: str, output: str, **attributes: object) -> onnx.NodeProto:
    names = [data, f"whole.detector.{name}.weight", f"whole.detector.{name}.bias"]
    return helper.make_node("Conv", names, [output], f"node_{name}", **attributes)


def _silu(data: str, output: str) -> list[onnx.NodeProto]:
    return [helper.make_node("Sigmoid", [data], [f"{data}.gate"]), helper.make_node("Mul", [data, f"{data}.gate"], [output])]


def _start(layout: str) -> list[onnx.NodeProto]:
    if layout == "float32-nchw":
        return [helper.make_node("Identity", ["images"], ["planes"])]
    return [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
    ]


def _focus() -> list[onnx.NodeProto]:
    """Every second row and column: four pictures of half the size, channel beside channel."""
    parts = [f"part_{row}{column}" for row in "01" for column in "01"]
    slices = [helper.make_node("Slice", ["planes", f"at_{p[-2:]}", "far", "sides", "twos"], [p]) for p in parts]
    return [*slices, helper.make_node("Concat", parts, ["focus"], axis=1)]


def _body() -> list[onnx.NodeProto]:
    half = {"strides": [2, 2], "pads": [1, 1, 1, 1]}
    return [
        _convolution("stem", "focus", "stem_out", pads=[1, 1, 1, 1]),
        *_silu("stem_out", "silu_1"),
        _convolution("depthwise", "silu_1", "depthwise_out", group=8, **half),
        _convolution("point", "depthwise_out", "point_out"),
        *_silu("point_out", "silu_2"),
        _convolution("inner", "silu_2", "inner_out"),
        *_silu("inner_out", "silu_3"),
        helper.make_node("Add", ["silu_2", "silu_3"], ["sum"], "node_add"),
        helper.make_node("MaxPool", ["sum"], ["pooled"], "node_pool", kernel_shape=[2, 2], strides=[2, 2]),
        _convolution("narrow", "sum", "narrow_out", **half),
        helper.make_node("Concat", ["pooled", "narrow_out"], ["both"], axis=1),
        _convolution("mix", "both", "mix_out", **half),
        *_silu("mix_out", "silu_4"),
        _convolution("score", "silu_4", "head_0"),
        _convolution("box", "silu_4", "head_1"),
    ]


def _decode() -> list[onnx.NodeProto]:
    return [
        helper.make_node("Reshape", ["head_0", "flat"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["candidate_scores"]),
        helper.make_node("Reshape", ["head_1", "four_rows"], ["offsets"]),
        helper.make_node("Transpose", ["offsets"], ["moves"], perm=[0, 2, 1]),
        helper.make_node("Add", ["moves", "cells"], ["candidate_boxes"], "node_decode_add"),
        helper.make_node("Mul", ["logits", "zero"], ["nothing"]),
        helper.make_node("Cast", ["nothing"], ["nothing_whole"], to=TensorProto.INT32),
        helper.make_node("Add", ["nothing_whole", "columns"], ["candidate_labels"]),
    ]


def _finish() -> list[onnx.NodeProto]:
    return [
        helper.make_node("TopK", ["candidate_scores", "eight"], ["scores", "index"]),
        helper.make_node("Unsqueeze", ["index", "last"], ["index_column"]),
        helper.make_node("Expand", ["index_column", "row"], ["index_rows"]),
        helper.make_node("GatherElements", ["candidate_boxes", "index_rows"], ["boxes"], axis=1),
        helper.make_node("GatherElements", ["candidate_labels", "index"], ["labels"], axis=1),
    ]


def _constants() -> dict[str, np.ndarray]:
    corners = np.mgrid[0:GRID, 0:GRID].reshape(2, -1).T[:, ::-1] * CELL
    starts = {f"at_{row}{column}": np.int64([row, column]) for row in (0, 1) for column in (0, 1)}
    return {
        **starts,
        "far": np.int64([2**31, 2**31]),
        "sides": np.int64([2, 3]),
        "twos": np.int64([2, 2]),
        "flat": np.int64([0, -1]),
        "four_rows": np.int64([0, 4, -1]),
        "cells": np.concatenate([corners, corners + CELL], axis=1).astype(np.float32),
        "columns": (np.arange(GRID**2) % GRID % 2).astype(np.int32),
        "eight": np.int64([8]),
        "last": np.int64([-1]),
        "row": np.int64([1, 1, 4]),
        "zero": np.float32(0),
    }


def model(*, batch: int | None = 1, layout: str = "uint8-nhwc", mode: str = "matrix") -> onnx.ModelProto:
    """The detector as fp32 ONNX with its spec."""
    size = "batch" if batch is None else batch
    kind, shape = (TensorProto.UINT8, [SIZE, SIZE, 3]) if layout == "uint8-nhwc" else (TensorProto.FLOAT, [3, SIZE, SIZE])
    prefix, count = ("candidate_", GRID**2) if mode == "none" else ("", 8)
    outputs = [
        helper.make_tensor_value_info(f"{prefix}boxes", TensorProto.FLOAT, [size, count, 4]),
        helper.make_tensor_value_info(f"{prefix}scores", TensorProto.FLOAT, [size, count]),
        helper.make_tensor_value_info(f"{prefix}labels", TensorProto.INT32, [size, count]),
    ]
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in _constants().items()]
    constants += [numpy_helper.from_array(value, f"whole.detector.{name}") for name, value in weights().items()]
    nodes = [*_start(layout), *_focus(), *_body(), *_decode(), *([] if mode == "none" else _finish())]
    images = helper.make_tensor_value_info("images", kind, [size, *shape])
    graph = helper.make_graph(nodes, "quantizable-test", [images], outputs, constants)
    found = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)
    found.metadata_props.add(key=KEY, value=spec(batch=batch, layout=layout, mode=mode).to_json())
    onnx.checker.check_model(found, full_check=True)
    return found


def frames(count: int, *, seed: int = 7) -> np.ndarray:
    """(count, 64, 64, 3) uint8 pictures that all differ: coarse colours, smooth, with a little noise."""
    draw = np.random.default_rng(seed)
    coarse = draw.integers(0, 256, (count, 6, 6, 3)).astype(np.uint8)
    smooth = np.stack([cv2.resize(one, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC) for one in coarse]).astype(int)
    return np.clip(smooth + draw.integers(-6, 7, smooth.shape), 0, 255).astype(np.uint8)


def write_frames(folder: Path, count: int, *, seed: int = 7) -> Path:
    """The pictures as PNG files in a new folder."""
    folder.mkdir()
    for index, frame in enumerate(frames(count, seed=seed)):
        cv2.imwrite(str(folder / f"{index:03d}.png"), frame)
    return folder


def run(found: onnx.ModelProto, images: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The named values in ONNX Runtime without any optimisation: every node by itself, as the file spells it."""
    import onnxruntime

    whole = onnx.ModelProto()
    whole.CopyFrom(found)
    present = {output.name for output in whole.graph.output}
    whole.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in present)
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(whole.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(list(names), {"images": images}), strict=True))
