"""Classifier two-sample test: can a classifier tell generated texts from real ones that it has not seen?

Source: Lopez-Paz and Oquab 2017, "Revisiting Classifier Two-Sample Tests". Two classifiers: logistic regression on the
wide features of :mod:`textgan.metrics.logistic` (which words go together), and on embeddings (what a text is like
as a whole). What a classifier misses it says nothing of; what it finds is there.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from textgan.metrics.embeddings import check_embeddings
from textgan.metrics.jackknife import GROUPS
from textgan.metrics.logistic import Features, concatenate, count_penalty, fit_logistic, wide_features
from textgan.ops.ngrams import Ragged

WIDE_L2 = 60.0  # of 0.1 to 250, the best or close to it from 1,000 to 5,000 captions of an n-gram model


class TwoSampleTest(NamedTuple):
    """How well generated and real texts are told apart.

    Attributes:
        accuracy: share of the texts that were tested which are told right, both kinds counted alike; near .5 where
            nothing tells them apart. A score on the fence counts half.
        lower, upper: Wilson interval of the accuracy at 95 %.
        p_value: of an accuracy as high as this if nothing told them apart; one-sided, exact binomial.
        auc: probability that a real text scores above a generated one.
        total_variation: lower bound ``2 accuracy - 1`` of the total variation distance of generator and truth, at
            least 0. The bound holds for the classifier's true accuracy, of which this is an estimate.
        texts: number of each kind, training and tested.
        groups: values of ``accuracy`` and ``auc`` without group g of the generated texts, (G,); the classifier and the
            real texts held fixed.
    """

    accuracy: float
    lower: float
    upper: float
    p_value: float
    auc: float
    total_variation: float
    texts: int
    groups: dict[str, np.ndarray]


def c2st_wide(
    generated: Ragged | Sequence[Sequence[int]],
    real: Ragged | Sequence[Sequence[int]],
    *,
    l2: float = WIDE_L2,
    cross_fit: bool = True,
    groups: int = GROUPS,
    seed: int = 0,
) -> TwoSampleTest:
    """The test with logistic regression on wide features of texts as rows of ids (:func:`word_rows`).

    Args:
        generated, real: the texts; of each the first ``min(N, M)`` are used, so that guessing is right half the time.
        l2: strength of the penalty, for each weight times the root of its feature's count.
        cross_fit: train on each half and test on the other; False: train on the first half only.
        groups: number of groups left out in turn; 0 for none.
        seed: of the cut into halves.

    Raises:
        ValueError: fewer than 4 texts of a kind.
    """
    features = [wide_features(texts) for texts in (generated, real)]

    def scores(train: list[Features], test: list[Features]) -> list[Tensor]:
        seen = torch.cat([part.indices for part in train]).unique()
        train, test = ([_compact(part, seen) for part in parts] for parts in (train, test))
        both = concatenate(train)
        fit = fit_logistic(both, _labels(train), l2, penalty=count_penalty(both))
        return [fit.score(part) for part in test]

    return _two_sample_test(features, scores, cross_fit, groups, seed)


def c2st_embedded(
    x: Tensor, y: Tensor, *, cross_fit: bool = True, groups: int = GROUPS, seed: int = 0
) -> TwoSampleTest:
    """The test with logistic regression on embeddings (N, D) of generated and (M, D) of real texts.

    Each column is scaled to variance 1 in the training half; the penalty D makes the log-odds of a text vary about 1
    before it has seen anything. Arguments and errors as for :func:`c2st_wide`.
    """
    check_embeddings(x, y)

    def scores(train: list[Tensor], test: list[Tensor]) -> list[Tensor]:
        both = torch.cat(train)
        mean, sd = both.mean(0), both.std(0)
        sd = torch.where(sd > 1e-6 * sd.max(), sd, torch.inf)  # a column that is constant says nothing
        fit = fit_logistic((both - mean) / sd, _labels(train), float(x.shape[1]))
        return [fit.score((part - mean) / sd) for part in test]

    return _two_sample_test([x, y], scores, cross_fit, groups, seed)


def c2st_signature(n: int, m: int, *, wide: bool, cross_fit: bool = True, seed: int = 0) -> str:
    """Everything but the embedding or the words that moves the value of n and m texts, in one line."""
    features = f"wide n-grams l2={WIDE_L2:g}" if wide else "embedding l2=size"
    halves = "2 halves cross-fitted" if cross_fit else "first half trained on"
    return f"logistic regression, {features}, {halves}, texts={min(n, m)} seed={seed}"


def word_rows(rows: Sequence[Sequence[str]], device: torch.device | str = "cpu") -> Ragged:
    """Tokenised texts as ids for :func:`c2st_wide`; a word's id is a hash of it, the same whatever else there is."""
    ids = {}
    for word in set(chain.from_iterable(rows)):
        digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        ids[word] = int.from_bytes(digest, "little") >> 1
    tokens = torch.tensor([ids[word] for row in rows for word in row], dtype=torch.long)
    return Ragged(tokens.to(device), torch.tensor([len(row) for row in rows], dtype=torch.long).to(device))


def binomial_p_value(correct: int, tested: int) -> float:
    """Probability of at least so many heads in so many throws of a fair coin."""
    if correct <= 0:
        return 1.0
    heads = torch.arange(correct, tested + 1, dtype=torch.double)
    ways = math.lgamma(tested + 1) - torch.lgamma(heads + 1) - torch.lgamma(tested - heads + 1)
    return min(1.0, float((ways - tested * math.log(2)).exp().sum()))


def wilson_interval(share: float, tested: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of a probability of which ``share`` of so many trials is the estimate (Wilson 1927)."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    middle = (share + z**2 / (2 * tested)) / (1 + z**2 / tested)
    half = z / (1 + z**2 / tested) * math.sqrt(share * (1 - share) / tested + z**2 / (4 * tested**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def _compact(features: Features, seen: Tensor) -> Features:
    """The features with one column for each that was seen in training, and a last one for all others.

    The fit is the same, as weights of features that never occur stay 0, and quicker.
    """
    at = torch.searchsorted(seen, features.indices)
    known = seen[at.clamp(max=len(seen) - 1)] == features.indices
    return replace(features, indices=torch.where(known, at, len(seen)), dim=len(seen) + 1)


def _labels(parts) -> Tensor:
    """0 for each row of the first part, 1 for each of the second."""
    return torch.cat([torch.full((len(part),), float(label)) for label, part in enumerate(parts)])


def _two_sample_test(kinds: list, scores, cross_fit: bool, groups: int, seed: int) -> TwoSampleTest:
    """The test for features of generated and real texts.

    ``scores(train, test)`` gets the features of both kinds to train on and to test, and returns the log-odds of being
    real of each of the latter.
    """
    n = min(map(len, kinds))
    if n < 4:
        raise ValueError(f"a two-sample test needs at least 4 texts of each kind, got {n}")
    generator = torch.Generator().manual_seed(seed)
    halves = []  # of each kind, two sets of rows
    for _ in kinds:
        order = torch.randperm(n, generator=generator)
        halves.append((order[: n // 2].sort().values, order[n // 2 :].sort().values))
    right = torch.zeros(2, n, dtype=torch.double)  # how far each text is told right, of each kind
    above = torch.zeros(n, dtype=torch.double)  # share of real texts above each generated one
    tested = torch.zeros(2, n, dtype=torch.bool)
    for trained in (0, 1) if cross_fit else (0,):
        train, test = (
            [_select(kind, half[i]) for kind, half in zip(kinds, halves, strict=True)] for i in (trained, 1 - trained)
        )
        generated, real = (score.cpu() for score in scores(train, test))
        for kind, score in enumerate((-generated, real)):
            rows = halves[kind][1 - trained]
            right[kind, rows] = (score > 0).double() + (score == 0).double() / 2
            tested[kind, rows] = True
        ordered = real.sort().values
        ranks = [torch.searchsorted(ordered, generated, right=side) for side in (False, True)]
        above[halves[0][1 - trained]] = 1 - (ranks[0] + ranks[1]).double() / 2 / len(ordered)
    right_real = float(right[1, tested[1]].mean())

    def measured(kept: Tensor) -> tuple[float, float]:
        return (float(right[0, kept].mean()) + right_real) / 2, float(above[kept].mean())

    accuracy, auc = measured(tested[0])
    group = torch.arange(n) % max(groups, 1)
    left = np.array([measured(tested[0] & (group != g)) for g in range(groups)]).reshape(groups, 2)
    # Both halves go the same way by chance: what sets one half's texts apart is what is sought in the other. So
    # cross-fitting counts as one half tested, which makes interval and p-value too wide rather than too narrow.
    trials = 2 * (n - n // 2)
    return TwoSampleTest(
        accuracy,
        *wilson_interval(accuracy, trials),
        p_value=binomial_p_value(math.floor(accuracy * trials + 1e-6), trials),
        auc=auc,
        total_variation=max(0.0, 2 * accuracy - 1),
        texts=n,
        groups={"accuracy": left[:, 0], "auc": left[:, 1]},
    )


def _select(kind: Features | Tensor, rows: Tensor):
    return kind.select(rows) if isinstance(kind, Features) else kind[rows.to(kind.device)]
