"""PyTorch as a runtime: the reference that every other is compared with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgedet.errors import RuntimeUnavailable, UsageError  # noqa: E402
from edgedet.export.graph import ExportGraph  # noqa: E402
from edgedet.models import checkpoint, yolox  # noqa: E402
from edgedet.runtimes import run_torch  # noqa: E402
from edgedet.runtimes.detector import choose_runtime, suppress_candidates  # noqa: E402
from edgedet.runtimes.session import Options  # noqa: E402
from edgedet.spec import CANDIDATES, FINAL  # noqa: E402


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A YOLOX-nano of two classes with random weights that sees something everywhere; 96x160 pixels."""
    torch.manual_seed(0)
    detector = yolox.build("nano", 2)
    with torch.no_grad():
        for prediction in (*detector.head.cls_preds, *detector.head.obj_preds):
            prediction.bias.fill_(0.5)
            prediction.weight.mul_(20)
    path = tmp_path_factory.mktemp("torch") / "nano.safetensors"
    checkpoint.save(path, detector.state_dict(), checkpoint.describe(detector, ("cat", "dog"), size_hw=(96, 160)))
    return path


def images(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 96, 160, 3), np.uint8)


def test_the_session_gives_what_the_graph_gives(saved: Path):
    detector, spec = checkpoint.load(saved)
    with torch.inference_mode():
        wanted = ExportGraph(detector, spec)(torch.from_numpy(images(2)))
    session = run_torch.open(saved, Options(device="cpu"))
    found = session.infer(images(2))
    assert list(found) == list(FINAL)
    assert (found["labels"] >= 0).sum() > 20
    for name, tensor in zip(FINAL, wanted, strict=True):
        np.testing.assert_array_equal(found[name], tensor.numpy())
    later = session.submit(images(2))
    np.testing.assert_array_equal(later.result()["boxes"], found["boxes"])
    session.close()
    session.close()
    with pytest.raises(UsageError, match="closed"):
        session.infer(images(2))


def test_candidates_suppressed_on_the_host_are_the_final_detections(saved: Path):
    """The host's NumPy suppression and the graph's agree exactly."""
    session = run_torch.open(saved, Options(device="cpu", outputs="candidates"))
    found = session.infer(images(1))
    assert list(found) == [*FINAL, *CANDIDATES]
    boxes, scores, labels = suppress_candidates(*(found[name][0] for name in CANDIDATES), session.spec.suppression)
    used = found["labels"][0] >= 0
    np.testing.assert_array_equal(found["labels"][0][used], labels)
    np.testing.assert_array_equal(found["scores"][0][used], scores)
    np.testing.assert_array_equal(found["boxes"][0][used], boxes)


def test_it_takes_on_the_size_and_rules_of_the_file_it_is_compared_with(saved: Path):
    own = run_torch.open(saved, Options(device="cpu")).spec
    like = replace(own, size_hw=(64, 64), suppression=replace(own.suppression, max_detections=7, mode="matrix"))
    session = run_torch.open(saved, Options(device="cpu", like=like))
    assert session.spec.size_hw == (64, 64)
    assert session.infer(images(1)[:, :64, :64])["boxes"].shape == (1, 7, 4)


def test_an_image_of_another_size_is_refused(saved: Path):
    with pytest.raises(UsageError, match="letterbox"):
        run_torch.open(saved, Options(device="cpu")).infer(images(1)[:, :64])


@pytest.mark.parametrize("device", ["tpu", "cuda:99", "cpu:x"])
def test_a_device_that_is_not_there_is_named(saved: Path, device: str):
    with pytest.raises(RuntimeUnavailable, match=device):
        run_torch.open(saved, Options(device=device))


def test_a_checkpoint_in_a_tar_runs_as_it_exports(tmp_path: Path):
    (tmp_path / "model_best.pth.tar").touch()
    assert choose_runtime(tmp_path / "model_best.pth.tar") == "torch"


def test_the_reference_does_not_run_in_less_than_float32(saved: Path):
    with pytest.raises(RuntimeUnavailable, match="f16"):
        run_torch.open(saved, Options(inference_precision="f16"))
