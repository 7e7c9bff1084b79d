"""How much closer to real text a generator comes when its texts are re-weighted by what a critic says of them.

For a generator G, real text P and any function f of a text, let G_f(x) = G(x) exp(f(x)) / E_G[exp f]. Then

    KL(P || G) - KL(P || G_f) = E_P[f] - log E_G[exp f]

exactly (the Donsker-Varadhan form of the divergence). Both terms are means over texts that neither G nor f has seen,
so the gain needs no density of either side and has a bootstrap interval. A lower end above 0 certifies that a better
model exists and that (G, f) is one. The gain is never more than KL(P || G), which f = log P/G attains.

A critic's score is not yet an f: its scale is fitted on texts of their own (:func:`calibrate`), and f is clipped, as
the exponential mean is ruled by the few largest values. Everything here works on arrays of scores.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

CLIP = 5.0  # |f| at most: a text's weight changes by no more than e**5, 148 times
PER_CHUNK = 64  # resamples drawn at once


class Calibration(NamedTuple):
    """What turns scores of one or more critics into f, the clipped log-weight of a text."""

    scales: Tensor  # (K,)
    offset: float  # makes the mean of exp f one over the generator's texts of the calibration
    clip: float

    def __call__(self, scores: Tensor) -> Tensor:
        """f of each text, (N,) float64, from scores (N,) or (N, K)."""
        return (_columns(scores) @ self.scales - self.offset).clamp(-self.clip, self.clip)


class Gain(NamedTuple):
    """A certificate: nats a text, and how evenly the weights are spread."""

    value: float
    lower: float
    upper: float
    ess: float  # effective sample size of the re-weighted generator as a share of its texts, 0 to 1
    auc: float  # share of pairs of a real text and a sample of which f ranks the real one higher


def calibrate(real: Tensor, fake: Tensor, *, clip: float = CLIP, steps: int = 100) -> Calibration:
    """The :class:`Calibration` with the scales that maximise the gain on these scores.

    The gain is concave in the scales; they are found by Newton's method with step halving. A penalty far below the
    sampling error keeps them finite where scores tell the two sides apart without fail.

    Args:
        real: (N,) or (N, K) scores of real texts by K critics.
        fake: (M,) or (M, K) scores of the generator's texts.
        clip: bound on |f|, above 0.
        steps: Newton steps at most.

    Raises:
        ValueError: no texts on one side, different numbers of critics, scores that are not finite, or a bad clip.
    """
    real, fake = _columns(real), _columns(fake)
    _check(real, fake)
    if not clip > 0:
        raise ValueError(f"clip={clip} must be above 0")
    pooled = torch.cat([real, fake])
    centre, spread = pooled.mean(0), pooled.std(0, correction=0)
    flat = spread <= 1e-12 * centre.abs()  # a critic that says the same of all texts: its scale stays 0
    real, fake = (torch.where(flat, 0.0, (s - centre) / spread) for s in (real, fake))
    penalty = 1e-3 / min(len(real), len(fake))

    def objective(scales: Tensor) -> Tensor:
        return real.mean(0) @ scales - _log_mean_exp(fake @ scales) - penalty / 2 * scales.square().sum()

    scales = real.new_zeros(real.shape[1])
    best = objective(scales)
    for _ in range(steps):
        weights = torch.softmax(fake @ scales, 0)
        mean = weights @ fake
        gradient = real.mean(0) - mean - penalty * scales
        covariance = (fake - mean).T @ (weights[:, None] * (fake - mean))
        direction = torch.linalg.solve(covariance + penalty * torch.eye(len(scales), dtype=real.dtype), gradient)
        size = 1.0
        while (found := objective(scales + size * direction)) < best and size > 1e-9:
            size /= 2
        if not found > best:
            break
        scales, gained, best = scales + size * direction, found - best, found
        if gained < 1e-12:
            break
    offset = _log_mean_exp(fake @ scales)
    scales = torch.where(flat, 0.0, scales / spread)
    return Calibration(scales, float(offset + centre @ scales), clip)


def gain(real: Tensor, fake: Tensor, *, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> Gain:
    """The :class:`Gain` of f given on real texts (N,) and on the generator's (M,), f as it stands.

    The interval is the percentile bootstrap's, with the texts of both sides resampled. No resampling knows of texts
    that the samples missed, and one such text can outweigh many: so the lower end and the effective sample size
    count one more sample, with the largest f that was seen on either side. The value is as it is; in the mean it is
    too high by about (1 / ess - 1) / 2M, as the logarithm of a mean is too low.

    Raises:
        ValueError: no texts on one side, or values that are not finite.
    """
    real, fake = real.double().cpu(), fake.double().cpu()
    _check(real[:, None], fake[:, None])
    top = torch.maximum(real.max(), fake.max())
    weights, size = (fake - top).exp(), len(fake)
    rng = np.random.default_rng(seed)
    on_real = torch.cat(list(_resampled_means(real, resamples, rng)))
    on_fake = torch.cat(list(_resampled_means(weights, resamples, rng)))
    with_one_more = (size * on_fake + 1) / (size + 1)
    return Gain(
        value=value_of(real, fake),
        lower=float(torch.quantile(on_real - with_one_more.log() - top, (1 - level) / 2)),
        upper=float(torch.quantile(on_real - on_fake.log() - top, (1 + level) / 2)),
        ess=float((weights.sum() + 1) ** 2 / (weights.square().sum() + 1) / (size + 1)),
        auc=auc(real, fake),
    )


def value_of(real: Tensor, fake: Tensor) -> float:
    """Mean of f over real texts (N,) minus log mean exp f over the generator's (M,), nats a text."""
    return float(real.double().mean() - _log_mean_exp(fake.double()))


def auc(real: Tensor, fake: Tensor) -> float:
    """Share of pairs of a real (N,) and a generated (M,) text in which the real one scores higher; ties count half."""
    ordered = fake.sort().values
    below = torch.searchsorted(ordered, real.contiguous())
    not_above = torch.searchsorted(ordered, real.contiguous(), right=True)
    return float((below + not_above).double().mean() / 2 / len(fake))


def permuted_gains(
    calibration: tuple[Tensor, Tensor],
    value: tuple[Tensor, Tensor],
    *,
    permutations: int = 200,
    clip: float = CLIP,
    seed: int = 0,
) -> Tensor:
    """Gains (permutations,) that the same procedure certifies when scores are dealt out to the texts at random.

    ``calibration`` and ``value`` are scores of real and generated texts, (N,) or (N, K) and (M,) or (M, K); each pair
    is shuffled within itself, the scales are fitted on the first and the gain taken on the second. What is found here
    is noise: a certificate says something where it stands clear of it.
    """
    rng = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(permutations):
        (real, fake), (held_real, held_fake) = (_shuffled(*pair, rng) for pair in (calibration, value))
        f = calibrate(real, fake, clip=clip)
        found.append(value_of(f(held_real), f(held_fake)))
    return torch.tensor(found, dtype=torch.float64)


def _shuffled(real: Tensor, fake: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    pooled = torch.cat([_columns(real), _columns(fake)])
    pooled = pooled[torch.randperm(len(pooled), generator=rng)]
    return pooled[: len(real)], pooled[len(real) :]


def _resampled_means(values: Tensor, resamples: int, rng: np.random.Generator) -> Iterator[Tensor]:
    """Means of ``resamples`` sets drawn with replacement from the values (N,), N each, in chunks (C,)."""
    values = values.numpy()
    for first in range(0, resamples, PER_CHUNK):
        size = min(PER_CHUNK, resamples - first)
        yield torch.from_numpy(values[rng.integers(0, len(values), (size, len(values)))].mean(1))


def _columns(scores: Tensor) -> Tensor:
    """Scores as (N, K) float64 on the CPU."""
    scores = scores.double().cpu()
    return scores[:, None] if scores.ndim == 1 else scores


def _check(real: Tensor, fake: Tensor) -> None:
    for name, scores in (("real texts", real), ("texts of the generator", fake)):
        if not len(scores):
            raise ValueError(f"no {name}: a gain needs both sides")
        if not scores.isfinite().all():
            raise ValueError(f"scores of {name} are not finite")
    if real.shape[1] != fake.shape[1]:
        raise ValueError(f"{real.shape[1]} critics for real texts, {fake.shape[1]} for the generator's")


def _log_mean_exp(values: Tensor) -> Tensor:
    return torch.logsumexp(values, 0) - math.log(len(values))
