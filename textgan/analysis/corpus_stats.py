"""What a corpus looks like: sizes, words, lengths, and how diverse real text is."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from textgan.metrics.suite import Scorer
from textgan.metrics.tokenize import TOKENIZE

HISTOGRAM_ROWS = 12


@dataclass(frozen=True)
class Lengths:
    """Tokens a text. histogram: (shortest, longest, texts) of each bar; the last one holds all that is longer."""

    mean: float
    sd: float
    min: int
    median: int
    p95: int
    p99: int
    max: int
    histogram: list[tuple[int, int, int]]


@dataclass(frozen=True)
class SplitStats:
    """Counts of a set of texts.

    vocabulary: different tokens. once: of these, the ones that occur once. unknown: share of the tokens that
    the training texts lack (None for the training texts). measured: number of texts behind `metrics`, which
    hold distinct-1 to 4 and self-BLEU-2 to 5 and depend on it; signature: everything else that moves them.
    """

    texts: int
    characters: int
    tokens: int
    vocabulary: int
    once: int
    unknown: float | None
    lengths: Lengths
    measured: int
    metrics: dict[str, float]
    signature: dict[str, object]


def split_stats(
    texts: Sequence[str],
    *,
    tokenize: str = "words",
    lowercase: bool = False,
    sample: int = 10_000,
    seed: int = 0,
    known: Collection[str] | None = None,
) -> tuple[SplitStats, set[str]]:
    """The statistics of `texts`, and their vocabulary (to hand in as `known` for held-out texts).

    Args:
        texts: at least one.
        tokenize, lowercase: what counts as a token, as in `textgan.metrics.suite.Scorer`.
        sample: distinct-n and self-BLEU are of at most so many texts, drawn with `seed`.
        known: the tokens of the training texts.
    """
    split = TOKENIZE[tokenize]
    counts: Counter[str] = Counter()
    lengths = []
    for text in texts:
        tokens = split(text.lower() if lowercase else text)
        lengths.append(len(tokens))
        counts.update(tokens)
    total = sum(lengths)
    unknown = None
    if known is not None:
        unknown = sum(n for token, n in counts.items() if token not in known) / max(total, 1)
    drawn = texts
    if len(texts) > sample:
        drawn = [texts[i] for i in sorted(random.Random(seed).sample(range(len(texts)), sample))]
    scores = Scorer(None, None, tokenize=tokenize, lowercase=lowercase).score(drawn)
    stats = SplitStats(
        texts=len(texts),
        characters=sum(map(len, texts)),
        tokens=total,
        vocabulary=len(counts),
        once=sum(n == 1 for n in counts.values()),
        unknown=unknown,
        lengths=_lengths(np.array(lengths)),
        measured=len(drawn),
        metrics={k: v for k, v in scores.values.items() if k.startswith(("distinct_", "self_bleu_"))},
        signature=scores.signature,
    )
    return stats, set(counts)


def _lengths(lengths: np.ndarray) -> Lengths:
    median, p95, p99 = (int(np.quantile(lengths, q, method="higher")) for q in (0.5, 0.95, 0.99))
    width = _round_width(max(p99 - int(lengths.min()), 1) / (HISTOGRAM_ROWS - 1))
    first = int(lengths.min()) // width * width
    rows = np.minimum((lengths - first) // width, HISTOGRAM_ROWS - 1)
    counts = np.bincount(rows)
    histogram = [(first + i * width, first + (i + 1) * width - 1, int(n)) for i, n in enumerate(counts)]
    histogram[-1] = (histogram[-1][0], int(lengths.max()), histogram[-1][2])
    return Lengths(
        mean=float(lengths.mean()),
        sd=float(lengths.std()),
        min=int(lengths.min()),
        median=median,
        p95=p95,
        p99=p99,
        max=int(lengths.max()),
        histogram=histogram,
    )


def _round_width(width: float) -> int:
    """The smallest of 1, 2, 5, 10, 20, 50, ... that is at least `width`."""
    scale = 1
    while True:
        for step in (1, 2, 5):
            if step * scale >= width:
                return step * scale
        scale *= 10
