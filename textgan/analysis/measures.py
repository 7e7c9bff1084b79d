"""What is measured of a set of texts, family by family; each gives values, leave-group-out values and values by text.

A measure is made once for a corpus and called for each set. ``signature(n)`` says what moves its values, before
anything is drawn; ``real(n)`` is what ``n`` real texts would get.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

import numpy as np

from textgan.data.named_corpora import Oracle
from textgan.metrics.jackknife import GROUPS
from textgan.metrics.suite import Scorer, Scores

# Metrics whose value depends on how many texts are looked at: of fewer real texts they would be no mark.
MOVE_WITH_N = ("self_bleu", "distinct", "entropy", "unique", "opening_self_bleu", "ms_jaccard", "bleu_b", "zipf")


class TextSet(NamedTuple):
    """N texts of one operating point; what is None is not known (texts from a file).

    Attributes:
        texts: the texts.
        log_probs: (N,) nats, under the model they were drawn from, at temperature 1.
        tokens: (N,) of the model, the end counted.
        truncated: (N,) bool, cut at the longest length.
        plain: whether they were drawn from the model itself, so that ``log_probs`` are those of the sampler.
        conditions: what each of them was written for.
        by_condition: other texts, of the same sampler: as many for each of some conditions.
    """

    texts: list[str]
    log_probs: np.ndarray | None = None
    tokens: np.ndarray | None = None
    truncated: np.ndarray | None = None
    plain: bool = False
    conditions: list[str] | None = None
    by_condition: list[list[str]] | None = None


class Measure(Protocol):
    """One family of metrics."""

    def signature(self, n: int) -> dict[str, Any]:
        """Everything that moves the values of ``n`` texts."""
        ...

    def __call__(self, texts: TextSet) -> Scores:
        """The metrics of a set that has what they need; others are left out."""
        ...

    def real(self, n: int) -> dict[str, float]:
        """The metrics of ``n`` real texts, as far as there are so many."""
        ...


class NgramMeasure:
    """All n-gram metrics, of :class:`textgan.metrics.suite.Scorer`."""

    def __init__(self, scorer: Scorer):
        self.scorer = scorer

    def signature(self, n: int) -> dict[str, Any]:
        return self.scorer.signature(n)

    def __call__(self, texts: TextSet) -> Scores:
        return self.scorer.score(texts.texts, groups=GROUPS, per_text=True, truncated=texts.truncated)

    def real(self, n: int) -> dict[str, float]:
        found = self.scorer.real(n)
        enough = found.signature["texts"] == n
        return {name: value for name, value in found.values.items() if enough or not name.startswith(MOVE_WITH_N)}


class LikelihoodMeasure:
    """``nll_div``: negative log-likelihood of the samples under the model that wrote them, nats a token.

    The model is taken at temperature 1 whatever the sampler was. Lu et al. 2018 ("Neural Text Generation: Past, Present
    and Beyond") call it NLL-diversity: low where a generator repeats what it is sure of.
    """

    def signature(self, n: int) -> dict[str, Any]:
        return {"nll_div": "own samples under the model at temperature 1, nats a token, end counted"}

    def __call__(self, texts: TextSet) -> Scores:
        if texts.log_probs is None or texts.tokens is None:
            return Scores({}, {})
        value, groups = ratio_by_group(-texts.log_probs, texts.tokens)
        per_text = {"log_prob": texts.log_probs, "tokens": texts.tokens}
        return Scores({"nll_div": value}, self.signature(len(texts.texts)), {"nll_div": groups}, per_text)

    def real(self, n: int) -> dict[str, float]:
        return {}


class GrammarMeasure:
    """Samples against the true distribution, where the corpus has one; nats a text.

    ``valid``: share of the samples that can occur. ``nll_true``: of these, under the truth. ``kl_from_model``:
    KL(model || truth) of the model restricted to valid texts (on all texts it is infinite as soon as one is not),
    E[log q(x) - log p(x)] - log valid; for plain samples only, as others have no known log q. ``nll_oracle``:
    ``nll_true`` a token, for oracles of fixed length (the papers' NLL_oracle).
    """

    def __init__(self, oracle: Oracle, length: int | None = None, *, pairs: bool = False):
        """``length``: tokens of every text of the oracle, where it is fixed.

        ``pairs``: texts are written for conditions. Their log-probabilities given these say nothing of a divergence
        from the truth of texts alone, so there is none.
        """
        self.oracle, self.length, self.pairs = oracle, length, pairs

    def signature(self, n: int) -> dict[str, Any]:
        return {"truth": f"valid samples, nats a text; {type(self.oracle).__name__}"}

    def __call__(self, texts: TextSet) -> Scores:
        true = np.array([self.oracle.log_prob(text) for text in texts.texts])
        valid = np.isfinite(true)
        values, groups = {}, {}
        values["valid"], groups["valid"] = ratio_by_group(valid, np.ones(len(true)))
        if _enough(valid):
            values["nll_true"], groups["nll_true"] = ratio_by_group(np.where(valid, -true, 0), valid)
            if texts.plain and texts.log_probs is not None and not self.pairs:
                gap, gaps = ratio_by_group(np.where(valid, texts.log_probs - np.where(valid, true, 0), 0), valid)
                values["kl_from_model"] = gap - math.log(values["valid"])
                groups["kl_from_model"] = gaps - np.log(groups["valid"])
            if self.length is not None:
                values["nll_oracle"] = values["nll_true"] / self.length
                groups["nll_oracle"] = groups["nll_true"] / self.length
        return Scores(values, self.signature(len(true)), groups, {"log_prob_true": true})

    def real(self, n: int) -> dict[str, float]:
        entropy, _ = self.oracle.entropy()
        values = {"valid": 1.0, "nll_true": entropy}
        if not self.pairs:
            values |= {"kl_from_model": 0.0, "kl_to_model": 0.0}
        if self.length is not None:
            values["nll_oracle"] = entropy / self.length
        return values


def ratio_by_group(above: np.ndarray, below: np.ndarray, groups: int = GROUPS) -> tuple[float, np.ndarray]:
    """Sum of ``above`` (N,) over sum of ``below`` (N,), and the same without the texts of group g, (G,).

    Text i is in group ``i % groups``.
    """
    of_text = np.arange(len(above)) % groups
    parts = [np.bincount(of_text, weights=values.astype(float), minlength=groups) for values in (above, below)]
    totals = [part.sum() for part in parts]
    return float(totals[0] / totals[1]), (totals[0] - parts[0]) / (totals[1] - parts[1])


def measure_all(measures: Iterable[Measure], texts: TextSet) -> Scores:
    """What all these measures find; values that are no finite numbers are left out."""
    values, groups, per_text = {}, {}, {}
    for measure in measures:
        found = measure(texts)
        values |= {name: value for name, value in found.values.items() if math.isfinite(value)}
        groups |= {name: value for name, value in found.groups.items() if np.isfinite(value).all()}
        per_text |= found.per_text
    return Scores(values, signature_of(measures, len(texts.texts)), groups, per_text)


def signature_of(measures: Iterable[Measure], n: int) -> dict[str, Any]:
    """What moves the values of all these measures."""
    whole: dict[str, Any] = {}
    for measure in measures:
        whole |= measure.signature(n)
    return whole


def real_values(measures: Iterable[Measure], n: int) -> dict[str, float]:
    """What ``n`` real texts get from all these measures."""
    whole: dict[str, float] = {}
    for measure in measures:
        whole |= measure.real(n)
    return {name: value for name, value in whole.items() if math.isfinite(value)}


def _enough(valid: np.ndarray) -> bool:
    """Whether some text is valid without any group."""
    of_text = np.arange(len(valid)) % GROUPS
    return len(set(of_text[valid])) > 1
