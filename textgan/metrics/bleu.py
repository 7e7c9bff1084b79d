"""Exact BLEU and self-BLEU of sets of texts, as NLTK defines them, by sorting n-grams: no text meets another.

The value of a text is NLTK's ``sentence_bleu`` with uniform weights, ``SmoothingFunction().method1`` and the
closest reference length (Papineni et al. 2002; Chen and Cherry 2014, method 1):

* clipped precision of order n: matches over ``max(1, number of n-grams)``; 0.1 takes the place of 0 matches,
  so a text shorter than n has precision 0.1 there;
* brevity penalty ``exp(1 - r / c)`` unless the text's length c exceeds r, the reference length closest to c
  (the shorter of two that are equally close);
* 0 when no token matches, and for an empty text. Empty references count, with length 0.

The value of a set is the mean over its texts. Self-BLEU (Zhu et al. 2018) takes all *other* texts of the set
as the references of each: other by index, so an equal text elsewhere in the set stays among them.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from textgan.ops.ngrams import NgramCounts, NgramLookup, NgramTable, Ragged, count_ngrams, ngram_table, pick, places

EPSILON = 0.1  # method1's stand-in for a count of zero


class References(NamedTuple):
    """What BLEU needs of the references: build it once, score many times."""

    table: NgramTable
    lengths: Tensor  # distinct lengths, ascending


def reference_table(references: Ragged, max_n: int = 5) -> References:
    """The :class:`References` of these texts for BLEU up to ``max_n``."""
    if not len(references.lengths):
        raise ValueError("BLEU needs at least one reference")
    return References(ngram_table(references, max_n), references.lengths.unique())


def bleu(hypotheses: Ragged, references: Ragged | References, max_n: int = 5) -> dict[int, float]:
    """Mean BLEU-2 to BLEU-``max_n`` of the hypotheses, each against all references; 0 to 1."""
    scores = bleu_scores(hypotheses, references, max_n).mean(1)
    return {n: float(scores[n - 1]) for n in range(2, max_n + 1)}


def self_bleu(texts: Ragged, max_n: int = 5) -> dict[int, float]:
    """Mean self-BLEU-2 to -``max_n``, each text against all others; 0 to 1, high where texts are alike."""
    scores = self_bleu_scores(texts, max_n).mean(1)
    return {n: float(scores[n - 1]) for n in range(2, max_n + 1)}


def bleu_scores(hypotheses: Ragged, references: Ragged | References, max_n: int = 5) -> Tensor:
    """BLEU-n of hypothesis i at ``[n-1, i]``, (max_n, N) float64."""
    if isinstance(references, Ragged):
        references = reference_table(references, max_n)
    lookup = NgramLookup(references.table)
    matches = [
        reference_matches(counts, lookup(counts), references.table) for counts in count_ngrams(hypotheses, max_n)
    ]
    closest = closest_lengths(hypotheses.lengths, references.lengths)
    return scores_from_matches(torch.stack(matches), hypotheses.lengths, closest)


def self_bleu_scores(texts: Ragged, max_n: int = 5) -> Tensor:
    """Self-BLEU-n of text i at ``[n-1, i]``, (max_n, N) float64.

    Raises:
        ValueError: fewer than two texts (there is no other to compare with).
    """
    matches = [self_matches(counts) for counts in count_ngrams(texts, max_n, shared_only=True)]
    return scores_from_matches(torch.stack(matches), texts.lengths, closest_other_lengths(texts.lengths))


def reference_matches(counts: NgramCounts, ids: Tensor, table: NgramTable) -> Tensor:
    """Clipped matches of each text with the references, (N,); ``ids``: its lookup in ``table``."""
    most = torch.zeros_like(ids)
    found = places(ids >= 0)
    most.scatter_(0, found, pick(table.most[counts.n - 1], pick(ids, found)))
    return counts.per_text(torch.minimum(counts.count, pick(most, counts.gram)))


def self_matches(counts: NgramCounts) -> Tensor:
    """Clipped matches of each text with all other texts, (N,).

    The bound of an n-gram is its largest count in any other text: the largest of all, or the second largest
    for the one text that alone holds the largest.
    """
    # An n-gram of one text alone has bound 0: most n-grams of the higher orders end here.
    shared = places(pick(torch.bincount(counts.gram, minlength=len(counts.keys)) > 1, counts.gram))
    gram, count = pick(counts.gram, shared), pick(counts.count, shared)
    none = torch.zeros_like(counts.keys)
    largest = none.scatter_reduce(0, gram, count, "amax")
    is_largest = count == pick(largest, gram)
    holders = none.scatter_add(0, gram, is_largest.long())
    second = none.scatter_reduce(0, gram, torch.where(is_largest, 0, count), "amax")
    bound = torch.where(is_largest & (pick(holders, gram) == 1), pick(second, gram), pick(largest, gram))
    matches = torch.zeros_like(counts.count).scatter_(0, shared, torch.minimum(count, bound))
    return counts.per_text(matches)


def scores_from_matches(matches: Tensor, lengths: Tensor, closest: Tensor) -> Tensor:
    """BLEU-n of text i at ``[n-1, i]``, (max_n, N) float64, from clipped matches of each order (max_n, N).

    ``lengths`` (N,) are the texts' and ``closest`` (N,) the reference lengths that the brevity penalty takes.
    """
    orders = torch.arange(1, len(matches) + 1, device=lengths.device).unsqueeze(1)
    possible = (lengths - orders + 1).clamp_(min=1).double()
    precision = torch.where(matches > 0, matches.double(), EPSILON) / possible
    logs = precision.log()
    mean_log = torch.stack([logs[:n].mean(0) for n in range(1, len(logs) + 1)])
    length = lengths.double()
    penalty = torch.where(lengths > closest, 0.0, 1 - closest.double() / length)  # 0 / 0: not used
    return torch.where(matches[0] > 0, (mean_log + penalty).exp(), 0.0)


def closest_lengths(lengths: Tensor, reference_lengths: Tensor) -> Tensor:
    """The reference length closest to each length, the shorter of two equally close, (N,).

    ``reference_lengths`` (U,) are distinct and ascending.
    """
    above = torch.searchsorted(reference_lengths, lengths)
    longer = reference_lengths[above.clamp(max=len(reference_lengths) - 1)]
    shorter = reference_lengths[(above - 1).clamp_(min=0)]
    return torch.where((lengths - shorter).abs() <= (longer - lengths).abs(), shorter, longer)


def closest_other_lengths(lengths: Tensor) -> Tensor:
    """The length of any other text that is closest to each text's own; the shorter of two equally close.

    Raises:
        ValueError: fewer than two texts.
    """
    if len(lengths) < 2:
        raise ValueError(f"self-BLEU needs at least 2 texts, got {len(lengths)}")
    distinct, which, times = lengths.unique(return_inverse=True, return_counts=True)
    if len(distinct) == 1:
        return lengths
    index = torch.arange(len(distinct), device=lengths.device)
    shorter = distinct[(index - 1).clamp(min=0)]
    longer = distinct[(index + 1).clamp(max=len(distinct) - 1)]
    has_shorter, has_longer = index > 0, index < len(distinct) - 1
    take_shorter = has_shorter & (~has_longer | (distinct - shorter <= longer - distinct))
    return torch.where(times > 1, distinct, torch.where(take_shorter, shorter, longer))[which]
