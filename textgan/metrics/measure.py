"""The n-gram metrics of one set of texts in one pass over its n-grams: of the set, without each group, by text."""

from collections.abc import Set
from dataclasses import dataclass

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


class Measured:
    """What is found of a set: a number by metric, (G,) tensors by metric, (N,) tensors by name.

    Args:
        grouping: for values without each group, or None.
        by_text: whether values by text are kept.
    """

    def __init__(self, grouping: Grouping | None, by_text: bool):
        self.grouping, self.by_text = grouping, by_text
        self.values: dict[str, float] = {}
        self.without: dict[str, Tensor] = {}
        self.per_text: dict[str, Tensor] = {}

    def mean(self, name: str, scores: Tensor, per_text: str | None = None) -> None:
        """Add a metric that is the mean of these values of the texts, which go by ``per_text`` where kept."""
        self.values[name] = float(scores.mean())
        if self.grouping is not None:
            self.without[name] = mean_without(scores, self.grouping.of_text, self.grouping.groups)
        self.text_by_text(per_text or name, scores)

    def whole_and_without(self, name: str, column: Tensor) -> None:
        """Add a metric from its value and those without each group, (1 + G,) or (1,)."""
        self.values[name] = float(column[0])
        if self.grouping is not None:
            self.without[name] = column[1:]

    def text_by_text(self, name: str, scores: Tensor) -> None:
        if self.by_text:
            self.per_text[name] = scores


class BasicMetrics:
    """The metrics that training logs; fed with the counts of orders 1 to 5 in turn.

    Args:
        texts: the set.
        references: for ``bleu_*``, or None.
        train: n-grams of the training texts for ``novelty_*``, or None.
        train_keys: the training texts for ``copies``.
        found: where the values go.
    """

    def __init__(
        self,
        texts: Ragged,
        references: References | None,
        train: NgramTable | None,
        train_keys: Set[bytes],
        found: Measured,
    ):
        self.texts, self.references, self.train_keys = texts, references, train_keys
        self.found, self.grouping = found, found.grouping
        self.in_references = None if references is None else NgramLookup(references.table)
        self.in_train = None if train is None else NgramLookup(train)
        self.bleu_matches: list[Tensor] = []
        self.self_matches: list[Tensor] = []
        self.self_losses: list[Losses] = []

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
            self._repetition(counts)
        if self.in_train is not None and n <= NOVELTY_ORDERS[-1]:
            ids = self.in_train(counts)
            if n in NOVELTY_ORDERS:
                self._novelty(counts, ids)

    def finish(self) -> None:
        texts, found, grouping = self.texts, self.found, self.grouping
        if self.references is not None:
            closest = closest_lengths(texts.lengths, self.references.lengths)
            scores = scores_from_matches(torch.stack(self.bleu_matches), texts.lengths, closest)
            for n in BLEU_ORDERS:
                found.mean(f"bleu_{n}", scores[n - 1])
        if len(texts.lengths) > 1:
            scores, without = self_bleu_of(self.self_matches, self.self_losses, texts.lengths, grouping)
            for n in BLEU_ORDERS:
                found.whole_and_without(f"self_bleu_{n}", torch.cat([scores[n - 1].mean(0, True), without[n - 1]]))
                found.text_by_text(f"self_bleu_{n}", scores[n - 1])
        self._unique()
        if self.in_train is not None:
            found.mean("copies", copied(texts, self.train_keys).double(), per_text="copied")
        lengths = texts.lengths.double()
        found.mean("length_mean", lengths, per_text="length")
        found.values["length_sd"] = float(lengths.std(correction=0))
        if grouping is not None:
            spread = [lengths[grouping.of_text != g].std(correction=0) for g in range(grouping.groups)]
            found.without["length_sd"] = torch.stack(spread)

    def _repetition(self, counts: NgramCounts) -> None:
        name, scores = f"repetition_{counts.n}", repetition_scores(counts)
        self.found.values[name] = repetition(counts)
        if self.grouping is not None:
            of_text, groups = self.grouping.of_text, self.grouping.groups
            self.found.without[name] = ratio_without(scores.nan_to_num(0.0), ~scores.isnan(), of_text, groups)
        if counts.n == REPETITION_ORDERS[-1]:
            self.found.text_by_text(name, scores)

    def _novelty(self, counts: NgramCounts, ids: Tensor) -> None:
        name, new, total = f"novelty_{counts.n}", new_counts(counts, ids), counts.per_text(counts.count)
        self.found.values[name] = novelty(counts, ids)
        if self.grouping is not None:
            self.found.without[name] = ratio_without(new, total, self.grouping.of_text, self.grouping.groups)
        if counts.n == NOVELTY_ORDERS[-1]:
            self.found.text_by_text(name, new.double() / total)

    def _unique(self) -> None:
        ids = text_ids(self.texts)
        number = int(ids.max()) + 1
        self.found.values["unique"] = number / len(ids)
        if self.grouping is not None:
            of_text, groups = self.grouping.of_text, self.grouping.groups
            left = sums_without(torch.ones_like(ids), of_text, groups)
            self.found.without["unique"] = number_without(ids, of_text, groups, number) / left


def self_bleu_of(
    matches: list[Tensor], losses: list[Losses], lengths: Tensor, grouping: Grouping | None
) -> tuple[Tensor, Tensor]:
    """Self-BLEU-n of text i at ``[n-1, i]``, (max_n, N), and of the set without group g at ``[n-1, g]``, (max_n, G).

    G is 0 where there is no grouping. ``matches`` (N,) and ``losses`` are of orders 1 to max_n.
    """
    stacked = torch.stack(matches)
    scores = scores_from_matches(stacked, lengths, closest_other_lengths(lengths))
    if grouping is None:
        return scores, scores.new_empty(len(matches), 0)
    return scores, self_bleu_without(stacked, losses, lengths, grouping.of_text, grouping.groups)


def measure(texts: Ragged, families: list, grouping: Grouping | None) -> None:
    """Feed the counts of orders 1 to 5 of these texts to families of metrics, and have them finish."""
    for counts in count_ngrams(texts, BLEU_ORDERS[-1]):
        grouped = None if grouping is None else group_counts(counts, grouping.of_text, grouping.groups)
        for family in families:
            family.add(counts, grouped)
    for family in families:
        family.finish()
