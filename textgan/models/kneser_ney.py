"""Interpolated Kneser-Ney n-gram language models: exact, on any device, without a loop over n-grams.

With counts ``c`` of the n-grams of the highest order, and below it the number of different tokens that stand before an
n-gram (its continuation count), each order gives

    p(w | h) = (c(h w) - D(c(h w))) / c(h .) + gamma(h) p(w | h'),    gamma(h) = sum_w D(c(h w)) / c(h .)

where h' is h without its first token and D(c) <= c is a discount. The lowest order goes on to 1 / V, so every token
has a probability, and they sum to one after any context (Kneser and Ney 1995; interpolated and with three discounts:
Chen and Goodman 1999, sections 2.7 and 3). A context that was never seen hands on the whole of its mass.

A text is opened once and closed by the end token, which is predicted like a word. N-grams that begin with the opening
are counted plainly in every order, for nothing can stand before them (Heafield et al. 2013, section 3.2).
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from textgan.ops.ngrams import Ragged, find_sorted

DISCOUNTS = ("modified", "single")
# The least that is taken from a count, as a share of it (of 3 where it is more): nothing would be left for the unseen.
SMALLEST_DISCOUNT = 0.05


class NgramTrie(NamedTuple):
    """The distinct n-grams of a set of opened and closed texts, order by order; those of order k at index k-1.

    An n-gram's id is its index in ``keys`` of its order. Its key is ``id of its first k-1 tokens * base + last token``.
    In order 1 the id is the token itself, seen or not, and the opening is the last id.
    """

    base: int  # vocabulary size + 1: the opening is a token of its own here
    keys: list[Tensor]  # (U_k,) ascending
    suffixes: list[Tensor]  # (U_k,) id, in the order below, of the n-gram without its first token
    opened: list[Tensor]  # (U_k,) whether it begins with the opening

    def find(self, tokens: Tensor) -> list[Tensor]:
        """Ids (..., T), order by order, of the n-gram that ends at each place of ``tokens`` (..., T).

        -1 for those that the trie lacks, and for those that would reach back over an opening or the first column.
        """
        ids = [tokens]
        for keys in self.keys[1:]:
            ids.append(find_sorted(keys, self.before(ids[-1], tokens) * self.base + tokens))
        return ids

    def before(self, ids: Tensor, tokens: Tensor) -> Tensor:
        """Ids (..., T) of what ends one place further left; -1 at the first place and where a text opens."""
        shifted = torch.cat([torch.full_like(ids[..., :1], -1), ids[..., :-1]], dim=-1)
        return shifted.masked_fill_(tokens == self.base - 1, -1)


class KneserNey:
    """A fitted model; made by :func:`fit_kneser_ney`.

    Attributes:
        order: n, of the longest n-grams.
        vocab_size: V; ids are 0 to V - 1.
        eos_id: opens and closes texts.
        discounts: (n, 3) float64: what is taken from counts of 1, of 2, and of 3 or more, by order.
    """

    def __init__(self, trie: NgramTrie, counts: list[Tensor], *, eos_id: int, discounts: Tensor):
        """``counts`` (U_k,) by order, as the formula wants them; an n-gram of count 0 is as if never seen."""
        self.order, self.vocab_size, self.eos_id = len(trie.keys), trie.base - 1, eos_id
        self.discounts, self._trie = discounts, trie
        self._held: list[Tensor] = []  # (U_k,) of each n-gram: its share of its context's mass
        self._handed: list[Tensor] = []  # (U_(k-1),) of each context: the share that it hands on
        self._first: list[Tensor] = []  # (U_(k-1) + 1,) where the n-grams of each context begin among those of order k
        for k, count in enumerate(counts):
            contexts = len(trie.keys[k - 1]) if k else 1
            context = trie.keys[k] // trie.base if k else torch.zeros_like(count)
            kinds = torch.stack([count == 1, count == 2, count > 2]).long()  # (3, U)
            total = count.new_zeros(contexts).index_add_(0, context, count)
            of_context = kinds.new_zeros(3, contexts).index_add_(1, context, kinds)  # integers: exact on any device
            seen = total.clamp(min=1)
            self._held.append((count - (kinds * discounts[k, :, None]).sum(0)) / seen[context])
            self._handed.append(torch.where(total > 0, (of_context * discounts[k, :, None]).sum(0) / seen, 1.0))
            bounds = torch.arange(contexts + 1, device=count.device) * trie.base
            self._first.append(torch.searchsorted(trie.keys[k], bounds))

    @property
    def device(self) -> torch.device:
        return self.discounts.device

    def to(self, device: torch.device | str) -> "KneserNey":
        """The same model on ``device``."""
        moved = object.__new__(KneserNey)
        moved.__dict__.update(self.__dict__, discounts=self.discounts.to(device))
        moved._trie = NgramTrie(self._trie.base, *([t.to(device) for t in ts] for ts in self._trie[1:]))
        for name in ("_held", "_handed", "_first"):
            setattr(moved, name, [t.to(device) for t in getattr(self, name)])
        return moved

    def token_log_probs(self, texts: Ragged, *, of: int | None = None) -> Tensor:
        """Log-probability (nats, float64) of each token of each text, and of its end after its last, (M + N,).

        Args:
            texts: N texts of M tokens, without opening and end.
            of: asks, at each of these places, for this token in place of the one that stands there.

        Raises:
            ValueError: an id out of range, or the end token inside a text.
        """
        tokens = _opened_and_closed(texts, self.vocab_size, self.eos_id).to(self.device)
        ids = self._trie.find(tokens)
        last = tokens if of is None else torch.full_like(tokens, of)
        prob = self._held[0][last] + self._handed[0] / self.vocab_size
        for k, below in enumerate(ids[:-1], 1):
            context = self._trie.before(below, tokens)
            ngram = ids[k] if of is None else find_sorted(self._trie.keys[k], context * self._trie.base + last)
            prob = _pick(self._held[k], ngram, 0.0) + _pick(self._handed[k], context, 1.0) * prob
        return prob[tokens < self.vocab_size].log()

    def log_prob(self, texts: Ragged) -> Tensor:
        """Log-probability (nats, float64) of each text with its end, (N,); raises as :meth:`token_log_probs`."""
        each = self.token_log_probs(texts)
        owners = Ragged(each, texts.lengths.to(self.device) + 1).owners
        return each.new_zeros(len(texts.lengths)).index_add_(0, owners, each)

    def next_probs(self, contexts: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        """Probabilities (B, V) of the token that follows each context; they sum to one.

        Args:
            contexts: ids (B, T), T >= 1. The end token opens a text; what stands before it does not matter. A context
                without one is the last part of a text that began earlier.
            dtype: of the result.
        """
        ids = self._contexts(contexts[:, -max(1, self.order - 1) :])
        return self._spread([column[:, -1] for column in ids], len(contexts), dtype)

    def all_next_probs(self, ids: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        """Probabilities (B, T, V) of the token that follows each column of ``ids`` (B, T), as :meth:`next_probs`."""
        contexts = [context.flatten() for context in self._contexts(ids)]
        return self._spread(contexts, ids.numel(), dtype).unflatten(0, ids.shape)

    def _contexts(self, ids: Tensor) -> list[Tensor]:
        """Ids of the n-grams of orders 1 to n-1 that end at each column of ``ids``."""
        return self._trie.find(ids.masked_fill(ids == self.eos_id, self.vocab_size))[: self.order - 1]

    def _spread(self, contexts: list[Tensor], rows: int, dtype: torch.dtype) -> Tensor:
        """Probabilities (rows, V) after contexts given by their ids (rows,) in orders 1 to n-1."""
        lowest = self._held[0][:-1] + self._handed[0] / self.vocab_size
        probs = lowest.to(dtype).expand(rows, -1).clone()
        for k, context in enumerate(contexts, 1):
            probs *= _pick(self._handed[k], context, 1.0).to(dtype)[:, None]
            known = (context >= 0).nonzero().squeeze(1)
            start, end = self._first[k][context[known]], self._first[k][context[known] + 1]
            children = Ragged(self._trie.keys[k], end - start)
            row = known[children.owners]
            ahead = children.lengths.cumsum(0) - children.lengths
            at = torch.arange(len(row), device=row.device) + (start - ahead)[children.owners]
            probs[row, self._trie.keys[k][at] % self._trie.base] += self._held[k][at].to(dtype)
        return probs

    def sample(self, n: int, *, seed: int, max_len: int) -> tuple[Ragged, Tensor]:
        """``n`` texts drawn from the model as it is, without their ends, and (n,) bool whether each came to its end.

        All texts grow together; nothing of the size of the vocabulary is built, so this is far quicker than drawing
        from :meth:`next_probs`. Equal seeds give equal texts, on any device up to rounding.

        Args:
            n: number of texts.
            seed: of the random numbers.
            max_len: most tokens of a text; one that has not ended by then is cut.
        """
        rng = torch.Generator().manual_seed(seed)
        sums = [torch.cat([held.new_zeros(1), held.cumsum(0)]) for held in self._held]
        tokens = torch.full((n, 1), self.vocab_size, device=self.device)
        lengths = torch.full((n,), max_len, device=self.device)
        ended = torch.zeros(n, dtype=torch.bool, device=self.device)
        for t in range(max_len + 1):
            uniform = torch.rand(n, generator=rng, dtype=torch.float64).to(self.device)
            drawn = self._draw(tokens[:, -max(1, self.order - 1) :], uniform, sums)
            ending = (drawn == self.eos_id) & ~ended
            lengths[ending], ended = t, ended | ending
            if t == max_len or bool(ended.all()):
                break
            tokens = torch.cat([tokens, drawn[:, None]], dim=1)
        written = tokens[:, 1:]
        inside = torch.arange(written.shape[1], device=self.device) < lengths[:, None]
        return Ragged(written[inside], lengths), ended

    def _draw(self, tokens: Tensor, uniform: Tensor, sums: list[Tensor]) -> Tensor:
        """The token (B,) that each number in [0, 1) stands for: an n-gram of the highest order, or on to the next."""
        drawn = torch.full_like(tokens[:, 0], -1)
        ids = self._trie.find(tokens)
        for k in range(self.order - 1, -1, -1):
            if k:
                context = ids[k - 1][:, -1]
                start, end = (self._first[k][context.clamp(min=0) + i] for i in (0, 1))
                start = torch.where(context < 0, end, start)
            else:
                context, start, end = (
                    torch.zeros_like(drawn),
                    torch.zeros_like(drawn),
                    drawn.new_tensor(self._trie.base),
                )
            low = sums[k][start]
            mass = sums[k][end] - low
            at = (torch.searchsorted(sums[k], low + uniform, right=True) - 1).minimum(end - 1).clamp(min=0)
            hit = (drawn < 0) & (uniform < mass)
            drawn = torch.where(hit, self._trie.keys[k][at] % self._trie.base, drawn)
            uniform = ((uniform - mass) / _pick(self._handed[k], context, 1.0)).clamp(0, 1 - 2**-53)
        return torch.where(drawn < 0, (uniform * self.vocab_size).long(), drawn)


def _pick(values: Tensor, ids: Tensor, default: float) -> Tensor:
    """``values`` at ``ids``, and ``default`` where these are negative."""
    if not len(values):
        return torch.full_like(ids, default, dtype=values.dtype)
    return torch.where(ids >= 0, values[ids.clamp(min=0)], default)


def fit_kneser_ney(
    texts: Ragged,
    *,
    order: int,
    vocab_size: int,
    eos_id: int,
    discount: str | Sequence[Sequence[float]] = "modified",
) -> KneserNey:
    """The model of these texts, on their device.

    Args:
        texts: token ids without opening and end.
        order: n, at least 1.
        vocab_size: V, ids that never occur included.
        eos_id: no text contains it.
        discount: ``modified`` (three an order) or ``single`` (one an order), both estimated from counts of counts (Chen
            and Goodman 1999, equations 17 and 26), or the discounts themselves: for each order those of counts of 1,
            of 2, and of 3 or more. See :func:`estimate_discounts`.

    Raises:
        ValueError: no texts, an id out of range, the end token inside a text, or an impossible order or discount.
    """
    (model,) = _fit(texts, [None], order, vocab_size, eos_id, discount)
    return model


def fit_without_groups(
    texts: Ragged,
    groups: int,
    *,
    order: int,
    vocab_size: int,
    eos_id: int,
    discount: str | Sequence[Sequence[float]] = "modified",
) -> Iterator[KneserNey]:
    """Yields, for g = 0 to ``groups`` - 1, the model of all texts but those with index i % groups == g.

    Each is what :func:`fit_kneser_ney` gives for those texts (see there), but the texts are sorted only once.
    """
    owners = torch.arange(len(texts.lengths), device=texts.lengths.device)
    return _fit(texts, [owners % groups != g for g in range(groups)], order, vocab_size, eos_id, discount)


def _fit(
    texts: Ragged,
    selections: Sequence[Tensor | None],
    order: int,
    vocab_size: int,
    eos_id: int,
    discount: str | Sequence[Sequence[float]],
) -> Iterator[KneserNey]:
    """A model of each selection (N,) of the texts; None is all."""
    if order < 1:
        raise ValueError(f"order={order} must be at least 1")
    if not len(texts.lengths):
        raise ValueError("there are no texts to fit a model on")
    fixed = None if isinstance(discount, str) else torch.tensor(discount, dtype=torch.float64)
    if fixed is None and discount not in DISCOUNTS:
        raise ValueError(f"discount={discount!r}; allowed: {', '.join(DISCOUNTS)}, or numbers")
    if fixed is not None and (fixed.shape != (order, 3) or (fixed < 0).any() or (fixed > torch.arange(1, 4)).any()):
        raise ValueError(f"discounts must be {order} x 3 numbers, in each row within 0..1, 0..2 and 0..3")
    tokens = _opened_and_closed(texts, vocab_size, eos_id)
    owners = Ragged(tokens, texts.lengths + 2).owners
    trie, ids = _build_trie(tokens, order, vocab_size + 1)
    for selection in selections:
        counts = _counts(trie, ids, None if selection is None else selection[owners])
        if fixed is None:
            discounts = torch.tensor([estimate_discounts(count, discount) for count in counts], dtype=torch.float64)
        else:
            discounts = fixed
        yield KneserNey(trie, counts, eos_id=eos_id, discounts=discounts.to(tokens.device))


def estimate_discounts(counts: Tensor, kind: str) -> tuple[float, float, float]:
    """What to take from counts of 1, of 2, and of 3 or more, given all counts of one order (zeros do not matter).

    With n_r the number of counts r, and y = n_1 / (n_1 + 2 n_2): r - (r + 1) y n_(r+1) / n_r, or y from all (Chen and
    Goodman 1999, equations 26 and 17). To each n_r is added 1 / r first. That moves nothing where there is much text,
    and where there is next to none it gives half of the count without a jump on the way.
    """
    n = [number + 1 / r for r, number in enumerate(torch.bincount(counts.clamp(max=5), minlength=6)[1:5].tolist(), 1)]
    y = n[0] / (n[0] + 2 * n[1])
    if kind == "single":
        return (max(y, SMALLEST_DISCOUNT),) * 3
    return tuple(max(r - (r + 1) * y * n[r] / n[r - 1], SMALLEST_DISCOUNT * r) for r in (1, 2, 3))


def _opened_and_closed(texts: Ragged, vocab_size: int, eos_id: int) -> Tensor:
    """All texts end to end, each with the opening (id ``vocab_size``) before it and the end token behind it."""
    tokens, lengths = texts
    if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < vocab_size:
        raise ValueError(f"ids must lie in 0..{vocab_size - 1}, not in {int(tokens.min())}..{int(tokens.max())}")
    if bool((tokens == eos_id).any()):
        raise ValueError(f"a text contains the end token {eos_id}; it is added here")
    ends = (lengths + 2).cumsum(0)
    stream = torch.full((int(lengths.sum()) + 2 * len(lengths),), -1, dtype=torch.long, device=tokens.device)
    stream[ends - lengths - 2] = vocab_size
    stream[ends - 1] = eos_id
    stream[stream < 0] = tokens
    return stream


def _build_trie(tokens: Tensor, order: int, base: int) -> tuple[NgramTrie, list[Tensor]]:
    """The trie of a stream of opened and closed texts, and its ids at each place, as ``find`` gives them."""
    every = torch.arange(base, device=tokens.device)
    trie = NgramTrie(base, [every], [torch.zeros_like(every)], [every == base - 1])
    ids = [tokens]
    for _ in range(order - 1):
        prefix = trie.before(ids[-1], tokens)
        places = (prefix >= 0).nonzero().squeeze(1)
        keys, inverse = torch.unique(prefix[places] * base + tokens[places], return_inverse=True)
        trie.keys.append(keys)
        trie.suffixes.append(torch.zeros_like(keys).index_copy_(0, inverse, ids[-1][places]))
        trie.opened.append(trie.opened[-1][keys // base])
        ids.append(torch.full_like(tokens, -1).index_copy_(0, places, inverse))
    return trie, ids


def _counts(trie: NgramTrie, ids: list[Tensor], kept: Tensor | None) -> list[Tensor]:
    """Counts of each order as Kneser and Ney want them, of the places (M,) that are kept."""
    plain = []
    for keys, at in zip(trie.keys, ids, strict=True):
        there = at >= 0 if kept is None else (at >= 0) & kept
        plain.append(torch.bincount(at[there], minlength=len(keys)))
    counts = []
    for (here, above), suffixes, opened in zip(pairwise(plain), trie.suffixes[1:], trie.opened, strict=False):
        continuations = torch.bincount(suffixes[above > 0], minlength=len(here))
        counts.append(torch.where(opened, here, continuations))
    counts.append(plain[-1])
    counts[0][-1] = 0  # the opening is given, never predicted
    return counts
