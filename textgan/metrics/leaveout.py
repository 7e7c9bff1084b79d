"""What n-gram metrics become when the texts of one group are left out, for all groups in one pass, exactly.

An n-gram matters to the metric without group g in another way than to the whole only where group g holds it. So each
function corrects the sums of the whole set by what the entries of each group change in them. All return float64
values by group, (G,), unless they say so. :func:`textgan.metrics.jackknife.jackknife` computes the same values by G
passes.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from textgan.metrics.bleu import closest_other_lengths, scores_from_matches
from textgan.ops.ngrams import NgramCounts


def sums_without(values: Tensor, group: Tensor, groups: int) -> Tensor:
    """Sum of ``values`` (N,) over the texts of all other groups."""
    values = values.double()
    return values.sum() - values.new_zeros(groups).scatter_add_(0, group, values)


def ratio_without(numerator: Tensor, denominator: Tensor, group: Tensor, groups: int) -> Tensor:
    """Sum of the numerators over that of the denominators, both (N,); 0 where the latter is 0."""
    above, below = sums_without(numerator, group, groups), sums_without(denominator, group, groups)
    return torch.where(below > 0, above / below, 0.0)


def mean_without(values: Tensor, group: Tensor, groups: int) -> Tensor:
    """Mean of ``values`` (N,)."""
    return ratio_without(values, torch.ones_like(values, dtype=torch.float64), group, groups)


def number_without(ids: Tensor, group: Tensor, groups: int, number: int) -> Tensor:
    """How many of the ids 0 to ``number - 1`` occur; ``ids`` and their ``group`` are (R,)."""
    first = ids.new_full((number,), groups).scatter_reduce_(0, ids, group, "amin")
    last = ids.new_full((number,), -1).scatter_reduce_(0, ids, group, "amax")
    return number - torch.bincount(first[first == last], minlength=groups).double()


class GroupedCounts(NamedTuple):
    """An entry for each n-gram and group that has it, by n-gram, then group, (S,)."""

    groups: int
    num_grams: int
    gram: Tensor
    group: Tensor
    total: Tensor  # occurrences
    most: Tensor  # in one text
    second: Tensor  # most in another text of the group, 0 if there is none

    def occurrences_of(self, g: int) -> Tensor:
        """Occurrences of each n-gram in group ``g``, (U,)."""
        mine = self.group == g
        return self.total.new_zeros(self.num_grams).scatter_add_(0, self.gram[mine], self.total[mine])


def group_counts(counts: NgramCounts, group: Tensor, groups: int) -> GroupedCounts:
    """:class:`GroupedCounts` of these counts; ``group`` (N,) is that of each text."""
    base = int(counts.count.max()) + 1 if len(counts.count) else 1
    keys = ((counts.gram * groups + group[counts.text]) * base + (base - 1 - counts.count)).sort().values
    entry, count = keys // base, base - 1 - keys % base
    new = torch.ones_like(entry, dtype=torch.bool)
    torch.ne(entry[1:], entry[:-1], out=new[1:])
    starts = new.nonzero().squeeze(1)
    total = torch.zeros_like(starts).scatter_add_(0, new.cumsum(0) - 1, count)
    following = torch.cat([count, count.new_zeros(1)])[starts + 1]
    alone = torch.cat([new, new.new_ones(1)])[starts + 1]
    entry = entry[starts]
    return GroupedCounts(
        groups,
        len(counts.keys),
        entry // groups,
        entry % groups,
        total,
        count[starts],
        torch.where(alone, 0, following),
    )


def entropy_without(counts: NgramCounts, grouped: GroupedCounts) -> Tensor:
    """N-gram entropy as :func:`textgan.metrics.entropy.ngram_entropy` has it; 0 where no n-gram is left."""
    occurrences = counts.occurrences()
    here = occurrences[grouped.gram]
    change = _x_log_x(here - grouped.total) - _x_log_x(here)
    logs = _x_log_x(occurrences).sum() + change.new_zeros(grouped.groups).scatter_add_(0, grouped.group, change)
    left = sums_without(grouped.total, grouped.group, grouped.groups)
    return torch.where(left > 0, left.clamp(min=1).log() - logs / left.clamp(min=1), 0.0).clamp(min=0)


def _x_log_x(numbers: Tensor) -> Tensor:
    return torch.xlogy(numbers.double(), numbers.double())


def distinct_without(counts: NgramCounts, group: Tensor, groups: int) -> Tensor:
    """Distinct-n as :func:`textgan.metrics.distinct.distinct` has it."""
    of_entry = group[counts.text]
    total = sums_without(counts.count, of_entry, groups)
    different = number_without(counts.gram, of_entry, groups, len(counts.keys))
    return torch.where(total > 0, different / total.clamp(min=1), 0.0)


class Losses(NamedTuple):
    """Clipped matches that texts lose when a group is left out, (K,): all those that are not 0."""

    text: Tensor
    group: Tensor
    amount: Tensor

    def without(self, matches: Tensor, g: int) -> Tensor:
        """The ``matches`` of all texts (N,) without group ``g``."""
        mine = self.group == g
        return matches.scatter_add(0, self.text[mine], -self.amount[mine])


def largest_in_groups(grouped: GroupedCounts, rank: int) -> tuple[Tensor, Tensor]:
    """The ``rank`` groups in which a text holds each n-gram most often, falling: that count and the group.

    Both (rank, U); count 0 and group -1 where fewer groups hold it.
    """
    base = int(grouped.most.max()) + 1 if len(grouped.most) else 1
    order = (grouped.gram * base + (base - 1 - grouped.most)).sort(stable=True).indices
    starts = torch.searchsorted(grouped.gram, torch.arange(grouped.num_grams, device=grouped.gram.device))
    held = torch.bincount(grouped.gram, minlength=grouped.num_grams)
    count = grouped.most.new_zeros(rank, grouped.num_grams)
    group = grouped.most.new_full((rank, grouped.num_grams), -1)
    for k in range(rank):
        there = (held > k).nonzero().squeeze(1)
        at = order[starts[there] + k]
        count[k, there], group[k, there] = grouped.most[at], grouped.group[at]
    return count, group


def reference_losses(counts: NgramCounts, ids: Tensor, count: Tensor, group: Tensor) -> Losses:
    """What hypotheses lose when a group of their references is left out.

    Args:
        counts: of the hypotheses.
        ids: lookup of their n-grams among those of the references, -1 where these lack it.
        count, group: :func:`largest_in_groups` of the references, rank 2 or more.
    """
    found = (ids[counts.gram] >= 0).nonzero().squeeze(1)
    at = ids[counts.gram[found]]
    here = counts.count[found]
    lost = torch.minimum(here, count[0][at]) - torch.minimum(here, count[1][at])
    return _losses(counts.text[found], group[0][at], lost)


def self_losses(counts: NgramCounts, group: Tensor, grouped: GroupedCounts) -> Losses:
    """What texts lose of :func:`textgan.metrics.bleu.self_matches` when another group than their own is left out.

    The bound of an n-gram for a text is its largest count in any other text. It falls only when all the texts
    that hold that count are in one group, and only when this group goes.
    """
    several = (torch.bincount(grouped.gram, minlength=grouped.num_grams) > 1)[counts.gram].nonzero().squeeze(1)
    gram, text, here = counts.gram[several], counts.text[several], counts.count[several]
    own = group[text]
    entry = torch.searchsorted(grouped.gram * grouped.groups + grouped.group, gram * grouped.groups + own)
    beside = torch.where(here == grouped.most[entry], grouped.second[entry], grouped.most[entry])
    count, holder = largest_in_groups(grouped, 3)
    first_is_own = holder[0][gram] == own
    best = torch.where(first_is_own, count[1][gram], count[0][gram])
    best_group = torch.where(first_is_own, holder[1][gram], holder[0][gram])
    skip = first_is_own | (holder[1][gram] == own)
    next_best = torch.where(skip, count[2][gram], count[1][gram])
    left = torch.maximum(beside, next_best)
    lost = torch.minimum(here, torch.maximum(beside, best)) - torch.minimum(here, left)
    return _losses(text, best_group, lost)


def _losses(text: Tensor, group: Tensor, amount: Tensor) -> Losses:
    some = amount > 0
    return Losses(text[some], group[some], amount[some])


def self_bleu_without(matches: Tensor, losses: list[Losses], lengths: Tensor, group: Tensor, groups: int) -> Tensor:
    """Mean self-BLEU-n without group g at ``[n-1, g]``, (max_n, G).

    ``matches`` (max_n, N) and ``losses`` are of orders 1 to max_n; ``lengths`` and ``group`` (N,) are the texts'.
    """
    means = []
    for g in range(groups):
        kept = (group != g).nonzero().squeeze(1)
        left = torch.stack([loss.without(of_order, g)[kept] for of_order, loss in zip(matches, losses, strict=True)])
        scores = scores_from_matches(left, lengths[kept], closest_other_lengths(lengths[kept]))
        means.append(scores.mean(1))
    return torch.stack(means, dim=1)
