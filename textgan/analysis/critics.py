"""Critics to certify: the one that a run trained, and a wide one fitted for the purpose.

Neither sees unknown words: they are rarer in training text than in any other by construction, and a critic that saw
them would know real text by them. They are left out of the texts on both sides, which is a function of the text like
any other, so that a certificate stays exact.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from textgan.metrics.certificate import calibrate, value_of
from textgan.metrics.logistic import Features, Logistic, concatenate, count_penalty, fit_logistic, wide_features
from textgan.ops.ngrams import Ragged

BITS = 20
PAIR_SPAN = 40
PENALTIES = (30.0, 10.0, 3.0, 1.0, 0.3)  # of the wide critic; the best on the calibration texts is taken
MOST_ENTRIES = 2**25  # of the features that a wide critic is fitted on: about 800 MB
TEXTS_AT_ONCE = 2048


def visible_tokens(vocab_size: int, *hidden: int | None) -> Tensor:
    """Mask (V,), False for the ``hidden`` ids."""
    mask = torch.ones(vocab_size, dtype=torch.bool)
    mask[[i for i in hidden if i is not None]] = False
    return mask


def only(texts: Ragged, visible: Tensor) -> Ragged:
    """The texts without the tokens that the mask ``visible`` (V,) hides."""
    kept = visible[texts.tokens]
    lengths = torch.zeros_like(texts.lengths).index_add_(0, texts.owners[kept], torch.ones_like(texts.tokens[kept]))
    return Ragged(texts.tokens[kept], lengths)


@torch.no_grad()
def neural_scores(critic: nn.Module, texts: Ragged, *, eos_id: int, batch_size: int = 256) -> Tensor:
    """What a discriminator says of each text, (N,) float64 on the CPU, on the device of its weights.

    ``texts`` end with ``eos_id`` where they were not cut; one without any token left is read as an end alone.
    """
    device = next(critic.parameters()).device
    starts = texts.lengths.cumsum(0) - texts.lengths
    scores = torch.zeros(len(texts.lengths), dtype=torch.float64)
    for rows in torch.argsort(texts.lengths, stable=True).split(batch_size):
        lengths = texts.lengths[rows].clamp(min=1)
        columns = torch.arange(int(lengths.max()))
        inside = columns < texts.lengths[rows, None]
        places = (starts[rows, None] + columns).clamp(max=max(0, len(texts.tokens) - 1))
        ids = torch.where(inside, texts.tokens[places] if len(texts.tokens) else 0, eos_id)
        scores[rows] = critic(ids.to(device), lengths.to(device)).sequence.double().cpu()
    return scores


class Pool(NamedTuple):
    """What one wide classifier is fitted on: real texts, samples, and the tokens (V,) that it may see of any text."""

    real: Ragged
    fake: Ragged
    visible: Tensor


class WideCritic(NamedTuple):
    """The mean of wide classifiers, one for each pool, and the strength of the penalty that was chosen."""

    models: list[Logistic]
    visible: list[Tensor]
    l2: float

    def __call__(self, texts: Ragged) -> Tensor:
        """Log-odds of real text, (N,) float64."""
        scores = [_scores([model], texts, own)[:, 0] for model, own in zip(self.models, self.visible, strict=True)]
        return torch.stack(scores).mean(0)


def fit_wide(pools: Sequence[Pool], real: Ragged, fake: Ragged, *, clip: float) -> WideCritic:
    """The :class:`WideCritic` of these pools whose penalty gives the largest gain on ``real`` and ``fake``.

    Those are calibration texts, seen by neither the generator nor the classifiers' fits.
    """
    fits = [_fit_path(pool) for pool in pools]
    real_scores, fake_scores = (
        torch.stack([_scores(fit, texts, pool.visible) for fit, pool in zip(fits, pools, strict=True)]).mean(0)
        for texts in (real, fake)
    )
    gains = []
    for on_real, on_fake in zip(real_scores.T, fake_scores.T, strict=True):
        f = calibrate(on_real, on_fake, clip=clip)
        gains.append(value_of(f(on_real), f(on_fake)))
    best = max(range(len(PENALTIES)), key=gains.__getitem__)
    return WideCritic([fit[best] for fit in fits], [pool.visible for pool in pools], PENALTIES[best])


def texts_that_fit(lengths: Tensor) -> int:
    """How many of the texts of these lengths (N,) a wide critic can be fitted on, beside as many samples."""
    lengths = lengths.double()
    pairs = torch.where(
        lengths > PAIR_SPAN, PAIR_SPAN * (lengths - (PAIR_SPAN + 1) / 2), lengths * (lengths - 1) / 2
    ).clamp(min=0)
    return int((2 * (pairs + 5 * lengths + 5).cumsum(0) <= MOST_ENTRIES).sum())


def _fit_path(pool: Pool) -> list[Logistic]:
    """A fit for each of :data:`PENALTIES`, each beginning at the one before."""
    features = concatenate([_features(only(texts, pool.visible)) for texts in (pool.real, pool.fake)])
    labels = torch.arange(len(features)) < len(pool.real.lengths)
    penalty = count_penalty(features)
    models: list[Logistic] = []
    for l2 in PENALTIES:
        start = models[-1] if models else None
        models.append(fit_logistic(features, labels, l2, penalty=penalty, start=start))
    return models


def _scores(models: Sequence[Logistic], texts: Ragged, visible: Tensor) -> Tensor:
    """Log-odds of each text by each model, (N, K), some texts at a time."""
    texts = only(texts, visible)
    rows = torch.arange(len(texts.lengths)).split(TEXTS_AT_ONCE)
    found = []
    for some in rows:
        features = _features(texts.select(some))
        found.append(torch.stack([model.score(features) for model in models], 1))
    return torch.cat(found)


def _features(texts: Ragged) -> Features:
    return wide_features(texts, bits=BITS, pair_span=PAIR_SPAN)
