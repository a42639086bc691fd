"""A tiny model with the whole output contract, made in milliseconds: it finds bright cells of a 4x4 grid; and a fake GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_gpu import FakeCuda

from edgedet.runtimes import cuda_memory
from edgedet.spec import KEY, ModelSpec, Suppression

CELL, GRID = 16, 4
SIZE = CELL * GRID


def _cells() -> np.ndarray:
    """(16, 4) float32 xyxy of the grid's cells, row by row."""
    corners = np.mgrid[0:GRID, 0:GRID].reshape(2, -1).T[:, ::-1] * CELL
    return np.concatenate([corners, corners + CELL], axis=1).astype(np.float32)


@pytest.fixture(scope="session")
def write_bright_cells(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function that writes the tiny model as ONNX and returns its path.

    A cell's score is its mean brightness, its label 0 in even columns and 1 in
    odd ones; the four best cells above the floor of 0.05 come out.
    """
    onnx = pytest.importorskip("onnx")
    helper, types = onnx.helper, onnx.TensorProto

    def graph(batch: int | None, layout: str, mode: str):
        size = "batch" if batch is None else batch
        image = {
            "uint8-nhwc": helper.make_tensor_value_info("images", types.UINT8, [size, SIZE, SIZE, 3]),
            "float32-nchw": helper.make_tensor_value_info("images", types.FLOAT, [size, 3, SIZE, SIZE]),
        }[layout]
        constants = {
            "weight": np.full((1, 3, CELL, CELL), 1 / (3 * 255 * CELL**2), np.float32),
            "cells": _cells(),
            "columns": (np.arange(GRID**2) % GRID % 2).astype(np.int32),
            "flat": np.int64([0, -1]),
            "four": np.int64([4]),
            "row": np.int64([1, 1, 4]),
            "last": np.int64([-1]),
            "zero": np.float32(0),
            "minus_one": np.int32(-1),
            "floor": np.float32(0.05),
        }
        start = [helper.make_node("Identity", ["images"], ["planes"])]
        if layout == "uint8-nhwc":
            start = [
                helper.make_node("Cast", ["images"], ["float"], to=types.FLOAT),
                helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
            ]
        candidates = [
            helper.make_node("Conv", ["planes", "weight"], ["means"], strides=[CELL, CELL]),
            helper.make_node("Reshape", ["means", "flat"], ["candidate_scores"]),
            helper.make_node("Mul", ["candidate_scores", "zero"], ["nothing"]),
            helper.make_node("Unsqueeze", ["nothing", "last"], ["nothing_column"]),
            helper.make_node("Add", ["nothing_column", "cells"], ["candidate_boxes"]),
            helper.make_node("Cast", ["nothing"], ["nothing_whole"], to=types.INT32),
            helper.make_node("Add", ["nothing_whole", "columns"], ["candidate_labels"]),
        ]
        final = [
            helper.make_node("TopK", ["candidate_scores", "four"], ["best", "index"]),
            helper.make_node("GreaterOrEqual", ["best", "floor"], ["kept"]),
            helper.make_node("Unsqueeze", ["kept", "last"], ["kept_column"]),
            helper.make_node("Unsqueeze", ["index", "last"], ["index_column"]),
            helper.make_node("Expand", ["index_column", "row"], ["index_rows"]),
            helper.make_node("GatherElements", ["candidate_boxes", "index_rows"], ["best_boxes"], axis=1),
            helper.make_node("GatherElements", ["candidate_labels", "index"], ["best_labels"], axis=1),
            helper.make_node("Where", ["kept_column", "best_boxes", "zero"], ["boxes"]),
            helper.make_node("Where", ["kept", "best", "zero"], ["scores"]),
            helper.make_node("Where", ["kept", "best_labels", "minus_one"], ["labels"]),
        ]
        prefix, count = ("candidate_", GRID**2) if mode == "none" else ("", 4)
        outputs = [
            helper.make_tensor_value_info(f"{prefix}boxes", types.FLOAT, [size, count, 4]),
            helper.make_tensor_value_info(f"{prefix}scores", types.FLOAT, [size, count]),
            helper.make_tensor_value_info(f"{prefix}labels", types.INT32, [size, count]),
        ]
        weights = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
        nodes = start + candidates + (final if mode != "none" else [])
        return helper.make_graph(nodes, "bright-cells", [image], outputs, weights)

    def write(*, batch: int | None = 1, layout: str = "uint8-nhwc", mode: str = "onnx", with_spec: bool = True) -> Path:
        model = helper.make_model(graph(batch, layout, mode), opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
        spec = ModelSpec(
            family="bright",
            variant="cells",
            classes=("even", "odd"),
            size_hw=(SIZE, SIZE),
            letterbox_fill=0,
            batch=batch,
            input_layout=layout,
            suppression=Suppression(mode=mode, min_score=0.05, max_detections=4),
        )
        if with_spec:
            entry = model.metadata_props.add()
            entry.key, entry.value = KEY, spec.to_json()
        path = tmp_path_factory.mktemp("bright") / f"bright-cells-{SIZE}-fp32.onnx"
        onnx.checker.check_model(model)
        onnx.save(model, str(path))
        return path

    return write


@pytest.fixture(scope="session")
def bright_onnx(write_bright_cells: Callable[..., Path]) -> Path:
    """The tiny model with its defaults, as ONNX."""
    return write_bright_cells()


@pytest.fixture(scope="session")
def bright_xml(bright_onnx: Path) -> Path:
    """The same as OpenVINO's .xml and .bin, with the spec in rt_info."""
    openvino = pytest.importorskip("openvino")
    model = openvino.Core().read_model(bright_onnx)
    model.set_rt_info(model.get_rt_info(["framework", KEY]).value, KEY)
    path = bright_onnx.with_suffix(".xml")
    openvino.save_model(model, path, compress_to_fp16=False)
    return path


@pytest.fixture
def bright_frame() -> np.ndarray:
    """A black (128, 256, 3) frame, white where the cells (row 0, column 1) and (row 1, column 2) look, grey in a third.

    Letterboxed to 64x64 it fills the upper half, a cell being 64x64 frame pixels.
    """
    frame = np.zeros((128, 256, 3), np.uint8)
    frame[0:64, 64:128] = 255
    frame[64:128, 128:192] = 204
    frame[0:64, 192:256] = 51
    return frame


@pytest.fixture(scope="session")
def quantizable_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny detector of `quantizable` as fp32 ONNX."""
    onnx = pytest.importorskip("onnx")
    import quantizable

    path = tmp_path_factory.mktemp("quantizable") / "fp32.onnx"
    onnx.save(quantizable.model(), path)
    return path


@pytest.fixture(scope="session")
def quantized_onnx(quantizable_onnx: Path) -> Callable[[str], Path]:
    """A function that gives it with Q/DQ about all but the last two convolutions, spelt `cpu` or `tensorrt`.

    ONNX Runtime's own quantiser writes it, which edgedet's is independent of.
    """
    import onnx
    import quantizable
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Frames(CalibrationDataReader):
        def __init__(self) -> None:
            self._frames = iter(quantizable.frames(8))

        def get_next(self) -> dict[str, np.ndarray] | None:
            frame = next(self._frames, None)
            return None if frame is None else {"images": frame[None]}

    def write(encoding: str) -> Path:
        path = quantizable_onnx.with_name(f"int8-{encoding}.onnx")
        if not path.exists():
            quantize_static(
                quantizable_onnx,
                path,
                Frames(),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type={"cpu": QuantType.QUInt8, "tensorrt": QuantType.QInt8}[encoding],
                weight_type=QuantType.QInt8,
                op_types_to_quantize=["Conv"],
                nodes_to_exclude=["node_score", "node_box"],
                extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
            )
            model = onnx.load(path)
            entry = next(entry for entry in model.metadata_props if entry.key == KEY)
            spec = ModelSpec.from_json(entry.value, where="test")
            entry.value = replace(spec, precision="int8", encoding=encoding).to_json()
            onnx.save(model, path)
        return path

    return write


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """One GPU of SM86."""
    pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
    fake = FakeCuda()
    monkeypatch.setattr(cuda_memory, "cudart", lambda: fake)
    return fake
