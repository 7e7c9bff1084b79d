"""How far the lengths of texts are from those of real texts."""

import torch
from torch import Tensor


def length_distance(lengths: Tensor, reference_lengths: Tensor) -> float:
    """Wasserstein-1 distance of the two length distributions, in tokens; 0 where they are the same.

    It is the area between the two cumulative distributions: the mean number of tokens by which texts must be
    stretched or cut to have the references' lengths. ``lengths`` (N,) and ``reference_lengths`` (M,) are long.
    """
    size = int(torch.maximum(lengths.max(), reference_lengths.max())) + 1
    shares = [torch.bincount(some, minlength=size).double() / len(some) for some in (lengths, reference_lengths)]
    return float((shares[0] - shares[1]).cumsum(0).abs().sum())
