"""Metrics of embedded texts, and what a classifier can tell from real text, as measures of a set of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from textgan.analysis.embedders import Embedder
from textgan.analysis.measures import TextSet
from textgan.metrics.c2st import TwoSampleTest, c2st_embedded, c2st_wide, word_rows
from textgan.metrics.frechet import frechet_by_group, frechet_reference
from textgan.metrics.mauve import mauve, mauve_signature
from textgan.metrics.mmd import mmd_by_group, mmd_p_value, mmd_reference
from textgan.metrics.suite import Scores
from textgan.metrics.tokenize import TOKENIZE
from textgan.metrics.vendi import vendi_by_group

NEARLY = 0.9  # real values of fewer texts than this share of n would not compare with those of n


class EmbeddingMeasure:
    """``frechet_X`` and its relatives against held-out real text, X being the embedder's name.

    ``frechet_X``, ``frechet_inf_X``, ``mmd_X``, ``mmd_p_X``, ``mauve_X``, ``c2st_acc_X``, and ``vendi_X`` of the texts
    alone. Real values are of training text against the same references: the floor that a perfect generator has at this
    number of texts.
    """

    def __init__(self, embedder: Embedder, references: Sequence[str], train: Sequence[str]):
        self.embedder, self.train = embedder, train
        self._real = embedder(references)
        self._frechet = frechet_reference(self._real)
        self._mmd = mmd_reference(self._real)

    def signature(self, n: int) -> dict[str, Any]:
        parts = {
            "embedder": self.embedder.signature,
            "real": len(self._real),
            "mmd_bandwidth": round(self._mmd.bandwidth, 6),
            "mauve": mauve_signature(n, len(self._real)),
            "c2st": "logistic regression on embeddings, cross-fitted halves",
        }
        return {f"embedding_{self.embedder.name}": parts}

    def __call__(self, texts: TextSet) -> Scores:
        return self._scores(self.embedder(texts.texts))

    def real(self, n: int) -> dict[str, float]:
        drawn = draw_real(self.train, n)
        return self._scores(self.embedder(drawn)).values if len(drawn) >= NEARLY * n else {}

    def _scores(self, x: Tensor) -> Scores:
        found: dict[str, tuple[float, np.ndarray | None]] = dict(frechet_by_group(x, self._frechet))
        found["mmd"] = mmd_by_group(x, self._mmd)
        found["mmd_p"] = (mmd_p_value(x, self._mmd), None)
        divergence = mauve(x, self._real)
        found["mauve"] = (divergence.mauve, divergence.groups["mauve"])
        found["vendi"] = vendi_by_group(x)
        test = c2st_embedded(x, self._real)
        found["c2st_acc"] = (test.accuracy, test.groups["accuracy"])
        name = self.embedder.name
        return Scores(
            {f"{metric}_{name}": value for metric, (value, _) in found.items()},
            self.signature(len(x)),
            {f"{metric}_{name}": groups for metric, (_, groups) in found.items() if groups is not None},
        )


class ClassifierMeasure:
    """``c2st_acc`` and ``c2st_auc``: how well wide n-gram features tell the texts from held-out real ones."""

    def __init__(
        self,
        references: Sequence[str],
        train: Sequence[str],
        *,
        tokenize: str = "words",
        lowercase: bool = False,
        device: torch.device | str = "cpu",
    ):
        self.train, self.tokenize, self.lowercase, self.device = train, tokenize, lowercase, device
        self._real = self._rows(references)

    def signature(self, n: int) -> dict[str, Any]:
        each = min(n, len(self._real.lengths))
        return {"c2st": f"logistic regression on wide n-gram features, cross-fitted halves, {each} texts of each kind"}

    def __call__(self, texts: TextSet) -> Scores:
        found = self._test(texts.texts)
        groups = {"c2st_acc": found.groups["accuracy"], "c2st_auc": found.groups["auc"]}
        return Scores(_accuracy_and_auc(found), self.signature(len(texts.texts)), groups)

    def real(self, n: int) -> dict[str, float]:
        drawn = draw_real(self.train, n)
        enough = len(drawn) >= NEARLY * min(n, len(self._real.lengths))
        return _accuracy_and_auc(self._test(drawn)) if enough else {}

    def _test(self, texts: Sequence[str]) -> TwoSampleTest:
        return c2st_wide(self._rows(texts[: len(self._real.lengths)]), self._real)

    def _rows(self, texts: Sequence[str]):
        split = TOKENIZE[self.tokenize]
        return word_rows([split(text.lower() if self.lowercase else text) for text in texts], self.device)


def draw_real(texts: Sequence[str], n: int, seed: int = 0) -> list[str]:
    """``n`` of the texts without replacement, in random order; all where there are fewer."""
    rows = torch.randperm(len(texts), generator=torch.Generator().manual_seed(seed))[:n]
    return [texts[i] for i in rows.tolist()]


def _accuracy_and_auc(test: TwoSampleTest) -> dict[str, float]:
    return {"c2st_acc": test.accuracy, "c2st_auc": test.auc}
