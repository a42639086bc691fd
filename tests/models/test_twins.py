"""Variants that have the same tensors: what tells which of them a file holds."""

from __future__ import annotations

import pytest
import torch

from edgedet.errors import CheckpointError
from edgedet.models import checkpoint, yolox


@pytest.fixture
def twin(monkeypatch, tmp_path):
    """Writes a YOLOX-nano into a file of that name, in a world where tiny has nano's tensors."""
    monkeypatch.setitem(yolox.VARIANTS, "tiny", yolox.VARIANTS["nano"])
    monkeypatch.setattr(yolox, "TWINS", {"nano": ("tiny",)}, raising=False)
    detector = checkpoint.build("yolox-nano", 3)

    def write(name):
        if name.endswith(".safetensors"):
            spec = checkpoint.describe(checkpoint.build("yolox-tiny", 3), ("a", "b", "c"))
            checkpoint.save(tmp_path / name, detector.state_dict(), spec)
        else:
            torch.save(detector.state_dict(), tmp_path / name)
        return tmp_path / name

    return write


@pytest.mark.parametrize(
    ("file", "variant"), [("yolox_tiny_33.pth", "tiny"), ("NANO.pth", "nano"), ("nano-run.safetensors", "tiny")]
)
def test_the_spec_or_else_the_files_name_tells_twins_apart(file, variant, twin):
    loaded = checkpoint.load(twin(file))
    assert (loaded.spec.variant, loaded.detector.variant) == (variant, variant)


@pytest.mark.parametrize("file", ["best.pth", "nano_or_tiny.pth", "tinynano.pth"])
def test_twins_that_nothing_tells_apart_are_refused(file, twin):
    with pytest.raises(CheckpointError, match=r"yolox-nano and of yolox-tiny alike; put .* as in \w+-tiny\.pth"):
        checkpoint.load(twin(file))
