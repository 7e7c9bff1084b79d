"""A text VAE: an encoder that reads a text, a Gaussian latent, and a generator that is told the latent.

Flat: one latent z of `z_size` numbers whose prior is N(0, I). Layerwise (the idea of DELLA, Hu et al. 2022,
https://arxiv.org/abs/2207.06130): z is a group of numbers for each layer of the decoder; group l is drawn given
the groups before it, by the prior p(z_l | z_<l), which is learned, and by the posterior q(z_l | z_<l, x), which also
sees the encoder's layer; it goes into decoder layer l. Both are proper VAEs: `log_q` and `log_p` are exact
log densities of the drawn z, so every bound of the likelihood built of them holds.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from textgan.models.encoder import LSTMEncoder, TransformerEncoder
from textgan.models.generator import Condition, Generator
from textgan.models.injection import INJECTIONS, LSTMInjection, TransformerInjection
from textgan.models.lstm import LSTMCondition, LSTMGenerator
from textgan.models.transformer import check_sizes
from textgan.ops.elbo import gaussian_kl, log_normal

LATENTS = ("flat", "layerwise")


class Inference(NamedTuple):
    """A draw of the posterior, and the normal laws that its entries were drawn from. All (B, Z).

    With layerwise latents the laws of a group are those given the groups of `z` before it.
    """

    z: Tensor
    mu: Tensor
    logvar: Tensor
    prior_mu: Tensor
    prior_logvar: Tensor

    @property
    def kl(self) -> Tensor:
        """(B, Z) KL(q || p) of each entry in nats, given the drawn entries before it; its sum's mean is the KL."""
        return gaussian_kl(self.mu, self.logvar, self.prior_mu, self.prior_logvar)

    @property
    def offset(self) -> Tensor:
        """(B, Z) how far the posterior's mean is from the prior's, in deviations of the prior; at most sqrt(2 kl).

        `mu` of a flat latent. Of a layerwise one it is what tells whether a unit is used: its `mu` follows the drawn
        groups before it even where the posterior is the prior.
        """
        return (self.mu - self.prior_mu) * torch.exp(-0.5 * self.prior_logvar)

    @property
    def log_q(self) -> Tensor:
        """(B,) log q(z | x)."""
        return log_normal(self.z, self.mu, self.logvar).sum(-1)

    @property
    def log_p(self) -> Tensor:
        """(B,) log p(z)."""
        return log_normal(self.z, self.prior_mu, self.prior_logvar).sum(-1)


class ScaledBatchNorm(nn.Module):
    """Batch norm with a fixed scale and a learned shift (BN-VAE, Zhu et al. 2020, https://arxiv.org/abs/2004.12585).

    On posterior means, it keeps the KL of a batch at `d * gamma**2 / 2` or more. A batch of one row, which has no
    spread, uses the running statistics, as eval mode does.

    With `whiten` all of the covariance is normalised, not its diagonal alone (decorrelated batch norm, Huang et al.
    2018, https://arxiv.org/abs/1804.08450): entries cannot be copies of each other, which meet the bound as well. A
    batch of no more rows than entries then uses the running statistics.
    """

    def __init__(self, features: int, gamma: float, whiten: bool = False):
        super().__init__()
        self.whiten = whiten
        self.register_buffer("weight", torch.full((features,), gamma))
        self.bias = nn.Parameter(torch.zeros(features))
        self.register_buffer("running_mean", torch.zeros(features))
        # The variances, or the covariance, which may be all but singular.
        self.register_buffer("running_var", torch.eye(features).double() if whiten else torch.ones(features))

    def forward(self, x: Tensor) -> Tensor:
        training = self.training and len(x) > (x.size(1) if self.whiten else 1)
        if not self.whiten:
            # The usual epsilon of 1e-5 would let means shrink under it, and the KL with them.
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, training, eps=1e-7)
        mean, covariance = _moments(x) if training else (self.running_mean, self.running_var)
        if training:
            self.running_mean.lerp_(mean.detach().to(x.dtype), 0.1)
            self.running_var.lerp_(covariance.detach(), 0.1)
        # As small as float64 lets it be: what the entries before leave of an entry would shrink under a larger share,
        # for that is where a KL below the bound is to be had (at 1e-5 an encoder of short stories found it).
        factor = torch.linalg.cholesky(covariance + torch.diag(1e-10 * covariance.diagonal().detach() + 1e-20))
        white = torch.linalg.solve_triangular(factor, (x - mean).T, upper=False).T
        return white.to(x.dtype) * self.weight + self.bias

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Set the running statistics to those of rows (N, d)."""
        mean, covariance = _moments(x)
        self.running_mean.copy_(mean)
        self.running_var.copy_(covariance if self.whiten else covariance.diagonal())


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (d,) and covariance (d, d) of rows (N, d), divided by N, float64: it may be all but singular."""
    mean = x.double().mean(0)
    centred = x - mean
    return mean, centred.T @ centred / len(x)


class TextVAE(nn.Module):
    """An encoder, a latent and a decoder.

    Attributes:
        groups: number of groups of the latent: 1, or the decoder's layers.
        aggregate_mean, aggregate_factor: (Z,) and (Z, Z), the Gaussian N(mean, factor factor') that was fitted to the
            posteriors of the training texts; N(0, I) before.
        latent_generator: None, or a network that turns N(0, I) noise (B, Z) into latents.
    """

    def __init__(
        self,
        encoder: TransformerEncoder | LSTMEncoder,
        decoder: Generator | LSTMGenerator,
        z_size: int,
        latents: str = "flat",
        injection: str = "both",
        bn_gamma: float | None = None,
        bn_whiten: bool = False,
    ):
        """
        Args:
            encoder, decoder: of one vocabulary. An LSTM decoder has `n_extra=z_size` unless `injection` is "memory".
            z_size: numbers of the latent; with layerwise latents, of all groups together.
            latents: "flat" or "layerwise".
            injection: "embedding": added to the token embeddings (layerwise: to the input of its layer; LSTM:
                concatenated to every embedding). "memory": an extra key and value in every layer (layerwise: in its
                layer; LSTM: the first state). Or "both".
            bn_gamma: scale of a batch norm on the posterior means; None: no batch norm. With layerwise latents
                on the means' distance from the prior's, in units of its deviation, so that the bound stays.
            bn_whiten: the batch norm makes the means uncorrelated too, within their group.

        Raises:
            ValueError: for sizes or names out of range.
        """
        super().__init__()
        check_sizes(z_size=z_size)
        if latents not in LATENTS:
            raise ValueError(f"unknown latents `{latents}`; choose one of {', '.join(LATENTS)}")
        if injection not in INJECTIONS:
            raise ValueError(f"unknown injection `{injection}`; choose one of {', '.join(INJECTIONS)}")
        if encoder.vocab_size != decoder.vocab_size:
            raise ValueError(f"the encoder knows {encoder.vocab_size} tokens, the decoder {decoder.vocab_size}")
        if bn_gamma is not None and not bn_gamma > 0:
            raise ValueError(f"`bn_gamma={bn_gamma!r}` must be above 0, or none")
        if latents == "layerwise" and isinstance(decoder, LSTMGenerator):
            raise ValueError("`latents=layerwise` needs a Transformer decoder; give an LSTM `latents=flat`")
        self.groups = decoder.n_layer if latents == "layerwise" else 1
        if z_size % self.groups:
            raise ValueError(f"`z_size={z_size}` does not split evenly into the decoder's {self.groups} layers")
        self.encoder, self.decoder = encoder, decoder
        self.z_size, self.latents, self.injection = z_size, latents, injection
        size = z_size // self.groups
        self.posterior = nn.ModuleList(nn.Linear(encoder.n_features + g * size, 2 * size) for g in range(self.groups))
        self.prior_net = nn.ModuleList(_prior_net(g * size, 2 * size) for g in range(1, self.groups))
        self.bn = nn.ModuleList(
            ScaledBatchNorm(size, bn_gamma, bn_whiten) for _ in range(self.groups if bn_gamma else 0)
        )
        if isinstance(decoder, LSTMGenerator):
            self.inject = LSTMInjection(decoder, z_size, injection)
        else:
            self.inject = TransformerInjection(decoder, z_size, self.groups, injection)
        for linear in self.posterior:
            nn.init.normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
        self.register_buffer("aggregate_mean", torch.zeros(z_size))
        self.register_buffer("aggregate_factor", torch.eye(z_size))
        self.latent_generator: nn.Module | None = None

    @property
    def vocab_size(self) -> int:
        return self.decoder.vocab_size

    @property
    def block_size(self) -> int:
        return self.decoder.block_size

    @property
    def device(self) -> torch.device:
        return self.decoder.device

    def encode(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Features of texts, (B, F), or (B, n_layer, F) for layerwise latents; rows come first.

        Args:
            tokens: targets of the rows, (B, T) ids or (B, T, V) probability vectors.
            lengths: (B,) how many of them are real.
        """
        if self.latents == "flat":
            return self.encoder(tokens, lengths)
        # The layer of the encoder that stands as high as the decoder's; the same one for equal numbers of layers.
        L, n = self.encoder.n_layer, self.groups
        return self.encoder.layers(tokens, lengths)[:, [-(-(g + 1) * L // n) - 1 for g in range(n)]]

    def infer(self, features: Tensor, noise: Tensor) -> Inference:
        """A draw of q(z | x) from standard normal noise (B, Z); noise of zeros gives the means."""
        return self._infer(features, noise, lambda noise, mu, logvar: mu + noise * torch.exp(0.5 * logvar))

    def infer_at(self, features: Tensor, z: Tensor) -> Inference:
        """The posterior and the prior at a given z (B, Z), for densities of latents drawn elsewhere."""
        return self._infer(features, z, lambda z, mu, logvar: z)

    def prior(self, noise: Tensor) -> Tensor:
        """Latents (B, Z) of p(z) from standard normal noise (B, Z)."""
        z = noise[:, :0]
        with torch.autocast(noise.device.type, enabled=False):
            for g, part in enumerate(noise.chunk(self.groups, dim=1)):
                mu, logvar = self._prior_law(z, g, part)
                z = torch.cat([z, mu + part * torch.exp(0.5 * logvar)], dim=1)
        return z

    def condition(self, z: Tensor) -> Condition | LSTMCondition:
        """What the decoder is told of latents (B, Z)."""
        return self.inject(z)

    def log_likelihood(self, ids: Tensor, lengths: Tensor, z: Tensor) -> Tensor:
        """(B,) log p(x | z) in nats, the closing token counted.

        Args:
            ids: (B, T + 1) full rows `[eos, w1..wn, eos]`.
            lengths: (B,) real targets of each row.
            z: (B, Z).
        """
        mask = _real(ids, lengths)
        losses = self.decoder.nll(ids[:, :-1], ids[:, 1:], at=mask, condition=self.condition(z))
        return -losses.new_zeros(mask.shape).masked_scatter(mask, losses).sum(1)

    def reconstruction(self, ids: Tensor, lengths: Tensor, z: Tensor, inputs: Tensor | None = None) -> Tensor:
        """The sum over rows of -log p(x | z) in nats, for training: its gradient is cheaper than that of single rows.

        Args:
            ids, lengths, z: see `log_likelihood`.
            inputs: (B, T) what the decoder reads instead of `ids[:, :-1]` (word dropout).
        """
        inputs = ids[:, :-1] if inputs is None else inputs
        at, condition = _real(ids, lengths), self.condition(z)
        return self.decoder.nll(inputs, ids[:, 1:], at=at, condition=condition, reduction="sum")

    def encoder_parameters(self) -> list[nn.Parameter]:
        """The parameters of q(z | x)."""
        return [p for module in (self.encoder, self.posterior, self.bn) for p in module.parameters()]

    def decoder_parameters(self) -> list[nn.Parameter]:
        """The parameters of p(z) and p(x | z); with the encoder's, all but those of `latent_generator`."""
        modules = (self.decoder, self.prior_net, self.inject)
        return [p for module in modules for p in module.parameters()]

    def num_parameters(self) -> int:
        """Number of trained values of the encoder, the latent and the decoder."""
        return sum(p.numel() for p in self.encoder_parameters() + self.decoder_parameters())

    def _infer(self, features: Tensor, given: Tensor, draw: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Inference:
        if self.latents == "flat":
            features = features[:, None]
        features = features.to(torch.promote_types(features.dtype, torch.float32))
        z, laws = given[:, :0], []
        # A posterior in bfloat16 would lose the small deviations from the prior.
        with torch.autocast(features.device.type, enabled=False):
            for g, part in enumerate(given.chunk(self.groups, dim=1)):
                prior_mu, prior_logvar = self._prior_law(z, g, part)
                shift, logvar = self.posterior[g](torch.cat([features[:, g], z], dim=1)).chunk(2, dim=1)
                if self.bn:
                    shift = self.bn[g](shift)
                # In units of the prior (Vahdat & Kautz 2020): posteriors move along with it while it is learned.
                mu, logvar = prior_mu + shift * torch.exp(0.5 * prior_logvar), prior_logvar + logvar
                z = torch.cat([z, draw(part, mu, logvar)], dim=1)
                laws.append((mu, logvar, prior_mu, prior_logvar))
        return Inference(z, *(torch.cat(parts, dim=1) for parts in zip(*laws, strict=True)))

    def _prior_law(self, z: Tensor, group: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of p(z_group | z_<group), of the shape of `like`."""
        if group == 0:
            return torch.zeros_like(like), torch.zeros_like(like)
        return self.prior_net[group - 1](z).chunk(2, dim=1)


def _real(ids: Tensor, lengths: Tensor) -> Tensor:
    """(B, T) where full rows (B, T + 1) have real targets."""
    return torch.arange(ids.size(1) - 1, device=ids.device) < lengths[:, None]


def _prior_net(known: int, out: int) -> nn.Sequential:
    """A small network whose output starts at zero: the prior starts as N(0, I)."""
    net = nn.Sequential(nn.Linear(known, 4 * out), nn.GELU(), nn.Linear(4 * out, out))
    nn.init.zeros_(net[-1].weight)
    nn.init.zeros_(net[-1].bias)
    return net
