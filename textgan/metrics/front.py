"""Quality-diversity fronts: the curve that a generator's operating points draw, and what is read off it.

Both axes are turned so that larger is better. Every number comes with its leave-group-out values (see
:mod:`textgan.metrics.jackknife`), so that whatever is computed of a front has a sampling error: the functions here
work on replicates, arrays whose row 0 is of the whole sets and whose row g + 1 leaves group g out.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Front(NamedTuple):
    """P operating points of one generator in one plane, larger better on both axes.

    ``quality_groups`` and ``diversity_groups`` are the same values without the texts of each group, (P, G).
    ``names`` are the samplers of the points, or empty.
    """

    quality: np.ndarray  # (P,)
    diversity: np.ndarray  # (P,)
    quality_groups: np.ndarray  # (P, G)
    diversity_groups: np.ndarray  # (P, G)
    names: tuple[str, ...] = ()

    def replicates(self) -> tuple[np.ndarray, np.ndarray]:
        """Quality and diversity of the whole sets and without each group, (1 + G, P) each."""
        quality = np.vstack([self.quality, np.asarray(self.quality_groups).T])
        diversity = np.vstack([self.diversity, np.asarray(self.diversity_groups).T])
        return quality, diversity

    def select(self, rows: np.ndarray) -> "Front":
        """The points with these indices."""
        names = tuple(self.names[i] for i in rows) if self.names else ()
        return Front(*(np.asarray(values)[rows] for values in self[:4]), names)


def pareto(front: Front) -> Front:
    """The points that no other beats on both axes, ascending in quality and so descending in diversity.

    Of equal points the first is kept. Which ones stay is read off the whole sets. The best of many noisy points is
    optimistic; so for the baseline's best of all samplers this counts against its challenger.
    """
    order = np.lexsort((np.arange(len(front.quality)), -front.diversity, -front.quality))  # best quality first
    kept, best = [], -np.inf
    for i in order:
        if front.diversity[i] > best:
            kept.append(i)
            best = front.diversity[i]
    return front.select(np.array(kept[::-1], dtype=int))


def interpolate(quality: np.ndarray, diversity: np.ndarray, grid: np.ndarray, *, straight: bool = False) -> np.ndarray:
    """Diversity (R, K) of R curves at the qualities ``grid`` (K,) or (R, K), on a smooth curve through the points.

    Cubic pieces that never overshoot: between two points the curve stays between their diversities. Straight lines
    would cut across the bend of a front, by more than the sampling error of 10,000 texts where points are a tenth of
    temperature apart, and two arms whose points lie at other places of one front would seem to differ. ``straight``
    draws these lines all the same.

    ``quality`` and ``diversity`` are (R, P) with P at least 2. Beyond the ends the curve goes on straight: a replicate
    without one group may end a little short of the whole set's curve, and must not be held flat there. Callers keep
    the grid within the whole sets' range.

    Source: Fritsch and Butland 1984, "A Method for Constructing Local Monotone Piecewise Cubic Interpolants".
    """
    order = np.argsort(quality, axis=1, kind="stable")
    q, d = np.take_along_axis(quality, order, 1), np.take_along_axis(diversity, order, 1)
    width, rise = np.diff(q, axis=1), np.diff(d, axis=1)
    slope = rise / np.where(width > 0, width, np.inf)  # (R, P - 1); points of one quality: no slope
    tangent = _tangents(width, slope)
    grid = np.broadcast_to(grid, (len(q), np.shape(grid)[-1]))
    left = np.clip((q[:, None, :] <= grid[:, :, None]).sum(2) - 1, 0, q.shape[1] - 2)  # (R, K)
    q0, d0, w, r, m0, m1 = (
        np.take_along_axis(values, left + step, 1)
        for values, step in ((q, 0), (d, 0), (width, 0), (rise, 0), (tangent, 0), (tangent, 1))
    )
    x = np.where(w > 0, (grid - q0) / np.where(w > 0, w, 1), 0.5)
    if straight:
        return d0 + r * x
    inside = np.clip(x, 0, 1)
    cubic = r * inside**2 * (3 - 2 * inside) + w * inside * (1 - inside) * (m0 * (1 - inside) - m1 * inside)
    return d0 + cubic + w * (np.minimum(x, 0) * m0 + np.maximum(x - 1, 0) * m1)


def _tangents(width: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """Slopes (R, P) of the curve at its points, from widths and slopes (R, P - 1) of the pieces between them."""
    if slope.shape[1] == 1:
        return np.repeat(slope, 2, axis=1)
    before, after = width[:, :-1], width[:, 1:]
    total = np.maximum(before + after, np.finfo(float).tiny)
    one = (before + 2 * after) / (3 * total)  # weight of the slope before
    s, t = slope[:, :-1], slope[:, 1:]
    same = s * t > 0
    inner = np.where(same, 1 / np.where(same, one / np.where(same, s, 1) + (1 - one) / np.where(same, t, 1), 1), 0)
    return np.column_stack([_end(width[:, :2], slope[:, :2]), inner, _end(width[:, :-3:-1], slope[:, :-3:-1])])


def _end(width: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """Slope (R,) at an end, of the parabola through its three points, held back where that would turn the curve."""
    total = np.maximum(width.sum(1), np.finfo(float).tiny)
    own, next_one = slope.T
    end = own + width[:, 0] / total * (own - next_one)
    end = np.where(end * own <= 0, 0, end)
    turning = (own * next_one <= 0) & (np.abs(end) > 3 * np.abs(own))
    return np.where(turning, 3 * own, end)


def envelope(curves: Sequence[Front], places: int = 81) -> Front:
    """The best of several curves at each quality: what a generator reaches with whichever family of samplers suits.

    Each curve is read by itself and the highest one is taken. To join the points of all families would cut corners:
    where two families nearly meet, noise decides which point another one beats. A curve of one point counts at its own
    quality. Which curve is highest is read off the whole sets, so the best of noisy values is optimistic; as a baseline
    that counts against its challenger.

    Args:
        curves: one front for each family.
        places: qualities at which the result is known, besides those of all points; without names.
    """
    curves = [pareto(curve) for curve in curves]
    qualities = np.concatenate([curve.quality for curve in curves])
    at = np.union1d(np.linspace(qualities.min(), qualities.max(), places), qualities)
    heights = []
    for curve in curves:
        quality, diversity = curve.replicates()
        height = interpolate(quality, diversity, at) if len(curve.quality) > 1 else np.repeat(diversity, len(at), 1)
        inside = (at >= curve.quality.min()) & (at <= curve.quality.max())
        heights.append(np.where(inside, height, -np.inf))
    stacked = np.stack(heights)  # (curves, 1 + G, K)
    highest = np.take_along_axis(stacked, stacked[:, :1].argmax(0)[None], 0)[0]
    known = np.isfinite(highest[0])  # not between two families that do not meet
    at, highest = at[known], highest[:, known]
    groups = len(highest) - 1
    return Front(at, highest[0], np.tile(at[:, None], (1, groups)), highest[1:].T)


def overlap(fronts: Sequence[Front]) -> tuple[float, float] | None:
    """The range of quality that all fronts reach, or None where there is none."""
    low = max(float(front.quality.min()) for front in fronts)
    high = min(float(front.quality.max()) for front in fronts)
    return (low, high) if low <= high else None


def hypervolume(quality: np.ndarray, diversity: np.ndarray, reference: tuple[float, float]) -> np.ndarray:
    """Area (R,) between ``reference`` and the points of each row (R, P): what at least one point beats.

    The staircase, not the lines between points. Points that do not beat the reference on both axes add nothing.
    Source: Zitzler and Thiele 1998, "Multiobjective Optimization Using Evolutionary Algorithms".
    """
    order = np.argsort(-quality, axis=1, kind="stable")  # best quality first
    q = np.take_along_axis(quality, order, 1) - reference[0]
    d = np.take_along_axis(diversity, order, 1) - reference[1]
    best = np.maximum.accumulate(np.clip(d, 0, None) * (q > 0), axis=1)
    steps = np.diff(best, axis=1, prepend=0)
    return (np.clip(q, 0, None) * steps).sum(1)
