"""A wide classifier of texts: hashed features that a person could name, and logistic regression on them.

What a text is looked at for: its words, bigrams and trigrams (with marks for its beginning and end), pairs of words
with a gap between them (skip-grams), pairs of words anywhere in it whatever their order, and its length. On a few
thousand sentences such a linear classifier with a strong penalty tells samples from real text far better than a small
neural one. Features are told apart by a hash (Weinberger et al. 2009, https://arxiv.org/abs/0902.2206), so there is
no vocabulary to keep; two of them may share a weight.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from textgan.ops.ngrams import Ragged, ragged

BEGIN, END = -1, -2  # marks around a text, as tokens; real ids are not negative
PAIRS_AT_ONCE = 2**24  # pairs of words that are held before repeated ones are dropped
# Odd constants of a multiplicative hash (splitmix64's), as signed 64-bit numbers: products wrap around.
_STEP, _MIX_1, _MIX_2 = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15


@dataclass(frozen=True, eq=False)
class Features:
    """N rows of a sparse matrix (N, dim): row i holds ``values`` at columns ``indices`` from ``offsets[i]`` on."""

    indices: Tensor  # (E,) long, ascending and distinct within a row
    values: Tensor  # (E,) floating
    offsets: Tensor  # (N+1,) long
    dim: int

    def __len__(self) -> int:
        """Number of rows, N."""
        return len(self.offsets) - 1

    def select(self, rows: Tensor) -> "Features":
        """The rows with these indices, in this order."""
        places = Ragged(torch.arange(len(self.indices), device=self.indices.device), self.offsets.diff()).select(rows)
        offsets = torch.cat([places.lengths.new_zeros(1), places.lengths.cumsum(0)])
        return Features(self.indices[places.tokens], self.values[places.tokens], offsets, self.dim)

    def dense(self) -> Tensor:
        """The matrix itself, (N, dim)."""
        owners = torch.arange(len(self), device=self.indices.device).repeat_interleave(self.offsets.diff())
        return self.values.new_zeros(len(self), self.dim).index_put_((owners, self.indices), self.values)


def concatenate(parts: Sequence[Features]) -> Features:
    """The rows of all ``parts``, one part after the other."""
    lengths = torch.cat([part.offsets.diff() for part in parts])
    offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    indices, values = (torch.cat([getattr(part, name) for part in parts]) for name in ("indices", "values"))
    return Features(indices, values, offsets, parts[0].dim)


def wide_features(
    texts: Ragged | Sequence[Sequence[int]],
    *,
    bits: int = 20,
    max_n: int = 3,
    gaps: Sequence[int] = (2, 3),
    pair_span: int = 40,
) -> Features:
    """The wide features of each text as a :class:`Features` of dimension ``2**bits``, all values 1 (float32).

    Args:
        texts: rows of ids, not negative, without opening and closing token (the ends have marks of their own).
        bits: logarithm of the number of weights that features are hashed to.
        max_n: words and n-grams up to this order; from order 2 on they see the marks of beginning and end.
        gaps: distances of the two words of a skip-gram (2: one word between), in order.
        pair_span: two words of a text are a pair, in no order, where they stand at most this many places apart (a
            word that occurs twice is a pair with itself). It bounds the number of pairs of long texts; 0 is none.

    Raises:
        ValueError: ``bits`` outside 1 to 30, or ``max_n`` below 1.
    """
    if not 1 <= bits <= 30:
        raise ValueError(f"bits={bits} must be between 1 and 30")
    if max_n < 1:
        raise ValueError(f"max_n={max_n} must be at least 1")
    texts = texts if isinstance(texts, Ragged) else ragged(texts)
    found = [_entries(texts.lengths, torch.arange(len(texts.lengths), device=texts.lengths.device), "length", bits)]
    found.append(_entries(texts.tokens, texts.owners, "word", bits))
    marked = _marked(texts)
    owners = marked.owners
    gram = marked.tokens
    for n in range(2, max_n + 1):
        inside = owners[n - 1 :] == owners[: len(owners) - n + 1]
        gram = _combine(gram[: len(owners) - n + 1], marked.tokens[n - 1 :])
        found.append(_entries(gram[inside], owners[n - 1 :][inside], f"{n}-gram", bits))
    for gap in gaps:
        first, second, owner = _apart(marked, owners, gap)
        found.append(_entries(_combine(first, second), owner, f"gap {gap}", bits))
    pending, held = [], 0
    owners = texts.owners
    for distance in range(1, min(pair_span, int(texts.lengths.max()) - 1 if len(texts.lengths) else 0) + 1):
        first, second, owner = _apart(texts, owners, distance)
        pair = _combine(torch.minimum(first, second), torch.maximum(first, second))
        pending.append(_entries(pair, owner, "pair", bits))
        held += len(pair)
        if held > PAIRS_AT_ONCE:
            pending = [torch.cat(pending).unique()]
            held = 0
    entries = torch.cat([*found, *pending]).unique()  # ascending: by text, then by column
    per_text = torch.bincount(entries >> bits, minlength=len(texts.lengths))
    offsets = torch.cat([per_text.new_zeros(1), per_text.cumsum(0)])
    columns = entries & (2**bits - 1)
    return Features(columns, torch.ones(len(columns), device=columns.device), offsets, 2**bits)


def _marked(texts: Ragged) -> Ragged:
    """The texts with a mark at the beginning and one at the end of each."""
    lengths = texts.lengths + 2
    ends = lengths.cumsum(0)
    tokens = texts.tokens.new_full((int(lengths.sum()),), BEGIN)
    tokens[ends - 1] = END
    inner = torch.ones_like(tokens, dtype=torch.bool)
    inner[ends - 1] = False
    inner[ends - lengths] = False
    tokens[inner] = texts.tokens
    return Ragged(tokens, lengths)


def _apart(texts: Ragged, owners: Tensor, distance: int) -> tuple[Tensor, Tensor, Tensor]:
    """First token, second token and text of every two places of one text that are ``distance`` apart."""
    inside = owners[distance:] == owners[: max(0, len(owners) - distance)]
    first = texts.tokens[: max(0, len(owners) - distance)][inside]
    return first, texts.tokens[distance:][inside], owners[distance:][inside]


def _combine(first: Tensor, second: Tensor) -> Tensor:
    """One 64-bit value for each ordered pair of values."""
    return _mix(_mix(first * _STEP) + second)


def _mix(values: Tensor) -> Tensor:
    """A one-to-one map of 64-bit values after which the upper bits depend on all bits."""
    values = (values ^ _shifted(values, 30)) * _MIX_1
    values = (values ^ _shifted(values, 27)) * _MIX_2
    return values ^ _shifted(values, 31)


def _shifted(values: Tensor, bits: int) -> Tensor:
    """``values >> bits`` as of unsigned numbers; with copies of the sign, the map above would not be one-to-one."""
    return (values >> bits) & (2 ** (64 - bits) - 1)


def _entries(values: Tensor, owners: Tensor, family: str, bits: int) -> Tensor:
    """Text and hashed column of each value of one family as one number, ``owner * 2**bits + column``."""
    salt = int.from_bytes(family.encode()[:7], "little")
    return (owners << bits) + _shifted(_combine(torch.full_like(values, salt), values), 64 - bits)


class Logistic(NamedTuple):
    """A fitted logistic regression: log-odds of label 1 are ``features @ weights + bias``."""

    weights: Tensor  # (dim,)
    bias: Tensor  # ()

    def score(self, features: Features | Tensor) -> Tensor:
        """Log-odds of label 1 of each row, (N,) float64."""
        return (_times(features, self.weights) + self.bias).double()


def fit_logistic(
    features: Features | Tensor,
    labels: Tensor,
    l2: float,
    *,
    penalty: Tensor | None = None,
    start: Logistic | None = None,
    max_iter: int = 300,
    tolerance: float = 1e-4,
) -> Logistic:
    """The :class:`Logistic` that minimises ``sum of log losses + l2 / 2 * sum of penalty * weights**2``.

    The bias is free; without ``penalty``, ``l2`` is 1 / C of scikit-learn. The minimum is found by L-BFGS (Liu and
    Nocedal 1989) in the type of the features' values: seconds for 30,000 texts with wide features.

    Args:
        features: sparse rows, or a dense matrix (N, D).
        labels: (N,) of 0 and 1, or bool.
        l2: strength of the penalty, above 0.
        penalty: (D,) how much each weight is held back beside the others, above 0, such as :func:`count_penalty`; None:
            all alike.
        start: where the search begins, such as the fit at another ``l2``; None: zero.
        max_iter: iterations at most.
        tolerance: the search ends where no element of the gradient of the mean loss exceeds this times the largest
            at zero.

    Raises:
        ValueError: ``l2`` not above 0, as many labels as rows not given, or only one kind of label.
    """
    if not l2 > 0:
        raise ValueError(f"l2={l2} must be above 0")
    if len(labels) != len(features):
        raise ValueError(f"{len(features)} rows but {len(labels)} labels")
    values = features.values if isinstance(features, Features) else features
    labels = labels.to(values)
    if not 0 < labels.sum() < len(labels):
        raise ValueError("all labels are the same: there is nothing to tell apart")
    dim, size = (features.dim if isinstance(features, Features) else features.shape[1]), len(labels)
    # With features divided by the roots of the penalties, all weights are held back alike.
    scale = values.new_ones(dim) if penalty is None else penalty.to(values).rsqrt()
    features = _scaled(features, scale)
    transposed = _transpose(features) if isinstance(features, Features) else features.T
    # Everything is divided by the number of rows, so that steps and tolerance mean the same at any size.
    parameters = values.new_zeros(dim + 1) if start is None else torch.cat([start.weights / scale, start.bias[None]])
    parameters.requires_grad_()

    def loss_and_gradient() -> Tensor:
        weights, bias = parameters.detach()[:dim], parameters.detach()[dim]
        logits = _times(features, weights) + bias
        residual = torch.sigmoid(logits) - labels
        gradient = (_times(transposed, residual) + l2 * weights) / size
        parameters.grad = torch.cat([gradient, residual.mean()[None]])
        loss = F.binary_cross_entropy_with_logits(logits.double(), labels.double(), reduction="sum")
        return (loss + l2 / 2 * weights.double().square().sum()) / size

    at_zero = _times(transposed, 0.5 - labels).abs().max() / size
    optimizer = torch.optim.LBFGS(
        [parameters],
        max_iter=max_iter,
        tolerance_grad=float(tolerance * at_zero),
        tolerance_change=0.0,
        history_size=10,
        line_search_fn="strong_wolfe",
    )
    optimizer.step(loss_and_gradient)
    found = parameters.detach()
    return Logistic(found[:dim] * scale, found[dim])


def count_penalty(features: Features) -> Tensor:
    """Square root of the number of rows that hold each feature (at least 1), (dim,): a penalty for wide features.

    It lets rare features speak: alike for all, a penalty that is right for words silences what is seen a few times.
    """
    counts = torch.bincount(features.indices, minlength=features.dim)
    return counts.clamp(min=1).to(features.values).sqrt()


def _scaled(features: Features | Tensor, scale: Tensor) -> Features | Tensor:
    """The matrix with its columns times ``scale`` (D,)."""
    if isinstance(features, Tensor):
        return features * scale
    return replace(features, values=features.values * scale[features.indices])


def _times(matrix: Features | Tensor, vector: Tensor) -> Tensor:
    """Matrix (N, D) times vector (D,); sums of a row go in order, so that a GPU gives the same twice."""
    if isinstance(matrix, Tensor):
        return matrix @ vector
    return F.embedding_bag(
        matrix.indices,
        vector[:, None],
        matrix.offsets,
        mode="sum",
        per_sample_weights=matrix.values,
        include_last_offset=True,
    )[:, 0]


def _transpose(features: Features) -> Features:
    """The transposed matrix."""
    owners = torch.arange(len(features), device=features.indices.device).repeat_interleave(features.offsets.diff())
    order = torch.argsort(features.indices, stable=True)
    per_column = torch.bincount(features.indices, minlength=features.dim)
    offsets = torch.cat([per_column.new_zeros(1), per_column.cumsum(0)])
    return Features(owners[order], features.values[order], offsets, len(features))
