"""A VAE as a generator: each text starts with a latent of its own, drawn from one of several sources."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from textgan.models.vae import Inference, TextVAE
from textgan.ops.elbo import log_normal
from textgan.sampling.context import Context
from textgan.sampling.streams import LATENT_STREAMS, row_normals

SOURCES = ("prior", "aggregate", "gan")


class LatentGenerator(nn.Module):
    """A VAE that can be decoded from, by :func:`textgan.sampling.decode.generate`.

    Where latents come from (``source``):

    * ``prior``: p(z), the model's own.
    * ``aggregate``: the Gaussian that was fitted to the posteriors of the training texts. Another model than the
      VAE, with a likelihood of its own: its texts must be labelled as such.
    * ``gan``: noise through the VAE's ``latent_generator``. It has no density, and so no bound of a likelihood.

    Attributes:
        vae: the model; its parameters are this module's.
        source: of the latents.
        z_temperature: factor of the noise that latents are made of; 1 is the source itself. With layerwise latents it
            scales the deviation of every group given those before it.
    """

    def __init__(self, vae: TextVAE, source: str = "prior", z_temperature: float = 1.0):
        """Raises ValueError for an unknown source, one that the VAE lacks, or a temperature that is not above 0."""
        super().__init__()
        if source not in SOURCES:
            raise ValueError(f"unknown source of latents `{source}`; choose one of {', '.join(SOURCES)}")
        if source == "gan" and vae.latent_generator is None:
            raise ValueError("this VAE has no generator of latents; choose the source `prior` or `aggregate`")
        if not 0 < z_temperature < math.inf:
            raise ValueError(f"`z_temperature={z_temperature!r}` must be a number above 0")
        self.vae, self.source, self.z_temperature = vae, source, z_temperature

    @property
    def vocab_size(self) -> int:
        return self.vae.vocab_size

    @property
    def block_size(self) -> int:
        return self.vae.block_size

    @property
    def device(self) -> torch.device:
        return self.vae.device

    @property
    def has_density(self) -> bool:
        """Whether the density of latents is known, and with it a bound of the likelihood of texts."""
        return self.source != "gan"

    def at(self, *, source: str | None = None, z_temperature: float | None = None) -> "LatentGenerator":
        """The same VAE with another source or temperature of its latents."""
        temperature = self.z_temperature if z_temperature is None else z_temperature
        return LatentGenerator(self.vae, source or self.source, temperature)

    @torch.no_grad()
    def latents(self, seed: int, first_row: int, n: int) -> Tensor:
        """Latents (n, Z) of the rows from ``first_row`` on; that of row i follows from (seed, i) alone."""
        width = self.vae.latent_generator.noise_size if self.source == "gan" else self.vae.z_size
        noise = row_normals(seed, LATENT_STREAMS + first_row, n, width) * self.z_temperature
        noise = noise.to(self.device, self.vae.aggregate_mean.dtype)
        if self.source == "gan":
            return self.vae.latent_generator(noise)
        if self.source == "aggregate":
            return self.vae.aggregate_mean + noise @ self.vae.aggregate_factor.T
        return self.vae.prior(noise)

    def context(
        self, rows: Sequence[Sequence[int]], z: Tensor, *, room: int, pad_id: int, keep_states: bool = False
    ) -> Context:
        """The rows as read by the decoder with their latents (B, Z), ready to grow; see :class:`Context`."""
        z = z.to(self.device, self.vae.aggregate_mean.dtype)
        told = self.vae.condition(z)
        return Context(self.vae.decoder, rows, room=room, pad_id=pad_id, condition=told, keep_states=keep_states)

    def log_density(self, drawn: Inference) -> Tensor:
        """(B,) log density of drawn latents under the source at temperature 1.

        Raises:
            ValueError: the source has none.
        """
        if not self.has_density:
            raise ValueError("latents of a GAN have no density")
        if self.source == "prior":
            return drawn.log_p
        factor = self.vae.aggregate_factor
        white = torch.linalg.solve_triangular(factor, (drawn.z - self.vae.aggregate_mean).T, upper=False).T
        return log_normal(white).sum(-1) - factor.diagonal().log().sum()
