"""Texts that were written for conditions: how far they keep to these, and how much they differ for one and the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from textgan.analysis.embedders import Embedder
from textgan.analysis.measures import TextSet, ratio_by_group
from textgan.data.story_features import story_condition
from textgan.data.story_grammar import StoryGrammar
from textgan.metrics.relevance import relevance, spread
from textgan.metrics.suite import Scorer, Scores

TIMES = 4  # texts written for one condition
MOST = 250  # conditions that so many are written for
WITHIN = ("self_bleu_2", "self_bleu_3", "distinct_2")


class RelevanceMeasure:
    """``relevance_X``, ``relevance_other_X``, ``relevance_auc_X`` and ``condition_spread_X``, X being the embedder.

    See :mod:`textgan.metrics.relevance`. Real values are those of the held-out pairs, and the spread that of real texts
    of one condition, where there are :data:`TIMES` of one.
    """

    def __init__(self, embedder: Embedder, references: Sequence[str], conditions: Sequence[str]):
        self.embedder, self._real = embedder, TextSet(list(references), conditions=list(conditions))
        self._known: dict[str, torch.Tensor] = {}

    def signature(self, n: int) -> dict[str, Any]:
        return {f"relevance_{self.embedder.name}": {"embedder": self.embedder.signature, **_shape(self._real)}}

    def __call__(self, texts: TextSet) -> Scores:
        if texts.conditions is None:
            return Scores({}, {})
        found, per_text = {}, {}
        unique = list(dict.fromkeys(texts.conditions))
        if len(unique) > 1:
            place = {condition: i for i, condition in enumerate(unique)}
            of = torch.tensor([place[condition] for condition in texts.conditions])
            values = relevance(self.embedder(texts.texts), self._embedded(unique), of)
            for name, each in zip(("relevance", "relevance_other", "relevance_auc"), values, strict=True):
                found[name] = ratio_by_group(each, np.ones(len(each)))
            per_text["relevance"] = values.own
        if texts.by_condition:
            vectors = self.embedder([text for group in texts.by_condition for text in group])
            each = spread(vectors.view(len(texts.by_condition), -1, vectors.shape[1]))
            found["condition_spread"] = (float(each.mean()), None)
        return _named(found, self.embedder.name, self.signature(len(texts.texts)), per_text)

    def real(self, n: int) -> dict[str, float]:
        return self(self._real._replace(by_condition=_groups(self._real))).values

    def _embedded(self, conditions: Sequence[str]) -> torch.Tensor:
        """Vectors of the conditions, each found once."""
        new = [condition for condition in conditions if condition not in self._known]
        if new:
            self._known |= dict(zip(new, self.embedder(new), strict=True))
        return torch.stack([self._known[condition] for condition in conditions])


class ConditionMeasure:
    """``condition_self_bleu_n`` and ``condition_distinct_n``: of texts of one condition among each other, on average.

    And of embedded stories ``obeyed``: the share that tells what was asked for, exactly.
    """

    def __init__(
        self,
        references: Sequence[str],
        conditions: Sequence[str],
        *,
        tokenize: str = "words",
        lowercase: bool = False,
        device: torch.device | str = "cpu",
        grammar: StoryGrammar | None = None,
        condition: str | None = None,
    ):
        """``grammar`` and ``condition``: of embedded stories, and what of them is asked for; see `story_features`."""
        self._scorer = Scorer(None, None, tokenize=tokenize, lowercase=lowercase, device=device)
        self._real = TextSet(list(references), conditions=list(conditions))
        self._grammar, self._condition = grammar, condition

    def signature(self, n: int) -> dict[str, Any]:
        return {"conditions": {**_shape(self._real), "obeyed": self._condition if self._grammar else None}}

    def __call__(self, texts: TextSet) -> Scores:
        found, per_text = {}, {}
        if texts.by_condition:
            scored = [self._scorer.score(group).values for group in texts.by_condition]
            for name in WITHIN:
                found[f"condition_{name}"] = (float(np.mean([values[name] for values in scored])), None)
        if self._grammar is not None and texts.conditions is not None:
            told = [story_condition(self._grammar, text, self._condition) for text in texts.texts]
            kept = np.array([a == b for a, b in zip(told, texts.conditions, strict=True)], dtype=float)
            found["obeyed"], per_text["obeyed"] = ratio_by_group(kept, np.ones(len(kept))), kept
        return _named(found, None, self.signature(len(texts.texts)), per_text)

    def real(self, n: int) -> dict[str, float]:
        return self(self._real._replace(by_condition=_groups(self._real))).values


def _shape(real: TextSet) -> dict[str, Any]:
    return {"real": len(real.texts), "conditions": len(set(real.conditions)), "times": TIMES, "most": MOST}


def _groups(real: TextSet) -> list[list[str]] | None:
    """:data:`TIMES` real texts of each condition that has so many; None where none has."""
    texts = defaultdict(list)
    for condition, text in zip(real.conditions, real.texts, strict=True):
        texts[condition].append(text)
    return [own[:TIMES] for own in texts.values() if len(own) >= TIMES][:MOST] or None


def _named(
    found: dict[str, tuple[float, np.ndarray | None]], end: str | None, signature: dict, per_text: dict
) -> Scores:
    """Scores of values with leave-group-out values (None: unknown), with ``end`` behind their names."""

    def named(name: str) -> str:
        return name if end is None else f"{name}_{end}"

    return Scores(
        {named(name): value for name, (value, _) in found.items()},
        signature,
        {named(name): groups for name, (_, groups) in found.items() if groups is not None},
        {named(name): values for name, values in per_text.items()},
    )
