"""Simultaneous bands for the mean of a few vectors: seeds, each with a sampling error of its own.

A claim about every place of a curve needs a band that covers the whole of it: its half width is the standard error
times a quantile of the largest of all |t| (the sup-t band of Montiel Olea and Plagborg-Moller 2019, "Simultaneous
Confidence Bands"), found by simulation with Student's denominators, for seeds are few.

Two errors are held apart. Training: generators of other seeds differ; with S pairs of seeds the spread of the S
differences tells it, sampling error included. Sampling: other texts of the same generators differ; the
delete-a-group jackknife tells it. The spread of few seeds is by accident far too small somewhere along a curve, so
no variance below its root mean square over the curve is believed, nor one below what sampling alone explains; what
the seeds have in common, as their texts are drawn with the same random numbers, is added. With one pair there is
sampling error alone, and the statement is one about these two checkpoints.
"""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from textgan.metrics.jackknife import t_quantile

DRAWS = 4000  # of the simulation behind a band's critical value
TINY = 1e-30  # instead of a division by zero


class Estimate(NamedTuple):
    """K numbers with their standard errors and a simultaneous band, (K,) each."""

    center: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    se: np.ndarray
    critical: float


def mean_over_seeds(
    rows: Sequence[np.ndarray], *, level: float, groups: int | None = None, seed: int = 0, draws: int = DRAWS
) -> Estimate:
    """Mean over S seeds of K differences, with a simultaneous band that covers seeds and sampling.

    Args:
        rows: for each seed (1 + B, K): the differences, and below them B leave-group-out values.
        level: of the band.
        groups: G, where the B = 2 G values leave out the groups of first one and then the other of two unpaired sets;
            by default B.
        seed, draws: of the simulation of its critical value.
    """
    values = np.stack([row[0] for row in rows])  # (S, K)
    deviations = np.stack([row[1:] - row[1:].mean(0) for row in rows])  # (S, B, K)
    S, B, _ = deviations.shape
    groups = groups or B
    factor = (groups - 1) / groups
    center = values.mean(0)
    # Seeds share their random numbers, so the error of the mean is taken from the mean's own leave-group-out values.
    sampling = factor * np.square(deviations.mean(0)).sum(0)
    if S == 1:
        se = np.sqrt(sampling)
        critical = sup_t_quantile(deviations[0], groups - 1, level, seed=seed, draws=draws)
    else:
        residuals = values - center
        between = np.square(residuals).sum(0) / (S * (S - 1))
        shared = np.clip(sampling - factor * np.square(deviations).sum((0, 1)) / S**2, 0, None)
        se = np.sqrt(np.maximum(np.maximum(between, _typical(between)) + shared, sampling))
        # S residuals have S - 1 dimensions; the deviations, as large in all, tell what else the curves do.
        within = deviations.reshape(S * B, -1)
        within = within * np.sqrt(np.square(residuals).sum() / max(np.square(within).sum(), TINY))
        shape = np.concatenate([residuals, within])
        critical = sup_t_quantile(shape, S - 1, level, pooled=True, seed=seed, draws=draws)
    return Estimate(center, center - critical * se, center + critical * se, se, critical)


def _typical(variance: np.ndarray) -> np.ndarray:
    """Root mean square of variances over the last axis, kept: nearer to the large ones than the mean is."""
    return np.sqrt(np.square(variance).mean(-1, keepdims=True))


def sup_t_quantile(
    shape: np.ndarray, degrees: int, level: float, *, pooled: bool = False, seed: int = 0, draws: int = DRAWS
) -> float:
    """Quantile of the largest |t| of K correlated means of ``degrees`` + 1 units, found by simulation.

    Args:
        shape: (M, K) deviations whose covariance the units have, up to a factor.
        degrees: of freedom of each t; the K denominators are correlated as their units are.
        level: such as 0.95.
        pooled: no variance is taken to be smaller than the root mean square of all K. How much that helps depends on
            how variances differ from place to place and on how smooth the curves are, which a few units tell badly;
            so the largest quantile of three worlds is returned: with the given variances, with equal ones, and with
            smooth curves, that move up and down and tilt.
        seed: of the draws.
        draws: studies simulated.
    """
    spread = np.sqrt(np.square(shape).sum(0))
    shape, spread = shape[:, spread > 0], spread[spread > 0]
    if shape.shape[1] < 2:  # nothing varies, or one place does
        return t_quantile(level, degrees)
    shape = shape / spread
    loadings = _loadings(shape.T @ shape)
    if not pooled:
        loadings = _less_correlated(loadings, degrees)
        return max(t_quantile(level, degrees), *_quantiles(loadings, degrees, level, [None], seed, draws))
    given = _quantiles(loadings, degrees, level, [np.square(spread / spread.max()), np.ones(1)], seed, draws)
    return max(t_quantile(level, degrees), _quantile_of_smooth_curves(len(spread), degrees, level, draws), *given)


def _quantiles(
    loadings: np.ndarray, degrees: int, level: float, scales: list[np.ndarray | None], seed: int, draws: int
) -> np.ndarray:
    """Quantile of the largest |t| for each of ``scales``: the variances, (K,), that are pooled; None: they are not."""
    rng = np.random.default_rng(seed)
    loadings = loadings.astype(np.float32)
    largest = []
    step = max(1, 2**20 // ((degrees + 1) * loadings.shape[1]))
    for start in range(0, draws, step):
        size = (min(step, draws - start), degrees + 1, len(loadings))
        units = rng.standard_normal(size, dtype=np.float32) @ loadings
        mean, variance = np.abs(units.mean(1)), units.var(1, ddof=1)
        worlds = [variance if s is None else np.maximum(variance, _typical(variance * s) / s) for s in scales]
        largest.append([(mean / np.sqrt(np.maximum(world, TINY) / (degrees + 1))).max(1) for world in worlds])
    return np.quantile(np.concatenate(largest, 1), level, axis=1)


@cache
def _quantile_of_smooth_curves(K: int, degrees: int, level: float, draws: int) -> float:
    """Pooled quantile for curves of K places whose correlation is exp(-d^2 / 8) at d times the curve's length."""
    places = np.linspace(0, 1, K)
    loadings = _loadings(np.exp(-np.square(places[:, None] - places) / 8))
    return float(_quantiles(loadings, degrees, level, [np.ones(1)], 0, draws)[0])


def _loadings(correlation: np.ndarray) -> np.ndarray:
    """Rows (rank, K) whose sum with standard normal weights has this correlation, (K, K), to a millionth."""
    values, vectors = np.linalg.eigh(correlation)
    return (vectors * np.sqrt(np.clip(values, 0, None))).T[values > 1e-6 * values.sum() / len(values)]


def _less_correlated(loadings: np.ndarray, degrees: int) -> np.ndarray:
    """Loadings of the correlations shrunk towards 0 by as much as they are uncertain; less correlated is safer.

    Source: Schaefer and Strimmer 2005, "A Shrinkage Approach to Large-Scale Covariance Matrix Estimation", table 1 D,
    with the variance (1 - r^2)^2 / degrees of a correlation.
    """
    K = loadings.shape[1]
    squared = np.square(loadings.T @ loadings)[~np.eye(K, dtype=bool)]
    shrink = min(1.0, np.square(1 - squared).sum() / (degrees * max(squared.sum(), TINY)))
    return np.concatenate([np.sqrt(1 - shrink) * loadings, np.sqrt(shrink) * np.eye(K)])
