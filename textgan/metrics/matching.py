"""Two sets of texts weighted to the same lengths and the same novelty, so that a win by either one goes away.

Texts fall into cells of like length and like novelty (copies of training texts are cells of their own). Both sets are
weighted to one common share of each cell, the harmonic mean of theirs: it stays where both have texts, and of all
common shares it leaves the least variance (the overlap weights of Li, Morgan and Zaslavsky 2018, "Balancing Covariates
via Propensity Score Weighting"; with cells, post-stratification). What differs within a cell stays; five cells an axis
take away nine tenths of a difference (Cochran 1968, "The Effectiveness of Adjustment by Subclassification").

Only means over texts can be weighted. The self-BLEU of a text is that among the texts that it was drawn with, and its
jackknife must take away a group's texts as references too: that part is taken over from the values without weights.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from textgan.metrics.front import Front
from textgan.metrics.jackknife import GROUPS

LENGTH_CELLS = 10
NOVELTY_CELLS = 5
LEAST_EFFECTIVE = 0.1


class PointTexts(NamedTuple):
    """Values of the n texts of one operating point, (n,) each; quality and diversity turned so that more is better.

    ``quality_groups`` and ``diversity_groups`` are the leave-group-out means (G,) without weights of a value that
    depends on the other texts of the set, such as self-BLEU; None where each text's value is its own.
    """

    quality: np.ndarray
    diversity: np.ndarray
    length: np.ndarray
    novelty: np.ndarray  # share of a text's n-grams that are not in training text; NaN where it has none
    copied: np.ndarray  # whether it is a training text
    name: str = ""
    quality_groups: np.ndarray | None = None
    diversity_groups: np.ndarray | None = None


class MatchedFronts(NamedTuple):
    """Fronts of matched points; ``effective`` is the worse of both sets' effective share of texts, by sampler."""

    baseline: Front
    other: Front
    effective: dict[str, float]
    left_out: tuple[str, ...]


def matched_fronts(
    baseline: Sequence[PointTexts],
    other: Sequence[PointTexts],
    *,
    groups: int = GROUPS,
    least: float = LEAST_EFFECTIVE,
) -> MatchedFronts:
    """Fronts of both arms, the two points of each sampler weighted to the same lengths and novelty.

    Points are matched sampler by sampler, not all to one target: along a front lengths and novelty change, and to take
    that away would take away the front.

    Args:
        baseline, other: points of the same samplers, in the same order.
        groups: of the jackknife; cells stay, weights are found anew without each group.
        least: samplers whose weights leave a smaller share of effective texts to either set are left out.

    Raises:
        ValueError: other samplers on both sides.
    """
    if [point.name for point in baseline] != [point.name for point in other]:
        raise ValueError("both sides need points of the same samplers, in the same order")
    means: list[list[np.ndarray]] = [[], []]
    effective, left_out = {}, []
    for pair in zip(baseline, other, strict=True):
        cells = match_cells(pair)
        share = min(effective_share(weights) for weights in match_weights(*cells))
        if not share >= least:
            left_out.append(pair[0].name)
            continue
        effective[pair[0].name] = share
        values = [np.stack([point.quality, point.diversity], 1) for point in pair]
        for side, point, own, found in zip(means, pair, values, matched_means(values, cells, groups), strict=True):
            for axis, without in enumerate((point.quality_groups, point.diversity_groups)):
                if without is not None:
                    found[1:, axis] += _part_of_the_others(own[:, axis], without)
            side.append(found)
    fronts = (_front(side, tuple(effective), groups) for side in means)
    return MatchedFronts(*fronts, effective, tuple(left_out))


def match_cells(
    points: Sequence[PointTexts], *, length_cells: int = LENGTH_CELLS, novelty_cells: int = NOVELTY_CELLS
) -> list[np.ndarray]:
    """The cell of each text, (n,) whole numbers from 0, of each set; the same cells for all sets.

    Lengths, and the novelty of texts that are not copied, are cut at the quantiles of all sets together, each set
    counting alike.
    """
    length = _cut([point.length for point in points], length_cells)
    kept = [(~np.asarray(point.copied, dtype=bool)) & np.isfinite(point.novelty) for point in points]
    novelty = _cut([np.asarray(point.novelty)[own] for point, own in zip(points, kept, strict=True)], novelty_cells)
    cells = []
    for point, own, at_length, at_novelty in zip(points, kept, length, novelty, strict=True):
        second = np.where(np.asarray(point.copied, dtype=bool), 0, 1)  # 0 copied, 1 no n-grams, then by novelty
        second[own] = 2 + at_novelty
        cells.append(at_length * (novelty_cells + 2) + second)
    return cells


def match_weights(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights (n,) and (m,), each summing to 1, with which each cell has the same share in both sets.

    Texts of cells that only one set has get 0; where the sets have no cell in common, all weights are NaN.
    """
    count = 1 + max(int(cells.max(initial=0)) for cells in (first, second))
    counts = np.stack([np.bincount(cells, minlength=count) for cells in (first, second)]).astype(float)
    target = _common_shares(counts)
    per_text = np.divide(target, counts, out=np.zeros_like(counts), where=counts > 0)
    if np.isnan(target).any():
        per_text[:] = np.nan
    return per_text[0][first], per_text[1][second]


def effective_share(weights: np.ndarray) -> float:
    """Effective number of texts under these weights as a share of their number: (sum w)^2 / sum w^2 / n (Kish)."""
    return float(weights.sum() ** 2 / np.square(weights).sum() / len(weights))


def matched_means(
    values: Sequence[np.ndarray], cells: Sequence[np.ndarray], groups: int = GROUPS
) -> tuple[np.ndarray, np.ndarray]:
    """Weighted means of two sets' columns, and below them those without each group: (1 + G, M) each.

    Args:
        values: (n, M) and (m, M).
        cells: (n,) and (m,), of :func:`match_cells`.
        groups: text i is in group ``i % groups``; without it cells have other shares and so texts other weights.
    """
    count = 1 + max(int(own.max(initial=0)) for own in cells)
    counts, sums = zip(*(_per_cell(v, c, groups, count) for v, c in zip(values, cells, strict=True)), strict=True)
    target = _common_shares(np.stack(counts))  # (1 + G, C)
    return tuple(
        np.einsum("gc,gcm->gm", target, own / np.maximum(number, 1)[..., None])
        for own, number in zip(sums, counts, strict=True)
    )


def _common_shares(counts: np.ndarray) -> np.ndarray:
    """Common shares (..., C), summing to 1, of two sets with ``counts`` (2, ..., C); NaN where nothing is common."""
    shares = counts / np.maximum(counts.sum(-1, keepdims=True), 1)
    both = shares[0] + shares[1]
    common = np.divide(shares[0] * shares[1], both, out=np.zeros_like(both), where=both > 0)
    total = common.sum(-1, keepdims=True)
    return np.divide(common, total, out=np.full_like(common, np.nan), where=total > 0)


def _per_cell(values: np.ndarray, cells: np.ndarray, groups: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Texts and sums of their values in each cell, of all and without each group: (1 + G, C) and (1 + G, C, M)."""
    place = (np.arange(len(cells)) % groups) * count + cells
    columns = [np.ones(len(cells)), *np.asarray(values, dtype=float).T]
    found = np.stack([np.bincount(place, c, groups * count).reshape(groups, count) for c in columns], -1)
    found = np.concatenate([found.sum(0, keepdims=True), found.sum(0) - found])
    return np.round(found[..., 0]), found[..., 1:]


def _cut(sets: Sequence[np.ndarray], cells: int) -> list[np.ndarray]:
    """The cell of each value, 0 to ``cells`` - 1, between the quantiles of all sets together."""
    sets = [np.asarray(own, dtype=float) for own in sets]
    pooled = np.concatenate(sets)
    if not len(pooled):
        return [np.zeros(0, dtype=int) for _ in sets]
    weights = np.concatenate([np.full(len(own), 1 / max(len(own), 1)) for own in sets])
    order = np.argsort(pooled, kind="stable")
    reached = weights[order].cumsum() / weights.sum()
    places = np.searchsorted(reached, np.arange(1, cells) / cells - 1e-12)
    edges = np.unique(pooled[order][places])
    return [np.searchsorted(edges, own, side="left") for own in sets]


def _part_of_the_others(values: np.ndarray, without: np.ndarray) -> np.ndarray:
    """What leaving out each group does to the values of the texts that stay, (G,), less its mean."""
    place = np.arange(len(values)) % len(without)
    sums, number = (np.bincount(place, weights, len(without)) for weights in (values, None))
    change = without - (sums.sum() - sums) / (len(values) - number)
    return change - change.mean()


def _front(points: Sequence[np.ndarray], names: tuple[str, ...], groups: int) -> Front:
    replicates = np.stack(points) if points else np.zeros((0, 1 + groups, 2))  # (P, 1 + G, 2)
    whole, without = replicates[:, 0], replicates[:, 1:]
    return Front(whole[:, 0], whole[:, 1], without[..., 0], without[..., 1], names)
