"""Texts of uneven length in parts of like length.

On a CPU time goes with the number of positions, padding included, so texts that belong together in a batch are computed
a few at a time, each part as wide as its own longest text. A GPU is quickest with all of them at once.
"""

import torch
from torch import Tensor

ROWS = 16


def like_lengths(lengths: Tensor) -> list[tuple[Tensor, int]]:
    """The rows of texts of these lengths (B,), in parts with the width of each; every row is in one part."""
    if lengths.device.type != "cpu":
        return [(torch.arange(len(lengths), device=lengths.device), int(lengths.max()))]
    return [(rows, int(lengths[rows[-1]])) for rows in lengths.argsort(stable=True).split(ROWS)]
