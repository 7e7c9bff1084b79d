"""How far one text is from another in single changes."""

from collections.abc import Sequence

import numpy as np


def edit_distance(a: Sequence[int], b: Sequence[int]) -> int:
    """Fewest insertions, deletions and replacements of one token that turn ids ``a`` into ids ``b`` (Levenshtein)."""
    columns = np.arange(len(b) + 1)
    b, row = np.asarray(b, dtype=np.int64), columns
    for i, token in enumerate(a, 1):
        # From above (deletion) and from the diagonal; then insertions, which run along the row.
        best = np.concatenate([[i], np.minimum(row[1:] + 1, row[:-1] + (b != token))])
        row = np.minimum.accumulate(best - columns) + columns
    return int(row[-1])
