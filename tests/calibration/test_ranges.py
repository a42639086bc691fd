"""Range searches, each against an implementation of its own: NumPy, SciPy, ONNX Runtime or brute force over the samples."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from edgedet.calibration.ranges import Histogram, Method, amplitude, combine, interval, kl_divergences, widen
from edgedet.errors import DataError, UsageError

METHODS = get_args(Method)
BINS = 8192


def histogram(values: np.ndarray, *, bins: int = BINS) -> Histogram:
    """NumPy's histogram of the values, reaching to the power of two above the greatest magnitude."""
    reach = 2.0 ** np.ceil(np.log2(max(np.abs(values).max(), 1e-3)))
    counts = np.histogram(values, bins, range=(-reach, reach))[0]
    return Histogram(float(values.min()), float(values.max()), float(reach), counts)


def silu(values: np.ndarray) -> np.ndarray:
    return values / (1 + np.exp(-values))


def samples(name: str) -> np.ndarray:
    """200 000 values as they occur in detectors."""
    draw = np.random.default_rng(7)
    normal = draw.standard_normal(200_000)
    return {
        "normal": normal,
        "laplace": draw.laplace(0, 3, 200_000),
        "silu": silu(2 * normal),
        "silu with outliers": np.concatenate([silu(2 * normal), draw.uniform(20, 60, 40)]),
        "relu": np.maximum(normal, 0),
        "negative": -np.abs(normal) - 0.5,
        "far from zero": normal / 10 + 5,
        "two values": np.repeat([0.3, 9.0], 1000),
    }[name]


NAMES = ["normal", "laplace", "silu", "silu with outliers", "relu", "negative", "far from zero", "two values"]


def symmetric_error(values: np.ndarray, clip: float) -> float:
    """Mean squared error of the values on the symmetric grid of 255 levels."""
    scale = clip / 127
    return float(np.mean((np.clip(np.rint(values / scale), -127, 127) * scale - values) ** 2))


def asymmetric_error(values: np.ndarray, low: float, high: float) -> float:
    """Mean squared error of the values on the grid of 256 levels that uint8 and its zero-point give."""
    scale = (high - low) / 255
    zero_point = round(-low / scale)
    return float(np.mean(((np.clip(np.rint(values / scale) + zero_point, 0, 255) - zero_point) * scale - values) ** 2))


@pytest.mark.parametrize("name", NAMES)
def test_minmax_takes_the_extremes(name):
    """The asymmetric one takes zero in, and lies within half a step of the extremes, because zero is a level."""
    values = samples(name)
    found = histogram(values)
    assert amplitude(found, "minmax") == np.abs(values).max()
    low, high = interval(found, "minmax")
    want_low, want_high = min(values.min(), 0), max(values.max(), 0)
    assert high - low == pytest.approx(want_high - want_low)
    assert abs(low - want_low) <= (high - low) / 255 / 2 * 1.0001


@pytest.mark.parametrize("name", NAMES)
def test_percentile_is_numpys_to_the_width_of_a_bin(name):
    values = samples(name)
    found = histogram(values)
    want = np.percentile(np.abs(values), 99.99)
    clip = amplitude(found, "percentile")
    assert abs(clip - want) <= found.width
    low, high = interval(found, "percentile")
    step = (high - low) / 255
    assert abs(low - max(min(values.min(), 0), -clip)) <= step / 2 * 1.0001
    assert abs(high - min(max(values.max(), 0), clip)) <= step / 2 * 1.0001


def brute_force_divergences(counts: np.ndarray) -> list[float]:
    """KL(P || Q) by the steps of Migacz's slides, one candidate at a time, with SciPy's entropy."""
    entropy = pytest.importorskip("scipy.stats").entropy
    found = []
    for end in range(128, len(counts) + 1):
        reference = counts[:end].astype(float)
        candidate = np.zeros(end)
        levels = np.arange(end) * 128 // end
        for level in range(128):
            inside = (levels == level) & (reference > 0)
            if inside.any():
                candidate[inside] = reference[inside].sum() / inside.sum()
        reference[-1] += counts[end:].sum()
        found.append(float(entropy(reference, candidate)))  # which makes both sum to one
    return found


@pytest.mark.parametrize("name", ["normal", "laplace", "silu with outliers", "relu"])
def test_divergences_are_those_of_brute_force(name):
    """To 1e-9, infinities in the same places, empty bins among the others."""
    counts = histogram(samples(name)[:20_000], bins=1024).magnitudes()
    assert (counts == 0).any()
    np.testing.assert_allclose(kl_divergences(counts), brute_force_divergences(counts), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["normal", "laplace", "silu with outliers"])
def test_entropy_clips_about_where_onnxruntime_does(name):
    """Within 10 %: its levels span both signs, its P is smoothed, and its own answer moves by 10 % with the bins."""
    calibrate = pytest.importorskip("onnxruntime.quantization.calibrate")
    values = samples(name)
    found = histogram(values)
    peak = np.abs(values).max()
    counts, edges = np.histogram(values, 2001, range=(-peak, peak))
    collector = calibrate.HistogramCollector("entropy", True, 2001, 255, 99.99, "same")
    theirs = collector.get_entropy_threshold((counts, edges, values.min(), values.max(), peak), 255)
    assert amplitude(found, "entropy") == pytest.approx(float(theirs[1]), rel=0.1)


def test_entropy_gives_up_a_few_outliers():
    """Forty values of 200 000 between 20 and 60 are worth less than the resolution of all others."""
    assert amplitude(histogram(samples("silu with outliers")), "entropy") < 20


@pytest.mark.parametrize("name", NAMES)
def test_mse_amplitude_is_as_good_as_brute_force_over_the_samples(name):
    """Within 1 % of the least error that 400 clips reach on the very values, plus a bin's blur.

    Within 6 % where the values fill 23 steps only: how the steps fall on them then matters as much as the clip.
    """
    values = samples(name)
    best = min(symmetric_error(values, clip) for clip in np.abs(values).max() * np.arange(4, 401) / 400)
    blur = (np.abs(values).max() / BINS) ** 2
    within = 1.06 if name == "far from zero" else 1.01
    assert symmetric_error(values, amplitude(histogram(values), "mse")) <= best * within + blur


@pytest.mark.parametrize("name", NAMES)
def test_mse_interval_is_as_good_as_brute_force_over_the_samples(name):
    """Within 1.5 % of the least error of 50 x 50 intervals with a zero-point rounded as runtimes do, plus a bin's blur."""
    values = samples(name)[::10]
    parts = np.arange(1, 51) / 50
    lows = min(values.min(), 0) * parts if values.min() < 0 else [0.0]
    highs = max(values.max(), 0) * parts if values.max() > 0 else [0.0]
    best = min(asymmetric_error(values, low, high) for low in lows for high in highs)
    blur = (np.abs(values).max() / BINS) ** 2
    assert asymmetric_error(values, *interval(histogram(values), "mse")) <= best * 1.015 + blur


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NAMES)
def test_every_range_is_usable(name, method):
    """Positive, not above what was observed, and with zero exactly on a level."""
    found = histogram(samples(name))
    assert 0 < amplitude(found, method) <= found.peak
    low, high = interval(found, method)
    assert low <= 0 <= high
    zero_point = -low / ((high - low) / 255)
    assert zero_point == pytest.approx(round(zero_point), abs=1e-9)
    assert 0 <= round(zero_point) <= 255


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [3.0, -3.0, 1e-3])
def test_a_constant_is_held(method, value):
    """To 2 %: the `mse` clip may lie a little lower, where a level meets the value."""
    found = histogram(np.full(1000, value))
    assert amplitude(found, method) == pytest.approx(abs(value), rel=0.02)
    low, high = interval(found, method)
    assert (high if value > 0 else low) == pytest.approx(value, rel=0.02)
    assert (low if value > 0 else high) == 0


@pytest.mark.parametrize("method", METHODS)
def test_a_tensor_of_zeros_gets_a_range_that_holds_them(method):
    found = histogram(np.zeros(1000))
    assert amplitude(found, method) == 1
    assert interval(found, method) == (0, 1)


@pytest.mark.parametrize("method", METHODS)
def test_what_was_never_observed_is_refused(method):
    empty = Histogram(0.0, 0.0, 1.0, np.zeros(BINS, np.int64))
    with pytest.raises(DataError, match="no value was observed; calibrate with at least one image"):
        amplitude(empty, method)
    with pytest.raises(DataError, match="no value was observed"):
        interval(empty, method)


def test_an_unknown_method_is_refused():
    with pytest.raises(UsageError, match="method 'average' is unknown; use minmax, percentile, entropy, mse"):
        amplitude(histogram(samples("normal")), "average")


@pytest.mark.parametrize("doublings", [0, 1, 3, 12, 40])
def test_widened_counts_are_those_of_a_histogram_that_reaches_further(doublings):
    values = samples("normal")
    near = histogram(values)
    far = np.histogram(values, BINS, range=(-near.reach * 2.0**doublings, near.reach * 2.0**doublings))[0]
    np.testing.assert_array_equal(widen(near.counts, doublings), far)


def test_combined_channels_are_the_whole_tensor():
    parts = samples("normal"), samples("laplace"), samples("silu with outliers")
    np.testing.assert_equal(vars(combine([histogram(one) for one in parts])), vars(histogram(np.concatenate(parts))))
