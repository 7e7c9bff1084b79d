"""Gradients of the estimators of `textgan.ops.relaxation` by hand: for a block of positions, in few passes, in place.

Each takes logits (M, V), which it overwrites, and gradients (M, V) for the vectors that an estimator gives, float32,
and returns the gradient for the logits. They equal what autograd finds for `SURROGATES`, with the same draws from
the generator.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from textgan.ops.relaxation import MARGIN, exponential


def soft_vectors(logits: Tensor, ids: Tensor, tau: float, rng: torch.Generator) -> Tensor:
    """softmax((logits + noise) / tau) with Gumbel noise given that `ids` (M,) win; overwrites the logits.

    With E exponential, p the probabilities and D the sampled id, logits + noise are, up to a constant of the row,
    -log(E_D) at D and -log(E_D + E_i / p_i) elsewhere (see `conditional_gumbel`). So with r_i = E_i / (p_i E_D) the
    vector is proportional to (1 + r_i) ** (-1 / tau) and to 1 at D: no logarithm of a probability is needed, and at
    tau 1 no exponential.
    """
    return _given_ids(torch.softmax(logits, dim=1, out=logits), ids, tau, rng)


def _given_ids(probs: Tensor, ids: Tensor, tau: float, rng: torch.Generator) -> Tensor:
    ratio, chosen = exponential(probs.shape, rng, probs.device), ids[:, None]
    ratio.div_(ratio.gather(1, chosen)).div_(probs).clamp_(min=MARGIN)
    weights = ratio.add_(1).reciprocal_() if tau == 1 else ratio.log1p_().mul_(-1 / tau).exp_()
    weights.scatter_(1, chosen, 1.0)
    return weights.div_(weights.sum(1, keepdim=True))


def softmax_pullback(vectors: Tensor, gradient: Tensor, tau: float) -> Tensor:
    """The gradient for x of softmax(x / tau), whose value is `vectors`; overwrites these, not the gradient."""
    mean = torch.linalg.vecdot(vectors, gradient)[:, None]
    return vectors.mul_((gradient - mean).div_(tau))


def _soft(logits: Tensor, ids: Tensor, gradient: Tensor, tau: float, rng: torch.Generator) -> Tensor:
    return softmax_pullback(soft_vectors(logits, ids, tau, rng), gradient, tau)


def _gapped(
    logits: Tensor, ids: Tensor, gradient: Tensor, tau: float, rng: torch.Generator, gap: float = 1.0
) -> Tensor:
    top = logits.amax(1, keepdim=True)
    logits = torch.minimum(logits, top - gap, out=logits).scatter_(1, ids[:, None], top)
    return softmax_pullback(torch.softmax(logits.div_(tau), dim=1, out=logits), gradient, tau)


def _gumbel_rao(
    logits: Tensor, ids: Tensor, gradient: Tensor, tau: float, rng: torch.Generator, samples: int = 8
) -> Tensor:
    probs = torch.softmax(logits, dim=1, out=logits)
    total = torch.zeros_like(probs)
    for _ in range(samples):
        total += softmax_pullback(_given_ids(probs, ids, tau, rng), gradient, tau)
    return total.div_(samples)


def _reinmax(logits: Tensor, ids: Tensor, gradient: Tensor, tau: float, rng: torch.Generator) -> Tensor:
    q = (logits / tau).softmax(1).div_(2)
    q.scatter_add_(1, ids[:, None], torch.full_like(q[:, :1], 0.5))
    p = torch.softmax(logits, dim=1, out=logits)
    return softmax_pullback(q, gradient, 0.5).sub_(softmax_pullback(p, gradient, 2.0))


# By the names of `ESTIMATORS`: (logits, ids, gradient for the vectors, tau, rng) -> gradient for the logits.
PULLBACKS: dict[str, Callable[[Tensor, Tensor, Tensor, float, torch.Generator], Tensor]] = {
    "soft": _soft,
    "relgan": _soft,
    "straight_through": _soft,
    "gapped": _gapped,
    "gumbel_rao": _gumbel_rao,
    "reinmax": _reinmax,
}
