"""How many different n-grams and texts a set has, and how much its texts repeat themselves."""

import torch
from torch import Tensor

from textgan.ops.ngrams import NgramCounts, Ragged


def distinct(counts: NgramCounts) -> float:
    """Distinct-n of the whole set: different n-grams over all n-grams, 0 to 1; 0 where there is no n-gram.

    It falls as the set grows, so only values at the same number of texts (and similar lengths) compare.
    Source: Li et al. 2016, "A Diversity-Promoting Objective Function for Neural Conversation Models".
    """
    total = int(counts.count.sum())
    return len(counts.keys) / total if total else 0.0


def repetition(counts: NgramCounts) -> float:
    """Mean over texts of 1 - (different n-grams / n-grams) within the text, 0 to 1.

    Texts too short for an n-gram are left out; 0 where that leaves none. Source: seq-rep-n of Welleck et al.
    2020, "Neural Text Generation with Unlikelihood Training".
    """
    shares = repetition_scores(counts)
    shares = shares[~shares.isnan()]
    return float(shares.mean()) if len(shares) else 0.0


def repetition_scores(counts: NgramCounts) -> Tensor:
    """:func:`repetition` of each text, (N,) float64; NaN for texts too short for an n-gram."""
    total = counts.per_text(counts.count).double()
    different = counts.per_text(torch.ones_like(counts.count))
    return 1 - different / total  # 0 / 0 is NaN


def unique_share(texts: Ragged) -> float:
    """Different texts over all texts, above 0 to 1: 1 when no two are the same, near 0 at mode collapse.

    Texts are the same when their tokens are (so spacing does not tell them apart). This is "unique" of MOSES
    (Polykovskiy et al. 2020) without its validity filter.
    """
    return (int(text_ids(texts).max()) + 1) / len(texts.lengths)


def text_ids(texts: Ragged) -> Tensor:
    """The index of each text among the different texts, in the order in which these first come, (N,) long."""
    keys, ids = texts.keys(), {}
    return torch.tensor([ids.setdefault(key, len(ids)) for key in keys], device=texts.lengths.device)
