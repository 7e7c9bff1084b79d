"""All measures of a corpus, as they are asked for by name."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from textgan.analysis.condition_measures import ConditionMeasure, RelevanceMeasure
from textgan.analysis.embedders import load_embedder
from textgan.analysis.embedding_measures import ClassifierMeasure, EmbeddingMeasure
from textgan.analysis.lm_measures import LmMeasure
from textgan.analysis.lm_scores import KneserNeyScorer, RealText
from textgan.analysis.measures import GrammarMeasure, LikelihoodMeasure, Measure, NgramMeasure
from textgan.analysis.neural_lm import NeuralScorer
from textgan.data.named_corpora import Oracle
from textgan.errors import UserError
from textgan.metrics.suite import Scorer

LANGUAGE_MODELS = {"kn": KneserNeyScorer, "neural": NeuralScorer}


def make_measures(
    references: Sequence[str],
    train: Sequence[str],
    *,
    tokenize: str = "words",
    lowercase: bool = False,
    device: torch.device | str = "cpu",
    embedders: Sequence[str] = ("ngrams",),
    embedder_texts: Sequence[str] | None = None,
    lm: Sequence[str] = ("kn",),
    oracle: Oracle | None = None,
    oracle_length: int | None = None,
    conditions: Sequence[str] | None = None,
    condition: str | None = None,
) -> list[Measure]:
    """The measures of a corpus.

    Args:
        references: held-out real texts.
        train: the training texts.
        tokenize, lowercase: what counts as a token, see :class:`textgan.metrics.suite.Scorer`.
        embedders: names for :func:`textgan.analysis.embedders.load_embedder`; none leaves embeddings out.
        embedder_texts: what the embedder ``lm`` is trained on; the references where it is None.
        lm: language models of the forward and reverse scores, of :data:`LANGUAGE_MODELS`.
        oracle: the true distribution, where there is one; ``oracle_length`` where its texts have one length.
        conditions: what each reference was written for, where texts are; ``condition`` is the name of that.

    Raises:
        UserError: an unknown name, an extra that is not installed, or texts too few for a measure.
    """
    for name in lm:
        if name not in LANGUAGE_MODELS:
            raise UserError(f"unknown language model {name!r} for lm scores; choose of {', '.join(LANGUAGE_MODELS)}")
    hubs = [name for name in dict.fromkeys(embedders) if name.startswith("hf:")]
    if len(hubs) > 1:
        raise UserError(f"embedders {', '.join(hubs)}: the metrics of all would be called ..._hf; give one of them")
    words = {"tokenize": tokenize, "lowercase": lowercase}
    scorer = Scorer(references, train, **words, device=device, full=True)
    measures: list[Measure] = [NgramMeasure(scorer), LikelihoodMeasure()]
    for name in dict.fromkeys(embedders):
        embedder = load_embedder(name, **words, device=device, texts=embedder_texts or references)
        measures.append(EmbeddingMeasure(embedder, references, train))
        if conditions is not None:
            measures.append(RelevanceMeasure(embedder, references, conditions))
    measures.append(ClassifierMeasure(references, train, **words, device=device))
    if lm:
        real = RealText(train, references, **words)
        measures += [LmMeasure(LANGUAGE_MODELS[name](real, device=device)) for name in dict.fromkeys(lm)]
    if conditions is not None:
        told = {} if oracle is None else {"grammar": oracle, "condition": condition}
        measures.append(ConditionMeasure(references, conditions, **words, device=device, **told))
    if oracle is not None:
        measures.append(GrammarMeasure(oracle, oracle_length, pairs=conditions is not None))
    return measures
