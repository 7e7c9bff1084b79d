"""Simultaneous bands for the mean of a few vectors: seeds, each with a sampling error of its own.

A claim about every place of a curve needs a band that covers the whole of it: its half width is the standard error
times a quantile of the largest of all |t| (the sup-t band of Montiel Olea and Plagborg-Moller 2019, "Simultaneous
Confidence Bands"), found by simulation with Student's denominators, for seeds are few.

Two errors are held apart. Training: generators of other seeds differ; with S pairs of seeds the spread of the S
differences tells it, sampling error included. Sampling: other texts of the same generators differ; the
delete-a-group jackknife tells it. The spread of few seeds is by accident far too small somewhere along a curve, so
nowhere less than its mean over the curve is believed, nor less than sampling alone explains; what the seeds have in
common, as their texts are drawn with the same random numbers, is added. With one pair there is sampling error alone,
and the statement is one about these two checkpoints.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from textgan.metrics.jackknife import t_quantile

DRAWS = 4000  # of the simulation behind a band's critical value


class Estimate(NamedTuple):
    """K numbers with their standard errors and a simultaneous band, (K,) each."""

    center: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    se: np.ndarray
    critical: float


def mean_over_seeds(rows: Sequence[np.ndarray], *, level: float, seed: int = 0) -> Estimate:
    """Mean over S seeds of K differences, with a simultaneous band that covers seeds and sampling.

    Args:
        rows: for each seed (1 + B, K): the differences, and below them B leave-group-out values: of G groups, or of G
            of each of two unpaired sets.
        level: of the band.
        seed: of the simulation of its critical value.
    """
    values = np.stack([row[0] for row in rows])  # (S, K)
    deviations = np.stack([row[1:] - row[1:].mean(0) for row in rows])  # (S, B, K)
    S, B, _ = deviations.shape
    factor = (B - 1) / B
    center = values.mean(0)
    # Seeds share their random numbers, so the error of the mean is taken from the mean's own leave-group-out values.
    sampling = factor * np.square(deviations.mean(0)).sum(0)
    if S == 1:
        se = np.sqrt(sampling)
        critical = sup_t_quantile(deviations[0], B - 1, level, seed=seed)
    else:
        residuals = values - center
        between = np.square(residuals).sum(0) / (S * (S - 1))
        shared = np.clip(sampling - factor * np.square(deviations).sum((0, 1)) / S**2, 0, None)
        se = np.sqrt(np.maximum(np.maximum(between, between.mean()) + shared, sampling))
        within = deviations.reshape(S * B, -1)
        scale = np.sqrt(np.square(residuals).sum() / max(np.square(within).sum(), 1e-300))
        shapes = (within, np.concatenate([residuals, within * scale]))
        profile = np.sqrt(between)
        critical = max(sup_t_quantile(shape, S - 1, level, profile=profile, seed=seed) for shape in shapes)
    return Estimate(center, center - critical * se, center + critical * se, se, critical)


def sup_t_quantile(
    shape: np.ndarray,
    degrees: int,
    level: float,
    *,
    profile: np.ndarray | None = None,
    seed: int = 0,
    draws: int = DRAWS,
) -> float:
    """Quantile of the largest |t| of K correlated means of ``degrees`` + 1 units, found by simulation.

    Args:
        shape: (M, K) deviations whose correlation the K means have.
        degrees: of freedom of each t; the K denominators are correlated as their units are.
        level: such as 0.95.
        profile: (K,) standard deviations of a unit's K values. With it no denominator is smaller than the root mean
            square of all K, and the result is never below the quantile of a single t, which is what one place with
            nearly all of the variance would need.
        seed: of the draws.
        draws: studies simulated.
    """
    spread = np.sqrt(np.square(shape).sum(0))
    _, singular, axes = np.linalg.svd(shape[:, spread > 0] / spread[spread > 0], full_matrices=False)
    if not len(singular) or singular[0] == 0:
        return float("inf")
    kept = np.square(singular).cumsum() <= (1 - 1e-6) * np.square(singular).sum()
    rank = min(int(kept.sum()) + 1, len(singular))
    loadings = singular[:rank, None] * axes[:rank]  # (rank, K); columns have length 1
    if profile is not None:
        loadings = loadings * profile[spread > 0]
    if loadings.shape[1] == 1:
        return t_quantile(level, degrees)
    rng = np.random.default_rng(seed)
    largest = []
    step = max(1, 2**22 // ((degrees + 1) * loadings.shape[1]))
    for start in range(0, draws, step):
        size = min(step, draws - start)
        units = rng.standard_normal((size, degrees + 1, rank)) @ loadings
        variance = units.var(1, ddof=1)
        if profile is not None:
            variance = np.maximum(variance, variance.mean(1, keepdims=True))
        t = units.mean(1) / np.sqrt(np.maximum(variance, 1e-300) / (degrees + 1))
        largest.append(np.abs(t).max(1))
    quantile = float(np.quantile(np.concatenate(largest), level))
    return max(quantile, t_quantile(level, degrees)) if profile is not None else quantile
