"""The players of a GAN in the latent space of a text autoencoder, and one update of each of them."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from textgan.configlatent import LatentGan
from textgan.models.latent_gan import LatentCritic, LatentMapper
from textgan.models.vae import TextVAE
from textgan.ops.elbo import free_bits, word_dropout
from textgan.ops.gan_losses import GAN_LOSSES, gradient_penalty, r1_penalty
from textgan.training.codes import codes_of, encode_rows, posterior_noise
from textgan.training.experiment import Experiment, Selection
from textgan.training.objectives import reconstruct
from textgan.training.optim import WeightAverage, clip_gradients, lr_at, set_lr
from textgan.training.seeding import seed_dropout, stream

RELATIVISTIC = ("rsgan", "ragan")  # the losses whose generator also looks at the scores of real codes


@dataclass
class Players:
    """Everything that the phase trains, and what it needs to go on after a kill.

    ``vae`` is the autoencoder that codes come from; where it is frozen, ``features`` are those of all training texts.
    ``average`` is of what moves: of the mapper alone, or of the whole VAE with the mapper in it.
    """

    vae: TextVAE
    features: Tensor | None
    mapper: LatentMapper
    critic: LatentCritic
    average: WeightAverage
    optimizer: torch.optim.Optimizer
    optimizer_d: torch.optim.Optimizer
    optimizer_vae: torch.optim.Optimizer | None
    selection: Selection

    @property
    def joint(self) -> bool:
        return self.optimizer_vae is not None

    @property
    def model(self) -> TextVAE:
        """The VAE with the generator of latents whose weights are evaluated and saved (see ``latent_gan.shown``)."""
        return self.average.module if self.joint else self.vae

    def _kept(self) -> dict[str, Any]:
        """What moves; a frozen autoencoder is that of the phase before."""
        left_out = {"features"} if self.joint else {"features", "vae", "optimizer_vae"}
        return {name: part for name, part in vars(self).items() if name not in left_out}

    def state_dict(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self._kept().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, part in self._kept().items():
            part.load_state_dict(state[name])


def set_rates(players: Players, settings: LatentGan, done: int) -> dict[str, float]:
    """Set the learning rates for the phase's update ``done``; returns them under their tags."""
    peaks = {"lr": (players.optimizer, settings.lr), "lr_d": (players.optimizer_d, settings.lr_d)}
    if players.joint:
        peaks["lr_vae"] = (players.optimizer_vae, settings.lr_vae)
    rates = {}
    for name, (optimizer, peak) in peaks.items():
        rates[f"schedule/{name}"] = lr_at(
            done,
            total_steps=settings.max_steps,
            peak=peak,
            warmup_steps=settings.warmup_steps,
            final_ratio=settings.final_lr_ratio,
        )
        set_lr(optimizer, rates[f"schedule/{name}"])
    return rates


def draw_codes(run: Experiment, players: Players, rows: Tensor, *name: object) -> Tensor:
    """Codes (B, Z) of these rows of the training texts, without gradient."""
    if players.features is not None:
        return codes_of(run, players.vae, players.features[rows], *name)
    return codes_of(run, players.vae, encode_rows(run, players.vae, run.train, rows), *name)


def draw_noise(run: Experiment, mapper: LatentMapper, size: int, *name: object) -> Tensor:
    """Noise (B, noise_size) of the mapper."""
    rng = stream(run.device, run.config.seed, "noise", *name)
    return torch.randn(size, mapper.noise_size, generator=rng, device=run.device)


def critic_step(run: Experiment, players: Players, rows: Tensor, k: int) -> dict[str, Tensor]:
    """One update of the critic on the codes of these texts and as many generated ones; returns scalars to log."""
    settings, critic = run.config.latent_gan, players.critic
    real = draw_codes(run, players, rows, "d", k)
    with torch.no_grad():
        fake = players.mapper(draw_noise(run, players.mapper, len(real), "d", k))
    real, fake = (critic.white.whiten(z).requires_grad_() for z in (real, fake))
    critic.train()
    real_score, fake_score = critic.score(real), critic.score(fake)
    loss = GAN_LOSSES[settings.loss].discriminator(real_score, fake_score)
    total = loss
    for weight, score, h in ((settings.r1, real_score, real), (settings.r2, fake_score, fake)):
        if weight:
            total = total + weight / 2 * r1_penalty(score, h)
    if settings.gradient_penalty:
        total = total + settings.gradient_penalty * gradient_penalty(
            lambda mixed: critic.score(mixed[:, 0]),
            real[:, None],
            fake[:, None],
            generator=stream(run.device, run.config.seed, "gradient-penalty", "latent", k),
        )
    players.optimizer_d.zero_grad()
    total.backward()
    norm = clip_gradients(critic, settings.grad_clip)
    players.optimizer_d.step()
    above = (real_score.detach()[:, None] > fake_score.detach()).float().mean()
    gap = (real_score.mean() - fake_score.mean()).detach()
    return {"d_loss": loss.detach(), "d_acc": above, "d_gap": gap, "grad_norm_d": norm}


def mapper_step(run: Experiment, players: Players, rows: Tensor, done: int) -> dict[str, Tensor]:
    """One update of the generator of latents by its GAN loss; returns scalars to log."""
    settings, critic, mapper = run.config.latent_gan, players.critic, players.mapper
    critic.eval().requires_grad_(False)
    fake = mapper(draw_noise(run, mapper, len(rows), "g", done))
    real_score = None
    if settings.loss in RELATIVISTIC:
        with torch.no_grad():
            real_score = critic(draw_codes(run, players, rows, "g", done))
    loss = GAN_LOSSES[settings.loss].generator(real_score, critic(fake))
    players.optimizer.zero_grad()
    loss.backward()
    norm = clip_gradients(mapper, settings.grad_clip)
    players.optimizer.step()
    critic.requires_grad_(True)
    return {"g_loss": loss.detach(), "grad_norm": norm}


def autoencoder_step(run: Experiment, players: Players, rows: Tensor, done: int) -> dict[str, Tensor]:
    """One update of encoder and decoder: the VAE's loss, and the critic's gradient in the encoder; scalars to log.

    The loss of the VAE is that of the end of its phase: the last ``kl_weight``, with free bits and word dropout.
    """
    config, settings, vae, critic = run.config, run.config.latent_gan, players.vae, players.critic
    batch, size = run.train.batch(rows).to(run.device), len(rows)
    tokens = settings.batch_size * run.train.lengths.double().mean().item()
    seed_dropout(config.seed, "latent-gan", done)
    unknown = run.tokenizer.eos_id if run.tokenizer.unk_id is None else run.tokenizer.unk_id
    words = stream(run.device, config.seed, "latent-gan-words", done)
    inputs = word_dropout(batch.inputs, config.vae.word_dropout, unknown, words)
    critic.eval().requires_grad_(False)
    vae.train()
    with run.autocast():
        inference, recon = reconstruct(vae, batch, posterior_noise(run, size, "vae", done), inputs)
    with torch.no_grad():
        fake_score = critic(players.mapper(draw_noise(run, players.mapper, size, "vae", done)))
    e_loss = encoder_loss(settings.loss, critic(inference.z), fake_score)
    loss = recon / tokens + settings.encoder_weight * e_loss * size / tokens
    if config.vae.kl_weight:
        kl = free_bits(inference.kl, config.vae.free_bits, config.vae.free_bits_mode)
        loss = loss + config.vae.kl_weight * kl * size / tokens
    players.optimizer_vae.zero_grad()
    loss.backward()
    parameters = vae.encoder_parameters() + vae.decoder_parameters()
    norm = torch.nn.utils.clip_grad_norm_(parameters, config.vae.grad_clip or float("inf"))
    players.optimizer_vae.step()
    critic.requires_grad_(True)
    return {
        "e_loss": e_loss.detach(),
        "recon": recon.detach() / size,
        "kl": inference.kl.detach().sum(1).mean(),
        "grad_norm_vae": norm,
    }


def encoder_loss(name: str, real: Tensor, fake: Tensor) -> Tensor:
    """The GAN loss of the encoder, a scalar: low where the critic takes codes of real texts for generated ones.

    It is the generator's loss with the two sides in each other's place. Scores are mirrored first, so that high ones
    again say "real": at 1/2 where the targets are 0 and 1 (least squares), else at 0.
    """
    mirrored = (1 - fake, 1 - real) if name == "least_squares" else (-fake, -real)
    return GAN_LOSSES[name].generator(*mirrored)
