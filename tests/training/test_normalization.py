"""Folded batch norms: recognised, given statistics, and the same function as before."""

import copy

import pytest
import torch

from edgedet.data.dataset import open_dataset
from edgedet.letterbox import Letterbox
from edgedet.models import checkpoint
from edgedet.training.normalization import folded_blocks, unfold_norms


@pytest.fixture(scope="module")
def photos(coco_calib) -> list[torch.Tensor]:
    boxed = [Letterbox((416, 416)).apply(s.read())[0] for s in open_dataset(coco_calib).samples[:8]]
    return [torch.from_numpy(image).permute(2, 0, 1)[None].float() for image in boxed]


@pytest.fixture(scope="module")
def published(yolox_nano_pth):
    return checkpoint.load(yolox_nano_pth).detector


def test_all_norms_of_the_published_weights_are_folded(published):
    assert len(folded_blocks(published)) == 104


def test_a_fresh_network_has_no_folded_blocks():
    assert folded_blocks(checkpoint.build("yolox-nano", 3)) == {}


def flat(raw) -> torch.Tensor:
    return torch.cat([tensor.flatten() for level in raw for tensor in level])


@torch.no_grad()
def test_unfolding_keeps_the_output_in_evaluation_to_1e_3(published, photos):
    detector = copy.deepcopy(published)
    before = flat(detector(photos[0]))
    assert unfold_norms(detector, photos) == 104
    torch.testing.assert_close(flat(detector(photos[0])), before, atol=1e-3, rtol=0)
    assert folded_blocks(detector) == {}
    assert unfold_norms(detector, photos) == 0


@torch.no_grad()
def test_in_training_mode_unfolded_features_stay_close_where_folded_ones_are_destroyed(published, photos):
    batch = torch.cat(photos)
    expected = flat(published(batch))
    unfolded, folded = copy.deepcopy(published), copy.deepcopy(published)
    unfold_norms(unfolded, photos)
    error = (flat(unfolded.train()(batch)) - expected).abs().mean()
    ruin = (flat(folded.train()(batch)) - expected).abs().mean()
    assert error < 0.02
    assert ruin > 10 * error
