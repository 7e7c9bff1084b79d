"""The two players of a GAN in the latent space of a text autoencoder: small networks on vectors, not on texts.

Both see z whitened by a fixed Gaussian (its mean and a Cholesky factor of its covariance), so that neither has to
learn the scale and tilt of a latent space, and one learning rate fits all of them. The generator starts as that
Gaussian itself: what it learns is how the codes of real texts differ from it.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm as spectrally_normed

from textgan.models.transformer import check_sizes

SLOPE = 0.2  # of the leaky ReLU below zero: a critic without dead units gives a gradient everywhere


class Whitening(nn.Module):
    """A fixed affine map between z and whitened h: ``z = mean + factor h``; the identity until it is fitted.

    Buffers:
        mean: (Z,).
        factor: (Z, Z), lower triangular, of full rank.
    """

    def __init__(self, z_size: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(z_size))
        self.register_buffer("factor", torch.eye(z_size))

    @torch.no_grad()
    def fit(self, mean: Tensor, factor: Tensor) -> None:
        """Take over a Gaussian's mean (Z,) and lower Cholesky factor (Z, Z).

        Raises:
            ValueError: for other shapes, values that are not finite, or a factor that is not triangular of full rank.
        """
        if mean.shape != self.mean.shape or factor.shape != self.factor.shape:
            raise ValueError(
                f"mean {tuple(mean.shape)} and factor {tuple(factor.shape)} are not of z_size={len(self.mean)}"
            )
        if not (mean.isfinite().all() and factor.isfinite().all()):
            raise ValueError("mean and factor must be finite")
        if factor.triu(1).any() or not (factor.diagonal() > 0).all():
            raise ValueError("factor must be lower triangular with a diagonal above 0")
        self.mean.copy_(mean)
        self.factor.copy_(factor)

    def colour(self, h: Tensor) -> Tensor:
        """z (B, Z) of whitened h (B, Z)."""
        return self.mean + h @ self.factor.T

    def whiten(self, z: Tensor) -> Tensor:
        """h (B, Z) of z (B, Z); differentiable in z."""
        return torch.linalg.solve_triangular(self.factor, (z - self.mean).T, upper=False).T


class LatentMapper(nn.Module):
    """Maps noise to z: a linear map of the noise plus a small network of it, coloured by a :class:`Whitening`.

    At the start the network's last layer is zero and the linear map orthonormal. So with ``noise_size`` of at least
    ``z_size`` the mapper starts as the Gaussian of its whitening, exactly. No layer looks at other rows: the z of a
    row follows from its own noise.
    """

    def __init__(self, z_size: int, noise_size: int | None = None, n_layer: int = 2, n_hidden: int = 256):
        """``noise_size`` None is ``z_size``; ``n_layer`` counts hidden layers.

        Raises:
            ValueError: for sizes below one.
        """
        super().__init__()
        noise_size = z_size if noise_size is None else noise_size
        check_sizes(z_size=z_size, noise_size=noise_size, n_layer=n_layer, n_hidden=n_hidden)
        self.z_size, self.noise_size = z_size, noise_size
        self.white = Whitening(z_size)
        self.linear = nn.Linear(noise_size, z_size, bias=False)
        self.network = _mlp(noise_size, n_layer, n_hidden, z_size)
        nn.init.orthogonal_(self.linear.weight)
        nn.init.zeros_(self.network[-1].weight)

    def forward(self, noise: Tensor) -> Tensor:
        """z (B, Z) of standard normal noise (B, noise_size)."""
        if noise.dim() != 2 or noise.size(1) != self.noise_size:
            raise ValueError(f"noise {tuple(noise.shape)} must be (B, noise_size={self.noise_size})")
        return self.white.colour(self.linear(noise) + self.network(noise))


class LatentCritic(nn.Module):
    """Scores how much a vector looks like the code of a real text: an MLP on whitened z.

    Twice differentiable in z almost everywhere, as gradient penalties need. A penalty that shall be in units of
    whitened z is taken through :meth:`score`.
    """

    def __init__(self, z_size: int, n_layer: int = 2, n_hidden: int = 256, spectral_norm: bool = False):
        """``n_layer`` counts hidden layers; ``spectral_norm`` bounds every linear map.

        Raises:
            ValueError: for sizes below one.
        """
        super().__init__()
        check_sizes(z_size=z_size, n_layer=n_layer, n_hidden=n_hidden)
        self.z_size = z_size
        self.white = Whitening(z_size)
        self.network = _mlp(z_size, n_layer, n_hidden, 1)
        if spectral_norm:
            for layer in self.network:
                if isinstance(layer, nn.Linear):
                    spectrally_normed(layer)

    def score(self, h: Tensor) -> Tensor:
        """Scores (B,) of whitened vectors (B, Z)."""
        return self.network(h).squeeze(-1)

    def forward(self, z: Tensor) -> Tensor:
        """Scores (B,) of vectors z (B, Z), higher for real."""
        if z.dim() != 2 or z.size(1) != self.z_size:
            raise ValueError(f"z {tuple(z.shape)} must be (B, z_size={self.z_size})")
        return self.score(self.white.whiten(z))


def _mlp(n_in: int, n_layer: int, n_hidden: int, n_out: int) -> nn.Sequential:
    """Leaky-ReLU network of ``n_layer`` hidden layers; weights by He et al. 2015, biases zero."""
    widths = [n_in, *[n_hidden] * n_layer]
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), nn.LeakyReLU(SLOPE)]
    layers.append(nn.Linear(n_hidden, n_out))
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, SLOPE)
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)
