"""Adversarial losses and gradient penalties, as plain functions of the critic's scores.

Scores are logits, higher for real, of any shape: a mean is taken over all entries, in float32. For per-token scores
pass the real positions only (`scores[mask]`), so that padding counts for nothing.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class GanLoss(NamedTuple):
    """Two functions (real scores, fake scores) -> scalar to minimise.

    Only a relativistic generator loss looks at the real scores; the others take None for them.
    """

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor | None, Tensor], Tensor]
    relativistic: bool = False


def _pairs(real: Tensor, fake: Tensor) -> Tensor:
    if real.shape != fake.shape:
        raise ValueError(f"rsgan pairs scores: shapes {tuple(real.shape)} and {tuple(fake.shape)} differ")
    return real.float() - fake.float()


def _non_saturating_d(real, fake):
    return F.softplus(-real.float()).mean() + F.softplus(fake.float()).mean()


def _non_saturating_g(real, fake):
    return F.softplus(-fake.float()).mean()


def _hinge_d(real, fake):
    return F.relu(1 - real.float()).mean() + F.relu(1 + fake.float()).mean()


def _minus_mean_g(real, fake):
    return -fake.float().mean()


def _least_squares_d(real, fake):
    return ((real.float() - 1).square().mean() + fake.float().square().mean()) / 2


def _least_squares_g(real, fake):
    return (fake.float() - 1).square().mean() / 2


def _wasserstein_d(real, fake):
    return fake.float().mean() - real.float().mean()


def _rsgan_d(real, fake):
    return F.softplus(-_pairs(real, fake)).mean()


def _rsgan_g(real, fake):
    return F.softplus(_pairs(real, fake)).mean()


def _ragan_d(real, fake):
    real, fake = real.float(), fake.float()
    return F.softplus(fake.mean() - real).mean() + F.softplus(fake - real.mean()).mean()


def _ragan_g(real, fake):
    return _ragan_d(fake, real)


# Goodfellow et al. 2014; Lim & Ye 2017; Mao et al. 2017 (with its 1/2); Arjovsky et al. 2017;
# Jolicoeur-Martineau 2018 for both relativistic ones, whose two halves are summed.
GAN_LOSSES = {
    "non_saturating": GanLoss(_non_saturating_d, _non_saturating_g),
    "hinge": GanLoss(_hinge_d, _minus_mean_g),
    "least_squares": GanLoss(_least_squares_d, _least_squares_g),
    "wasserstein": GanLoss(_wasserstein_d, _minus_mean_g),
    "rsgan": GanLoss(_rsgan_d, _rsgan_g, relativistic=True),
    "ragan": GanLoss(_ragan_d, _ragan_g, relativistic=True),
}


def r1_penalty(scores: Tensor, embeddings: Tensor) -> Tensor:
    """Mean over texts of the squared gradient norm of each text's score; differentiable (Mescheder et al. 2018).

    On reals it is R1, on fakes R2. The usual weight is gamma / 2. Columns that the critic ignores add nothing.

    Args:
        scores: (B,), or (B, T) per token, where a text's score is the sum.
        embeddings: (B, T, E) that the scores were computed from, with `requires_grad`.
    """
    (gradient,) = torch.autograd.grad(scores.float().sum(), embeddings, create_graph=True)
    return gradient.float().square().flatten(1).sum(dim=1).mean()


def gradient_penalty(
    score_fn: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, *, generator: torch.Generator | None
) -> Tensor:
    """Mean over texts of (gradient norm - 1)^2 at points between real and fake (Gulrajani et al. 2017).

    Differentiable in the critic only. Columns that `score_fn` ignores add nothing: close it over the lengths that
    the mixtures shall have (the longer of each pair keeps all of both).

    Args:
        score_fn: embeddings (B, T, E) to scores (B,).
        real, fake: embeddings (B, T, E) of the same shape; one random mixing weight a pair.
        generator: source of the mixing weights, on the embeddings' device.
    """
    if real.shape != fake.shape:
        raise ValueError(f"real {tuple(real.shape)} and fake {tuple(fake.shape)} embeddings must be of one shape")
    share = torch.rand(real.size(0), 1, 1, generator=generator, device=real.device, dtype=real.dtype)
    mixed = torch.lerp(fake.detach(), real.detach(), share).requires_grad_()
    (gradient,) = torch.autograd.grad(score_fn(mixed).float().sum(), mixed, create_graph=True)
    # The tiny constant keeps the derivative of the root finite where the gradient vanishes.
    norm = (gradient.float().square().flatten(1).sum(dim=1) + 1e-12).sqrt()
    return (norm - 1).square().mean()
