"""onnxsim: fewer nodes, the same answers, the same inner names."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgedet.export import onnx_file
from edgedet.export.simplify import simplify
from edgedet.export.to_fp16 import to_fp16
from edgedet.export.to_onnx import to_onnx
from edgedet.runtimes import run_onnxruntime
from edgedet.runtimes.session import Options
from edgedet.spec import CANDIDATES

pytest.importorskip("onnxsim")


@pytest.mark.parametrize("mode", ["onnx", "none"])
def test_candidates_and_heads_keep_their_names_and_values(small, tmp_path, mode):
    spec = replace(small.spec, suppression=replace(small.spec.suppression, mode=mode))
    source = to_onnx(small.detector, spec, tmp_path / "source.onnx")
    path = simplify(source, tmp_path / "simple.onnx")
    model, found = onnx_file.read(path)
    assert found.provenance["simplified"].startswith("onnxsim ")
    assert len(model.graph.node) <= len(onnx_file.read(source)[0].graph.node)
    made = {name for node in model.graph.node for name in node.output}
    assert {*CANDIDATES, "head_0", "head_1"} <= made
    images = np.random.default_rng(1).integers(0, 256, (1, *small.spec.size_hw, 3), np.uint8)
    before, after = (run_onnxruntime.open(p, Options(outputs="candidates")).infer(images) for p in (source, path))
    assert before.keys() == after.keys()
    for name, values in before.items():
        np.testing.assert_allclose(after[name], values, rtol=0, atol=1e-5)


def test_a_simplified_file_can_still_become_fp16(small, tmp_path):
    path = simplify(to_onnx(*small, tmp_path / "source.onnx"), tmp_path / "simple.onnx")
    assert onnx_file.read(to_fp16(path, tmp_path / "fp16.onnx"))[1].precision == "fp16"
