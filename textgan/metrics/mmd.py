"""Maximum mean discrepancy of two sets of embedded texts, with a permutation test."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from textgan.metrics.embeddings import check_embeddings
from textgan.metrics.jackknife import GROUPS

BLOCK = 2048
MEDIAN_TEXTS = 2000


class MmdReference(NamedTuple):
    """What MMD needs of the real texts."""

    centre: Tensor  # (D,) taken from every embedding before, against cancellation in the distances
    y: Tensor  # (M, D) without the centre
    bandwidth: float
    pairs: float  # sum of the kernel over all pairs i != j


def median_bandwidth(y: Tensor) -> float:
    """Median distance of two different rows of real embeddings (M, D), over at most 2,000 evenly spaced rows.

    The usual heuristic for the bandwidth of :func:`mmd`, to be taken from real text once and kept.

    Raises:
        ValueError: fewer than 2 rows, or more than half of the pairs coincide.
    """
    check_embeddings(y, least=2)
    rows = (y - y.mean(0))[torch.linspace(0, len(y) - 1, min(len(y), MEDIAN_TEXTS), device=y.device).long()]
    above = torch.triu_indices(len(rows), len(rows), 1, device=y.device)
    bandwidth = float(_square_distances(rows, rows)[above[0], above[1]].median().sqrt())
    if not bandwidth > 1e-6 * float(y.norm(dim=1).max()):
        raise ValueError("most of the real texts have the same embedding: no bandwidth can be taken from them")
    return bandwidth


def mmd_reference(y: Tensor, bandwidth: float | None = None) -> MmdReference:
    """The :class:`MmdReference` of real embeddings; the bandwidth is :func:`median_bandwidth` unless given."""
    check_embeddings(y, least=2)
    bandwidth = median_bandwidth(y) if bandwidth is None else bandwidth
    if not bandwidth > 0:
        raise ValueError(f"bandwidth={bandwidth} must be above 0")
    centre = y.mean(0)
    y = y - centre
    return MmdReference(centre, y, bandwidth, float(_kernel_sums(y, y, bandwidth, 1).sum()) - len(y))


def mmd(x: Tensor, y: Tensor, bandwidth: float | None = None) -> float:
    """Unbiased squared maximum mean discrepancy of embeddings (N, D) and (M, D): 0 on average if they come from one
    distribution, so single values may be below 0; at most 2.

    The kernel is ``exp(-|a - b|^2 / (2 bandwidth^2))``, evaluated in blocks. ``bandwidth``: :func:`median_bandwidth`
    of ``y`` unless given. Source: Gretton et al. 2012, "A Kernel Two-Sample Test", eq. 3.

    Raises:
        ValueError: fewer than 2 texts, other shapes, or values that are not finite.
    """
    return mmd_by_group(x, mmd_reference(y, bandwidth), 1)[0]


def mmd_by_group(x: Tensor, reference: MmdReference, groups: int = GROUPS) -> tuple[float, np.ndarray]:
    """Unbiased MMD^2 to the reference, and its leave-group-out values (G,); empty where ``groups`` is 1."""
    centre, y, bandwidth, pairs = reference
    check_embeddings(x, y, least=2)
    x = x - centre
    within = _kernel_sums(x, x, bandwidth, groups)  # between the groups of x
    across = _kernel_sums(x, y, bandwidth, groups).sum(1)
    count = torch.tensor([len(x[g::groups]) for g in range(groups)], dtype=torch.double)
    within.diagonal().sub_(count)  # k(a, a) = 1 of each text with itself
    real = pairs / (len(y) * (len(y) - 1))

    def value(n: Tensor, xx: Tensor, xy: Tensor) -> Tensor:
        return xx / (n * (n - 1)) + real - 2 * xy / (n * len(y))

    whole = value(count.sum(), within.sum(), across.sum())
    if groups == 1:
        return float(whole), np.empty(0)
    xx = within.sum() - within.sum(0) - within.sum(1) + within.diagonal()
    return float(whole), value(count.sum() - count, xx, across.sum() - across).numpy()


def mmd_p_value(
    x: Tensor, reference: MmdReference, *, texts: int = 2000, permutations: int = 999, seed: int = 0
) -> float:
    """Permutation p-value of the hypothesis that both sets come from one distribution, above 0 to 1.

    Of each set the first ``min(N, M, texts)`` embeddings are pooled, their kernel is computed once, and the unbiased
    MMD^2 of a random halving reaches that of the true halves in a share p of the permutations (the true one
    counted, so p is at least ``1 / (permutations + 1)`` and the test is exact). Source: Gretton et al. 2012, section 5;
    Phipson and Smyth 2010 for the count.
    """
    check_embeddings(x, reference.y, least=2)
    half = min(len(x), len(reference.y), texts)
    pooled = torch.cat([x[:half] - reference.centre, reference.y[:half]])
    kernel = _kernel(pooled, pooled, reference.bandwidth)
    # A constant off the diagonal cancels in MMD^2; without it float32 sums are exact enough.
    kernel -= kernel.mean()
    kernel.fill_diagonal_(0)
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(permutations, 2 * half, generator=generator).argsort(1)
    side = torch.zeros(permutations + 1, 2 * half)
    side[0, :half] = 1
    side[1:].scatter_(1, order[:, :half], 1)
    side = side.to(kernel)
    first = ((side @ kernel) * side).double().sum(1)
    rows = kernel.double().sum(1)
    to_all = side.double() @ rows
    second = rows.sum() - 2 * to_all + first
    # Equal halves: the sums over pairs within and across differ by positive constant factors only.
    across = to_all - first
    values = (first + second) / (half - 1) - 2 * across / half
    slack = 1e-6 * values.abs().max()  # ties count, also where rounding parts them
    return float((values >= values[0] - slack).double().mean())


def _kernel_sums(x: Tensor, y: Tensor, bandwidth: float, groups: int) -> Tensor:
    """Sum of the kernel between group g of x and group h of y at ``[g, h]``, (G, G) float64 on the CPU."""
    same = x is y  # then the block of rows I and columns J is that of J and I transposed
    of_y = torch.nn.functional.one_hot(torch.arange(len(y), device=y.device) % groups, groups).to(y.dtype)
    sums, mirrored = torch.zeros(2, groups, groups, dtype=torch.double, device=x.device)
    for start in range(0, len(x), BLOCK):
        block = x[start : start + BLOCK]
        group = (start + torch.arange(len(block), device=x.device)) % groups
        for column in range(start if same else 0, len(y), BLOCK):
            kernel = _kernel(block, y[column : column + BLOCK], bandwidth)
            into = mirrored if same and column > start else sums
            into.index_add_(0, group, (kernel @ of_y[column : column + BLOCK]).double())
    return (sums + mirrored + mirrored.T).cpu()


def _kernel(x: Tensor, y: Tensor, bandwidth: float) -> Tensor:
    return _square_distances(x, y).mul_(-0.5 / bandwidth**2).exp_()


def _square_distances(x: Tensor, y: Tensor) -> Tensor:
    squares = x.square().sum(1)[:, None] + y.square().sum(1)
    return squares.addmm_(x, y.T, alpha=-2).clamp_(min=0)
