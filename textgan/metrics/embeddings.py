"""What the metrics of embedded texts share.

Their uncertainty comes from the delete-a-group jackknife: the ``*_by_group`` functions return, beside the value, the
values of the set without group g, text i being in group ``i % groups``. The real texts are held fixed there.
"""

from torch import Tensor


def check_embeddings(x: Tensor, y: Tensor | None = None, least: int = 1) -> None:
    """Raises ValueError unless these are finite embeddings (N, D) and (M, D), of at least so many texts each."""
    for z in (x,) if y is None else (x, y):
        if z.dim() != 2 or not z.is_floating_point():
            raise ValueError(f"embeddings must be (N, D) of a floating type, not {tuple(z.shape)} {z.dtype}")
        if len(z) < least:
            raise ValueError(f"needs at least {least} embedded texts, got {len(z)}")
        if not bool(z.isfinite().all()):
            raise ValueError("embeddings must be finite")
    if y is not None and x.shape[1] != y.shape[1]:
        raise ValueError(f"embeddings of different size: {x.shape[1]} and {y.shape[1]}")
