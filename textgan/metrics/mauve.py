"""MAUVE: how far two sets of embedded texts are apart, as histograms over clusters of both.

Source: Pillutla et al. 2021, "MAUVE: Measuring the Gap Between Neural Text and Human Text using Divergence
Frontiers", eq. 1 to 3 and section 3; Liu et al. 2021, "Divergence Frontiers for Generative Models", for the frontier
integral; Pillutla et al. 2023, "MAUVE Scores for Generative Models", section 5, for the smoothed histograms.

Everything depends on the number of clusters, the embedding and the sizes of both sets (:func:`mauve_signature`). Equal
distributions score below 1 (two sets of real captions by their n-grams: .95 at 2,000 texts each, .99 at 10,000): print
the real value beside. Good generators all score near 1, where ``frontier`` still tells them apart.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from textgan.metrics.embeddings import check_embeddings
from textgan.metrics.jackknife import GROUPS

SCALE = 5.0  # the paper's c
VARIANCE = 0.9
MOST_CLUSTERS = 500
STARTS = 3
START_ITERATIONS = 5
MOST_ITERATIONS = 50
MIXTURES = 500
BLOCK = 8192


class Mauve(NamedTuple):
    """MAUVE of two sets, with leave-group-out values (G,) by name.

    The groups are of the first set and hold the clusters fixed, so the choice of clusters is not in their spread (at
    10,000 captions another seed moves ``mauve`` by about .001 near 1 and .003 near .83).
    """

    mauve: float  # area under the divergence frontier, above 0 to 1; 1 when the histograms agree
    mauve_star: float  # the same of histograms with 1/2 added to every count
    frontier: float  # frontier integral, 0 to 1; 0 when the histograms agree
    groups: dict[str, np.ndarray]


def number_of_clusters(n: int, m: int) -> int:
    """The paper's number of clusters for sets of n and m texts: a tenth of the smaller, 2 to 500."""
    return min(max(min(n, m) // 10, 2), MOST_CLUSTERS)


def mauve_signature(n: int, m: int, *, clusters: int | None = None, c: float = SCALE, seed: int = 0) -> str:
    """Everything but the embedding that moves the value, in one line."""
    clusters = number_of_clusters(n, m) if clusters is None else clusters
    return (
        f"clusters={clusters} c={c:g} pca_variance={VARIANCE} kmeans++ starts={STARTS}x{START_ITERATIONS}"
        f" iterations<={MOST_ITERATIONS} seed={seed} texts={n}/{m}"
    )


def mauve(
    x: Tensor, y: Tensor, *, clusters: int | None = None, c: float = SCALE, seed: int = 0, groups: int = GROUPS
) -> Mauve:
    """MAUVE of embeddings (N, D) of generated and (M, D) of real texts.

    Both sets are pooled, projected on the principal components that hold 0.9 of the variance, and cut into clusters by
    k-means; the value compares the two histograms over the clusters.

    Args:
        clusters: :func:`number_of_clusters` unless given.
        c: scale of the divergences; larger values spread generators that all score near 1.
        seed: of the k-means starts.
        groups: number of groups left out in turn; 0 for none.

    Raises:
        ValueError: fewer texts together than clusters, other shapes, or values that are not finite.
    """
    check_embeddings(x, y, least=2)
    clusters = number_of_clusters(len(x), len(y)) if clusters is None else clusters
    labels = quantise(torch.cat([x, y]), clusters, seed=seed).cpu()
    of_x = torch.bincount(labels[: len(x)], minlength=clusters).double()
    of_y = torch.bincount(labels[len(x) :], minlength=clusters).double()
    left = [of_x - torch.bincount(labels[: len(x)][g::groups], minlength=clusters) for g in range(groups)]
    counts = torch.stack([of_x, *left])
    p, q = _shares(counts), _shares(of_y).expand_as(counts)
    smooth_p, smooth_q = _shares(counts + 0.5), _shares(of_y + 0.5).expand_as(counts)
    values = {
        "mauve": mauve_of_histograms(p, q, c).numpy(),
        "mauve_star": mauve_of_histograms(smooth_p, smooth_q, c).numpy(),
        "frontier": frontier_integral(p, q).numpy(),
    }
    return Mauve(*(float(v[0]) for v in values.values()), groups={name: v[1:] for name, v in values.items()})


def mauve_of_histograms(p: Tensor, q: Tensor, c: float = SCALE) -> Tensor:
    """Area under the divergence frontier of distributions (..., K) and (..., K), (...) float64.

    The frontier is ``(exp(-c KL(q || r)), exp(-c KL(p || r)))`` for all mixtures ``r = t p + (1 - t) q``; the area is
    1 for p = q and ``c!^2 / (2c)!`` (.004 for c = 5) where they share nothing.
    """
    p, q = p.double(), q.double()
    # Mixtures lie densest near both ends, where the frontier may be as steep as a root.
    t = (1 - torch.cos(torch.linspace(0, torch.pi, MIXTURES + 1, dtype=torch.double, device=p.device)[1:-1])) / 2
    # Where r is 0 so are p and q, and nothing is added.
    logs = (q[..., None] + t * (p - q)[..., None]).clamp_(min=torch.finfo(torch.double).tiny).log_()

    def heights(side: Tensor, first: Tensor, last: Tensor) -> Tensor:
        to_mixtures = torch.special.xlogy(side, side).sum(-1, keepdim=True) - (side[..., None, :] @ logs)[..., 0, :]
        return torch.exp(-c * torch.cat([first[..., None], to_mixtures, last[..., None]], -1))

    same = torch.zeros_like(p[..., 0])
    across, up = heights(q, same, _divergence(q, p)), heights(p, _divergence(p, q), same)
    area = ((up[..., 1:] + up[..., :-1]) * (across[..., :-1] - across[..., 1:])).sum(-1) / 2
    return area + across[..., -1]  # the frontier ends at r = p, at height 1: left of there it is flat


def frontier_integral(p: Tensor, q: Tensor) -> Tensor:
    """Frontier integral of distributions (..., K) and (..., K), (...) float64: 0 for p = q, 1 where they share nothing.

    Twice the mean over all mixtures ``r = t p + (1 - t) q`` of ``t KL(p || r) + (1 - t) KL(q || r)``, in closed form.
    """
    p, q = p.double(), q.double()
    both = (p > 0) & (q > 0)
    # p q log(p / q) / (p - q) = q log1p(d) / d * p with d = (p - q) / q, which is p at d = 0.
    relative = torch.where(both, (p - q) / torch.where(both, q, 1.0), 0.0)
    ratio = torch.where(relative == 0, 1.0, torch.log1p(relative) / torch.where(relative == 0, 1.0, relative))
    return ((p + q) / 2 - torch.where(both, p * ratio, 0.0)).sum(-1)


def _shares(counts: Tensor) -> Tensor:
    return counts / counts.sum(-1, keepdim=True)


def _divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) of (..., K) and (..., K), (...); infinite where q lacks what p has."""
    return (torch.special.xlogy(p, p) - torch.special.xlogy(p, q)).sum(-1)


def quantise(x: Tensor, clusters: int, *, seed: int = 0) -> Tensor:
    """Cluster of each embedding (N, D), (N,) long, by k-means on the principal components of 0.9 of the variance."""
    return kmeans(principal_components(x, VARIANCE), clusters, seed=seed)[0]


def principal_components(x: Tensor, variance: float) -> Tensor:
    """``x`` (N, D) centred and projected on the fewest principal components that hold this share of its variance."""
    centred = x.double() - x.double().mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    held = values.cumsum(0) / values.sum().clamp(min=torch.finfo(torch.double).tiny)
    kept = int((held < variance).sum()) + 1
    return (centred @ vectors[:, :kept]).to(x.dtype)


def kmeans(x: Tensor, clusters: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Cluster of each row of ``x`` (N, D), (N,) long, and the centres (clusters, D).

    Lloyd's algorithm from k-means++ (Arthur and Vassilvitskii 2007): three starts of 5 iterations, of which the one
    with the smallest sum of squared distances goes on until no row moves, at most 50 iterations. A cluster that loses
    all its rows is put on the row farthest from its centre.

    Raises:
        ValueError: fewer rows than clusters.
    """
    if not 1 <= clusters <= len(x):
        raise ValueError(f"{clusters} clusters of {len(x)} texts: take 1 to {len(x)}")
    starts = []
    for centres in _plus_plus(x, clusters, torch.Generator().manual_seed(seed)):
        starts.append(_lloyd(x, centres, *_assign(x, centres), START_ITERATIONS))
    best = min(starts, key=lambda start: float(start[2].double().sum()))
    centres, labels, _ = _lloyd(x, *best, MOST_ITERATIONS)
    return labels, centres


def _lloyd(
    x: Tensor, centres: Tensor, labels: Tensor, distances: Tensor, iterations: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Centres, labels and squared distances after so many iterations, or when no label changes."""
    for _ in range(iterations):
        count = torch.bincount(labels, minlength=len(centres))
        sums = torch.zeros(centres.shape, dtype=torch.double, device=x.device).index_add_(0, labels, x.double())
        centres = (sums / count.clamp(min=1)[:, None]).to(x.dtype)
        empty = (count == 0).nonzero().squeeze(1)
        if len(empty):
            centres[empty] = x[distances.topk(len(empty)).indices]
        before = labels
        labels, distances = _assign(x, centres)
        if torch.equal(labels, before):
            break
    return centres, labels, distances


def _plus_plus(x: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    """First centres of every start, (STARTS, clusters, D): each centre is the row that was drawn in proportion to the
    squared distance to the nearest of those before. All starts go through the rows together.
    """
    draws = torch.rand(clusters, STARTS, generator=generator, dtype=torch.double)
    chosen = [(draws[0] * len(x)).long().to(x.device)]
    squares = x.square().sum(1)[:, None]
    nearest = torch.full((len(x), STARTS), torch.inf, dtype=x.dtype, device=x.device)
    for draw in draws[1:].to(x.device):
        row = chosen[-1]
        distance = torch.addmm(squares + squares[row].T, x, x[row].T, alpha=-2).clamp_(min=0)
        distance[row, torch.arange(STARTS, device=x.device)] = 0
        nearest = torch.minimum(nearest, distance)
        mass = nearest.T.double().cumsum(1)
        row = torch.searchsorted(mass, (draw * mass[:, -1])[:, None], right=True)[:, 0]
        chosen.append(row.clamp(max=len(x) - 1))  # the last row where every row is a centre already
    return x[torch.stack(chosen, 1)]


def _assign(x: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest centre of each row, and the squared distance to it."""
    squares = centres.square().sum(1)
    labels, distances = [], []
    for block in x.split(BLOCK):
        nearest = torch.addmm(squares, block, centres.T, alpha=-2).min(1)
        labels.append(nearest.indices)
        distances.append((nearest.values + block.square().sum(1)).clamp_(min=0))
    return torch.cat(labels), torch.cat(distances)
