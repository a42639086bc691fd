"""ONNX files: what stands in them, and that they give PyTorch's answers."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from edgedet.data.dataset import open_dataset
from edgedet.detections import Detections
from edgedet.errors import ArtifactError, SpecError
from edgedet.export import onnx_file
from edgedet.export.graph import ExportGraph, with_input
from edgedet.export.to_onnx import to_onnx
from edgedet.models import checkpoint, yolox
from edgedet.runtimes import run_onnxruntime, run_openvino
from edgedet.runtimes.matching import match
from edgedet.runtimes.run_torch import TorchSession
from edgedet.runtimes.session import Options
from edgedet.spec import FINAL

PARITY = {"ort": run_onnxruntime, "ort-off": run_onnxruntime, "openvino": run_openvino}
OPTIONS = {"ort": Options(), "ort-off": Options(graph_optimization="off"), "openvino": Options()}


def shapes(values) -> dict[str, list[int | str]]:
    return {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}


def pictures(spec, batch: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (batch, *spec.size_hw, 3), np.uint8)


def assert_parity(small, path, batch: int) -> None:
    """Every output of the file equals PyTorch's to 1e-4."""
    images = pictures(small.spec, batch)
    session = run_onnxruntime.open(path, Options())
    layout = replace(small.spec, batch=None, input_layout="uint8-nhwc")
    with torch.inference_mode():
        wanted = ExportGraph(small.detector, layout)(torch.from_numpy(images))
    found = session.infer(images)
    assert (found["labels"] >= 0).sum() > 5 * batch
    for name, tensor in zip(FINAL, wanted, strict=True):
        np.testing.assert_allclose(found[name], tensor.numpy(), rtol=0, atol=1e-4)


def test_the_file_says_what_it_takes_and_gives(small, tmp_path):
    path = to_onnx(*small, tmp_path / "small.onnx")
    model, spec = onnx_file.read(path)
    onnx.checker.check_model(path, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 19)]
    assert model.ir_version <= 10, "ONNX Runtime 1.18 reads no newer one"
    assert shapes(model.graph.input) == {"images": [1, 64, 96, 3]}
    assert shapes(model.graph.output) == {"boxes": [1, 96, 4], "scores": [1, 96], "labels": [1, 96]}
    inner = shapes(model.graph.value_info)
    assert inner["candidate_boxes"] == [1, 96, 4]
    assert inner["candidate_scores"] == inner["candidate_labels"] == [1, 96]
    assert inner["head_0"] == [1, 4, 8, 12]
    assert replace(spec, provenance={}) == replace(small.spec, provenance={})
    assert spec.provenance.keys() >= {"torch", "onnx", "edgedet"}
    assert json.loads(model.metadata_props[0].value)["classes"] == ["ball", "cube"]


def test_the_file_says_nothing_of_the_machine_that_made_it(small, tmp_path):
    data = to_onnx(*small, tmp_path / "small.onnx").read_bytes()
    assert not re.findall(rb"site-packages|\.py\b|File \"|pkg\.torch|" + str(tmp_path).encode(), data)


def test_the_same_checkpoint_gives_the_same_bytes(small, tmp_path):
    one, other = (to_onnx(*small, tmp_path / name).read_bytes() for name in ("one.onnx", "other.onnx"))
    assert one == other


def test_nothing_is_printed_while_exporting(small, tmp_path, capfd):
    to_onnx(*small, tmp_path / "small.onnx")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("mode", ["onnx", "matrix"])
def test_a_dynamic_batch_runs_with_one_and_three_images(small, tmp_path, mode):
    spec = replace(small.spec, batch=None, suppression=replace(small.spec.suppression, mode=mode))
    path = to_onnx(small.detector, spec, tmp_path / "small.onnx")
    assert shapes(onnx.load(path).graph.output)["boxes"] == ["batch", 96, 4]
    for batch in (1, 3):
        assert_parity(small, path, batch)


def test_a_fixed_batch_of_two_runs_as_two_images(small, tmp_path):
    assert_parity(small, to_onnx(small.detector, replace(small.spec, batch=2), tmp_path / "small.onnx"), 2)


def test_the_classic_input_gives_the_same_detections(small, tmp_path):
    path = to_onnx(small.detector, replace(small.spec, input_layout="float32-nchw"), tmp_path / "small.onnx")
    assert shapes(onnx.load(path).graph.input) == {"images": [1, 3, 64, 96]}
    assert_parity(small, path, 1)


def test_without_nms_the_candidates_come_out_as_they_are(small, tmp_path):
    spec = replace(small.spec, suppression=replace(small.spec.suppression, mode="none"))
    path = to_onnx(small.detector, spec, tmp_path / "small.onnx")
    assert list(shapes(onnx.load(path).graph.output)) == ["candidate_boxes", "candidate_scores", "candidate_labels"]
    images = pictures(spec, 1)
    found = run_onnxruntime.open(path, Options()).infer(images)
    with torch.inference_mode():
        wanted = ExportGraph(*small).candidates(torch.from_numpy(images))
    for name, tensor in zip(found, wanted, strict=True):
        np.testing.assert_allclose(found[name], tensor.numpy(), rtol=0, atol=1e-4)


def test_weights_beyond_protobufs_limit_go_to_a_file_beside(small, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "EXTERNAL_BYTES", 1000)
    path = to_onnx(*small, tmp_path / "small.onnx")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["small.onnx", "small.onnx.data"]
    assert_parity(small, path, 1)


def test_annotating_keeps_the_graph_and_replaces_the_spec(small, tmp_path):
    path = to_onnx(*small, tmp_path / "small.onnx")
    before, spec = onnx_file.read(path)
    onnx_file.annotate(path, spec.with_provenance(check={"box_error_px": 0.5}))
    after, spec = onnx_file.read(path)
    assert spec.provenance["check"] == {"box_error_px": 0.5}
    assert before.graph == after.graph
    assert len(after.metadata_props) == 1


def test_files_that_are_not_ours_are_refused(tmp_path, yolox_nano_onnx):
    with pytest.raises(SpecError, match="no edgedet spec"):
        onnx_file.read(yolox_nano_onnx)
    (tmp_path / "cut.onnx").write_bytes(yolox_nano_onnx.read_bytes()[:5000])
    with pytest.raises(ArtifactError, match=r"cut\.onnx"):
        onnx_file.read(tmp_path / "cut.onnx")


def photos(coco_val, spec, count: int) -> np.ndarray:
    """The first letterboxed photos, (count, H, W, 3)."""
    samples = open_dataset(coco_val).samples[:count]
    return np.stack([spec.letterbox.apply(sample.read())[0] for sample in samples])


def detections(outputs) -> Detections:
    boxes, scores, labels = (outputs[name][0] for name in FINAL)
    return Detections(boxes[labels >= 0], scores[labels >= 0], labels[labels >= 0])


def compare_on_photos(nano, path, coco_val, how: str, count: int) -> None:
    """The floors of the project: matched ≥ .999, box error ≤ .1 px, score drift ≤ .001."""
    reference = TorchSession(ExportGraph(nano.detector, replace(nano.spec, batch=None)))
    session = PARITY[how].open(path, OPTIONS[how])
    pairs = lone = 0
    for image in photos(coco_val, nano.spec, count):
        ours, theirs = (detections(s.infer(image[None])) for s in (reference, session))
        found = match(ours, theirs, min_score=0.002)  # just above the file's floor
        pairs += len(found.reference)
        lone += len(found.only_reference) + len(found.only_other)
        assert found.box_errors.max(initial=0) <= 0.1
        assert np.abs(found.score_drifts).max(initial=0) <= 0.001
    assert pairs > 20 * count
    assert pairs / (pairs + lone) >= 0.999


@pytest.mark.parametrize("how", PARITY)
def test_yolox_nano_gives_pytorchs_detections(nano, nano_file, coco_val, how):
    compare_on_photos(nano, nano_file("onnx"), coco_val, how, 4)


@pytest.mark.slow
@pytest.mark.parametrize("how", PARITY)
@pytest.mark.parametrize("mode", ["onnx", "matrix"])
def test_yolox_nano_gives_pytorchs_detections_on_all_photos(nano, nano_file, coco_val, mode, how):
    compare_on_photos(nano, nano_file(mode), coco_val, how, 64)


@pytest.mark.slow
@pytest.mark.parametrize("how", PARITY)
def test_yolox_nano_without_nms_gives_pytorchs_candidates(nano, nano_file, coco_val, how):
    """Box error ≤ .1 px, score error ≤ .001 on each of the 3549 candidates."""
    session = PARITY[how].open(nano_file("none"), OPTIONS[how])
    graph = ExportGraph(nano.detector, replace(nano.spec, batch=None))
    for image in photos(coco_val, nano.spec, 64):
        with torch.inference_mode():
            wanted = graph.candidates(torch.from_numpy(image[None]))
        found = session.infer(image[None])
        np.testing.assert_allclose(found["candidate_boxes"], wanted.boxes, rtol=0, atol=0.1)
        np.testing.assert_allclose(found["candidate_scores"], wanted.scores, rtol=0, atol=0.001)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["tiny", "s"])
def test_larger_variants_with_two_classes_and_a_flat_input_agree(variant, tmp_path):
    """Random weights, biases raised so that there are detections; 96x160 pixels, in the three modes."""
    torch.manual_seed(0)
    detector = yolox.build(variant, 2).eval()
    with torch.no_grad():
        for prediction in (*detector.head.cls_preds, *detector.head.obj_preds):
            prediction.bias.fill_(0.5)
            prediction.weight.mul_(20)
    base = with_input(checkpoint.describe(detector, ("cat", "dog")), size_hw=(96, 160), batch=2)
    images = pictures(base, 2)
    for mode in ("onnx", "matrix"):
        spec = replace(base, suppression=replace(base.suppression, mode=mode))
        found = run_onnxruntime.open(to_onnx(detector, spec, tmp_path / f"{mode}.onnx"), Options()).infer(images)
        with torch.inference_mode():
            wanted = ExportGraph(detector, spec)(torch.from_numpy(images))
        assert (found["labels"] >= 0).sum() > 20
        np.testing.assert_allclose(found["scores"], wanted.scores, atol=1e-3)
