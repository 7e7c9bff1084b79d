"""How close each text comes to a training text: copying that changes a word or two."""

from collections.abc import Iterator

import torch
from torch import Tensor

from textgan.ops.ngrams import NgramCounts, Ragged, count_ngrams

ORDER = 3
_PAIRS = 2**22  # pairs of a text and a training text with an n-gram in common that are looked at at once
_CELLS = 2**25  # the most texts x training texts at once


class TrainingTexts:
    """The n-grams of the training texts and which texts have each, for :func:`nearest_similarity`."""

    def __init__(self, texts: Ragged):
        for counts in count_ngrams(texts, ORDER):
            self.counts = counts
        self.different = self.counts.per_text(torch.ones_like(self.counts.count))
        self.holders = torch.bincount(self.counts.gram, minlength=len(self.counts.keys))
        self.starts = self.holders.cumsum(0) - self.holders


def nearest_similarity(counts: NgramCounts, ids: Tensor, train: TrainingTexts) -> Tensor:
    """Similarity of each text to the training text most similar to it, (N,) float64, 0 to 1.

    Similarity is the Jaccard index of the two texts' sets of trigrams: shared ones over all. A copy has 1; a caption
    of 11 tokens with one in the middle exchanged has 1/2; a text that shares no trigram has 0, as has one too short
    for any.

    Args:
        counts: trigrams of the texts.
        ids: lookup of them in the table of the training texts, -1 where these lack it.
        train: the training texts.
    """
    different = counts.per_text(torch.ones_like(counts.count)).double()
    best = different.new_zeros(counts.num_texts)
    known = (ids[counts.gram] >= 0).nonzero().squeeze(1)
    order = counts.text[known].sort(stable=True).indices
    text, gram = counts.text[known][order], ids[counts.gram[known][order]]
    num_train = train.counts.num_texts
    for first, last in _chunks(text, train.holders[gram], num_train):
        holders = train.holders[gram[first:last]]
        shift = train.starts[gram[first:last]] - (holders.cumsum(0) - holders)
        at = torch.arange(int(holders.sum()), device=text.device) + shift.repeat_interleave(holders)
        base = int(text[first])
        cells = (int(text[last - 1]) - base + 1) * num_train
        pairs = (text[first:last] - base).repeat_interleave(holders) * num_train + train.counts.text[at]
        pair, shared = _tally(pairs, cells)
        mine, theirs = pair // num_train + base, pair % num_train
        similarity = shared / (different[mine] + train.different[theirs] - shared)
        best.scatter_reduce_(0, mine, similarity, "amax")
    return best


def _chunks(text: Tensor, pairs: Tensor, num_train: int) -> Iterator[tuple[int, int]]:
    """Runs of entries that hold whole texts, of bounded work; ``text`` ascending and ``pairs`` by entry, (R,)."""
    if not len(text):
        return
    ends = torch.cat([(text[1:] != text[:-1]).nonzero().squeeze(1) + 1, text.new_full((1,), len(text))])
    done = pairs.cumsum(0)[ends - 1].tolist()
    of_end, ends = text[ends - 1].tolist(), ends.tolist()
    most_texts = max(_CELLS // num_train, 1)
    first, before, base = 0, 0, of_end[0]
    for i in range(1, len(ends)):
        if done[i] - before > _PAIRS or of_end[i] - base >= most_texts:
            yield first, ends[i - 1]
            first, before, base = ends[i - 1], done[i - 1], of_end[i]
    yield first, ends[-1]


def _tally(values: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The different values, all below ``size``, and how often each occurs: by a sort, or a table if that is less."""
    if 4 * len(values) < size:
        return values.unique(return_counts=True)
    times = torch.bincount(values, minlength=size)
    found = times.nonzero().squeeze(1)
    return found, times[found]
