"""A GAN in the latent space of a trained text autoencoder: its codes of real texts are the real data.

With ``encoder_weight`` 0 the autoencoder stays as it is and a generator learns the law of its codes (as TILGAN does,
Diao et al. 2021): what the prior draws outside of it, the decoder has never seen. Above 0 the codes come to meet the
generator too (ARAE, Zhao et al. 2018): the encoder is paid for codes that the critic takes for generated ones, and
encoder and decoder go on learning by the VAE's own loss, which keeps the codes worth something.

Everything is differentiable, as no token is drawn. One step is ``d_steps`` updates of the critic and one of the
generator (and of the autoencoder).
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from textgan.config import LatentGan
from textgan.data.dataset import BatchPlan
from textgan.errors import UserError
from textgan.models.latent_gan import LatentCritic, LatentMapper
from textgan.models.vae import TextVAE
from textgan.ops.elbo import free_bits, word_dropout
from textgan.ops.gan_losses import GAN_LOSSES, gradient_penalty, r1_penalty
from textgan.sampling.latent import LatentGenerator
from textgan.training.building import build_latent_mapper, fill
from textgan.training.checkpoint import load_weights, read_pointer
from textgan.training.codes import codes_of, compare_codes, encode, encode_rows, posterior_noise, whitening_of
from textgan.training.experiment import Experiment, Selection, say
from textgan.training.finish import finish_arm
from textgan.training.optim import WeightAverage, adamw, clip_gradients, lr_at, set_lr
from textgan.training.progress import Progress
from textgan.training.seeding import seed_dropout, stream, stream_seed
from textgan.training.vae_evaluation import fit_aggregate, fit_batch_norm

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
        """The VAE with the generator of latents, whose weights are evaluated and saved: see :func:`shown`."""
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


def train_latent_gan(
    run: Experiment, parent: TextVAE, start: int, resumed: dict[str, Any] | None
) -> tuple[TextVAE, int]:
    """Run the phase from VAE ``parent``, which is left as it is, at step ``start``.

    Returns:
        The VAE with its ``latent_generator``, at the weights whose codes were nearest to those of dev texts, and the
        step.
    """
    config, settings = run.config, run.config.latent_gan
    players = set_up(run, parent)
    plan, plan_d = (
        BatchPlan(run.train.lengths, settings.batch_size, stream_seed(config.seed, name), by_length=False)
        for name in ("latent-gan", "latent-gan-d")
    )
    step, end = start, start + settings.max_steps
    if resumed:
        step = resumed["step"]
        players.load_state_dict(resumed["players"])

    with Progress("latent_gan", total=settings.max_steps, done=step - start) as progress:
        while step < end and not players.selection.exhausted:
            done = step - start
            schedule = set_rates(players, settings, done)
            for k in range(done * settings.d_steps, (done + 1) * settings.d_steps):
                found = critic_step(run, players, plan_d.indices(k), k)
            found |= mapper_step(run, players, plan.indices(done), done)
            if players.joint:
                found |= autoencoder_step(run, players, plan.indices(done), done)
            players.average.update()
            step += 1
            progress.advance()

            if step % config.log_every == 0 or step == end:
                numbers = run.check_finite(step, **found)
                run.logger.scalars(step, {f"train/{k}": v for k, v in numbers.items()} | schedule)
                run.logger.perf(step, {"steps_per_s": progress.rate("steps")})
                progress.show(g_loss=numbers["g_loss"], d_acc=numbers["d_acc"])
            values, best, model = {}, False, None
            if step % config.evaluation.every == 0 or step == end:
                run.check_finite(step, **found)
                with progress.paused():
                    model = shown(run, players)
                    values = evaluate(run, model, step)
                best = players.selection.update(values["latent/mmd"], step)
                progress.show(mmd=values["latent/mmd"])
            interrupted = run.interrupt.requested  # read once: what raises below is what was saved here
            stopping = players.selection.exhausted or interrupted or step == end
            if best or step % config.checkpoint.every == 0 or stopping:
                run.check_finite(step, **found)
                run.save(
                    run.step_name(step),
                    generator=shown(run, players) if model is None else model,
                    phase="latent_gan",
                    step=step,
                    state={"phase": "latent_gan", "step": step, "start": start, "players": players.state_dict()},
                    metrics=values,
                    best=run.step_name(step) if best else None,
                )
            if interrupted:
                raise KeyboardInterrupt
    return finish(run, players, step), step


def set_up(run: Experiment, parent: TextVAE) -> Players:
    """A copy of the parent, and both players of the GAN on its whitened codes, at their start."""
    config, settings = run.config, run.config.latent_gan
    if len(run.dev) < 2:
        raise UserError("latent_gan is judged by the codes of dev texts, and there is only 1; give more dev texts")
    vae = copy.deepcopy(parent).requires_grad_(False).eval()
    vae.latent_generator = None
    seed_dropout(config.seed, "init-latent-gan")
    mapper = build_latent_mapper(config).to(run.device)
    critic = LatentCritic(vae.z_size, settings.n_layer, settings.n_hidden, settings.spectral_norm).to(run.device)
    features = encode_rows(run, vae, run.train)
    white = whitening_of(codes_of(run, vae, features, "fit"))
    for player in (mapper, critic):
        player.white.fit(white.mean, white.factor)
    optimizer_vae = None
    if settings.encoder_weight:
        vae.requires_grad_(True)
        optimizer_vae = adamw(vae, betas=config.vae.betas, weight_decay=config.vae.weight_decay)
        vae.latent_generator = mapper
    average = WeightAverage(vae if optimizer_vae else mapper, settings.ema)
    if not optimizer_vae:
        vae.latent_generator = average.module
    return Players(
        vae=vae,
        features=None if optimizer_vae else features,
        mapper=mapper,
        critic=critic,
        average=average,
        optimizer=adamw(mapper, betas=settings.betas, weight_decay=0.0),
        optimizer_d=adamw(critic, betas=settings.betas, weight_decay=0.0),
        optimizer_vae=optimizer_vae,
        selection=Selection(settings.patience),
    )


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
        inference = vae.infer(encode(vae, batch), posterior_noise(run, size, "vae", done))
        recon = -vae.log_likelihood(batch.ids, batch.lengths, inference.z, inputs=inputs).sum()
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


def shown(run: Experiment, players: Players) -> TextVAE:
    """``players.model`` as it is evaluated and saved.

    A batch norm whose weights move takes its statistics from these weights; in a copy, so that training does not
    depend on when it is looked at.
    """
    if not (players.joint and players.model.bn):
        return players.model
    model = copy.deepcopy(players.model)
    fit_batch_norm(run, model)
    return model


def encoder_loss(name: str, real: Tensor, fake: Tensor) -> Tensor:
    """The GAN loss of the encoder, a scalar: low where the critic takes codes of real texts for generated ones.

    It is the generator's loss with the two sides in each other's place. Scores are mirrored first, so that high ones
    again say "real": at 1/2 where the targets are 0 and 1 (least squares), else at 0.
    """
    mirrored = (1 - fake, 1 - real) if name == "least_squares" else (-fake, -real)
    return GAN_LOSSES[name].generator(*mirrored)


def evaluate(run: Experiment, vae: TextVAE, step: int) -> dict[str, float]:
    """Compare generated codes with those of dev texts, and evaluate texts decoded from them; logs all of it."""
    values = compare_codes(run, vae)
    run.logger.scalars(step, values)
    return values | run.evaluate(LatentGenerator(vae, source="gan"), step)


def finish(run: Experiment, players: Players, step: int) -> TextVAE:
    """The phase's best weights, calibrated if the decoder moved, evaluated and saved as checkpoint ``latent_gan``."""
    selection, vae = players.selection, players.model
    if selection.exhausted:
        say(
            f"stopped early at step {step}: generated codes were nearest to those of dev texts at step "
            f"{selection.best_step} (MMD {selection.best:.4g})"
        )
    best = run.checkpoints / read_pointer(run.checkpoints, run.best_pointer)
    fill(vae, load_weights(best), best)
    vae.requires_grad_(False).eval()
    known = None
    if players.joint:
        fit_aggregate(run, vae)
    else:  # the decoder is that of the phase before, calibrated or not
        known = run.results["vae"]["calibration"]
    fit = players.joint and run.config.vae.calibrate
    entry = finish_arm(run, "latent_gan", LatentGenerator(vae, source="gan"), step, fit=fit, known=known)
    values = evaluate(run, vae, step)
    entry["latent"] = {tag: value for tag, value in values.items() if tag.startswith("latent/")}
    run.save(
        "latent_gan",
        generator=vae,
        phase="latent_gan",
        step=step,
        state={"phase": "latent_gan-done", "step": step, "critic": players.critic.state_dict()},
        metrics=values,
        calibration=entry["calibration"],
        best="latent_gan",
    )
    return vae
