"""How far texts are about what they were written for, by the cosines of embeddings."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from textgan.metrics.embeddings import check_embeddings

CHUNK = 4096  # texts compared with all conditions at once


class Relevance(NamedTuple):
    """Of each text, (N,) float64.

    Attributes:
        own: cosine with the condition that it was written for.
        others: mean cosine with the other conditions: what a text gets that does not look at its own.
        wins: share of the other conditions that it is less like than its own, ties counted half: 1 where it can be told
            from the text which condition was given, 0.5 where nothing can (the area under the ROC curve of that text).
    """

    own: np.ndarray
    others: np.ndarray
    wins: np.ndarray


def relevance(texts: Tensor, conditions: Tensor, of: Tensor) -> Relevance:
    """Relevance of texts to their conditions. A zero vector (an empty text) has the cosine 0 with everything.

    Args:
        texts: embeddings (N, D).
        conditions: embeddings (U, D) of at least two conditions, all different.
        of: (N,) long, the condition that each text was written for.

    Raises:
        ValueError: other shapes, values that are not finite, or a single condition.
    """
    check_embeddings(texts, least=1)
    check_embeddings(conditions, least=2)
    conditions, of = _unit(conditions), of.to(texts.device)
    parts = []
    for rows in torch.arange(len(texts), device=texts.device).split(CHUNK):
        cosines = _unit(texts[rows]) @ conditions.T
        own = cosines.gather(1, of[rows, None])
        others = (cosines.sum(1, keepdim=True) - own) / (len(conditions) - 1)
        wins = (own > cosines).double().sum(1) + 0.5 * ((own == cosines).double().sum(1) - 1)
        parts.append(torch.stack([own[:, 0], others[:, 0], wins / (len(conditions) - 1)]))
    return Relevance(*torch.cat(parts, 1).cpu().numpy())


def spread(texts: Tensor) -> np.ndarray:
    """One minus the mean cosine between two texts of a condition, (C,) float64, given (C, K, D) with K at least 2."""
    K = texts.shape[1]
    if K < 2:
        raise ValueError(f"{K} texts of a condition cannot be compared with each other; give at least 2")
    unit = _unit(texts)
    pairs = unit.sum(1).pow(2).sum(-1) - unit.pow(2).sum((1, 2))
    return (1 - pairs / (K * (K - 1))).cpu().numpy()


def _unit(x: Tensor) -> Tensor:
    return torch.nn.functional.normalize(x.double(), dim=-1)
