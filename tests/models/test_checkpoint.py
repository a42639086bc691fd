"""Checkpoints as users hold them: what is recognised, what is refused, and that nothing in a file is executed."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgedet.errors import ArtifactError, CheckpointError, UsageError
from edgedet.models import checkpoint


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    return checkpoint.build("yolox-nano", 3).eval()


def with_prefix(state, prefix):
    return {prefix + key: value for key, value in state.items()}


FORMS = {
    "model": lambda s: {"model": s, "start_epoch": 300, "amp": None},
    "state_dict": lambda s: {"state_dict": s},
    "bare": lambda s: s,
    "module prefix": lambda s: {"model": with_prefix(s, "module.")},
    "NumPy score beside": lambda s: {"model": s, "best_ap": np.float64(0.258)},
}


@pytest.mark.parametrize("form", FORMS)
def test_a_checkpoint_loads_in_every_form_it_is_found_in(form, detector, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(FORMS[form](detector.state_dict()), path)
    loaded = checkpoint.load(path, classes=["a", "b", "c"])
    assert loaded.spec.name == "yolox-nano"
    assert loaded.spec.classes == ("a", "b", "c")
    assert not loaded.detector.training
    for name, tensor in detector.state_dict().items():
        assert torch.equal(loaded.detector.state_dict()[name], tensor), name


def test_the_published_weights_are_recognised_with_cocos_names(yolox_nano_pth):
    spec = checkpoint.load(yolox_nano_pth).spec
    assert (spec.name, len(spec.classes), spec.classes[0], spec.size_hw) == ("yolox-nano", 80, "person", (416, 416))


def test_safetensors_bring_their_spec_back(detector, tmp_path):
    spec = checkpoint.describe(detector, ("x", "y", "z"), size_hw=(320, 320))
    checkpoint.save(tmp_path / "a.safetensors", detector.state_dict(), spec)
    loaded = checkpoint.load(tmp_path / "a.safetensors").spec
    assert (loaded.classes, loaded.size_hw) == (("x", "y", "z"), (320, 320))
    assert len(loaded.provenance["parent_sha256"]) == 64
    (tmp_path / "plain").touch()
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode  # others may read it too


def test_half_precision_files_are_read_as_float32(detector, tmp_path):
    half = {k: v.half() if v.is_floating_point() else v for k, v in detector.state_dict().items()}
    checkpoint.save(tmp_path / "a.safetensors", half, checkpoint.describe(detector, ("x", "y", "z")))
    state, _ = checkpoint.read_state(tmp_path / "a.safetensors")
    assert {v.dtype for v in state.values()} == {torch.float32, torch.int64}


class _Executes:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_pickle_that_would_execute_is_refused_and_not_executed(detector, tmp_path):
    mark = tmp_path / "executed"
    torch.save({"model": detector.state_dict(), "extra": _Executes(mark)}, tmp_path / "evil.pth")
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(_Executes(mark)))
    for name in ("evil.pth", "raw.pth"):
        with pytest.raises(CheckpointError, match="could run code"):
            checkpoint.load(tmp_path / name)
    assert not mark.exists()


@pytest.mark.parametrize("part", [0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_named(part, detector, tmp_path):
    whole = tmp_path / "whole.pth"
    torch.save({"model": detector.state_dict()}, whole)
    data = whole.read_bytes()
    (tmp_path / "cut.pth").write_bytes(data[: int(len(data) * part)])
    with pytest.raises((ArtifactError, CheckpointError), match=r"cut\.pth"):
        checkpoint.load(tmp_path / "cut.pth")


def test_a_truncated_safetensors_file_is_named(detector, tmp_path):
    whole = tmp_path / "whole.safetensors"
    checkpoint.save(whole, detector.state_dict(), checkpoint.describe(detector, ("x", "y", "z")))
    (tmp_path / "cut.safetensors").write_bytes(whole.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match=r"cut\.safetensors"):
        checkpoint.load(tmp_path / "cut.safetensors")


def test_an_unknown_family_is_refused_with_the_nearest_guess(detector, tmp_path):
    state = {k.replace("cls_preds", "klass_preds"): v for k, v in detector.state_dict().items()}
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"nearest is yolox-nano, which shares 9\d%"):
        checkpoint.load(tmp_path / "other.pth")


def test_a_missing_tensor_is_named(detector, tmp_path):
    state = dict(detector.state_dict())
    del state["head.stems.1.conv.weight"]
    torch.save(state, tmp_path / "gap.pth")
    with pytest.raises(CheckpointError, match=r"1 missing \(first: head\.stems\.1\.conv\.weight\)"):
        checkpoint.load(tmp_path / "gap.pth")


def test_a_wrong_number_of_class_names_is_refused(detector, tmp_path):
    torch.save(detector.state_dict(), tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="has 3 classes but 2 names"):
        checkpoint.load(tmp_path / "a.pth", classes=["x", "y"])


def test_an_unknown_model_name_lists_the_known_ones():
    with pytest.raises(UsageError, match="yolox-nano"):
        checkpoint.build("yolox-huge", 3)


def test_transfer_keeps_the_rows_of_shared_classes_and_says_what_stays_random(detector):
    torch.manual_seed(1)
    other = checkpoint.build("yolox-nano", 2)
    before = other.state_dict()["head.cls_preds.0.weight"].clone()
    kept = checkpoint.transfer(other, detector.state_dict(), old=("car", "dog", "bus"), new=("tree", "dog"))
    after, source = other.state_dict()["head.cls_preds.0.weight"], detector.state_dict()["head.cls_preds.0.weight"]
    assert torch.equal(after[1], source[1])
    assert torch.equal(after[0], before[0])
    assert kept == []
    kept = checkpoint.transfer(
        checkpoint.build("yolox-nano", 2), detector.state_dict(), old=("car", "dog", "bus"), new=("x", "y")
    )
    assert sorted(kept) == [f"head.cls_preds.{i}.{part}" for i in range(3) for part in ("bias", "weight")]


STEM, CLASSES = "backbone.backbone.stem.conv.conv.weight", "head.cls_preds.0.weight"
ODD_TENSORS = {
    "a scalar stem": ({STEM: torch.tensor(1.0)}, "no family"),
    "a scalar class head": ({CLASSES: torch.tensor(1.0)}, "no family"),
    "sparse": ({STEM: torch.zeros(16, 12, 3, 3).to_sparse()}, "sparse"),
    "whole numbers": ({STEM: torch.ones(16, 12, 3, 3, dtype=torch.int64)}, "1 not of real numbers"),
    "complex": ({STEM: torch.ones(16, 12, 3, 3, dtype=torch.complex64)}, "1 not of real numbers"),
    "not a number": ({STEM: torch.full((16, 12, 3, 3), torch.nan)}, "1 not finite"),
    "endless": ({"head.cls_preds.0.bias": torch.full((3,), torch.inf)}, "1 not finite"),
}


@pytest.mark.parametrize("kind", ODD_TENSORS)
def test_tensors_that_are_no_weights_are_refused(kind, detector, tmp_path):
    change, words = ODD_TENSORS[kind]
    torch.save({**detector.state_dict(), **change}, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match=rf"odd\.pth: .*{words}"):
        checkpoint.load(tmp_path / "odd.pth")


def test_a_file_without_tensors_is_refused(detector, tmp_path):
    checkpoint.save(tmp_path / "none.safetensors", {}, checkpoint.describe(detector, ("x", "y", "z")))
    with pytest.raises(CheckpointError, match=r"none\.safetensors: holds no tensors"):
        checkpoint.load(tmp_path / "none.safetensors")


@pytest.mark.parametrize("change", [{"family": "detr"}, {"variant": "tiny"}, {"classes": ("x", "y")}])
def test_a_spec_of_another_model_than_the_tensors_is_refused(change, detector, tmp_path):
    spec = replace(checkpoint.describe(detector, ("x", "y", "z")), **change)
    checkpoint.save(tmp_path / "a.safetensors", detector.state_dict(), spec)
    with pytest.raises(CheckpointError, match="its tensors are of a yolox-nano of 3"):
        checkpoint.load(tmp_path / "a.safetensors")
