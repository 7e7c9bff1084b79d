"""N-grams of many texts at once: exact ids and counts by sorting, on the device of the input.

Texts are ragged (:class:`Ragged`), so nothing here ever sees padding. An n-gram's id comes from the id of its
first n-1 tokens and its last token, one order after the other, by a stable sort: no hashing, no collisions,
any vocabulary. What a metric needs of one order is a :class:`NgramCounts`; what it needs of a fixed set of
texts (references, training texts) is an :class:`NgramTable`, built once and kept.
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor


class Ragged(NamedTuple):
    """N texts as one run of ids: text i is the next ``lengths[i]`` of ``tokens``. Empty texts count."""

    tokens: Tensor  # (M,) long
    lengths: Tensor  # (N,) long, sums to M

    @property
    def owners(self) -> Tensor:
        """Index of the text that each token belongs to, (M,)."""
        return torch.arange(len(self.lengths), device=self.lengths.device).repeat_interleave(self.lengths)

    def select(self, rows: Tensor) -> "Ragged":
        """The texts with these indices, in this order."""
        starts = (self.lengths.cumsum(0) - self.lengths)[rows]
        lengths = self.lengths[rows]
        shift = starts - (lengths.cumsum(0) - lengths)  # from its place in the result
        at = torch.arange(int(lengths.sum()), device=self.tokens.device) + shift.repeat_interleave(lengths)
        return Ragged(self.tokens[at], lengths)

    def keys(self) -> list[bytes]:
        """One hashable value a text; two texts have the same one exactly when their tokens are the same."""
        raw = self.tokens.cpu().numpy().tobytes()
        ends = (self.lengths.cumsum(0) * self.tokens.element_size()).tolist()
        return [raw[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def ragged(rows: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> Ragged:
    """A :class:`Ragged` of lists of ids."""
    tokens = torch.tensor(list(chain.from_iterable(rows)), dtype=torch.long)
    return Ragged(tokens.to(device), torch.tensor([len(row) for row in rows], dtype=torch.long).to(device))


class NgramCounts(NamedTuple):
    """How often each n-gram of one order occurs in each text that holds it.

    ``keys`` (U,) ascending, one for each distinct n-gram: the token itself for n = 1, above that
    ``id of the first n-1 tokens * base + id of the last token``, an id being the index in its order's keys.
    ``gram``, ``text``, ``count`` (R,): one entry for each n-gram and text that has it, by n-gram, then text.
    """

    n: int
    base: int  # number of distinct tokens
    num_texts: int
    keys: Tensor
    gram: Tensor
    text: Tensor
    count: Tensor

    def occurrences(self) -> Tensor:
        """Occurrences of each distinct n-gram in all texts together, (U,)."""
        return torch.zeros_like(self.keys).scatter_add_(0, self.gram, self.count)

    def per_text(self, values: Tensor) -> Tensor:
        """Sum of ``values`` (R,) over the entries of each text, (N,); integers stay exact."""
        return values.new_zeros(self.num_texts).scatter_add_(0, self.text, values)


def pick(x: Tensor, at: Tensor) -> Tensor:
    """``x[at]`` of two tensors of one dimension; on a CPU in a third of its time."""
    return x.index_select(0, at)


def places(mask: Tensor) -> Tensor:
    """Where ``mask`` (M,) is True, ascending."""
    return mask.nonzero().squeeze(1)


def count_ngrams(texts: Ragged, max_n: int, *, shared_only: bool = False) -> Iterator[NgramCounts]:
    """Yields the :class:`NgramCounts` of orders 1 to ``max_n``, one at a time (so only one is ever held).

    Args:
        texts: the texts; ids may be any integers.
        max_n: the highest order.
        shared_only: from order 2 on, leave out n-grams of which the first or the last n-1 tokens occur in one
            text only. Such an n-gram occurs in one text only, so nothing that compares texts is changed, and
            the higher orders of varied texts become short.
    """
    if max_n < 1:
        raise ValueError(f"max_n={max_n} must be at least 1")
    owners, num_texts = texts.owners, len(texts.lengths)
    next_owner = torch.cat([owners[1:], owners.new_full((1,), -1)])
    starts = torch.arange(len(owners), device=owners.device)
    counts, ids = _count_runs(1, 0, num_texts, texts.tokens, owners)
    base, last_ids = len(counts.keys), ids
    counts = counts._replace(base=base)
    yield counts
    for n in range(2, max_n + 1):
        if shared_only:
            shared = torch.bincount(counts.gram, minlength=len(counts.keys)) > 1
            kept = places(pick(shared, ids))
            starts, ids = pick(starts, kept), pick(ids, kept)
        # The n-gram at p is the (n-1)-gram at p and that at p+1, when both lie in one text.
        ids_at = starts.new_full((len(owners) + 1,), -1).scatter_(0, starts, ids)
        starts = pick(
            starts, places((pick(ids_at, starts + 1) >= 0) & (pick(next_owner, starts) == pick(owners, starts)))
        )
        keys = pick(ids_at, starts) * base + pick(last_ids, starts + (n - 1))
        counts, ids = _count_runs(n, base, num_texts, keys, pick(owners, starts))
        yield counts


def _count_runs(n: int, base: int, num_texts: int, keys: Tensor, text: Tensor) -> tuple[NgramCounts, Tensor]:
    """Counts of keys (K,) within texts (K,) ascending, and the n-gram id at each of the K places."""
    ordered, order = torch.sort(keys, stable=True)  # stable: within a key, texts stay ascending
    text = pick(text, order)
    new_gram = torch.ones_like(ordered, dtype=torch.bool)
    torch.ne(ordered[1:], ordered[:-1], out=new_gram[1:])
    new_run = torch.ones_like(new_gram)
    torch.logical_or(new_gram[1:], text[1:] != text[:-1], out=new_run[1:])
    gram = new_gram.cumsum(0) - 1
    runs = places(new_run)
    count = torch.diff(runs, append=runs.new_full((1,), len(keys)))
    gram_of_place = torch.empty_like(gram).scatter_(0, order, gram)
    distinct = pick(ordered, places(new_gram))
    return NgramCounts(n, base, num_texts, distinct, pick(gram, runs), pick(text, runs), count), gram_of_place


class NgramTable(NamedTuple):
    """The distinct n-grams of a fixed set of texts, and the most often that one text holds each."""

    base: int
    keys: list[Tensor]  # of order n at [n-1]: (U_n,) as in NgramCounts
    most: list[Tensor]  # of order n at [n-1]: (U_n,) largest count in one text


def ngram_table(texts: Ragged, max_n: int) -> NgramTable:
    """The :class:`NgramTable` of orders 1 to ``max_n``."""
    keys, most = [], []
    for counts in count_ngrams(texts, max_n):
        keys.append(counts.keys)
        most.append(torch.zeros_like(counts.keys).scatter_reduce_(0, counts.gram, counts.count, "amax"))
    return NgramTable(counts.base, keys, most)


class NgramLookup:
    """Finds the n-grams of one set of texts in a table, order by order as :func:`count_ngrams` yields them.

    Calling it with the counts of the next order returns the index of each of their n-grams in the table's
    keys of that order, (U,), and -1 for those that the table lacks.
    """

    def __init__(self, table: NgramTable):
        self.table = table
        self._previous: list[Tensor] = []  # table ids of the orders already asked for

    def __call__(self, counts: NgramCounts) -> Tensor:
        if counts.n != len(self._previous) + 1:
            raise ValueError(f"order {counts.n} after order {len(self._previous)}: look up 1, 2, ... in turn")
        ids = torch.full_like(counts.keys, -1)
        if counts.n == 1:
            ids = find_sorted(self.table.keys[0], counts.keys)
        else:
            first = pick(self._previous[-1], counts.keys // counts.base)
            last = pick(self._previous[0], counts.keys % counts.base)
            known = places((first >= 0) & (last >= 0))
            wanted = pick(first, known) * self.table.base + pick(last, known)
            ids.scatter_(0, known, find_sorted(self.table.keys[counts.n - 1], wanted))
        self._previous.append(ids)
        return ids


def find_sorted(ascending: Tensor, values: Tensor) -> Tensor:
    """Index of each of ``values`` (any shape) in ``ascending`` (U,), -1 where it is not there."""
    if not len(ascending):
        return torch.full_like(values, -1)
    at = torch.searchsorted(ascending, values).clamp_(max=len(ascending) - 1)
    return torch.where(ascending[at] == values, at, -1)
