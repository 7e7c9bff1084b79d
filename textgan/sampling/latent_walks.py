"""Ways through the latent space of a VAE: between two texts, around one, along the difference of two sets of texts.

A text stands where its posterior mean is. All ways lead through h, the standard normal noise that the prior makes
latents of (:func:`to_noise`). Of flat latents h is z itself; of layerwise ones a later group of z follows the learned
prior that the groups before it give, so a straight way in z could pass where the prior has nothing.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from textgan.models.vae import Inference, TextVAE

PATHS = ("spherical", "linear")
_PARALLEL = 1e-4  # radians; an angle that small, or that near to pi, does not tell in which plane to turn


class Reading(NamedTuple):
    """What a VAE makes of B texts.

    Attributes:
        features: of the encoder, rows first.
        means: the posterior with its means as the draw; ``means.z`` (B, Z) is where the texts stand.
        log_likelihood: (B,) log p(x|z) at these, nats, end counted.
    """

    features: Tensor
    means: Inference
    log_likelihood: Tensor


class Direction(NamedTuple):
    """The way from the mean of one set of texts to that of another.

    Attributes:
        vector: (Z,) in h.
        length: of the vector; the prior's deviation is 1 in every direction.
        separation: share of the texts, both sets counting alike, that are nearer to the mean of their own set than to
            that of the other when their own set's mean is taken without them. 0.5 or below: by this the sets are
            no different. None where a set has one text. Unlike a distance of means, it does not grow with the
            number of dimensions.
    """

    vector: Tensor
    length: float
    separation: float | None


@torch.no_grad()
def read_texts(vae: TextVAE, texts: Sequence[Sequence[int]], eos_id: int) -> Reading:
    """The :class:`Reading` of texts given as ids without opening and closing token; in one batch.

    Raises:
        ValueError: no text, or one too long for the model: it reads ``block_size - 1`` ids and the closing token.
    """
    lengths = [len(ids) + 1 for ids in texts]
    if not lengths or max(lengths) > vae.block_size:
        longest = max(lengths, default=0)
        raise ValueError(f"{len(lengths)} texts of up to {longest} ids with the end; the model reads {vae.block_size}")
    rows = [[eos_id, *ids, *[eos_id] * (max(lengths) - len(ids))] for ids in texts]
    full, counts = torch.tensor(rows, device=vae.device), torch.tensor(lengths, device=vae.device)
    features = vae.encode(full[:, 1:], counts)
    means = vae.infer(features, torch.zeros(len(rows), vae.z_size, device=vae.device, dtype=vae.aggregate_mean.dtype))
    return Reading(features, means, vae.log_likelihood(full, counts, means.z))


def to_noise(drawn: Inference) -> Tensor:
    """The noise h (B, Z) that ``TextVAE.prior`` turns into the drawn z."""
    return (drawn.z - drawn.prior_mu) * torch.exp(-0.5 * drawn.prior_logvar)


def interpolate(a: Tensor, b: Tensor, steps: int, path: str = "spherical") -> Tensor:
    """Points (steps, Z) from ``a`` (Z,) to ``b`` (Z,); the first is ``a`` and the last ``b``, bit for bit.

    ``spherical`` (White 2016, https://arxiv.org/abs/1609.04468) turns at an even speed while the norm goes evenly from
    that of ``a`` to that of ``b``. ``linear`` goes straight. In many dimensions a standard normal prior has its mass
    on a sphere and two texts stand at about a right angle: the middle of the straight line has 0.7 of their norm,
    less than nearly any text, and the decoder was never trained there. So spherical is the default. Where two
    points leave no plane to turn in (they point the same or the opposite way, or one is 0) it goes straight.

    Raises:
        ValueError: fewer than 2 steps, or an unknown path.
    """
    if steps < 2:
        raise ValueError(f"`steps={steps}` must be at least 2, the two ends")
    if path not in PATHS:
        raise ValueError(f"unknown path `{path}`; choose one of {', '.join(PATHS)}")
    shares = torch.linspace(0, 1, steps, dtype=a.dtype, device=a.device)[:, None]
    points = (_slerp if path == "spherical" else torch.lerp)(a, b, shares)
    points[0], points[-1] = a, b
    return points


def _slerp(a: Tensor, b: Tensor, shares: Tensor) -> Tensor:
    norms = a.norm(), b.norm()
    u, v = a / norms[0], b / norms[1]
    angle = 2 * torch.atan2((u - v).norm(), (u + v).norm())  # exact for small angles too, as acos is not
    if not _PARALLEL < angle < torch.pi - _PARALLEL:  # NaN where a norm is 0
        return torch.lerp(a, b, shares)
    turned = torch.sin((1 - shares) * angle) * u + torch.sin(shares * angle) * v
    return torch.lerp(*norms, shares) * turned / torch.sin(angle)


@torch.no_grad()
def way_between(vae: TextVAE, ends: Inference, steps: int, path: str = "spherical") -> Tensor:
    """Latents (steps, Z) between the two rows of ``ends``, by :func:`interpolate` in h; the ends' z are exact."""
    h = to_noise(ends)
    z = vae.prior(interpolate(h[0], h[1], steps, path))
    z[0], z[-1] = ends.z
    return z


@torch.no_grad()
def around(vae: TextVAE, features: Tensor, noise: Tensor, radius: float) -> Tensor:
    """Latents (N, Z) at one distance from the posterior mean of a text, in the directions of ``noise`` (N, Z).

    The radius is in units of the text's own posterior deviations: the root mean square, over dimensions, of how many
    of them a point is away. At 1 lies the shell where draws of the posterior lie, so the model itself holds such
    points for the same text. In units of z the same step would be nothing in a dimension that the
    decoder ignores and a leap in one that it reads closely.

    Args:
        features: (1, ...) of the text, from :func:`read_texts`.
        noise: standard normal numbers; only their direction counts.
        radius: above 0.
    """
    steps = noise / noise.square().mean(1, keepdim=True).sqrt() * radius
    return vae.infer(features.expand(len(noise), *features.shape[1:]), steps.to(features)).z


def difference(source: Tensor, target: Tensor) -> Direction:
    """The :class:`Direction` from the texts of ``source`` (A, Z) to those of ``target`` (B, Z), in h.

    The arithmetic of attributes: what texts of the target have and those of the source lack, if the sets are alike in
    everything else (Larsen et al. 2016, https://arxiv.org/abs/1512.09300, for images; Shen et al. 2020 for texts).

    Raises:
        ValueError: an empty set.
    """
    if not len(source) or not len(target):
        raise ValueError(f"sets of {len(source)} and {len(target)} texts: each needs at least 1")
    vector = target.mean(0) - source.mean(0)
    separation = None
    if min(len(source), len(target)) > 1:
        separation = (_on_their_side(source, target.mean(0)) + _on_their_side(target, source.mean(0))) / 2
    return Direction(vector, vector.norm().item(), separation)


def _on_their_side(own: Tensor, other_mean: Tensor) -> float:
    """Share of the rows that are nearer to the mean of the other rows of ``own`` than to ``other_mean``."""
    without = (own.sum(0) - own) / (len(own) - 1)
    gap = (own - other_mean).norm(dim=1) - (own - without).norm(dim=1)
    return ((gap > 0).double() + 0.5 * (gap == 0)).mean().item()


@torch.no_grad()
def shift(vae: TextVAE, texts: Inference, direction: Tensor, strength: float) -> Tensor:
    """Latents (B, Z) of texts moved by ``strength`` times ``direction`` (Z,) in h."""
    return vae.prior(to_noise(texts) + strength * direction)
