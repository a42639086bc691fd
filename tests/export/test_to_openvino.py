"""OpenVINO files: the spec inside, the precision kept, foreign files refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import openvino
import pytest
import torch

from edgedet.errors import ExportError, SpecError
from edgedet.export import onnx_file
from edgedet.export.graph import ExportGraph
from edgedet.export.to_fp16 import to_fp16
from edgedet.export.to_onnx import to_onnx
from edgedet.export.to_openvino import annotate, to_openvino
from edgedet.runtimes import run_openvino
from edgedet.runtimes.session import Options
from edgedet.spec import FINAL, KEY, ModelSpec


def spec_in(path) -> ModelSpec:
    text = openvino.Core().read_model(path).get_rt_info(KEY).value
    return ModelSpec.from_json(text, where=path.name)


def weight_type(path) -> str:
    """Element type of the weights of the first convolution, before OpenVINO widens them at load."""
    text = path.read_text()
    convolution = text.index('type="Convolution"')
    constants = text[:convolution].split('type="Const"')
    weights = next(c for c in reversed(constants) if 'shape="8, 3, 8, 8"' in c)
    return weights.split('element_type="')[1].split('"')[0]


@pytest.mark.parametrize("batch", [1, None])
def test_the_file_carries_its_spec_and_gives_pytorchs_detections(small, tmp_path, batch):
    """Within 1e-4 px and 1e-4 of score."""
    source = to_onnx(small.detector, replace(small.spec, batch=batch), tmp_path / "small.onnx")
    path = to_openvino(source, tmp_path / "small.xml")
    assert spec_in(path) == onnx_file.read(source)[1]
    images = np.random.default_rng(1).integers(0, 256, (batch or 3, *small.spec.size_hw, 3), np.uint8)
    found = run_openvino.open(path, Options()).infer(images)
    with torch.inference_mode():
        wanted = ExportGraph(*small)(torch.from_numpy(images))
    for name, tensor in zip(FINAL, wanted, strict=True):
        np.testing.assert_allclose(found[name], tensor.numpy(), rtol=0, atol=1e-4)


def test_the_precision_is_that_of_the_onnx_file(small, tmp_path):
    base = to_onnx(*small, tmp_path / "fp32.onnx")
    full = to_openvino(base, tmp_path / "fp32.xml")
    half = to_openvino(to_fp16(base, tmp_path / "fp16.onnx"), tmp_path / "fp16.xml")
    assert (weight_type(full), weight_type(half)) == ("f32", "f16")
    assert half.with_suffix(".bin").stat().st_size < 0.7 * full.with_suffix(".bin").stat().st_size


def test_annotating_replaces_the_spec_and_keeps_the_weights(small, tmp_path):
    path = to_openvino(to_onnx(*small, tmp_path / "small.onnx"), tmp_path / "small.xml")
    weights = path.with_suffix(".bin").read_bytes()
    annotate(path, spec_in(path).with_provenance(check={"box_error_px": 0.5}))
    assert spec_in(path).provenance["check"] == {"box_error_px": 0.5}
    assert path.with_suffix(".bin").read_bytes() == weights


def test_the_file_says_nothing_of_the_machine_that_made_it(small, tmp_path):
    path = to_openvino(to_onnx(*small, tmp_path / "small.onnx"), tmp_path / "small.xml")
    assert str(tmp_path).encode() not in path.read_bytes()


def test_an_onnx_file_without_spec_is_refused_and_nothing_written(yolox_nano_onnx, tmp_path):
    with pytest.raises(SpecError, match="no edgedet spec"):
        to_openvino(yolox_nano_onnx, tmp_path / "foreign.xml")
    assert list(tmp_path.iterdir()) == []


def test_another_suffix_is_refused(small, tmp_path):
    source = to_onnx(*small, tmp_path / "small.onnx")
    with pytest.raises(ExportError, match=r"name it small\.xml"):
        to_openvino(source, tmp_path / "small.bin")
