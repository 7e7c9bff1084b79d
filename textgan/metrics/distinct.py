"""How many different n-grams and texts a set has, and how much its texts repeat themselves."""

import torch

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
    total = counts.per_text(counts.count)
    different = counts.per_text(torch.ones_like(counts.count))
    has_any = total > 0
    if not bool(has_any.any()):
        return 0.0
    return float((1 - different[has_any].double() / total[has_any]).mean())


def unique_share(texts: Ragged) -> float:
    """Different texts over all texts, above 0 to 1: 1 when no two are the same, near 0 at mode collapse.

    Texts are the same when their tokens are (so spacing does not tell them apart). This is "unique" of MOSES
    (Polykovskiy et al. 2020) without its validity filter.
    """
    keys = texts.keys()
    return len(set(keys)) / len(keys)
