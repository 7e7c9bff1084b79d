"""A GAN in the latent space of a trained text autoencoder: its codes of real texts are the real data.

With ``encoder_weight`` 0 the autoencoder stays as it is and a generator learns the law of its codes (as TILGAN does,
Diao et al. 2021): what the prior draws outside of it, the decoder has never seen. Above 0 the codes come to meet the
generator too (ARAE, Zhao et al. 2018): the encoder is paid for codes that the critic takes for generated ones, and
encoder and decoder go on learning by the VAE's own loss, which keeps the codes worth something.

Everything is differentiable, as no token is drawn. One step is ``d_steps`` updates of the critic and one of the
generator (and of the autoencoder).
"""

import copy
from typing import Any

from textgan.data.dataset import BatchPlan
from textgan.errors import UserError
from textgan.models.latent_gan import LatentCritic
from textgan.models.vae import TextVAE
from textgan.sampling.latent import LatentGenerator
from textgan.training.building import build_latent_mapper, fill
from textgan.training.checkpoint import load_weights, read_pointer
from textgan.training.codes import codes_of, compare_codes, encode_rows, whitening_of
from textgan.training.experiment import Experiment, Selection, say
from textgan.training.finish import finish_arm
from textgan.training.latent_players import Players, autoencoder_step, critic_step, mapper_step, set_rates
from textgan.training.optim import WeightAverage, adamw
from textgan.training.seeding import seed_dropout, stream_seed
from textgan.training.vae_evaluation import fit_aggregate, fit_batch_norm


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

    with run.progress("latent_gan", total=settings.max_steps, done=step - start) as progress:
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
