"""load(path): frames in, objects in the frame's own pixels out, the same through every runtime."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import edgedet
from edgedet.errors import ArtifactError, ImageError, RuntimeUnavailable, SpecError, UsageError
from edgedet.runtimes import detector as detector_module
from edgedet.runtimes import run_onnxruntime, run_openvino

BOXES = np.float32([[64, 0, 128, 64], [128, 64, 192, 128], [192, 0, 256, 64]])
SCORES = np.float32([1.0, 0.8, 0.2])
LABELS = [1, 0, 1]


def assert_bright(found: edgedet.Detections) -> None:
    """Boxes to 1e-3 px; scores to 5e-3, because the letterbox blends two pixels at each cell's edge."""
    np.testing.assert_allclose(found.boxes[:3], BOXES, atol=1e-3)
    np.testing.assert_allclose(found.scores[:3], SCORES, atol=5e-3)
    assert found.labels[:3].tolist() == LABELS
    assert found.labels.dtype == np.int32


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("layout", ["uint8-nhwc", "float32-nchw"])
def test_objects_come_back_in_the_frames_own_pixels(
    write_bright_cells: Callable[..., Path], bright_frame: np.ndarray, runtime: str, layout: str
) -> None:
    with edgedet.load(write_bright_cells(layout=layout), runtime=runtime) as detector:
        assert detector.spec.classes == ("even", "odd")
        assert_bright(detector(bright_frame))


def test_an_openvino_file_gives_the_same_as_the_onnx_file(
    bright_onnx: Path, bright_xml: Path, bright_frame: np.ndarray
) -> None:
    with edgedet.load(bright_onnx) as first, edgedet.load(bright_xml) as second:
        assert isinstance(first.session, run_onnxruntime.OnnxRuntimeSession)
        assert isinstance(second.session, run_openvino.OpenVinoSession)
        np.testing.assert_allclose(first(bright_frame).scores, second(bright_frame).scores, atol=1e-5)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_candidates_suppressed_by_the_host_give_the_same(
    write_bright_cells: Callable[..., Path], bright_frame: np.ndarray, runtime: str
) -> None:
    with edgedet.load(write_bright_cells(mode="none"), runtime=runtime) as detector:
        assert_bright(detector(bright_frame))


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("batch", [3, None])
def test_a_batch_gives_each_frame_its_own_objects(
    write_bright_cells: Callable[..., Path], bright_frame: np.ndarray, runtime: str, batch: int | None
) -> None:
    with edgedet.load(write_bright_cells(batch=batch), runtime=runtime) as detector:
        frames = [bright_frame, np.zeros_like(bright_frame), bright_frame, bright_frame]
        found = detector.detect_batch(frames)
        assert [len(one) for one in found] == [3, 0, 3, 3]
        for index in (0, 2, 3):
            assert_bright(found[index])
        assert_bright(detector(bright_frame))
        assert detector.detect_batch([]) == []


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("performance", ["latency", "throughput"])
def test_frames_in_flight_each_get_their_own_answer(
    bright_onnx: Path, bright_frame: np.ndarray, runtime: str, performance: str
) -> None:
    dark = np.zeros((50, 60, 3), np.uint8)
    with edgedet.load(bright_onnx, runtime=runtime, performance=performance) as detector:
        waiting = [detector.submit(bright_frame if index % 3 else dark) for index in range(30)]
        counts = [len(future.result(timeout=30)) for future in waiting]
    assert detector.slots >= 1
    assert counts == [3 if index % 3 else 0 for index in range(30)]


def test_an_error_in_flight_reaches_the_caller(
    bright_onnx: Path, bright_frame: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    with edgedet.load(bright_onnx) as detector:
        monkeypatch.setattr(detector.session, "infer", lambda images: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            detector.submit(bright_frame).result(timeout=30)


def test_a_frame_that_waits_when_the_model_is_closed_is_cancelled(bright_onnx: Path, bright_frame: np.ndarray) -> None:
    with edgedet.load(bright_onnx, runtime="openvino") as detector:
        waiting = [detector.submit(bright_frame) for _ in range(200)]
    ended = [future.exception(timeout=30) for future in waiting]
    assert any(isinstance(error, CancelledError) for error in ended)


def test_min_score_filters_above_the_baked_floor(bright_onnx: Path, bright_frame: np.ndarray) -> None:
    with edgedet.load(bright_onnx, min_score=0.5) as detector:
        assert len(detector(bright_frame)) == 2


@pytest.mark.parametrize("min_score", [0.01, 1.5, float("nan")])
def test_a_min_score_the_file_cannot_honour_is_refused_with_the_files_floor(bright_onnx: Path, min_score: float) -> None:
    with pytest.raises(UsageError, match=r"baked floor of 0\.05"):
        edgedet.load(bright_onnx, min_score=min_score)


@pytest.mark.parametrize("frame", [np.zeros((9, 9), np.uint8), np.zeros((9, 9, 4), np.uint8), np.zeros((9, 9, 3), np.float32)])
def test_a_frame_that_is_not_bgr_is_refused(bright_onnx: Path, frame: np.ndarray) -> None:
    with edgedet.load(bright_onnx) as detector, pytest.raises(ImageError, match="uint8 BGR"):
        detector(frame)


def test_a_label_that_the_spec_has_no_name_for_is_refused(bright_onnx: Path, bright_frame: np.ndarray) -> None:
    with edgedet.load(bright_onnx) as detector:
        detector.session.spec = replace(detector.spec, classes=("even",))
        with pytest.raises(SpecError, match="label 1 but its spec names only 1 classes"):
            detector(bright_frame)


def test_one_pixel_is_a_frame(bright_onnx: Path) -> None:
    with edgedet.load(bright_onnx) as detector:
        assert (detector(np.full((1, 1, 3), 255, np.uint8)).boxes <= 1).all()


def test_an_unknown_suffix_lists_the_known_ones(tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.touch()
    with pytest.raises(ArtifactError, match=r"no runtime takes '.tflite'.*onnxruntime .onnx.*openvino .xml"):
        edgedet.load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"absent.onnx: no such file"):
        edgedet.load(tmp_path / "absent.onnx")


def test_a_runtime_that_does_not_take_the_suffix_is_refused(bright_xml: Path) -> None:
    with pytest.raises(UsageError, match=r"onnxruntime takes .onnx, not '.xml'"):
        edgedet.load(bright_xml, runtime="onnxruntime")


def test_an_unknown_runtime_lists_the_known_ones(bright_onnx: Path) -> None:
    with pytest.raises(UsageError, match=r"no runtime named 'coreml'; there are: onnxruntime, openvino"):
        edgedet.load(bright_onnx, runtime="coreml")


def test_where_no_runtime_is_installed_each_says_why_and_what_to_install(
    bright_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_onnxruntime, "available", lambda: "not here; pip install onnxruntime")
    assert detector_module.choose_runtime(bright_onnx) == "openvino"
    monkeypatch.setattr(run_openvino, "available", lambda: "not here; pip install 'edgedet[openvino]'")
    with pytest.raises(RuntimeUnavailable, match=r"onnxruntime: .*pip install onnxruntime; openvino: .*pip install"):
        edgedet.load(bright_onnx)
