"""Texts of uneven length in parts of like length.

On a CPU time goes with the number of positions, padding included, so texts that belong together in a batch are computed
a few at a time, each part as wide as its own longest text. A GPU is quickest with all of them at once.
"""

import torch
from torch import Tensor

ROWS = 16
WORTH_IT = 0.9  # parts must leave at most this share of the positions: smaller products are slower


def like_lengths(lengths: Tensor) -> list[tuple[Tensor, int]]:
    """The rows of texts of these lengths (B,), in parts with the width of each; every row is in one part.

    One part of all rows in their order where parts would not be worth it.
    """
    B, longest = len(lengths), int(lengths.max())
    if lengths.device.type == "cpu":
        parts = [(rows, int(lengths[rows[-1]])) for rows in lengths.argsort(stable=True).split(ROWS)]
        if sum(len(rows) * width for rows, width in parts) <= WORTH_IT * B * longest:
            return parts
    return [(torch.arange(B, device=lengths.device), longest)]
