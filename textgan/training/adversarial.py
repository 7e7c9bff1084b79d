"""Adversarial training through Gumbel-softmax, anchored to maximum likelihood.

Each step: the discriminator learns ``d_steps`` times to tell real texts from sampled ones; then the generator is
updated once, by the MLE gradient on real text plus a gradient that comes from the discriminator through the
sampled tokens (a rollout in two passes, see ``sampling/rollout.py``). The second can be held at a fixed fraction
of the first, so that no loss scale has to be tuned; what the critic finds moves the generator, and the anchor
keeps it a language model.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from textgan.config import Adversarial
from textgan.data.dataset import Batch, BatchPlan
from textgan.models.generator import Generator
from textgan.ops.relaxation import FEEDBACK, tau_at
from textgan.sampling.rollout import Rollout, rollout, sample_ids, sample_soft
from textgan.training.cost import Spent
from textgan.training.critic import build_discriminator
from textgan.training.experiment import Experiment, Selection, say
from textgan.training.finish import finish_phase
from textgan.training.objectives import (
    critic_penalty,
    gan_loss,
    gather_scores,
    kl_to_parent,
    mle_loss,
    share,
    split,
    text_entropy,
)
from textgan.training.optim import WeightAverage, adamw, clip_gradients, grad_norm, lr_at, set_lr
from textgan.training.progress import Progress
from textgan.training.replay import Replay
from textgan.training.seeding import seed_dropout, stream, stream_seed


@dataclass
class Players:
    """Everything that the phase trains, and what it needs to go on after a kill."""

    generator: Generator
    average: WeightAverage
    discriminator: nn.Module
    optimizer: torch.optim.Optimizer
    optimizer_d: torch.optim.Optimizer
    replay: Replay
    selection: Selection
    spent: Spent

    def state_dict(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in vars(self).items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, part in vars(self).items():
            if name in state:  # checkpoints from before costs were counted can be gone on with
                part.load_state_dict(state[name])


def train_adversarial(
    run: Experiment, parent: Generator, start: int, resumed: dict[str, Any] | None
) -> tuple[Generator, int]:
    """Run the adversarial phase from ``parent`` at step ``start``; returns the calibrated average and the step.

    ``parent`` is left as it is: it anchors the KL term and the limit on dev NLL.
    """
    config, settings = run.config, run.config.adversarial
    players = set_up(run, parent)
    plan = BatchPlan(run.train.lengths, settings.batch_size, stream_seed(config.seed, "real"))
    plan_d = BatchPlan(  # batches of one length would let it judge by length against fakes of all lengths
        run.train.lengths, settings.batch_size, stream_seed(config.seed, "real-d"), by_length=False
    )
    parent_nll = run.evaluator.likelihood(parent, run.dev)["quality/nll"]
    step, end, too_far = start, start + settings.max_steps, False
    if resumed:
        step, too_far = resumed["step"], resumed["too_far"]
        players.load_state_dict(resumed["players"])
    elif settings.d_pretrain_steps:
        pretrain_discriminator(run, players, plan_d)

    with Progress("adversarial", total=settings.max_steps, done=step - start) as progress:
        while step < end and not players.selection.exhausted and not too_far:
            done = step - start
            tau = tau_at(settings.tau_schedule, settings.tau_start, settings.tau_end, done, settings.max_steps)
            schedule = {"schedule/tau": tau, **set_rates(players, settings, done)}
            with players.spent.clock():
                first = done * settings.d_steps
                fakes = draw_fakes(run, players, settings.batch_size, ("d", first)) if settings.share_fakes else None
                for k in range(first, first + settings.d_steps):
                    real = run.train.batch(plan_d.indices(k + settings.d_pretrain_steps)).to(run.device)
                    found = discriminator_step(run, players, real, ("d", k), k, fakes)
                real = run.train.batch(plan.indices(done)).to(run.device)
                logged = (step + 1) % config.log_every == 0 or step + 1 == end
                found |= generator_step(run, players, parent, real, tau, done, logged, fakes)
            step += 1
            progress.advance()

            if logged:
                numbers = run.check_finite(step, **found)
                run.logger.scalars(step, {f"train/{k}": v for k, v in numbers.items()} | schedule)
                run.logger.perf(step, {"steps_per_s": progress.rate("steps")})
                progress.show(g_loss=numbers["g_loss"], d_acc=numbers["d_acc"])
            values, best = {}, False
            if step % config.evaluation.every == 0 or step == end:
                run.check_finite(step, **found)
                with progress.paused():
                    values = run.evaluate(players.average.module, step)
                nll = values["quality/nll"]
                best = players.selection.update(nll, step)
                too_far = settings.max_nll_rise is not None and nll > parent_nll + settings.max_nll_rise
                progress.show(dev_nll=nll)
            interrupted = run.stop_requested()  # read once: what raises below is what was saved here
            stopping = players.selection.exhausted or too_far or interrupted
            if best or step % config.checkpoint.every == 0 or stopping or step == end:
                run.check_finite(step, **found)
                run.save(
                    run.step_name(step),
                    generator=players.average.module,
                    phase="adversarial",
                    step=step,
                    state={
                        "phase": "adversarial",
                        "step": step,
                        "start": start,
                        "too_far": too_far,
                        "players": players.state_dict(),
                    },
                    metrics=values,
                    best=run.step_name(step) if best else None,
                )
            if interrupted:
                raise KeyboardInterrupt
    report_stop(run, players.selection, too_far, step, parent_nll)
    end = copy.deepcopy(players.average.module).requires_grad_(False).eval()
    kept = {"discriminator": players.discriminator.state_dict(), "spent": players.spent.state_dict()}
    return finish_phase(run, "adversarial", end, step, kept), step


def set_up(run: Experiment, parent: Generator) -> Players:
    """Generator (a copy of the parent), critic, optimisers and stores at their start."""
    config, settings = run.config, run.config.adversarial
    generator = copy.deepcopy(parent).requires_grad_(True)
    seed_dropout(config.seed, "init-d")
    discriminator = build_discriminator(config, run.tokenizer.vocab_size).to(run.device)
    return Players(
        generator=generator,
        average=WeightAverage(generator, settings.ema),
        discriminator=discriminator,
        optimizer=adamw(generator, betas=settings.betas, weight_decay=settings.weight_decay),
        optimizer_d=adamw(discriminator, betas=settings.betas_d, weight_decay=settings.weight_decay_d),
        replay=Replay(settings.replay_batches, settings.replay_share),
        selection=Selection(settings.patience),
        spent=Spent(settings.continuation == "seconds", run.device),
    )


def set_rates(players: Players, settings: Adversarial, done: int) -> dict[str, float]:
    """Set both learning rates for the phase's update ``done``; returns them under their tags."""
    shape = {
        "total_steps": settings.max_steps,
        "warmup_steps": settings.warmup_steps,
        "final_ratio": settings.final_lr_ratio,
    }
    rates = {
        "schedule/lr": lr_at(done, peak=settings.lr, **shape),
        "schedule/lr_d": lr_at(done, peak=settings.lr_d, **shape),
    }
    set_lr(players.optimizer, rates["schedule/lr"])
    set_lr(players.optimizer_d, rates["schedule/lr_d"])
    return rates


def pretrain_discriminator(run: Experiment, players: Players, plan: BatchPlan) -> None:
    """Train the critic alone against the parent's samples before the generator first moves."""
    settings = run.config.adversarial
    set_lr(players.optimizer_d, settings.lr_d)
    with Progress("discriminator", total=settings.d_pretrain_steps) as progress:
        for k in range(settings.d_pretrain_steps):
            real = run.train.batch(plan.indices(k)).to(run.device)
            with players.spent.clock():
                found = discriminator_step(run, players, real, ("d-pretrain", k), k)
            progress.advance()
            if (k + 1) % run.config.log_every == 0:
                progress.show(d_loss=float(found["d_loss"]), d_acc=float(found["d_acc"]))
            run.check_interrupt()


def draw_fakes(run: Experiment, players: Players, size: int, name: tuple[str, int]) -> tuple[Tensor, Tensor]:
    """Ids and lengths of ``size`` fakes for the critic, some of them old, the same on all ranks."""
    seed, ranks, eos_id, fresh = run.config.seed, run.ranks, run.tokenizer.eos_id, players.replay.fresh(size)
    players.generator.eval()
    with run.autocast():
        ids, lengths = sample_ids(
            players.generator,
            fresh,
            run.config.generator.block_size,
            eos_id=eos_id,
            rng=stream(run.device, seed, "fakes", *name),
            own=ranks.own,
        )
    ids, lengths = ranks.gather_texts(ids, lengths, fresh, eos_id)
    players.spent.tokens += lengths.sum()
    return players.replay.mix(ids, lengths, size, eos_id=eos_id, rng=stream("cpu", seed, "replay", *name))


def discriminator_step(
    run: Experiment,
    players: Players,
    real: Batch,
    name: tuple[str, int],
    count: int,
    fakes: tuple[Tensor, Tensor] | None = None,
) -> dict[str, Tensor]:
    """One update of the critic on ``real`` texts and as many fakes (None: fresh ones); returns scalars to log."""
    settings, seed = run.config.adversarial, run.config.seed
    discriminator, size = players.discriminator, len(real.lengths)
    ranks = run.ranks
    discriminator.train()
    ids, lengths = draw_fakes(run, players, size, name) if fakes is None else (x[:size] for x in fakes)
    seed_dropout(seed, *name, *ranks.stream)
    penalized = count % settings.penalty_every == 0 and (settings.r1 or settings.r2 or settings.gradient_penalty)
    players.optimizer_d.zero_grad()
    found = {"d_loss": 0.0, "d_acc": 0.0, "d_gap": 0.0}
    micro = settings.batch_size // settings.accumulate
    for start in range(0, size, micro):
        part = slice(start, start + micro)
        number = len(real.lengths[part])
        weight = number / size
        own_real = ranks.own(real.targets[part]), ranks.own(real.lengths[part])
        own_fake = ranks.own(ids[part]), ranks.own(lengths[part])
        with run.autocast():
            real_score = gather_scores(discriminator(*own_real), number, ranks)
            fake_score = gather_scores(discriminator(*own_fake), number, ranks)
        loss = gan_loss("discriminator", settings, real_score, fake_score, real.lengths[part], lengths[part])
        found["d_loss"] += weight * loss.detach()
        if penalized:
            penalty = critic_penalty(settings, discriminator, own_real, own_fake, (seed, *name, start, *ranks.stream))
            loss = loss + settings.penalty_every * ranks.counted(number) / number * penalty
        (weight * loss).backward()
        above = real_score.sequence.detach()[:, None] > fake_score.sequence.detach()
        found["d_acc"] += weight * above.float().mean()
        found["d_gap"] += weight * (real_score.sequence.mean() - fake_score.sequence.mean()).detach()
    ranks.add_up(discriminator)
    found["grad_norm_d"] = clip_gradients(discriminator, settings.grad_clip)
    players.optimizer_d.step()
    return found


def generator_step(
    run: Experiment,
    players: Players,
    parent: Generator,
    real: Batch,
    tau: float,
    done: int,
    logged: bool = True,
    fakes: tuple[Tensor, Tensor] | None = None,
) -> dict[str, Tensor]:
    """One update of the generator: MLE (and KL) gradient plus the adversarial one; returns scalars to log.

    What costs something and is only looked at is left out of a step that is not ``logged``. ``fakes`` are the texts of
    the rollout, drawn from the generator as it is; None: fresh ones.
    """
    settings, seed = run.config.adversarial, run.config.seed
    generator = players.generator
    tokens = settings.batch_size * run.train.lengths.double().mean().item()
    found = {
        name: 0.0 for name, weight in (("mle_loss", settings.mle_weight), ("kl_parent", settings.kl_weight)) if weight
    }
    if found:
        players.spent.tokens += real.lengths.sum()
    players.optimizer.zero_grad()
    seed_dropout(seed, "g", done, *run.ranks.stream)
    generator.train()
    for part in split(real, settings.batch_size // settings.accumulate):
        own, counts = share(part, run.ranks), bool(run.ranks.counted(len(part.ids)))
        if settings.mle_weight:
            with run.autocast():
                loss = mle_loss(generator, own, tokens) * counts
            (settings.mle_weight * loss).backward()
            found["mle_loss"] += loss.detach()
        if settings.kl_weight:
            with run.autocast():
                kl = kl_to_parent(generator, parent, own) / tokens * counts
            (settings.kl_weight * kl).backward()
            found["kl_parent"] += kl.detach()
    if found:
        found = dict(zip(found, run.ranks.add_up(generator, *found.values()), strict=True))
    anchor = [p.grad for p in generator.parameters()]
    players.optimizer.zero_grad()

    found |= adversarial_gradient(run, players, real, tau, done, logged, fakes)
    pushed = [p.grad for p in generator.parameters()]
    norm = grad_norm(pushed)
    found["grad_norm_adv"] = norm
    scale = torch.tensor(settings.adv_weight, device=run.device)
    if any(g is not None for g in anchor):
        found["grad_norm_mle"] = grad_norm(anchor)
        inner = sum((a * p).sum() for a, p in zip(anchor, pushed, strict=True) if a is not None)
        found["grad_cosine"] = inner / (norm * found["grad_norm_mle"]).clamp_min(1e-20)
        if settings.adv_ratio is not None:
            scale = settings.adv_ratio * found["grad_norm_mle"] / norm.clamp_min(1e-20)
    for parameter, a, p in zip(generator.parameters(), anchor, pushed, strict=True):
        parameter.grad = scale * p if a is None else a + scale * p
    found["adv_scale"] = scale
    found["grad_norm"] = clip_gradients(generator, settings.grad_clip)
    players.optimizer.step()
    players.average.update()
    return found


def adversarial_gradient(
    run: Experiment,
    players: Players,
    real: Batch,
    tau: float,
    done: int,
    logged: bool,
    fakes: tuple[Tensor, Tensor] | None,
) -> dict[str, Tensor]:
    """Back-propagate the generator's GAN loss through a rollout into its ``.grad``; returns scalars to log.

    Dropout is off in the generator (both passes must be the same function) and on in the critic, whose own
    parameters stay without gradient.
    """
    settings = run.config.adversarial
    generator, discriminator = players.generator, players.discriminator
    generator.eval()
    discriminator.requires_grad_(False)
    found = {"g_loss": 0.0, "fake_length": 0.0} | ({"entropy": 0.0} if logged else {})
    size = len(real.lengths)
    micro = settings.batch_size // settings.accumulate
    for i, part in enumerate(split(real, micro)):
        number = len(part.lengths)
        weight = number / size
        given = fakes and tuple(run.ranks.own(x[i * micro : i * micro + number]) for x in fakes)
        fake = draw_rollout(run, generator, number, tau, (done, i), given)
        own = share(part, run.ranks)
        with run.autocast():
            fake_score = gather_scores(discriminator(fake.tokens, fake.lengths), number, run.ranks)
            with torch.no_grad():
                real_score = gather_scores(discriminator(own.targets, own.lengths), number, run.ranks)
        lengths = run.ranks.gather(fake.lengths, number)
        loss = gan_loss("generator", settings, real_score, fake_score, part.lengths, lengths)
        (weight * loss).backward()
        found["g_loss"] += weight * loss.detach()
        if logged:
            with run.autocast():
                entropy = text_entropy(generator, fake.inputs, fake.lengths)
            found["entropy"] += weight * run.ranks.gather(entropy, number).sum() / lengths.sum()
        found["fake_length"] += weight * lengths.float().mean()
        if fakes is None:
            players.spent.tokens += lengths.sum()
    run.ranks.add_up(generator)
    discriminator.requires_grad_(True)
    return found


def draw_rollout(
    run: Experiment,
    generator: Generator,
    size: int,
    tau: float,
    name: tuple[object, ...],
    given: tuple[Tensor, Tensor] | None,
) -> Rollout:
    """This rank's of ``size`` texts, with relaxed tokens that carry gradient to the generator.

    ``given``: ids and lengths of this rank's, drawn from the generator as it is; None: fresh ones.

    Sampling and rollout stand in autocasts of their own: older torch keeps weights that were cast without
    gradient until the end of the context, and the rollout would have none (pytorch#112583).
    """
    settings, eos_id = run.config.adversarial, run.tokenizer.eos_id
    max_len, seed = run.config.generator.block_size, run.config.seed
    rng = stream(run.device, seed, "rollout", *name)
    common = {"eos_id": eos_id, "estimator": settings.estimator, "tau": tau}
    common["rng"] = stream(run.device, seed, "noise", *name, *run.ranks.stream)
    if FEEDBACK[settings.estimator] == "soft":
        with run.autocast():
            size = max(1, run.ranks.counted(size))
            sample = sample_soft(generator, size, max_len, eos_id=eos_id, tau=tau, rng=common["rng"])
        with run.autocast():
            return rollout(generator, sample.ids, sample.lengths, **common, hops=settings.hops, sample=sample)
    with run.autocast():
        ids, lengths = given or sample_ids(generator, size, max_len, eos_id=eos_id, rng=rng, own=run.ranks.own)
    with run.autocast():
        return rollout(generator, ids, lengths, **common)


def report_stop(run: Experiment, selection: Selection, too_far: bool, step: int, parent_nll: float) -> None:
    """Say why the phase ended before its last step, if it did."""
    best = f"dev NLL was best at step {selection.best_step} ({selection.best:.4f}; parent {parent_nll:.4f})"
    if too_far:
        limit = run.config.adversarial.max_nll_rise
        say(f"stopped at step {step}: dev NLL rose more than max_nll_rise={limit} above the parent's; {best}")
    elif selection.exhausted:
        say(f"stopped early at step {step}: {best}")
