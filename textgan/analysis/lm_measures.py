"""Forward and reverse language-model scores as measures of a set of texts."""

from __future__ import annotations

from typing import Any

from textgan.analysis.lm_scores import KneserNeyScorer
from textgan.analysis.measures import TextSet
from textgan.analysis.neural_lm import NeuralScorer
from textgan.metrics.jackknife import GROUPS
from textgan.metrics.suite import Scores


class LmMeasure:
    """``lm_X`` and ``rlm_X`` of a scorer of :mod:`textgan.analysis.lm_scores` or :mod:`textgan.analysis.neural_lm`."""

    def __init__(self, scorer: KneserNeyScorer | NeuralScorer):
        self.scorer = scorer

    def signature(self, n: int) -> dict[str, Any]:
        return self.scorer.signature(n)

    def __call__(self, texts: TextSet) -> Scores:
        return self.scorer.score(texts.texts, groups=GROUPS, per_text=True)

    def real(self, n: int) -> dict[str, float]:
        return self.scorer.real(n).values
