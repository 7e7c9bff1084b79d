"""Diversity of one set of embedded texts."""

import numpy as np
import torch
from torch import Tensor

from textgan.metrics.embeddings import check_embeddings
from textgan.metrics.jackknife import GROUPS


def vendi(x: Tensor) -> float:
    """Vendi score of embeddings (N, D): the effective number of different texts, 1 to min(N, D + 1).

    The exponential of the entropy of the eigenvalues of the cosine kernel over N, which are those of a D x D matrix.
    Embeddings of length zero (empty texts) are alike among themselves and unlike all others. It grows with N and is
    bounded by D: compare at the same of both. Source: Friedman and Dieng 2023, "The Vendi Score", eq. 3.

    Raises:
        ValueError: no texts, another shape, or values that are not finite.
    """
    return vendi_by_group(x, 1)[0]


def vendi_by_group(x: Tensor, groups: int = GROUPS) -> tuple[float, np.ndarray]:
    """Vendi score, and its leave-group-out values (G,); empty where ``groups`` is 1."""
    check_embeddings(x, least=groups)
    norm = x.double().norm(dim=1, keepdim=True)
    unit = torch.cat([x.double() / norm.clamp(min=torch.finfo(torch.double).tiny), (norm == 0).double()], 1)
    outer = torch.stack([unit[g::groups].T @ unit[g::groups] for g in range(groups)])
    whole = outer.sum(0)
    value = _effective_number(whole / len(x))
    if groups == 1:
        return value, np.empty(0)
    left = [_effective_number((whole - part) / (len(x) - len(x[g::groups]))) for g, part in enumerate(outer)]
    return value, np.array(left)


def _effective_number(density: Tensor) -> float:
    values = torch.linalg.eigvalsh(density).clamp(min=0)
    return float(torch.special.entr(values).sum().exp())
