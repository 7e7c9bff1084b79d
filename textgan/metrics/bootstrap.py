"""Bootstrap intervals of means over texts: of one set, of the difference of two paired sets, of two separate sets.

Percentile intervals of Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13. They hold for
plain means of values that are independent from text to text (BLEU against fixed references, length, log-likelihood),
and not for self-BLEU or distinct-n: see :mod:`textgan.metrics.jackknife`.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from torch import Tensor

RESAMPLES = 2000
_CHUNK = 2**21  # places resampled at once: 16 MiB of indices


class Interval(NamedTuple):
    """A value with the ends of its interval; arrays (K,) where K columns were given."""

    mean: float | np.ndarray
    lower: float | np.ndarray
    upper: float | np.ndarray


def bootstrap_mean(
    values: np.ndarray | Tensor, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Mean of ``values`` (N,) and its percentile interval; of each column where ``values`` is (N, K).

    Columns share the resampled texts. The same seed gives the same interval.

    Raises:
        ValueError: no values, some that are not finite, ``level`` not between 0 and 1, or no resamples.
    """
    values = _as_array(values)
    means = np.concatenate([counts @ values for counts in _resampled_counts(len(values), resamples, seed)])
    return _interval(values.mean(0), means / len(values), level)


def paired_bootstrap(
    a: np.ndarray | Tensor, b: np.ndarray | Tensor, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Mean of ``a - b`` and its interval, where a[i] and b[i] are of the same text, prompt or random numbers.

    Raises:
        ValueError: shapes that differ, or as :func:`bootstrap_mean`.
    """
    a, b = _as_array(a), _as_array(b)
    if a.shape != b.shape:
        raise ValueError(f"paired values have shapes {a.shape} and {b.shape}: they must be the same")
    return bootstrap_mean(a - b, level=level, resamples=resamples, seed=seed)


def two_sample_bootstrap(
    a: np.ndarray | Tensor, b: np.ndarray | Tensor, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Mean of ``a`` (N,) minus mean of ``b`` (M,) and its interval; both are resampled, each on its own.

    Raises:
        ValueError: as :func:`bootstrap_mean`.
    """
    a, b = _as_array(a), _as_array(b)
    seeds = np.random.SeedSequence(seed).spawn(2)
    means = [
        np.concatenate([counts @ values for counts in _resampled_counts(len(values), resamples, own)]) / len(values)
        for values, own in zip((a, b), seeds, strict=True)
    ]
    return _interval(a.mean(0) - b.mean(0), means[0] - means[1], level)


def _as_array(values: np.ndarray | Tensor) -> np.ndarray:
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    array = array.astype(np.float64)
    if not array.size:
        raise ValueError("a bootstrap needs at least one value")
    if not np.isfinite(array).all():
        raise ValueError("a bootstrap needs finite values: leave out the texts that have none")
    return array


def _resampled_counts(n: int, resamples: int, seed: int | np.random.SeedSequence) -> Iterator[np.ndarray]:
    """How often each of ``n`` texts is drawn in each resample, (some, n) float64, ``resamples`` rows in all."""
    if resamples < 1:
        raise ValueError(f"resamples={resamples} must be at least 1")
    rng = np.random.default_rng(seed)
    chunk = max(_CHUNK // n, 1)
    for first in range(0, resamples, chunk):
        rows = min(chunk, resamples - first)
        drawn = rng.integers(n, size=(rows, n))
        drawn += n * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)


def _interval(mean: np.ndarray, resampled: np.ndarray, level: float) -> Interval:
    if not 0 < level < 1:
        raise ValueError(f"level={level} must lie between 0 and 1")
    lower, upper = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2], axis=0)
    if resampled.ndim == 1:
        return Interval(float(mean), float(lower), float(upper))
    return Interval(mean, lower, upper)
