"""What a set of texts has that the training texts lack."""

from collections.abc import Set

import torch
from torch import Tensor

from textgan.ops.ngrams import NgramCounts, Ragged


def novelty(counts: NgramCounts, train_ids: Tensor) -> float:
    """Share of the set's n-grams, each as often as it occurs, that no training text holds; 0 without any.

    Args:
        counts: n-grams of the set.
        train_ids: a lookup of ``counts`` in the table of the training texts, -1 where it lacks the n-gram.

    Source: n-gram novelty of McCoy et al. 2023, "How Much Do Language Models Copy From Their Training Data?".
    """
    total = int(counts.count.sum())
    return int(new_counts(counts, train_ids).sum()) / total if total else 0.0


def new_counts(counts: NgramCounts, train_ids: Tensor) -> Tensor:
    """How many of its n-grams, each as often as it occurs, no training text holds, by text, (N,) long."""
    return counts.per_text(counts.count * (train_ids[counts.gram] < 0))


def copies(texts: Ragged, train_keys: Set[bytes]) -> float:
    """Share of the texts that are a training text, token for token, 0 to 1.

    ``train_keys`` are the ``Ragged.keys()`` of the training texts, with the same ids.
    """
    return float(copied(texts, train_keys).double().mean())


def copied(texts: Ragged, train_keys: Set[bytes]) -> Tensor:
    """Whether each text is a training text, (N,) bool."""
    keys = texts.keys()
    return torch.tensor([key in train_keys for key in keys], device=texts.lengths.device)
