"""A pull of the aggregate posterior to the prior: what makes an autoencoder that can be sampled from without a KL.

The KL of a VAE pulls the posterior of every single text to the prior; this term looks at the codes of all texts
together and leaves single ones where they are, so it does not ask the encoder to forget (Tolstikhin et al. 2018,
"Wasserstein Auto-Encoders"). Two ways to tell codes from draws of the prior: a kernel (WAE-MMD), or a critic that is
trained beside (Makhzani et al. 2016, "Adversarial Autoencoders"; WAE-GAN).

Posteriors that all are the prior match it too, and with a decoder that writes well without z that is where too heavy a
pull ends: the collapse that the term is meant to avoid. The default weights leave the latent in use.
"""

from typing import Any

import torch
from torch import Tensor

from textgan.models.latent_gan import LatentCritic
from textgan.ops.elbo import mmd_to_prior
from textgan.ops.gan_losses import GAN_LOSSES, r1_penalty
from textgan.training.optim import adamw, set_lr
from textgan.training.seeding import seed_dropout

DEFAULT_WEIGHTS = {"mmd": 10.0, "adversarial": 1.0}


class MmdTerm:
    """WAE-MMD: the unbiased squared MMD of the codes of a batch and as many draws of the prior."""

    def __init__(self, weight: float = DEFAULT_WEIGHTS["mmd"]) -> None:
        """``weight`` is kept for the loop that adds the term to its loss."""
        self.weight = weight
        self._sum, self._seen = 0.0, 0

    def loss(self, z: Tensor, prior_z: Tensor) -> Tensor:
        """The discrepancy, a scalar with gradient in ``z``; 0 where there is a single code, which has no pair.

        Args:
            z: (B, Z) codes of texts, drawn from their posteriors.
            prior_z: (B, Z) draws of the prior; no gradient goes into them.
        """
        if len(z) < 2:
            return z.sum() * 0.0
        value = mmd_to_prior(z, prior_z.detach())
        self._sum, self._seen = self._sum + len(z) * value.detach(), self._seen + len(z)
        return value

    def update(self) -> dict[str, Tensor | float]:
        """End a step: returns ``aggregate``, the term averaged over the step's texts."""
        found = {"aggregate": self._sum / max(1, self._seen)}
        self._sum, self._seen = 0.0, 0
        return found

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """A kernel has no state."""


class AdversarialTerm:
    """AAE and WAE-GAN: a critic learns to tell draws of the prior from codes; the encoder is paid for fooling it.

    The loss is the non-saturating one of Goodfellow et al. 2014 with draws of the prior as the real side. The critic's
    gradient is penalised on both sides, R1 and R2 of Mescheder et al. 2018: with R1 alone codes that fall into one
    point can be pushed about without end, as the critic may be as steep there as it likes.
    """

    def __init__(
        self,
        z_size: int,
        weight: float = DEFAULT_WEIGHTS["adversarial"],
        *,
        seed: int,
        device: torch.device,
        lr: float = 5e-4,
        n_layer: int = 2,
        n_hidden: int = 256,
        penalty: float = 0.3,
    ):
        """``weight`` as in :class:`MmdTerm`; ``lr`` is the critic's; ``penalty`` gamma of R1 and R2.

        The critic's start follows from ``seed``.
        """
        self.weight = weight
        seed_dropout(seed, "init-aggregate")
        self.critic = LatentCritic(z_size, n_layer, n_hidden).to(device)
        self.optimizer = adamw(self.critic, betas=(0.5, 0.9), weight_decay=0.0)
        set_lr(self.optimizer, lr)
        self.penalty = penalty
        self._loss_functions = GAN_LOSSES["non_saturating"]
        self._codes: list[Tensor] = []
        self._prior: list[Tensor] = []
        self._sum = 0.0

    def loss(self, z: Tensor, prior_z: Tensor) -> Tensor:
        """The encoder's loss, a scalar with gradient in ``z``: lower where the critic takes the codes for the prior's.

        What is given is kept for :meth:`update`. Arguments as :meth:`MmdTerm.loss`.
        """
        with torch.autocast(z.device.type, enabled=False):
            self.critic.requires_grad_(False)
            value = self._loss_functions.generator(None, self.critic(z.float()))
            self.critic.requires_grad_(True)
        self._codes.append(z.detach().float())
        self._prior.append(prior_z.detach().float())
        self._sum = self._sum + len(z) * value.detach()
        return value

    def update(self) -> dict[str, Tensor | float]:
        """End a step: one update of the critic on the codes that :meth:`loss` saw since the last one.

        Returns:
            ``aggregate`` (the encoder's loss averaged over texts), ``aggregate_d_loss`` (the critic's, penalties left
            out) and ``aggregate_acc``: the share of pairs in which it scores a draw of the prior above a code; 0.5
            says that it sees no difference.
        """
        codes, prior_z = torch.cat(self._codes).requires_grad_(), torch.cat(self._prior).requires_grad_()
        value = self._sum / len(codes)
        self._codes, self._prior, self._sum = [], [], 0.0
        with torch.autocast(codes.device.type, enabled=False):
            real, fake = self.critic(prior_z), self.critic(codes)
            loss = self._loss_functions.discriminator(real, fake)
            self.optimizer.zero_grad()
            steepness = r1_penalty(real, prior_z) + r1_penalty(fake, codes)
            (loss + self.penalty / 2 * steepness).backward()
            self.optimizer.step()
        above = (real.detach()[:, None] > fake.detach()).float().mean()
        return {"aggregate": value, "aggregate_d_loss": loss.detach(), "aggregate_acc": above}

    def state_dict(self) -> dict[str, Any]:
        return {"critic": self.critic.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.critic.load_state_dict(state["critic"])
        self.optimizer.load_state_dict(state["optimizer"])


AggregateTerm = MmdTerm | AdversarialTerm


def build_aggregate_term(
    kind: str, z_size: int, weight: float | None = None, *, seed: int, device: torch.device, lr: float = 5e-4
) -> AggregateTerm | None:
    """The term that a config's ``vae.aggregate`` names; None for ``none``.

    A loop adds ``term.weight * term.loss(z, prior_z)`` of each micro-batch to its loss (in nats a text, as the KL),
    calls ``term.update()`` behind the encoder's update, logs what that returns, and keeps ``state_dict()``. Nothing
    here draws random numbers after the critic's start.

    Args:
        kind: ``none``, ``mmd`` or ``adversarial``.
        z_size: width of z.
        weight: of the term; None: that of ``DEFAULT_WEIGHTS``.
        seed: of the critic's start.
        device: of the codes.
        lr: learning rate of the critic; ``mmd`` has none.
    """
    weight = DEFAULT_WEIGHTS.get(kind, 0.0) if weight is None else weight
    terms = {
        "none": lambda: None,
        "mmd": lambda: MmdTerm(weight),
        "adversarial": lambda: AdversarialTerm(z_size, weight, seed=seed, device=device, lr=lr),
    }
    return terms[kind]()
