"""Random numbers by row: those of row i follow from the seed and i alone, whatever batch it is in."""

import numpy as np
import torch
from torch import Tensor

# Streams are numbered by row. Those of latents lie beyond all that choose tokens, those of posteriors beyond both, so
# no number is used twice.
LATENT_STREAMS = 2**61
POSTERIOR_STREAMS = 2**62


def row_uniforms(seed: int, first_row: int, n_rows: int, width: int) -> np.ndarray:
    """Uniforms (n_rows, width), float64, multiples of 2**-32 in [0, 1); row i follows from (seed, i) alone.

    Philox is a counter-based generator: the row number stands in a high word of the counter and the seed
    is the key, so any row can be had without those before it. Its first numbers do not depend on ``width``.
    """
    rows = range(first_row, first_row + n_rows)
    raw = [np.random.Philox(key=seed, counter=[0, row, 0, 0]).random_raw(width) for row in rows]
    return (np.stack(raw) >> np.uint64(32)).astype(np.float64) * 2.0**-32


def row_normals(seed: int, first_row: int, n_rows: int, width: int) -> Tensor:
    """Standard normal numbers (n_rows, width), float64, on the CPU; row i follows from (seed, i) alone.

    The inverse distribution function at the midpoints of the 2**32 values of a uniform number, which are never 0 or 1;
    all lie within 6.4 of 0. The first numbers of a row do not depend on ``width``.
    """
    uniforms = row_uniforms(seed, first_row, n_rows, width) + 2.0**-33
    return torch.special.ndtri(torch.from_numpy(uniforms))
