"""The n-gram metrics of one set of texts in one pass over its n-grams: of the set, without each group, by text."""

from collections.abc import Set
from dataclasses import dataclass, field

import torch
from torch import Tensor

from textgan.metrics.bleu import (
    References,
    closest_lengths,
    closest_other_lengths,
    reference_matches,
    scores_from_matches,
    self_matches,
)
from textgan.metrics.distinct import distinct, repetition, repetition_scores, text_ids
from textgan.metrics.entropy import ngram_entropy
from textgan.metrics.leaveout import (
    GroupedCounts,
    Losses,
    distinct_without,
    entropy_without,
    group_counts,
    mean_without,
    number_without,
    ratio_without,
    self_bleu_without,
    self_losses,
    sums_without,
)
from textgan.metrics.novelty import copied, new_counts, novelty
from textgan.ops.ngrams import NgramCounts, NgramLookup, NgramTable, Ragged, count_ngrams

BLEU_ORDERS = range(2, 6)
DISTINCT_ORDERS = range(1, 5)
REPETITION_ORDERS = (2, 4)
NOVELTY_ORDERS = range(2, 5)


@dataclass(frozen=True)
class Grouping:
    """Which group each text is in, (N,) long, and how many groups there are."""

    of_text: Tensor
    groups: int


@dataclass
class Measured:
    """What was found: a number by metric, (G,) tensors by metric, (N,) tensors by name."""

    values: dict[str, float] = field(default_factory=dict)
    without: dict[str, Tensor] = field(default_factory=dict)
    per_text: dict[str, Tensor] = field(default_factory=dict)


class BasicMetrics:
    """The metrics that training logs; fed with the counts of orders 1 to 5 in turn.

    Args:
        texts: the set.
        references: for ``bleu_*``, or None.
        train: n-grams of the training texts for ``novelty_*``, or None.
        train_keys: the training texts for ``copies``.
        grouping: for values without each group, or None.
        per_text: whether values by text are wanted.
    """

    def __init__(
        self,
        texts: Ragged,
        references: References | None,
        train: NgramTable | None,
        train_keys: Set[bytes],
        grouping: Grouping | None,
        per_text: bool,
    ):
        self.texts, self.references, self.train_keys = texts, references, train_keys
        self.grouping, self.per_text = grouping, per_text
        self.in_references = None if references is None else NgramLookup(references.table)
        self.in_train = None if train is None else NgramLookup(train)
        self.bleu_matches: list[Tensor] = []
        self.self_matches: list[Tensor] = []
        self.self_losses: list[Losses] = []
        self.found = Measured()

    def add(self, counts: NgramCounts, grouped: GroupedCounts | None) -> None:
        n, values, grouping = counts.n, self.found.values, self.grouping
        self.self_matches.append(self_matches(counts))
        if grouped is not None:
            self.self_losses.append(self_losses(counts, grouping.of_text, grouped))
        if self.in_references is not None:
            ids = self.in_references(counts)
            self.bleu_matches.append(reference_matches(counts, ids, self.references.table))
        if n in DISTINCT_ORDERS:
            values[f"distinct_{n}"] = distinct(counts)
            values[f"entropy_{n}"] = ngram_entropy(counts)
            if grouped is not None:
                without = distinct_without(counts, grouping.of_text, grouping.groups)
                self.found.without[f"distinct_{n}"] = without
                self.found.without[f"entropy_{n}"] = entropy_without(counts, grouped)
        if n in REPETITION_ORDERS:
            values[f"repetition_{n}"] = repetition(counts)
            self._shares(f"repetition_{n}", repetition_scores(counts))
        if self.in_train is not None and n <= NOVELTY_ORDERS[-1]:
            ids = self.in_train(counts)
            if n in NOVELTY_ORDERS:
                values[f"novelty_{n}"] = novelty(counts, ids)
                self._novelty(n, new_counts(counts, ids), counts.per_text(counts.count))

    def finish(self) -> Measured:
        texts, grouping = self.texts, self.grouping
        if self.references is not None:
            closest = closest_lengths(texts.lengths, self.references.lengths)
            scores = scores_from_matches(torch.stack(self.bleu_matches), texts.lengths, closest)
            for n in BLEU_ORDERS:
                self._mean(f"bleu_{n}", scores[n - 1])
        if len(texts.lengths) > 1:
            self._self_bleu()
        self._unique()
        if self.in_train is not None:
            self._mean("copies", copied(texts, self.train_keys).double(), per_text="copied")
        lengths = texts.lengths.double()
        self._mean("length_mean", lengths, per_text="length")
        self.found.values["length_sd"] = float(lengths.std(correction=0))
        if grouping is not None:
            spread = [lengths[grouping.of_text != g].std(correction=0) for g in range(grouping.groups)]
            self.found.without["length_sd"] = torch.stack(spread)
        return self.found

    def _mean(self, name: str, scores: Tensor, per_text: str | None = None) -> None:
        """A metric that is the mean of these values of the texts."""
        self.found.values[name] = float(scores.mean())
        if self.grouping is not None:
            self.found.without[name] = mean_without(scores, self.grouping.of_text, self.grouping.groups)
        if self.per_text:
            self.found.per_text[per_text or name] = scores

    def _shares(self, name: str, scores: Tensor) -> None:
        """What goes with a metric that is the mean over the texts whose value is not NaN."""
        if self.grouping is not None:
            some = ~scores.isnan()
            here = scores.nan_to_num(0.0)
            self.found.without[name] = ratio_without(here, some, self.grouping.of_text, self.grouping.groups)
        if self.per_text and name == "repetition_4":
            self.found.per_text[name] = scores

    def _novelty(self, n: int, new: Tensor, total: Tensor) -> None:
        name = f"novelty_{n}"
        if self.grouping is not None:
            self.found.without[name] = ratio_without(new, total, self.grouping.of_text, self.grouping.groups)
        if self.per_text and n == NOVELTY_ORDERS[-1]:
            self.found.per_text[name] = new.double() / total

    def _self_bleu(self) -> None:
        lengths, matches = self.texts.lengths, torch.stack(self.self_matches)
        scores = scores_from_matches(matches, lengths, closest_other_lengths(lengths))
        without = None
        if self.grouping is not None:
            of_text, groups = self.grouping.of_text, self.grouping.groups
            without = self_bleu_without(matches, self.self_losses, lengths, of_text, groups)
        for n in BLEU_ORDERS:
            name = f"self_bleu_{n}"
            self.found.values[name] = float(scores[n - 1].mean())
            if without is not None:
                self.found.without[name] = without[n - 1]
            if self.per_text:
                self.found.per_text[name] = scores[n - 1]

    def _unique(self) -> None:
        ids = text_ids(self.texts)
        number = int(ids.max()) + 1
        self.found.values["unique"] = number / len(ids)
        if self.grouping is not None:
            of_text, groups = self.grouping.of_text, self.grouping.groups
            left = sums_without(torch.ones_like(ids), of_text, groups)
            self.found.without["unique"] = number_without(ids, of_text, groups, number) / left


def measure(texts: Ragged, families: list, grouping: Grouping | None) -> Measured:
    """What these families of metrics, each built for ``texts``, find in them: one count of the n-grams for all."""
    for counts in count_ngrams(texts, BLEU_ORDERS[-1]):
        grouped = None if grouping is None else group_counts(counts, grouping.of_text, grouping.groups)
        for family in families:
            family.add(counts, grouped)
    found = Measured()
    for family in families:
        own = family.finish()
        found.values |= own.values
        found.without |= own.without
        found.per_text |= own.per_text
    return found
