"""A VAE by its evidence lower bound: encoder and decoder learn together to write a text anew from a few numbers.

One step is one update of the decoder. Reconstruction and KL are summed over texts and divided by the same constant,
so their weights are those of the bound whatever the batch. First, where asked for, an autoencoder is trained and its
decoder thrown away (Li et al. 2019, "A Surprisingly Effective Fix for Deep Latent Variable Modeling of Text").
"""

import dataclasses
from typing import Any

import torch
from torch import Tensor

from textgan.data.dataset import Batch, BatchPlan
from textgan.models.vae import TextVAE
from textgan.ops.elbo import free_bits, kl_weight_at, kl_weight_settles, word_dropout
from textgan.training.adapting import plain_weights
from textgan.training.aggregate import AggregateTerm, build_aggregate_term
from textgan.training.aggressive import Aggressive, catch_up
from textgan.training.building import build_vae, compile_blocks, fill, fill_decoder
from textgan.training.checkpoint import find_checkpoint, load_weights, read_pointer
from textgan.training.experiment import Experiment, Selection, say
from textgan.training.finish import finish_arm
from textgan.training.objectives import reconstruct
from textgan.training.optim import WeightAverage, adamw, clip_gradients, lr_at, set_lr
from textgan.training.seeding import seed_dropout, stream, stream_seed
from textgan.training.vae_evaluation import evaluate_vae, fit_aggregate, fit_batch_norm, latent_model


@dataclasses.dataclass
class Learner:
    """What the phase trains, and what it needs to go on after a kill."""

    vae: TextVAE
    average: WeightAverage
    optimizer: torch.optim.Optimizer
    selection: Selection
    aggressive: Aggressive
    aggregate: AggregateTerm | None

    def _parts(self) -> dict[str, Any]:
        return {name: part for name, part in vars(self).items() if part is not None}

    def state_dict(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self._parts().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, part in self._parts().items():
            part.load_state_dict(state[name])


def train_vae(run: Experiment, start: int, resumed: dict[str, Any] | None) -> tuple[TextVAE, int]:
    """Run the phase (from ``resumed`` on, where given); returns the calibrated VAE and its step.

    Steps count on from ``start``, the last step of the phase before, in one log with it.
    """
    config, settings = run.config, run.config.vae
    learner = set_up(run)
    plan, ahead = batches(run, "vae"), batches(run, "vae-ahead")
    step, main, end = start, start + settings.pretrain_steps, start + settings.pretrain_steps + settings.max_steps
    if resumed:
        step = resumed["step"]
        learner.load_state_dict(resumed["learner"])

    with run.progress("vae", total=end - start, done=step - start) as progress:
        while step < end and not learner.selection.exhausted:
            if step == main and settings.pretrain_steps:
                learner = end_pretraining(run, learner)
            k = step - start
            weight, lr, only = kl_weight(run, k), rate(run, k), None
            if learner.aggressive.active and step >= main:
                run_ahead(run, learner, ahead, weight, lr)
                only = "decoder"
            rows = plan.indices(k)
            batch = run.train.batch(rows).to(run.device)
            found = update(run, learner, batch, (k,), weight, lr, only=only, pull=step >= main)
            learner.average.update()
            step += 1
            progress.advance(tokens=int(run.train.lengths[rows].sum()))

            if step % config.log_every == 0 or step == end:
                numbers = run.check_finite(step, **found)
                logged = {f"train/{name}": value for name, value in numbers.items()}
                if settings.aggressive and step > main:
                    logged["train/encoder_updates"] = learner.aggressive.updates
                run.logger.scalars(step, logged | {"schedule/lr": lr, "schedule/kl_weight": weight})
                run.logger.perf(step, {"tokens_per_s": progress.rate("tokens")})
                progress.show(recon=numbers["recon"], kl=numbers["kl"])
            values, best = {}, False
            if step % config.evaluation.every == 0 or step in (main, end):
                run.check_finite(step, **found)
                with progress.paused():
                    fit_batch_norm(run, learner.average.module)
                    values = evaluate_vae(run, learner.average.module, step)
                run.check_finite(step, dev_nll=values["quality/nll"])
                if step > main:
                    learner.aggressive.note(values["vae/mi"])
                if step == end or step - main > settles(run):
                    best = learner.selection.update(criterion(run, values), step)
                progress.show(dev_nll=values["quality/nll"], dev_kl=values["vae/kl"])
            interrupted = run.interrupt.requested  # read once: what raises below is what was saved here
            stopping = learner.selection.exhausted or interrupted or step == end
            if best or step % config.checkpoint.every == 0 or stopping:
                run.check_finite(step, **found)
                if not values:
                    fit_batch_norm(run, learner.average.module)
                run.save(
                    run.step_name(step),
                    generator=learner.average.module,
                    phase="vae",
                    step=step,
                    state={"phase": "vae", "step": step, "learner": learner.state_dict()},
                    metrics=values,
                    best=run.step_name(step) if best else None,
                )
            if interrupted:
                raise KeyboardInterrupt

    return finish(run, learner, step), step


def set_up(run: Experiment) -> Learner:
    """A fresh VAE with its optimiser."""
    config, settings = run.config, run.config.vae
    seed_dropout(config.seed, "init-vae")
    vae = new_vae(run)
    aggregate = build_aggregate_term(
        settings.aggregate,
        settings.z_size,
        settings.aggregate_weight,
        seed=config.seed,
        device=run.device,
        lr=settings.aggregate_lr,
    )
    average = WeightAverage(vae, settings.ema)
    compile_blocks(config, vae)
    return Learner(
        vae=vae,
        average=average,
        optimizer=adamw(vae, betas=settings.betas, weight_decay=settings.weight_decay),
        selection=Selection(settings.patience),
        aggressive=Aggressive(settings.aggressive),
        aggregate=aggregate,
    )


def new_vae(run: Experiment) -> TextVAE:
    """A VAE at its start: fresh, but for the decoder where it comes from a generator (``init_from``)."""
    vae = build_vae(run.config, run.tokenizer.vocab_size)
    origin = run.config.vae.init_from
    if origin is not None:
        folder = run.checkpoints / "mle" if origin == "mle" else find_checkpoint(origin)
        fill_decoder(vae, plain_weights(folder), folder)
    return vae.to(run.device)


def end_pretraining(run: Experiment, learner: Learner) -> Learner:
    """What the phase goes on with after its autoencoder: the encoder, a new decoder, optimiser and average.

    It follows from the seed and the autoencoder alone, so that a run killed just behind the last checkpoint of the
    pretraining does the same again.
    """
    fresh = set_up(run)
    if not run.config.vae.reset_decoder:
        fresh.vae.load_state_dict(learner.vae.state_dict())
    else:
        seed_dropout(run.config.seed, "reset-decoder")
        anew = new_vae(run)
        fresh.vae.load_state_dict(learner.vae.state_dict())
        with torch.no_grad():
            for own, new in zip(fresh.vae.decoder_parameters(), anew.decoder_parameters(), strict=True):
                own.copy_(new)
    fresh.average = WeightAverage(fresh.vae, run.config.vae.ema)
    return fresh


def kl_weight(run: Experiment, k: int) -> float:
    """Weight of the KL in the phase's update ``k``: 0 in pretraining, then by the schedule."""
    settings = run.config.vae
    if k < settings.pretrain_steps:
        return 0.0
    return kl_weight_at(
        settings.kl_schedule,
        k - settings.pretrain_steps,
        weight=settings.kl_weight,
        start=settings.kl_start,
        **_schedule(run),
    )


def settles(run: Experiment) -> int:
    """First update after pretraining from which on the weight of the KL stays as it is."""
    if not run.config.vae.kl_weight:
        return 0
    return kl_weight_settles(run.config.vae.kl_schedule, **_schedule(run))


def _schedule(run: Experiment) -> dict[str, Any]:
    settings = run.config.vae
    return {
        "total_steps": settings.max_steps,
        "ramp_steps": settings.kl_ramp_steps,
        "cycles": settings.kl_cycles,
        "ramp_share": settings.kl_ramp_share,
    }


def rate(run: Experiment, k: int) -> float:
    """Learning rate of the phase's update ``k``; pretraining has a schedule of its own."""
    settings = run.config.vae
    pretraining = k < settings.pretrain_steps
    return lr_at(
        k if pretraining else k - settings.pretrain_steps,
        total_steps=settings.pretrain_steps if pretraining else settings.max_steps,
        peak=settings.lr,
        warmup_steps=settings.warmup_steps,
        final_ratio=settings.final_lr_ratio,
    )


def criterion(run: Experiment, values: dict[str, float]) -> float:
    """What selects the best weights: the bound of dev NLL; of an autoencoder, which has no bound to speak of, the
    reconstruction."""
    return values["quality/nll"] if run.config.vae.kl_weight else values["vae/recon"]


def batches(run: Experiment, name: str) -> BatchPlan:
    """The order of the batches; texts of all lengths share one where the law of the codes in a batch matters."""
    settings = run.config.vae
    by_length = settings.bn_gamma is None and settings.aggregate == "none"
    return BatchPlan(run.train.lengths, settings.batch_size, stream_seed(run.config.seed, name), by_length=by_length)


def run_ahead(run: Experiment, learner: Learner, plan: BatchPlan, weight: float, lr: float) -> None:
    """Let the encoder catch up with the decoder, on the next batches of ``plan``."""
    settings, state = run.config.vae, learner.aggressive

    def one() -> tuple[Tensor, int]:
        rows = plan.indices(state.updates)
        batch = run.train.batch(rows).to(run.device)
        found = update(run, learner, batch, ("ahead", state.updates), weight, lr, only="encoder")
        state.updates += 1
        return found["loss"] * constant(run), int(run.train.lengths[rows].sum())

    catch_up(one, most=settings.aggressive_max_updates, window=settings.aggressive_window)


def constant(run: Experiment) -> float:
    """What the summed losses of a batch are divided by: its size in tokens, on average."""
    return run.config.vae.batch_size * run.train.lengths.double().mean().item()


def update(
    run: Experiment,
    learner: Learner,
    batch: Batch,
    name: tuple[object, ...],
    weight: float,
    lr: float,
    *,
    only: str | None = None,
    pull: bool = True,
) -> dict[str, Tensor]:
    """One update by the bound with its weights; returns scalars to log.

    Args:
        run: the experiment.
        learner: what is updated; its weight average is left to the caller.
        batch: texts.
        name: of the streams of random numbers.
        weight: of the KL. At 0 it does not enter the gradient at all, and its floor neither.
        lr: learning rate.
        only: ``encoder`` or ``decoder``: the parameters that move; None: both.
        pull: whether ``vae.aggregate`` pulls the codes to the prior; it leaves an autoencoder's alone.
    """
    settings, vae, seed = run.config.vae, learner.vae, run.config.seed
    total = constant(run)
    set_lr(learner.optimizer, lr)
    seed_dropout(seed, "vae", *name)
    vae.train()
    for side, parameters in (("encoder", vae.encoder_parameters()), ("decoder", vae.decoder_parameters())):
        for parameter in parameters:
            parameter.requires_grad_(only in (None, side))
    shape = (2, len(batch.ids), settings.z_size)
    noise, prior_noise = torch.randn(shape, generator=stream(run.device, seed, "z", *name), device=run.device)
    unknown = run.tokenizer.eos_id if run.tokenizer.unk_id is None else run.tokenizer.unk_id
    words = stream(run.device, seed, "words", *name)
    inputs = word_dropout(batch.inputs, settings.word_dropout, unknown, words)
    aggregate = learner.aggregate if pull and only != "decoder" else None

    learner.optimizer.zero_grad()
    sums = {key: torch.zeros((), device=run.device) for key in ("loss", "recon", "kl")}
    for rows in torch.arange(len(batch.ids)).split(settings.batch_size // settings.accumulate):
        rows = slice(int(rows[0]), int(rows[-1]) + 1)
        part = Batch(batch.ids[rows], batch.lengths[rows])
        with run.autocast():
            inference, recon = reconstruct(vae, part, noise[rows], inputs[rows])
        kl = inference.kl
        loss = recon / total
        if weight:
            floor = settings.free_bits
            loss = loss + weight * free_bits(kl, floor, settings.free_bits_mode) * len(kl) / total
        if aggregate is not None:
            term = aggregate.loss(inference.z, vae.prior(prior_noise[rows]))
            loss = loss + aggregate.weight * term * len(kl) / total
        loss.backward()
        for key, value in (("loss", loss), ("recon", recon), ("kl", kl.sum())):
            sums[key] += value.detach()
    norm = clip_gradients(vae, settings.grad_clip)
    learner.optimizer.step()
    found = {"loss": sums["loss"], "recon": sums["recon"] / len(batch.ids), "kl": sums["kl"] / len(batch.ids)}
    if aggregate is not None:
        found |= aggregate.update()
    return found | {"grad_norm": norm}


def finish(run: Experiment, learner: Learner, step: int) -> TextVAE:
    """The phase's best weights, calibrated, with their aggregate posterior, scored and saved as checkpoint ``vae``."""
    settings, vae, selection = run.config.vae, learner.average.module, learner.selection
    if selection.exhausted:
        say(
            f"stopped early at step {step}: dev {'NLL' if settings.kl_weight else 'reconstruction'} was best at step "
            f"{selection.best_step} ({selection.best:.4f})"
        )
    best = run.checkpoints / read_pointer(run.checkpoints, run.best_pointer)
    fill(vae, load_weights(best), best)
    vae.requires_grad_(False)
    fit_aggregate(run, vae)
    entry = finish_arm(run, "vae", latent_model(vae), step, fit=settings.calibrate)
    if settings.init_from is not None:
        entry["started_from"] = settings.init_from
    values = evaluate_vae(run, vae, step)
    run.save(
        "vae",
        generator=vae,
        phase="vae",
        step=step,
        state={"phase": "vae-done", "step": step},
        metrics=values,
        calibration=entry["calibration"],
        best="vae",
    )
    return vae
