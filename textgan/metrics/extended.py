"""The metrics that evaluation adds to those of training: against references and training texts as wholes."""

from collections.abc import Sequence, Set
from typing import NamedTuple

import torch
from torch import Tensor

from textgan.metrics.bleu import closest_lengths, reference_matches, scores_from_matches, self_matches
from textgan.metrics.distinct import distinct
from textgan.metrics.joint import ms_jaccard, multiset_jaccard
from textgan.metrics.leaveout import (
    GroupedCounts,
    Losses,
    distinct_without,
    group_counts,
    largest_in_groups,
    reference_losses,
    self_losses,
    sums_without,
)
from textgan.metrics.lengths import length_distance
from textgan.metrics.measure import BLEU_ORDERS, DISTINCT_ORDERS, Measured, self_bleu_of
from textgan.metrics.nearest import ORDER, TrainingTexts, nearest_similarity
from textgan.metrics.novelty import copied
from textgan.metrics.zipf import zipf_exponent
from textgan.ops.ngrams import NgramCounts, NgramLookup, NgramTable, Ragged, count_ngrams


class ReferenceCounts(NamedTuple):
    """The references as BLEU-B, MS-Jaccard and the length distance need them."""

    counts: list[NgramCounts]  # orders 1 to 5
    lengths: Tensor


def reference_counts(references: Ragged) -> ReferenceCounts:
    """The :class:`ReferenceCounts` of these texts."""
    return ReferenceCounts(list(count_ngrams(references, BLEU_ORDERS[-1])), references.lengths)


class ExtendedMetrics:
    """``bleu_b``, ``ms_jaccard``, ``distinct_budget``, ``opening_self_bleu``, ``nearest_train``, ``zipf`` and more.

    Args:
        texts: the set; fed with its counts of orders 1 to 5 in turn.
        openings: first sentence of each text.
        references: for ``bleu_b_*``, ``ms_jaccard_*`` and ``length_w1``, or None.
        train: for ``nearest_train``, or None.
        train_table: n-grams of the training texts; ``train_keys``: their ``Ragged.keys()``.
        budget: tokens for ``distinct_budget_*``, or None.
        truncated: whether each text was cut short by the sampler, or None.
        found: where the values go.
    """

    def __init__(
        self,
        texts: Ragged,
        openings: Ragged,
        references: ReferenceCounts | None,
        train: TrainingTexts | None,
        train_table: NgramTable | None,
        train_keys: Set[bytes],
        budget: int | None,
        truncated: Sequence[bool] | None,
        found: Measured,
    ):
        self.texts, self.openings, self.references, self.train = texts, openings, references, train
        self.train_keys, self.budget, self.truncated = train_keys, budget, truncated
        self.found, self.grouping = found, found.grouping
        self.in_train = None if train is None else NgramLookup(train_table)
        self.in_texts: NgramLookup | None = None
        self.matches: list[Tensor] = []
        self.losses: list[Losses] = []
        self.jaccard: list[Tensor] = []  # (1 + G,): of the set, then without each group

    def add(self, counts: NgramCounts, grouped: GroupedCounts | None) -> None:
        if self.references is not None:
            self._against_references(counts, grouped)
        if counts.n == 1:
            self._zipf(counts, grouped)
        if self.train is not None and counts.n <= ORDER:
            ids = self.in_train(counts)
            if counts.n == ORDER:
                similarity = nearest_similarity(counts, ids, self.train)
                self.found.mean("nearest_train", torch.where(copied(self.texts, self.train_keys), 1.0, similarity))

    def finish(self) -> None:
        if self.references is not None:
            self._bleu_b()
            self._ms_jaccard()
            self._length_distance()
        if self.budget is not None and self.budget <= int(self.texts.lengths.sum()):
            self._distinct_budget()
        if len(self.openings.lengths) > 1:
            self._openings()
        if self.truncated is not None:
            flags = torch.tensor([bool(flag) for flag in self.truncated], device=self.texts.lengths.device)
            self.found.mean("truncated", flags.double())

    def _against_references(self, counts: NgramCounts, grouped: GroupedCounts | None) -> None:
        """What BLEU-B and MS-Jaccard need of one order: the references' n-grams are looked up among the texts'."""
        if self.in_texts is None:
            self.in_texts = NgramLookup(NgramTable(counts.base, [], []))
        table = self.in_texts.table
        table.keys.append(counts.keys)
        table.most.append(torch.zeros_like(counts.keys).scatter_reduce_(0, counts.gram, counts.count, "amax"))
        theirs = self.references.counts[counts.n - 1]
        ids = self.in_texts(theirs)
        self.matches.append(reference_matches(theirs, ids, table))
        occurrences, found = counts.occurrences(), ids >= 0
        their_occurrences = theirs.occurrences()
        ids_found, theirs_found = ids[found], their_occurrences[found]
        num_texts, num_references = len(self.texts.lengths), len(self.references.lengths)
        total, their_total = occurrences.sum(), their_occurrences.sum()
        shared = torch.stack([occurrences[ids_found], theirs_found])
        jaccard = [multiset_jaccard(shared, total, their_total, total.new_tensor(num_texts), num_references)]
        if grouped is not None:
            of_text, groups = self.grouping.of_text, self.grouping.groups
            self.losses.append(reference_losses(theirs, ids, *largest_in_groups(grouped, 2)))
            left = sums_without(torch.ones_like(of_text), of_text, groups)
            totals = sums_without(grouped.total, grouped.group, groups)
            for g in range(groups):
                here = (occurrences - grouped.occurrences_of(g))[ids_found]
                shared = torch.stack([here, theirs_found])
                jaccard.append(multiset_jaccard(shared, totals[g], their_total, left[g], num_references))
        self.jaccard.append(torch.stack(jaccard))

    def _bleu_b(self) -> None:
        lengths = self.texts.lengths
        means = [self._bleu_b_of(self.matches, lengths)]
        if self.grouping is not None:
            for g in range(self.grouping.groups):
                matches = [loss.without(some, g) for some, loss in zip(self.matches, self.losses, strict=True)]
                means.append(self._bleu_b_of(matches, lengths[self.grouping.of_text != g]))
        columns = torch.stack(means, dim=1)
        for n in BLEU_ORDERS:
            self.found.whole_and_without(f"bleu_b_{n}", columns[n - 1])

    def _bleu_b_of(self, matches: list[Tensor], lengths: Tensor) -> Tensor:
        closest = closest_lengths(self.references.lengths, lengths.unique())
        return scores_from_matches(torch.stack(matches), self.references.lengths, closest).mean(1)

    def _ms_jaccard(self) -> None:
        means = ms_jaccard(self.jaccard)
        for n in BLEU_ORDERS:
            self.found.whole_and_without(f"ms_jaccard_{n}", means[n - 1])

    def _length_distance(self) -> None:
        lengths, theirs = self.texts.lengths, self.references.lengths
        distances = [length_distance(lengths, theirs)]
        if self.grouping is not None:
            kept = [self.grouping.of_text != g for g in range(self.grouping.groups)]
            distances += [length_distance(lengths[some], theirs) for some in kept]
        self.found.whole_and_without("length_w1", torch.tensor(distances, dtype=torch.float64))

    def _zipf(self, counts: NgramCounts, grouped: GroupedCounts | None) -> None:
        occurrences = counts.occurrences()
        exponents = [zipf_exponent(occurrences)]
        if grouped is not None:
            exponents += [zipf_exponent(occurrences - grouped.occurrences_of(g)) for g in range(grouped.groups)]
        self.found.whole_and_without("zipf", torch.tensor(exponents, dtype=torch.float64))

    def _distinct_budget(self) -> None:
        """Distinct-n of the first ``budget`` tokens; without group g, of those of them that are not in its texts."""
        kept = first_tokens(self.texts, self.budget)
        for counts in count_ngrams(kept, DISTINCT_ORDERS[-1]):
            name = f"distinct_budget_{counts.n}"
            self.found.values[name] = distinct(counts)
            if self.grouping is not None:
                self.found.without[name] = distinct_without(counts, self.grouping.of_text, self.grouping.groups)

    def _openings(self) -> None:
        matches, losses, grouping = [], [], self.grouping
        for counts in count_ngrams(self.openings, BLEU_ORDERS[-1], shared_only=True):
            matches.append(self_matches(counts))
            if grouping is not None:
                grouped = group_counts(counts, grouping.of_text, grouping.groups)
                losses.append(self_losses(counts, grouping.of_text, grouped))
        scores, without = self_bleu_of(matches, losses, self.openings.lengths, grouping)
        for n in BLEU_ORDERS:
            name = f"opening_self_bleu_{n}"
            self.found.whole_and_without(name, torch.cat([scores[n - 1].mean(0, True), without[n - 1]]))


def first_tokens(texts: Ragged, budget: int) -> Ragged:
    """The texts cut after the first ``budget`` tokens of all; those behind are empty."""
    before = texts.lengths.cumsum(0) - texts.lengths
    lengths = torch.minimum(texts.lengths, (budget - before).clamp(min=0))
    return Ragged(texts.tokens[:budget], lengths)
