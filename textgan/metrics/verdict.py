"""Whether one front lies above another: differences of diversity at equal quality, with simultaneous bands.

The difference is taken on a grid over the range of quality that both fronts reach. A claim of dominance is one about
every place of the grid, so the band is simultaneous; :mod:`textgan.metrics.bands` says which errors it covers. How a
front runs between its points is not known but guessed; so the band is wider by half of what the curves differ there
from straight lines, and by all of it between the outermost points.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from textgan.metrics.bands import DRAWS, mean_over_seeds
from textgan.metrics.bootstrap import Interval
from textgan.metrics.front import Front, hypervolume, interpolate, overlap, pareto

GRID = 41
SEEDS_AND_SAMPLING = "seeds and sampling"
SAMPLING_ONLY = "sampling only: one pair of checkpoints"


class Regret(NamedTuple):
    """Largest loss of diversity at equal quality: ``max(-delta)``; the quality ``at`` which it is; and ``upper``, the
    most that the band allows anywhere. Below 0 where there is no loss."""

    value: float
    at: float
    upper: float


@dataclass(frozen=True)
class FrontComparison:
    """Front of a challenger against that of a baseline; differences are challenger minus baseline, above 0 better.

    Attributes:
        grid, delta, lower, upper: (K,) qualities, difference of diversity there, and its simultaneous band.
            Empty where the fronts do not overlap.
        overlap: range of quality that both reach in every seed; None where there is none.
        share_dominated: share of the grid with the whole band above 0.
        share_worse: share of the grid with the whole band below 0.
        mean_delta: mean difference over the grid, with its interval.
        largest_regret: see :class:`Regret`.
        hypervolume: ``baseline`` and ``other`` (means over seeds), their ``difference`` with ``lower`` and ``upper``,
            and the ``reference`` point (quality, diversity).
        seeds: pairs of seeds.
        covers: which errors the bands cover.
    """

    grid: np.ndarray
    delta: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    overlap: tuple[float, float] | None
    share_dominated: float
    share_worse: float
    mean_delta: Interval
    largest_regret: Regret
    hypervolume: dict[str, float | tuple[float, float]]
    seeds: int
    covers: str
    level: float

    @property
    def dominates(self) -> bool:
        """Whether the challenger is shown to be better at every quality of the overlap."""
        return len(self.grid) > 0 and self.share_dominated == 1

    @property
    def detectable(self) -> float:
        """Median half width of the band: a difference much smaller than this could not have been seen."""
        return float(np.median((self.upper - self.lower) / 2)) if len(self.grid) else float("nan")


def compare_fronts(
    baseline: Sequence[Front],
    other: Sequence[Front],
    *,
    paired: bool = True,
    level: float = 0.95,
    grid: int = GRID,
    reference: tuple[float, float] | None = None,
    seed: int = 0,
    draws: int = DRAWS,
) -> FrontComparison:
    """Compare the fronts of ``other`` with those of ``baseline``, seed by seed.

    Args:
        baseline, other: one front a seed, in the same order; fronts may have different points. Points that another of
            the same front beats on both axes are left out first.
        paired: the texts of both were drawn with the same random numbers row by row, so that what they have in
            common cancels; else sampling errors add.
        level: of the bands.
        grid: number of qualities.
        reference: point (quality, diversity) of the hypervolume; by default the worst of all fronts on either axis.
        seed, draws: of the simulation behind the bands.

    Raises:
        ValueError: no fronts, another number of them on both sides, or numbers of groups that differ.
    """
    if not baseline or len(baseline) != len(other):
        raise ValueError(f"{len(baseline)} fronts of the baseline and {len(other)} of the other: pairs are needed")
    if len({np.shape(front.quality_groups)[1] for front in (*baseline, *other)}) > 1:
        raise ValueError("the fronts have different numbers of jackknife groups")
    reference = reference or tuple(
        min(float(np.min(getattr(front, axis))) for front in (*baseline, *other)) for axis in ("quality", "diversity")
    )
    areas = [[hypervolume(*front.replicates(), reference) for front in side] for side in (baseline, other)]
    groups = np.shape(baseline[0].quality_groups)[1]
    volume = mean_over_seeds(_differences(*areas, paired=paired), level=level, groups=groups, seed=seed, draws=draws)
    volumes = {
        "reference": reference,
        "baseline": float(np.mean([area[0] for area in areas[0]])),
        "other": float(np.mean([area[0] for area in areas[1]])),
        "difference": float(volume.center[0]),
        "lower": float(volume.lower[0]),
        "upper": float(volume.upper[0]),
    }
    baseline, other = [pareto(front) for front in baseline], [pareto(front) for front in other]
    at, curves, guess = _at_equal_quality(baseline, other, grid)
    common = {"hypervolume": volumes, "seeds": len(baseline), "level": level, "covers": _covers(len(baseline))}
    if at is None:
        nothing, unknown = np.zeros(0), (float("nan"),) * 3
        return FrontComparison(*[nothing] * 4, None, 0.0, 0.0, Interval(*unknown), Regret(*unknown), **common)
    rows = _differences(*curves, paired=paired)
    band = mean_over_seeds(rows, level=level, groups=groups, seed=seed, draws=draws)
    lower, upper = band.lower - guess, band.upper + guess
    mean = mean_over_seeds(
        [row.mean(-1, keepdims=True) for row in rows], level=level, groups=groups, seed=seed, draws=draws
    )
    worst = int(np.argmin(band.center))
    return FrontComparison(
        grid=at,
        delta=band.center,
        lower=lower,
        upper=upper,
        overlap=(float(at[0]), float(at[-1])),
        share_dominated=float((lower > 0).mean()),
        share_worse=float((upper < 0).mean()),
        mean_delta=Interval(float(mean.center[0]), float(mean.lower[0]), float(mean.upper[0])),
        largest_regret=Regret(float(-band.center[worst]), float(at[worst]), float(-lower.min())),
        **common,
    )


def _at_equal_quality(
    baseline: Sequence[Front], other: Sequence[Front], grid: int
) -> tuple[np.ndarray | None, tuple[list[np.ndarray], list[np.ndarray]], np.ndarray | float]:
    """Qualities (K,); the diversity there of each front's replicates, (1 + G, K); and what of it is guessed, (K,).

    No qualities without an overlap.
    """
    for k, side in enumerate((baseline, other)):
        if any(len(front.quality) == 1 for front in side):  # a point, not a curve: the others are read at its quality
            return _at_the_point(baseline, other, point_side=k)
    reach = overlap([*baseline, *other])
    if reach is None:
        return None, ([], []), 0.0
    at = np.linspace(*reach, grid if reach[1] > reach[0] else 1)
    curves = [[interpolate(*front.replicates(), at) for front in side] for side in (baseline, other)]
    return at, tuple(curves), sum(np.mean([_guessed(front, at) for front in side], 0) for side in (baseline, other))


def _guessed(front: Front, at: np.ndarray) -> np.ndarray:
    """Half of how far the curve (K,) runs from the straight lines between its points; all of it in the end pieces.

    There points of one side alone tell how the curve bends.
    """
    smooth, lines = (interpolate(front.quality[None], front.diversity[None], at, straight=s)[0] for s in (False, True))
    second, last_but_one = np.sort(front.quality)[[1, -2]]
    return np.abs(smooth - lines) * np.where((at < second) | (at > last_but_one), 1, 0.5)


def _at_the_point(
    baseline: Sequence[Front], other: Sequence[Front], point_side: int
) -> tuple[np.ndarray | None, tuple[list[np.ndarray], list[np.ndarray]], np.ndarray | float]:
    sides: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    qualities, guessed = [], []
    for pair in zip(baseline, other, strict=True):
        point, curve = pair[point_side], pair[1 - point_side]
        if len(point.quality) > 1 or overlap(pair) is None:
            return None, ([], []), 0.0
        quality, diversity = point.replicates()
        curve_quality, curve_diversity = curve.replicates()
        several = len(curve.quality) > 1
        sides[point_side].append(diversity)
        sides[1 - point_side].append(
            interpolate(curve_quality, curve_diversity, quality) if several else curve_diversity
        )
        qualities.append(point.quality[0])
        guessed.append(_guessed(curve, point.quality) if several else np.zeros(1))
    return np.array([np.mean(qualities)]), sides, np.mean(guessed, 0)


def _differences(baseline: list[np.ndarray], other: list[np.ndarray], *, paired: bool) -> list[np.ndarray]:
    """Challenger minus baseline of each seed: (1 + G, K) where paired.

    Unpaired, the groups of the two have nothing to do with each other, so each has a block of its own, (1 + 2 G, K):
    in each block only one of the two leaves a group out. Deviations from the mean of a block are that one's.
    """
    rows = []
    for b, o in zip(baseline, other, strict=True):
        b, o = (values[:, None] if values.ndim == 1 else values for values in (b, o))
        rows.append(o - b if paired else np.concatenate([o[:1] - b[:1], o[1:] - b[:1], o[:1] - b[1:]]))
        if not paired:
            G = len(b) - 1
            rows[-1][1 : 1 + G] -= rows[-1][1 : 1 + G].mean(0) - rows[-1][0]
            rows[-1][1 + G :] -= rows[-1][1 + G :].mean(0) - rows[-1][0]
    return rows


@dataclass(frozen=True)
class JointComparison:
    """The best that two arms reach of one metric over their samplers; larger better.

    Attributes:
        baseline, other: best value, mean over seeds.
        baseline_at, other_at: for each seed, the index of its best sampler.
        difference: other minus baseline, with an interval that also covers the choice of the samplers.
        covers: which errors the interval covers.
    """

    baseline: float
    other: float
    baseline_at: tuple[int, ...]
    other_at: tuple[int, ...]
    difference: Interval
    covers: str
    level: float


def compare_joint(
    baseline: Sequence[np.ndarray],
    other: Sequence[np.ndarray],
    *,
    paired: bool = True,
    level: float = 0.95,
) -> JointComparison:
    """Compare the best over samplers of a metric that sees quality and diversity at once.

    The best of many noisy values is optimistic, and the more so the more samplers an arm was tried with; a sampler
    chosen by half of the groups and judged by the other half is not, but may not be the best. So an arm's best lies
    between the two, and the interval reaches from the challenger's judged value against the baseline's best to the
    reverse: either claim is made against the stronger reading of the opponent.

    Args:
        baseline, other: for each seed (1 + G, P): the values of P samplers, and below them those without each group.
            Negative of the metric where lower is better. The samplers may differ.
        paired: see :func:`compare_fronts`.
        level: of the interval.

    Raises:
        ValueError: no seeds, or another number of them on both sides.
    """
    if not baseline or len(baseline) != len(other):
        raise ValueError(f"{len(baseline)} seeds of the baseline and {len(other)} of the other: pairs are needed")
    best, judged = (
        [[function(np.asarray(values)) for values in side] for side in (baseline, other)]
        for function in (_best, _judged)
    )
    groups = len(baseline[0]) - 1
    careful, bold = (
        mean_over_seeds(_differences(*sides, paired=paired), level=level, groups=groups)
        for sides in ((best[0], judged[1]), (judged[0], best[1]))
    )
    means = [float(np.mean([values[0] for values in side])) for side in best]
    return JointComparison(
        *means,
        *(tuple(int(values[0].argmax()) for values in side) for side in (baseline, other)),
        difference=Interval(means[1] - means[0], float(careful.lower[0]), float(bold.upper[0])),
        covers=_covers(len(baseline)),
        level=level,
    )


def _best(values: np.ndarray) -> np.ndarray:
    """The column with the best first row, of replicates (1 + G, P)."""
    return values[:, values[0].argmax()]


def _judged(values: np.ndarray) -> np.ndarray:
    """Replicates (1 + G,) of the sampler that each half of the groups finds best, judged by the other half."""
    groups = len(values) - 1
    own = values[0] - (groups - 1) * (values[1:] - values[1:].mean(0))  # what group g says of each sampler
    half = np.arange(groups) % 2
    chosen = np.array([own[half == 1].mean(0).argmax(), own[half == 0].mean(0).argmax()])[half]
    told = own[np.arange(groups), chosen]
    return np.concatenate([[told.mean()], (groups * told.mean() - told) / (groups - 1)])


def _covers(seeds: int) -> str:
    return SEEDS_AND_SAMPLING if seeds > 1 else SAMPLING_ONLY
