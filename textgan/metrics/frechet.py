"""Fréchet distance of two sets of embedded texts, and what its dependence on their number needs.

Embeddings are (N, D), one row a text, from any fixed embedder, on any device; two values compare only under the same
embedder. Sums that later cancel are kept in float64.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from textgan.metrics.embeddings import check_embeddings
from textgan.metrics.jackknife import GROUPS

PARTS = (1, 2, 4)


class Moments(NamedTuple):
    """Mean (D,) and unbiased covariance (D, D) of ``count`` embeddings, float64."""

    count: int
    mean: Tensor
    covariance: Tensor


class GroupSums(NamedTuple):
    """Sums over each group of texts, float64, from which the moments of any union of groups follow."""

    centre: Tensor  # (D,) taken from every embedding before, against cancellation
    count: Tensor  # (G,)
    total: Tensor  # (G, D)
    outer: Tensor  # (G, D, D)

    def moments(self, groups: Tensor | slice = slice(None)) -> Moments:
        """The :class:`Moments` of all texts in these groups."""
        count = int(self.count[groups].sum())
        if count < 2:
            raise ValueError(f"a covariance needs at least 2 texts, got {count}")
        mean = self.total[groups].sum(0) / count
        covariance = (self.outer[groups].sum(0) - count * torch.outer(mean, mean)) / (count - 1)
        return Moments(count, self.centre + mean, covariance)


def group_sums(x: Tensor, groups: int = GROUPS) -> GroupSums:
    """The :class:`GroupSums` of embeddings (N, D)."""
    check_embeddings(x)
    centre = x.double().mean(0)
    parts = [x[g::groups].double() - centre for g in range(groups)]
    return GroupSums(
        centre,
        torch.tensor([len(part) for part in parts]),
        torch.stack([part.sum(0) for part in parts]),
        torch.stack([part.T @ part for part in parts]),
    )


class FrechetReference(NamedTuple):
    """What the Fréchet distance needs of the real texts: of part p of ``j`` at ``[j][p]``."""

    parts: dict[int, list[tuple[Moments, Tensor]]]  # moments and the square root (D, D) of the covariance


def frechet_reference(y: Tensor, parts: Sequence[int] = PARTS) -> FrechetReference:
    """The :class:`FrechetReference` of real embeddings (M, D), whole and cut into 2 and 4 interleaved parts.

    Raises:
        ValueError: fewer than 2 texts in a part.
    """
    sums = group_sums(y, GROUPS)
    cut = {j: [sums.moments(group) for group in _parts(GROUPS, j)] for j in parts}
    return FrechetReference({j: [(m, _square_root(m.covariance)) for m in part] for j, part in cut.items()})


def frechet(x: Tensor, y: Tensor) -> float:
    """Fréchet distance of the normal distributions fitted to embeddings (N, D) and (M, D); at least 0.

    ``|mean_x - mean_y|^2 + tr(S_x + S_y - 2 (S_x S_y)^(1/2))`` with unbiased covariances, in squared units of the
    embedding. Biased upwards by about D/N at N texts: see :func:`real_floor` and :func:`frechet_extrapolated`.
    Source: Dowson and Landau 1982; as FID, Heusel et al. 2017, and as FED, de Masson d'Autume et al. 2019.

    Raises:
        ValueError: fewer than 2 texts, other shapes, or values that are not finite.
    """
    check_embeddings(x, y)
    reference = frechet_reference(y, (1,))
    return _distance(group_sums(x, 1).moments(), *reference.parts[1][0])


def frechet_extrapolated(x: Tensor, y: Tensor) -> float:
    """Fréchet distance as N goes to infinity: may be below 0 by noise.

    The bias is linear in 1/N to first order. Both sets are cut into 1, 2 and 4 interleaved parts, the distances of
    part p to part p are averaged, and a least-squares line in the parts' mean 1/N + 1/M is followed to 0. Source:
    Chong and Forsyth 2020, "Effectively Unbiased FID and Inception Score", eq. 3, who draw subsets at random.

    Raises:
        ValueError: as :func:`frechet`; or a part has no more texts than the embedding has dimensions, where the bias is
            not linear any more.
    """
    found = frechet_by_group(x, frechet_reference(y))
    if "frechet_inf" not in found:
        raise ValueError(f"{len(x)} and {len(y)} texts are too few to extrapolate in {x.shape[1]} dimensions")
    return found["frechet_inf"][0]


def frechet_by_group(
    x: Tensor, reference: FrechetReference, groups: int = GROUPS
) -> dict[str, tuple[float, np.ndarray]]:
    """Value and leave-group-out values (G,) of ``frechet``, and of ``frechet_inf`` where the reference is cut.

    The moments without a group come from sums, so a group costs one decomposition for each way to cut.
    """
    check_embeddings(x, reference.parts[1][0][0].mean[None])
    sums = group_sums(x, groups)
    most_parts = max(reference.parts)
    smallest = min(m.count for m, _ in reference.parts[most_parts])
    smallest = min(smallest, len(x) // most_parts - -(-len(x) // groups))
    cuts = reference.parts if smallest > x.shape[1] else {1: reference.parts[1]}
    # One row for each way to cut; column 0 with all groups, column 1 + g without group g.
    distances = np.empty((len(cuts), 1 + groups))
    rates = np.empty_like(distances)  # mean over the parts of 1/N + 1/M
    for row, real in enumerate(cuts.values()):
        parts = _parts(groups, len(real))
        of_part = [_distance_and_rate(sums.moments(part), real[p]) for p, part in enumerate(parts)]
        distances[row, 0], rates[row, 0] = np.mean(of_part, 0)
        for g in range(groups):  # only the part that the group is in changes
            p = g % len(real)
            changed = _distance_and_rate(sums.moments(parts[p][parts[p] != g]), real[p])
            distances[row, 1 + g], rates[row, 1 + g] = np.mean([*of_part[:p], changed, *of_part[p + 1 :]], 0)
    found = {"frechet": (float(distances[0, 0]), distances[0, 1:])}
    if len(distances) > 1:
        extrapolated = _intercept(rates, distances)
        found["frechet_inf"] = (float(extrapolated[0]), extrapolated[1:])
    return found


def real_floor(real: Tensor, n: int, m: int | None = None, *, draws: int = 1, seed: int = 0) -> float:
    """Fréchet distance that real text has to itself at this size: what a perfect generator would score, at least 0.

    Mean over ``draws`` of the distance between two disjoint random subsets of ``n`` and ``m`` (or n) rows of ``real``.

    Raises:
        ValueError: there are fewer than ``n + m`` rows.
    """
    m = n if m is None else m
    if len(real) < n + m:
        raise ValueError(f"the floor at {n} and {m} texts needs {n + m} real texts, got {len(real)}")
    generator = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(draws):
        rows = torch.randperm(len(real), generator=generator).to(real.device)
        values.append(frechet(real[rows[:n]], real[rows[n : n + m]]))
    return float(np.mean(values))


def _parts(groups: int, j: int) -> list[Tensor]:
    """The groups of each of j parts: group g is in part ``g % j``, as text i is in group ``i % groups``."""
    return [torch.arange(p, groups, j) for p in range(j)]


def _square_root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def _distance_and_rate(x: Moments, real: tuple[Moments, Tensor]) -> tuple[float, float]:
    return _distance(x, *real), 1 / x.count + 1 / real[0].count


def _distance(x: Moments, y: Moments, root: Tensor) -> float:
    """Fréchet distance, given the root of y's covariance: (S_x S_y) has the eigenvalues of root S_x root."""
    values = torch.linalg.eigvalsh(root @ x.covariance @ root)
    cross = values.clamp(min=0).sqrt().sum()
    distance = (x.mean - y.mean).square().sum() + x.covariance.trace() + y.covariance.trace() - 2 * cross
    return max(float(distance), 0.0)


def _intercept(at: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Value at 0 of the least-squares line through the rows of each column."""
    centred = at - at.mean(0)
    slope = (centred * values).sum(0) / (centred**2).sum(0)
    return values.mean(0) - slope * at.mean(0)
