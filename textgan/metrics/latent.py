"""Is the latent of a VAE used? Active units, mutual information, the aggregate posterior, and an alarm in words.

Everything is in nats and over all rows given; say how many there were beside the value, for the mutual information
of N rows cannot exceed log N.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

# Burda et al. 2016; DELLA (Hu et al. 2022) reports counts at 0.2, which are lower.
ACTIVE_THRESHOLD = 0.01
PAIRS = 2**22  # densities that are held at once

# Below these a latent is as good as not there: nats a text, the last one of the decoder's loss through other latents.
LEAST_KL = 0.1
LEAST_INFORMATION = 0.05
LEAST_GAP = 0.1
LEAST_ACTIVE = 0.1  # share of all units


class ActiveUnits(NamedTuple):
    """How many dimensions' posterior means move with the text, and how much each one's do."""

    count: int
    variance: Tensor  # (Z,) float64, over the texts
    directions: int  # at right angles to each other, so that none tells again what another one does


class MutualInformation(NamedTuple):
    """An estimate of the information that z carries about which of N texts was read, in nats."""

    value: float
    se: float  # Monte Carlo error of the draws of z; a little too large, for texts differ too
    ceiling: float  # log N: what N texts can tell at most


def active_units(means: Tensor, threshold: float = ACTIVE_THRESHOLD) -> ActiveUnits:
    """The :class:`ActiveUnits`: dimensions whose posterior mean has a variance over texts above ``threshold``.

    Source: Burda et al. 2016, "Importance Weighted Autoencoders", section 5.2, threshold 0.01. The threshold belongs
    beside the count. Of layer-wise latents give the means' distance from those of the learned prior, in deviations of
    the prior: the means themselves move with the drawn latents of the layers before, also where no unit is used.

    Units are counted along the axes, so copies of one number count as many units: batch norm and free bits of each
    dimension hold up all of them at once that way. ``directions`` is the same count after the rotation that makes the
    means uncorrelated: eigenvalues of their covariance above ``threshold``. A normal prior looks alike from all sides.

    Args:
        means: (N, Z) mu of q(z|x), or its distance from the prior's; a row a text, N at least 2.
        threshold: of the variance; a standard normal prior has variance 1.
    """
    _check(means, least=2)
    covariance = torch.cov(means.double().T).view(means.size(1), means.size(1))
    directions = int((torch.linalg.eigvalsh(covariance) > threshold).sum())
    variance = covariance.diagonal()
    return ActiveUnits(int((variance > threshold).sum()), variance, directions)


def mutual_information(mu: Tensor, logvar: Tensor, z: Tensor) -> MutualInformation:
    """The :class:`MutualInformation` of x and z under q: E KL(q(z|x) || p(z)) - KL(q(z) || p(z)).

    The aggregate posterior q(z) is the mixture of the posteriors of all N rows, so no batch size enters, and the
    prior cancels: the value is the mean of log q(z_i|x_i) - log 1/N sum_j q(z_i|x_j), unbiased for the N texts,
    with noise that the two densities share (Hoffman & Johnson 2016, "ELBO surgery"; He et al. 2019, section 3.1,
    take the mixture over a batch). The mean KL minus it is KL(q(z) || p(z)), the prior's holes. In float64 and
    blocks of rows.

    Args:
        mu, logvar: (N, Z) of q(z|x), diagonal Gaussians; for layer-wise latents see :func:`information_of_pairs`.
        z: (N, Z), one draw of each row's posterior.
    """
    _check(mu, logvar, z, least=1)
    mu, logvar, z = mu.double(), logvar.double(), z.double()
    mu, z = mu - mu.mean(0), z - mu.mean(0)  # against cancellation in the squares
    precision = torch.exp(-logvar)
    scaled = mu * precision
    constant = (logvar + math.log(2 * math.pi) + mu * scaled).sum(1)
    gains = []
    for start in range(0, len(z), step := max(1, PAIRS // len(z))):
        block = z[start : start + step]
        log_q = -0.5 * (block.square() @ precision.T - 2 * block @ scaled.T + constant)
        gains.append(_gains(log_q, start))
    return _summary(torch.cat(gains))


def information_of_pairs(log_q: Tensor) -> MutualInformation:
    """The same of any posterior: ``log_q`` (N, N) holds log q(z_i|x_j) at ``[i, j]``, z_i drawn for text i.

    For layer-wise latents each pair needs the layers' networks, so take a sample of the texts: log N must stay well
    above the value.
    """
    if log_q.dim() != 2 or log_q.size(0) != log_q.size(1):
        raise ValueError(f"log q of all pairs must be (N, N), not {tuple(log_q.shape)}")
    return _summary(_gains(log_q.double(), 0))


def _gains(log_q: Tensor, start: int) -> Tensor:
    """Log of a row's own density over the mixture's, (b,), of rows ``start`` and on: (b, N)."""
    return log_q.diagonal(start) - (log_q.logsumexp(1) - math.log(log_q.size(1)))


def _summary(gains: Tensor) -> MutualInformation:
    N = len(gains)
    se = float(gains.std()) / math.sqrt(N) if N > 1 else 0.0
    return MutualInformation(float(gains.mean()), se, math.log(N))


def fit_gaussian(z: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (Z,) and lower Cholesky factor (Z, Z) of a Gaussian fitted to latents (N, Z), in their float type.

    ``mean + factor @ noise`` then is a draw of the fitted aggregate posterior; fit it to draws of q(z|x), not to
    means, which vary less. The covariance has N - 1 below it; a millionth of the mean variance is added to its
    diagonal, so that dimensions without variance and N <= Z do no harm.
    """
    _check(z, least=2)
    centred = z.double() - z.double().mean(0)
    covariance = centred.T @ centred / (len(z) - 1)
    covariance.diagonal().add_(max(1e-6 * float(covariance.diagonal().mean()), 1e-12))
    dtype = torch.promote_types(z.dtype, torch.float32)
    return z.double().mean(0).to(dtype), torch.linalg.cholesky(covariance).to(dtype)


def posterior_collapse(values: Mapping[str, float]) -> str | None:
    """What is wrong with the latent and which options help, in a few plain lines; None where nothing is wrong.

    Args:
        values: of held-out texts: ``kl`` (nats a text), ``active_units``, ``z_size``; and where known
            ``active_directions``, ``mi`` (nats), ``recon`` and ``shuffled_recon`` (nats a text: -log p(x|z) with the
            text's own z and with another text's). Other names are not looked at.
    """
    kl, active, z_size = values["kl"], int(values["active_units"]), int(values["z_size"])
    mi = values.get("mi", math.inf)
    gap = values.get("shuffled_recon", math.inf) - values.get("recon", 0.0)
    dead = []
    if kl < LEAST_KL:
        dead.append(f"KL is {kl:.3f} nats a text (below {LEAST_KL})")
    if active == 0:
        dead.append(f"none of {z_size} units is active")
    if mi < LEAST_INFORMATION:
        dead.append(f"z tells {mi:.3f} nats about its text (below {LEAST_INFORMATION})")
    if gap < LEAST_GAP:
        dead.append(f"the latent of another text reconstructs as well as the own one ({gap:+.3f} nats)")
    if dead and kl < LEAST_KL:
        return (
            f"Posterior collapse: {'; '.join(dead)}. The posterior is the prior and the decoder writes without z.\n"
            "Keep the KL from closing the channel: free_bits (0.25 with free_bits_mode: dimension), kl_schedule: "
            "cyclical or a longer kl_ramp_steps, bn_gamma (0.5 to 0.7), a smaller kl_weight; a smaller "
            "aggregate_weight where vae.aggregate pulls.\n"
            "Make the decoder need z: pretrain_steps (an autoencoder first, best together with free_bits), "
            "word_dropout (0.2 to 0.4), or aggressive: true (slow)."
        )
    if dead:
        return (
            f"The latent is not used: {'; '.join(dead)}. The KL of {kl:.2f} nats is paid but buys nothing, as where "
            "free_bits or bn_gamma hold it up alone; more of these will not help.\n"
            "Make the decoder need z: pretrain_steps (an autoencoder first), word_dropout (0.2 to 0.4), "
            "kl_schedule: cyclical."
        )
    directions = int(values.get("active_directions", z_size))
    if directions < LEAST_ACTIVE * z_size <= active:
        return (
            f"Partial collapse: {active} of {z_size} units are active, but all of them move along {directions} of "
            f"{z_size} directions: they tell the same again and again.\n"
            "Let the batch norm take out correlations: bn_gamma (0.5) with bn_whiten: true, in batches of more texts "
            "than z_size. Or take a smaller z_size."
        )
    if active < LEAST_ACTIVE * z_size:
        return (
            f"Partial collapse: {active} of {z_size} units active, fewer than a tenth.\n"
            "Hold up each dimension: free_bits with free_bits_mode: dimension, or bn_gamma (0.5 to 0.7); "
            "pretrain_steps helps both; kl_schedule: cyclical opens some. Or take a smaller z_size."
        )
    return None


def _check(*tensors: Tensor, least: int) -> None:
    shape = tensors[0].shape
    if len(shape) != 2 or shape[0] < least or any(x.shape != shape for x in tensors):
        shapes = ", ".join(str(tuple(x.shape)) for x in tensors)
        raise ValueError(f"latents must be (N, Z) of one shape with N at least {least}; given {shapes}")
    if not all(bool(x.isfinite().all()) for x in tensors):
        raise ValueError("latents have values that are not finite")
