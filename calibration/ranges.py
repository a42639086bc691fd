"""Ranges from histograms: where to clip a tensor so that 8 bits hold it best. Pure functions, no model in sight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from edgedet.errors import DataError, UsageError

Method = Literal["minmax", "percentile", "entropy", "mse"]
PERCENTILE = 99.99
"""Of |x|; what lies beyond is clipped by the method of this name."""
LARGEST = 127
"""The symmetric grid is whole multiples of amplitude / LARGEST from -LARGEST to LARGEST."""
STEPS = 255
"""The asymmetric grid has one level more than steps: 0 to 255."""

_CANDIDATES = 2.0 ** (-np.arange(120) / 18)
"""Clips that `mse` tries, as parts of the whole range: 3.9 % apart, down to a hundredth."""
_KL_LEVELS = 128
_TINY = 1e-30  # what never exceeds it is all zero: its scale would not be a normal float32


@dataclass(frozen=True)
class Histogram:
    """How often a tensor took which values.

    least, greatest: the exact extremes. reach: the bins cover [-reach, reach].
    counts: (N,) int64, N a power of two, bins of equal width; zero lies on the
    edge between the two in the middle and is counted in the upper one.
    """

    least: float
    greatest: float
    reach: float
    counts: np.ndarray

    @property
    def peak(self) -> float:
        """The greatest magnitude."""
        return max(-self.least, self.greatest)

    @property
    def width(self) -> float:
        """Width of a bin."""
        return 2 * self.reach / len(self.counts)

    def magnitudes(self) -> np.ndarray:
        """(M,) int64 counts of |x| in bins from zero, up to the last that holds any."""
        half = len(self.counts) // 2
        return np.trim_zeros(self.counts[half:] + self.counts[:half][::-1], "b")


def widen(counts: np.ndarray, doublings: int) -> np.ndarray:
    """The same counts in as many bins that reach 2^doublings times as far; nothing moves across zero.

    counts: (..., N) int64, N a power of two.
    """
    bins = counts.shape[-1]
    merged = min(2**doublings, bins // 2)
    kept = bins // merged  # bins of the old reach among the new ones
    wide = np.zeros_like(counts)
    sums = counts.reshape(*counts.shape[:-1], kept, merged).sum(axis=-1)
    wide[..., (bins - kept) // 2 : (bins + kept) // 2] = sums
    return wide


def combine(histograms: Sequence[Histogram]) -> Histogram:
    """One histogram of several, such as a tensor's channels; their reaches are powers of two apart."""
    reach = max(histogram.reach for histogram in histograms)
    counts = sum(widen(one.counts, round(np.log2(reach / one.reach))) for one in histograms)
    return Histogram(min(one.least for one in histograms), max(one.greatest for one in histograms), reach, np.asarray(counts))


def amplitude(histogram: Histogram, method: Method) -> float:
    """The clip A > 0 of the symmetric grid: scale A / 127, levels -127 to 127, zero-point 0.

    minmax: max |x|. percentile: see `percentile_clip`. entropy: see `kl_clip`.
    mse: see `symmetric_mse_clip`. A tensor that is all zero gets 1, because
    every grid holds it exactly.
    """
    _check(histogram, method)
    if histogram.peak < _TINY:
        return 1.0
    if method == "minmax":
        return histogram.peak
    return {"percentile": percentile_clip, "entropy": kl_clip, "mse": symmetric_mse_clip}[method](histogram)


def interval(histogram: Histogram, method: Method) -> tuple[float, float]:
    """The clip (low, high) of the asymmetric grid: scale (high - low) / 255, levels 0 to 255, zero-point -low / scale.

    low <= 0 <= high, and the zero-point is a whole number, so that the zeros
    of padding and ReLU are exact. minmax: the extremes and zero. percentile and
    entropy: the same, clipped to [-T, T] of their clip T of |x|. mse: see
    `asymmetric_mse_clip`. Aligning zero moves the others by half a step at most.
    """
    _check(histogram, method)
    if histogram.peak < _TINY:
        return 0.0, 1.0
    if method == "mse":
        return asymmetric_mse_clip(histogram)
    clip = amplitude(histogram, method)
    return _aligned(max(min(histogram.least, 0.0), -clip), min(max(histogram.greatest, 0.0), clip))


def percentile_clip(histogram: Histogram) -> float:
    """The clip that PERCENTILE % of all |x| stay within, exact to the width of a bin.

    One of the calibrations compared by Wu et al., Integer quantization for deep
    learning inference, arXiv 2004.09602.
    """
    counts = histogram.magnitudes()
    share = np.concatenate(([0], np.cumsum(counts))) / counts.sum()
    bins = np.interp(PERCENTILE / 100, share, np.arange(len(share)))
    return min(float(bins) * histogram.width, histogram.peak)


def kl_clip(histogram: Histogram) -> float:
    """The clip whose 128 levels of |x| lose the least information, as TensorRT's calibrator finds it.

    Migacz, 8-bit inference with TensorRT, GTC 2017: for i bins from 128 on, P is
    their distribution with all that lies beyond added to the last, Q the same
    bins without that in 128 levels, each spread evenly over its bins that are
    not empty; the clip is (m + 1/2) bins, where KL(P || Q) is least at i = m.
    """
    counts = histogram.magnitudes()
    if len(counts) < _KL_LEVELS:
        return histogram.peak
    best = _KL_LEVELS + int(np.argmin(kl_divergences(counts)))
    return min((best + 0.5) * histogram.width, histogram.peak)


def kl_divergences(counts: np.ndarray) -> np.ndarray:
    """(M - 127,) float64 KL(P || Q) for the first 128, 129, … M bins of |x|; infinite where Q is zero and P is not.

    With N values in all, n_i of them in the first i bins, p the counts of P and
    q those of Q:  KL = (sum p log p - sum p log q) / N - log N + log n_i.
    Both sums come from running totals, because q is constant inside a level.
    """
    ends = np.arange(_KL_LEVELS, len(counts) + 1)
    values = counts.astype(np.float64)
    total, before = values.sum(), _running(values)
    edges = -(-ends[:, None] * np.arange(_KL_LEVELS + 1) // _KL_LEVELS)  # (i, level): the first bin of a level
    sums = np.diff(before[edges])
    filled = np.diff(_running(values > 0)[edges])
    level_logs = np.log(np.where(sums > 0, sums / np.maximum(filled, 1), 1))
    last, beyond = values[ends - 1], total - before[ends]
    own = _running(_x_log_x(values))[ends] - _x_log_x(last) + _x_log_x(last + beyond)
    cross = (sums * level_logs).sum(axis=1) + beyond * level_logs[:, -1]
    with np.errstate(divide="ignore"):  # where the first bins are all empty, which the next line makes infinite
        divergence = (own - cross) / total - np.log(total) + np.log(before[ends])
    return np.where((last == 0) & (beyond > 0), np.inf, divergence)


def symmetric_mse_clip(histogram: Histogram) -> float:
    """The clip with the least expected squared error of rounding and clipping, out of 120 from max |x| to a hundredth.

    argmin over A of E[(x - s clamp(round(x / s), -127, 127))²], s = A / 127:
    the MSE criterion of Nagel et al., A white paper on neural network
    quantization, arXiv 2106.08295, section 3.1. Values are spread evenly over
    their bin and the square is integrated, so a step may be narrower than a bin.
    """
    counts = histogram.magnitudes()
    scales = histogram.peak / LARGEST * _CANDIDATES
    edges = np.arange(len(counts) + 1) * histogram.width / scales[:, None]  # (candidate, edge), in steps
    errors = np.diff(_error_integral(edges, LARGEST)) @ counts * scales**3  # but for the bin's width, equal for all
    return float(scales[np.argmin(errors)] * LARGEST)


def asymmetric_mse_clip(histogram: Histogram) -> tuple[float, float]:
    """The clips with the least expected squared error, out of 120 scales times 256 zero-points.

    The criterion of `symmetric_mse_clip`. The levels of a scale lie at its whole
    multiples whatever the zero-point, which only says where they end. So the
    rounding error up to every bin is summed once for a scale, and the clipped
    tails come from running sums of counts, values and squares.
    """
    half, width = len(histogram.counts) // 2, histogram.width
    first, last = np.flatnonzero(histogram.counts)[[0, -1]]
    first, last = min(first, half), max(last, half)  # bins; the range always takes zero in
    counts = histogram.counts[first : last + 1]
    edges = (np.arange(first, last + 2) - half) * width
    scales = (max(histogram.greatest, 0.0) - min(histogram.least, 0.0)) / STEPS * _CANDIDATES
    zero_points = np.arange(STEPS + 1)
    rounding = np.diff(_error_integral(edges / scales[:, None], np.inf)) * counts * (scales[:, None] ** 3 / width)
    lows, highs = -zero_points * scales[:, None], (STEPS - zero_points) * scales[:, None]
    before = np.pad(np.cumsum(rounding, axis=1), ((0, 0), (1, 0)))
    inside = np.stack([np.interp(h, edges, b) - np.interp(lo, edges, b) for lo, h, b in zip(lows, highs, before)])
    errors = inside + _clip_error(-lows, -edges[::-1], counts[::-1]) + _clip_error(highs, edges, counts)
    candidate, zero_point = np.unravel_index(np.argmin(errors), errors.shape)
    return float(lows[candidate, zero_point]), float(highs[candidate, zero_point])


def _error_integral(values: np.ndarray, largest: float) -> np.ndarray:
    """Integral from 0 to v of (x - nearest whole number up to `largest`)², which a full step adds 1/12 to."""
    levels = np.minimum(np.rint(values), largest)
    rests = values - levels
    return levels / 12 + rests * rests * rests / 3  # ten times as fast as the power 3


def _clip_error(clips: np.ndarray, edges: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Sum of (x - clip)² over all x above each clip, with the values of a bin spread evenly over it.

    clips: any shape. edges: (M + 1,) ascending. counts: (M,).
    """
    middles, width = (edges[1:] + edges[:-1]) / 2, edges[1] - edges[0]
    powers = counts, counts * middles, counts * (middles**2 + width**2 / 12)
    above = [np.interp(clips, edges, _running(power[::-1])[::-1]) for power in powers]
    return above[2] - 2 * clips * above[1] + clips**2 * above[0]


def _aligned(low: float, high: float) -> tuple[float, float]:
    """The interval moved by half a step at most, so that zero is a level: Jacob et al., CVPR 2018, section 3.1."""
    scale = (high - low) / STEPS
    zero_point = round(-low / scale)
    return 0.0 - zero_point * scale, (STEPS - zero_point) * scale


def _running(values: np.ndarray) -> np.ndarray:
    """(M + 1,) sums of the first 0, 1, … M values."""
    return np.concatenate(([0], np.cumsum(values)))


def _x_log_x(values: np.ndarray) -> np.ndarray:
    return values * np.log(np.where(values > 0, values, 1))


def _check(histogram: Histogram, method: str) -> None:
    if method not in get_args(Method):
        raise UsageError(f"method {method!r} is unknown; use {', '.join(get_args(Method))}")
    if not histogram.counts.any():
        raise DataError("a histogram is empty: no value was observed; calibrate with at least one image")
