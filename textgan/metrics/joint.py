"""MS-Jaccard: n-gram precision and recall of a set in one number."""

from collections.abc import Sequence

import torch
from torch import Tensor


def ms_jaccard(indices: Sequence[float | Tensor]) -> list[float | Tensor]:
    """MS-Jaccard of orders 1 to n from the :func:`multiset_jaccard` of each: geometric mean of the first k at [k-1].

    Source: Montahaei et al. 2019, "Jointly Measuring Diversity and Quality in Text Generation Models", section 3.
    """
    product, means = 1.0, []
    for k, index in enumerate(indices, 1):
        product = product * index
        means.append(product ** (1 / k))
    return means


def multiset_jaccard(shared: Tensor, ours: Tensor, theirs: Tensor, texts: Tensor, references: int) -> Tensor:
    """Jaccard index of the n-grams of two sets, each counted as often as it occurs a text; 0 to 1, float64.

    0 where neither set has an n-gram. 1 only where every n-gram is as frequent, a text, in one as in the other; at
    a finite number of texts a set that is sharper than real text can come out above real text itself.

    Args:
        shared: (2, S) occurrences in the texts and in the references, of each n-gram that both have.
        ours: number of n-grams in all texts together, (); ``theirs``: in all references.
        texts: number of texts, (); ``references``: of references. Empty ones count.
    """
    least = torch.minimum(shared[0].double() / texts, shared[1].double() / references).sum()
    most = ours.double() / texts + theirs.double() / references - least  # max(a, b) = a + b - min(a, b)
    return torch.where(most > 0, least / most, 0.0)
