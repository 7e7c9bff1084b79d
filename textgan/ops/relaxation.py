"""Gradients through categorical samples: Gumbel noise, relaxations and estimators, schedules of their tau.

`tau` divides the logits (RelGAN's "temperature" multiplies them). Everything here computes in float32, outside
autocast, whatever the type of the logits: in bfloat16 two rows in a hundred tie at a vocabulary of 4,096.

An estimator maps logits (..., V) and sampled ids (...) to vectors (..., V) in the place of the sampled one-hots:
the hard ones are exactly one-hot in value and differ in the gradient that they pass back. All have one signature,
`(logits, ids, *, tau, noise=None, generator=None)`. Where an estimator needs Gumbel noise and none is given, it
draws it from `generator` conditional on the ids: the law is that of noise kept from the sampling.
"""

import functools
import math

import torch
from torch import Tensor

# Conditional noise keeps the winner ahead by this much, above float32's rounding for logits up to some hundreds.
MARGIN = 1e-4


def _full_precision(function):
    """The function with autocast off, so that what it computes in float32 stays so."""

    @functools.wraps(function)
    def wrapped(logits: Tensor, *args, **kwargs) -> Tensor:
        with torch.autocast(logits.device.type, enabled=False):
            return function(logits.float(), *args, **kwargs)

    return wrapped


def exponential(shape, generator: torch.Generator | None, device: torch.device | str) -> Tensor:
    """Float32 draws of the unit exponential law, never zero.

    `Tensor.exponential_` is many times slower on a CPU, and of what is left most is the making of random bits: 32 a
    number, two numbers from a 64-bit draw, are twice as fast as `torch.rand`.
    """
    size = torch.Size(shape)
    if torch.device(device).type == "cpu":
        bits = torch.empty((size.numel() + 1) // 2, dtype=torch.int64).random_(-(2**63), None, generator=generator)
        u = bits.view(torch.int32)[: size.numel()].view(size).float().mul_(2.0**-32).add_(0.5)
    else:
        u = torch.rand(size, generator=generator, device=device, dtype=torch.float32)
    # Uniform draws are multiples of about 2**-25, and zero would give infinite noise.
    return u.clamp_(min=2.0**-26).neg_().log1p_().neg_()


def gumbel_noise(shape, *, generator: torch.Generator | None, device: torch.device | str) -> Tensor:
    """Float32 draws of the standard Gumbel law: argmax(logits + noise) is a sample of softmax(logits)."""
    return exponential(shape, generator, device).log_().neg_()


@torch.no_grad()
@_full_precision
def conditional_gumbel(logits: Tensor, ids: Tensor, *, generator: torch.Generator | None) -> Tensor:
    """Gumbel noise (..., V) given that argmax(logits + noise) is `ids` (...): the exact conditional law.

    If the ids are themselves samples of softmax(logits), the noise is standard Gumbel noise. The maximum of
    logits + noise is drawn first, without regard to the ids, and the others are truncated below it (Maddison et al.
    2014; Paulus et al. 2020, section 3). With E exponential, p the probabilities and D the sampled id, that is
    noise_D = -log(E_D) - log(p_D) and noise_i = -log(E_i + p_i E_D) for the others.
    """
    draws = exponential(logits.shape, generator, logits.device)
    chosen = ids[..., None]
    log_p = torch.log_softmax(logits, dim=-1)
    top = draws.gather(-1, chosen)
    least = log_p.exp() * top
    noise = (least + torch.maximum(draws, MARGIN * least)).log_().neg_()
    return noise.scatter_(-1, chosen, -top.log() - log_p.gather(-1, chosen))


@_full_precision
def soft(logits, ids, *, tau, noise=None, generator=None) -> Tensor:
    """Gumbel-softmax, softmax((logits + noise) / tau), and the exact gradient of it (Jang et al. 2017).

    With soft feedback the critic sees soft vectors, which give fakes away.
    """
    if noise is None:
        noise = conditional_gumbel(logits, ids, generator=generator)
    return torch.softmax((logits + noise) / tau, dim=-1)


@_full_precision
def _pushed_down(logits, ids, *, tau, noise=None, generator=None, gap: float = 1.0) -> Tensor:
    """A softmax whose logits favour the sample by `gap` (Fan et al. 2022).

    The sampled logit is raised to the maximum, the others are pushed down to `gap` below it. Nothing random beyond
    the ids: `noise` and `generator` are not used.
    """
    with torch.no_grad():
        top = logits.amax(dim=-1, keepdim=True)
        move = (top - gap - logits).clamp(max=0.0)
        move.scatter_(-1, ids[..., None], top - logits.gather(-1, ids[..., None]))
    return torch.softmax((logits + move) / tau, dim=-1)


@_full_precision
def _mean_of_draws(logits, ids, *, tau, noise=None, generator=None, samples: int = 8) -> Tensor:
    """`soft` averaged over noise given the ids (Paulus et al. 2020).

    The same mean gradient as `straight_through` and less variance. `noise`, if given, is (K, ..., V): K draws in
    place of `samples` ones. Memory: one (..., V) tensor a draw.
    """
    if noise is None:
        noise = (conditional_gumbel(logits, ids, generator=generator) for _ in range(samples))
        count = samples
    else:
        count = len(noise)
    return sum(torch.softmax((logits + draw) / tau, dim=-1) for draw in noise) / count


@_full_precision
def _second_order(logits, ids, *, tau, noise=None, generator=None) -> Tensor:
    """A gradient accurate to second order (Liu et al. 2023): exact for quadratic losses at tau 1.

    With p = softmax(logits), q = (softmax(logits / tau) + one_hot) / 2 and J the softmax Jacobian, the gradient is
    2 J(q)^T g - J(p)^T g / 2. tau of at least 1 is usual. Where the loss is so curved within one step from token to
    token that a parabola does not fit, `straight_through` can be nearer. `noise` and `generator` are not used.
    """
    with torch.no_grad():
        q = torch.softmax(logits / tau, dim=-1) / 2
        q.scatter_add_(-1, ids[..., None], torch.full_like(q[..., :1], 0.5))
        shift = q.log() - logits
    # softmax(logits + shift) has the value q, and as the shift is constant the Jacobian J(q).
    return 2 * torch.softmax(logits + shift, dim=-1) - torch.softmax(logits, dim=-1) / 2


# The vectors whose gradient an estimator passes back.
SURROGATES = {
    "soft": soft,
    "relgan": soft,  # the same vectors to the critic, but the generator reads the hard ids
    "straight_through": soft,  # biased; the variance grows as tau falls (Jang et al. 2017)
    "gapped": _pushed_down,
    "gumbel_rao": _mean_of_draws,
    "reinmax": _second_order,
}
# Those that show the critic exact one-hots all the same.
HARD = frozenset(SURROGATES) - {"soft", "relgan"}


def _one_hot_with_gradient_of(surrogate):
    """The estimator with exact one-hots of the ids as its value, and the surrogate's gradient."""

    @functools.wraps(surrogate)
    def estimator(logits: Tensor, ids: Tensor, **options) -> Tensor:
        vectors = surrogate(logits, ids, **options)
        zero = vectors - vectors.detach()  # before the one is added, so that nothing is rounded
        chosen = ids[..., None]
        return zero.scatter_add(-1, chosen, torch.ones_like(chosen, dtype=zero.dtype))

    return estimator


ESTIMATORS = {name: _one_hot_with_gradient_of(f) if name in HARD else f for name, f in SURROGATES.items()}

# What the generator reads as its own last token: the relaxed vector, with its gradient, or the sampled id.
FEEDBACK = {name: "soft" if name == "soft" else "hard" for name in ESTIMATORS}

TAU_SCHEDULES = ("constant", "linear", "exponential", "cosine")


def tau_at(kind: str, start: float, end: float, step: int, total_steps: int) -> float:
    """tau after `step` of `total_steps` steps: `start` at 0, `end` at the last and beyond.

    `linear` in tau, `exponential` linear in log tau, `cosine` half a period; `constant` stays at `start`.

    Raises:
        ValueError: for an unknown kind or a tau that is not positive.
    """
    if kind not in TAU_SCHEDULES:
        raise ValueError(f"unknown tau schedule `{kind}`; choose one of {', '.join(TAU_SCHEDULES)}")
    if start <= 0 or end <= 0:
        raise ValueError(f"tau must be positive, not start {start} and end {end}")
    share = min(max(step / max(total_steps, 1), 0.0), 1.0)
    if kind == "constant":
        return start
    if kind == "linear":
        return start + (end - start) * share
    if kind == "exponential":
        return start * (end / start) ** share
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
