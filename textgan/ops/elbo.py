"""The parts of a VAE's objective, as plain functions: KL and its weight, free bits, word dropout, MMD, the IW bound.

All numbers are in nats, at least float32 and computed outside autocast: a KL of hundredths of a nat a dimension is
what separates a used latent from a dead one, and bfloat16 does not see it. Everything is differentiable.
"""

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

LOG_2PI = math.log(2 * math.pi)
# Widths of the kernels that `mmd_to_prior` adds up, in units of the distance of two draws of the prior.
MMD_SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


def _full_precision(function):
    """The function with autocast off and its tensors raised to at least float32."""

    def raised(x):
        return x.to(torch.promote_types(x.dtype, torch.float32)) if isinstance(x, Tensor) else x

    @functools.wraps(function)
    def wrapped(first: Tensor, *args, **kwargs) -> Tensor:
        with torch.autocast(first.device.type, enabled=False):
            kwargs = {name: raised(value) for name, value in kwargs.items()}
            return function(raised(first), *map(raised, args), **kwargs)

    return wrapped


@_full_precision
def gaussian_kl(
    mu: Tensor, logvar: Tensor, prior_mu: Tensor | float = 0.0, prior_logvar: Tensor | float = 0.0
) -> Tensor:
    """KL(N(mu, exp logvar) || N(prior_mu, exp prior_logvar)) of each entry, of the shape of ``mu``, in nats.

    The covariances are diagonal, so the sum over the last axis is the KL of the vectors (Kingma & Welling 2014,
    appendix B, for a standard normal prior).
    """
    excess = logvar - prior_logvar
    shift = mu - prior_mu
    precision = torch.exp(-torch.as_tensor(prior_logvar, device=mu.device))
    # expm1 keeps what is left where both laws nearly agree.
    return 0.5 * (torch.expm1(excess) - excess + shift.square() * precision)


@_full_precision
def log_normal(z: Tensor, mu: Tensor | float = 0.0, logvar: Tensor | float = 0.0) -> Tensor:
    """Log density of N(mu, exp logvar) at ``z``, entry by entry and of its shape; sum the last axis for a vector's."""
    logvar = torch.as_tensor(logvar, device=z.device)
    return -0.5 * (LOG_2PI + logvar + (z - mu).square() * torch.exp(-logvar))


def _constant(step, total_steps, ramp_steps, cycles, ramp_share) -> float:
    return 1.0


def _linear(step, total_steps, ramp_steps, cycles, ramp_share) -> float:
    return 1.0 if step >= ramp_steps else step / ramp_steps


def _cyclical(step, total_steps, ramp_steps, cycles, ramp_share) -> float:
    if step >= total_steps:
        return 1.0
    # Integers: a cycle that total_steps does not hold as a whole number of updates still starts when it is due.
    place = step * cycles % total_steps / total_steps
    return 1.0 if place >= ramp_share else place / ramp_share


# How far the weight has come from `start` (0) to `weight` (1).
KL_SCHEDULES = {"constant": _constant, "linear": _linear, "cyclical": _cyclical}


def kl_weight_at(
    schedule: str,
    step: int,
    *,
    weight: float,
    start: float,
    total_steps: int,
    ramp_steps: int,
    cycles: int,
    ramp_share: float,
) -> float:
    """Weight of the KL in update ``step`` (from 0); exactly ``weight`` wherever a ramp is over.

    * ``constant``: ``weight`` (beta of the beta-VAE, Higgins et al. 2017).
    * ``linear``: from ``start`` at step 0 to ``weight`` at step ``ramp_steps``, then flat (Bowman et al. 2016).
      A ramp that is longer than training is cut off by its end, not made steeper.
    * ``cyclical``: training is cut into ``cycles`` (M) equal parts; in each the weight rises from ``start`` to
      ``weight`` over a share ``ramp_share`` (R) and is flat for the rest (Fu et al. 2019, eq. 6 and 7; M = 4 and
      R = 0.5 there). From ``total_steps`` on it is ``weight``.

    Whether the last update has the whole weight is told by :func:`kl_weight_settles`.
    """
    share = KL_SCHEDULES[schedule](step, total_steps, ramp_steps, cycles, ramp_share)
    return weight if share == 1 else start + (weight - start) * share


def kl_weight_settles(schedule: str, *, total_steps: int, ramp_steps: int, cycles: int, ramp_share: float) -> int:
    """The first step from which on :func:`kl_weight_at` stays at ``weight``.

    It is ``total_steps`` or more where training ends inside a ramp: then no update at the end has the whole weight.
    """
    if schedule != "cyclical":
        return {"constant": 0, "linear": ramp_steps}[schedule]
    step = total_steps
    while step > 0 and _cyclical(step - 1, total_steps, ramp_steps, cycles, ramp_share) == 1:
        step -= 1
    return step


def _floor_each(means: Tensor, floor: float) -> Tensor:
    return means.clamp(min=floor).sum()


def _floor_sum(means: Tensor, floor: float) -> Tensor:
    return means.sum().clamp(min=floor)


FREE_BITS = {"dimension": _floor_each, "total": _floor_sum}


@_full_precision
def free_bits(kl: Tensor, floor: float, mode: str) -> Tensor:
    """KL of a text, averaged over the batch and never below its floor: a scalar, nats a text.

    Below the floor there is no gradient, above it that of the plain mean. The mean over the batch comes before the
    floor (Kingma et al. 2016, "Improved Variational Inference with Inverse Autoregressive Flow", eq. 15): single
    texts may lie below. Floor 0 is the plain mean, sum over dimensions.

    Args:
        kl: (B, Z).
        floor: nats, of each dimension (``dimension``) or of their sum (``total``).
        mode: a name of ``FREE_BITS``.
    """
    means = kl.mean(0)
    return FREE_BITS[mode](means, floor) if floor else means.sum()


def word_dropout(inputs: Tensor, p: float, replacement: int, rng: torch.Generator | None) -> Tensor:
    """A copy of decoder inputs (B, T) where each token but the first column's is ``replacement`` with probability p.

    What the decoder cannot read in the words before it must come from z (Bowman et al. 2016, section 3.1). The
    first column opens the text and always stays. Columns behind a row's end are treated like the others: padding is
    told by lengths, never by its id.

    Args:
        inputs: (B, T) long.
        p: 0 to 1; 0 returns ``inputs`` and draws nothing.
        replacement: the id of the unknown word, usually.
        rng: on the device of the inputs.
    """
    if not p:
        return inputs
    dropped = torch.rand(inputs.shape, generator=rng, device=inputs.device) < p
    dropped[:, 0] = False
    return inputs.masked_fill(dropped, replacement)


@_full_precision
def mmd_to_prior(z: Tensor, prior_z: Tensor, scales: Sequence[float] = MMD_SCALES) -> Tensor:
    """Unbiased squared maximum mean discrepancy of two sets of latents: a scalar, 0 on average if of one law.

    The kernel is the sum over ``scales`` s of C / (C + |a - b|^2) with C = 2 Z s, inverse multiquadratics: heavy
    tails, so that far latents still feel the pull (Tolstikhin et al. 2018, "Wasserstein Auto-Encoders", section 4 and
    algorithm 2). For a standard normal prior 2 Z is the mean squared distance of two draws. Single values may be
    negative.

    Args:
        z: (N, Z) of the encoder, one for each text.
        prior_z: (M, Z) draws of the prior.

    Raises:
        ValueError: a set has fewer than two rows.
    """
    if len(z) < 2 or len(prior_z) < 2:
        raise ValueError(f"MMD needs two latents of each kind; given {len(z)} and {len(prior_z)}")

    def pairs_of_one(x: Tensor) -> Tensor:
        kernel = _inverse_multiquadratic(x, x, scales)
        return (kernel.sum() - kernel.diagonal().sum()) / (len(x) * (len(x) - 1))

    return pairs_of_one(z) + pairs_of_one(prior_z) - 2 * _inverse_multiquadratic(z, prior_z, scales).mean()


def _inverse_multiquadratic(x: Tensor, y: Tensor, scales: Sequence[float]) -> Tensor:
    distances = (x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T).clamp(min=0)
    widths = [2 * x.size(1) * scale for scale in scales]
    return sum(width / (width + distances) for width in widths)


@_full_precision
def importance_bound(log_weights: Tensor) -> Tensor:
    """Lower bound (B,) of log p(x) from K draws each of z ~ q(z|x), in nats.

    log 1/K sum_k p(x, z_k) / q(z_k|x): the ELBO at K = 1, rising in expectation with K, log p(x) in the limit
    (Burda et al. 2016, "Importance Weighted Autoencoders", theorem 1). The bound on a perplexity is an upper one.

    Args:
        log_weights: (B, K) log p(x|z_k) + log p(z_k) - log q(z_k|x).
    """
    return log_weights.logsumexp(-1) - math.log(log_weights.size(-1))
