"""Means of channels against NumPy on ONNX Runtime's own outputs."""

from __future__ import annotations

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
import quantizable  # noqa: E402

from edgedet.calibration.means import channel_means  # noqa: E402
from edgedet.errors import DataError, ExportError  # noqa: E402

TENSORS = ["focus", "silu_2", "both"]
IMAGES = [frame[None] for frame in quantizable.frames(5)]


@pytest.mark.parametrize("batch", [1, 2, None])
def test_means_are_those_of_every_pixel_of_every_image_whatever_the_batch(batch):
    """Five images in a batch of two: the last is filled up, and the filling is not counted. To 1e-5 of the greatest."""
    found = channel_means(quantizable.model(batch=batch), TENSORS, iter(IMAGES), total=5)
    assert list(found) == TENSORS
    for name in TENSORS:
        values = np.concatenate([quantizable.run(quantizable.model(), image, [name])[name] for image in IMAGES])
        want = values.astype(np.float64).mean(axis=(0, 2, 3))
        np.testing.assert_allclose(found[name], want, atol=1e-5 * np.abs(want).max())


def test_means_are_plain_numbers_that_json_holds():
    (means,) = channel_means(quantizable.model(), ["silu_2"], IMAGES[:1]).values()
    assert [type(value) for value in means] == [float] * 8


def test_the_model_stays_as_it_was():
    model = quantizable.model()
    before = model.SerializeToString()
    channel_means(model, TENSORS, IMAGES[:1])
    assert model.SerializeToString() == before


def test_no_images_are_refused():
    with pytest.raises(DataError, match="no image was given to take means of; calibrate with at least one image"):
        channel_means(quantizable.model(), TENSORS, [])


def test_an_unknown_value_is_refused():
    with pytest.raises(ExportError, match=r"computes no tensor 'mish'|cannot load it"):
        channel_means(quantizable.model(), ["mish"], IMAGES[:1])
