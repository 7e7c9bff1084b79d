"""The updates of an adversarial iteration: fakes are drawn, the critic learns to tell them, the generator to pass."""

import torch
from torch import Tensor

from textgan.data.dataset import Batch
from textgan.models.generator import Generator
from textgan.ops.gan_losses import GAN_LOSSES
from textgan.ops.relaxation import FEEDBACK
from textgan.sampling.rollout import Rollout, rollout, sample_continuations, sample_ids, sample_soft
from textgan.training.conditioning import mean_targets
from textgan.training.experiment import Experiment
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
from textgan.training.optim import clip_gradients, grad_norm
from textgan.training.players import Players
from textgan.training.replay import concatenate
from textgan.training.seeding import seed_dropout, stream

Texts = tuple[Tensor, Tensor]  # ids (B, T) and lengths (B,)


def draw_texts(run: Experiment, players: Players, first: int) -> tuple[list[Texts], Texts | None]:
    """The fakes of an iteration: of each step of the critic, from number ``first`` on, and of the generator's step.

    The generator stands still until its own step, so all are sampled at once: a batch several times as wide costs a
    CPU less than several, and a GPU hardly more than one. With ``share_fakes`` all steps see the same. None for the
    generator: its estimator reads relaxed vectors back, and samples by itself.
    """
    settings = run.config.adversarial
    if settings.share_fakes:
        (fakes,), _ = draw_fakes(run, players, 1, ("d", first))
        return [fakes] * settings.d_steps, fakes
    if FEEDBACK[settings.estimator] == "soft":
        return draw_fakes(run, players, settings.d_steps, ("d", first))[0], None
    return draw_fakes(run, players, settings.d_steps, ("d", first), more=settings.batch_size)


def draw_continuations(run: Experiment, players: Players, batches: list[Batch], name: tuple[str, int]) -> list[Texts]:
    """For each batch of real pairs as many fakes, which continue the same openings: ids and lengths, these included.

    All are sampled together, in parts that ``accumulate`` bounds.
    """
    eos_id, ranks = run.tokenizer.eos_id, run.ranks
    rng = stream(run.device, run.config.seed, "fakes", *name)
    players.generator.eval()
    sizes = [len(batch.ids) for batch in batches]
    openings, starts = concatenate([(batch.openings, batch.starts) for batch in batches], eos_id)
    at_once = -(-sum(sizes) // run.config.adversarial.accumulate)
    drawn = []
    for part in torch.arange(len(starts), device=starts.device).split(at_once):
        with run.autocast():
            texts = sample_continuations(
                players.generator,
                openings[part],
                starts[part],
                run.config.generator.block_size,
                eos_id=eos_id,
                rng=rng,
                own=ranks.own,
            )
        drawn.append(ranks.gather_texts(*texts, len(part), eos_id))
    texts = concatenate(drawn, eos_id)
    players.spent.tokens += texts[1].sum()
    return list(zip(*(x.split(sizes) for x in texts), strict=True))


def draw_fakes(
    run: Experiment, players: Players, steps: int, name: tuple[str, int], more: int = 0
) -> tuple[list[Texts], Texts]:
    """Batches of fakes for so many ``steps`` of the critic, some of them old, and ``more`` texts; on all ranks.

    Ids and lengths each. What is sampled at once is bounded by ``accumulate``, as what is learned from at once is.
    """
    settings, eos_id, ranks = run.config.adversarial, run.tokenizer.eos_id, run.ranks
    fresh = players.replay.fresh(settings.batch_size, steps)
    rng = stream(run.device, run.config.seed, "fakes", *name)
    players.generator.eval()
    left, drawn = sum(fresh) + more, []
    at_once = -(-left // settings.accumulate)
    while left:
        number = min(left, at_once)
        left -= number
        with run.autocast():
            texts = sample_ids(
                players.generator, number, run.config.generator.block_size, eos_id=eos_id, rng=rng, own=ranks.own
            )
        drawn.append(ranks.gather_texts(*texts, number, eos_id))
    texts = concatenate(drawn, eos_id)
    players.spent.tokens += texts[1].sum()
    *batches, rest = zip(*(x.split([*fresh, more]) for x in texts), strict=True)
    old = stream("cpu", run.config.seed, "replay", *name)
    return [players.replay.mix(*batch, settings.batch_size, eos_id=eos_id, rng=old) for batch in batches], rest


def discriminator_step(
    run: Experiment,
    players: Players,
    real: Batch,
    fakes: Texts,
    name: tuple[str, int],
    count: int,
) -> dict[str, Tensor]:
    """One update of the critic on ``real`` texts and as many of the ``fakes``; returns scalars to log."""
    settings, seed = run.config.adversarial, run.config.seed
    discriminator, size = players.discriminator, len(real.lengths)
    ranks = run.ranks
    discriminator.train()
    ids, lengths = (x[:size] for x in fakes)
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
        starts = None if real.starts is None else real.starts[part]
        loss = gan_loss("discriminator", settings, real_score, fake_score, real.lengths[part], lengths[part], starts)
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
    fakes: Texts | None,
    tau: float,
    done: int,
    logged: bool = True,
) -> dict[str, Tensor]:
    """One update of the generator: MLE (and KL) gradient plus the adversarial one; returns scalars to log.

    What costs something and is only looked at is left out of a step that is not ``logged``. ``fakes`` are as
    :func:`draw_texts` gives them.
    """
    settings, seed = run.config.adversarial, run.config.seed
    generator = players.generator
    tokens = settings.batch_size * mean_targets(run)
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
                loss = mle_loss(generator, own, tokens, run.config.finetune.label_smoothing) * counts
            (settings.mle_weight * loss).backward()
            found["mle_loss"] += loss.detach()
        if settings.kl_weight:
            with run.autocast():
                kl = kl_to_parent(generator, parent, own) / tokens * counts
            (settings.kl_weight * kl).backward()
            found["kl_parent"] += kl.detach()
    if found:
        found = dict(zip(found, run.ranks.add_up(generator, *found.values()), strict=True))
    trained = [p for p in generator.parameters() if p.requires_grad]
    anchor = [p.grad for p in trained]
    players.optimizer.zero_grad()

    found |= adversarial_gradient(run, players, real, fakes, tau, done, logged)
    pushed = [p.grad for p in trained]
    norm = grad_norm(pushed)
    found["grad_norm_adv"] = norm
    scale = torch.tensor(settings.adv_weight, device=run.device)
    if any(g is not None for g in anchor):
        found["grad_norm_mle"] = grad_norm(anchor)
        inner = sum((a * p).sum() for a, p in zip(anchor, pushed, strict=True) if a is not None)
        found["grad_cosine"] = inner / (norm * found["grad_norm_mle"]).clamp_min(1e-20)
        if settings.adv_ratio is not None:
            scale = settings.adv_ratio * found["grad_norm_mle"] / norm.clamp_min(1e-20)
    for parameter, a, p in zip(trained, anchor, pushed, strict=True):
        parameter.grad = scale * p if a is None else a + scale * p
    found["adv_scale"] = scale
    players.penalties.add()
    players.allocator.observe()
    found["grad_norm"] = clip_gradients(generator, settings.grad_clip)
    players.optimizer.step()
    players.average.update()
    players.allocator.prune()
    return found


def adversarial_gradient(
    run: Experiment,
    players: Players,
    real: Batch,
    fakes: Texts | None,
    tau: float,
    done: int,
    logged: bool,
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
        own, real_score = share(part, run.ranks), None
        fake = draw_rollout(run, generator, number, tau, (done, i), given, own.starts)
        with run.autocast():
            fake_score = gather_scores(discriminator(fake.tokens, fake.lengths), number, run.ranks)
            if GAN_LOSSES[settings.loss].relativistic:
                with torch.no_grad():
                    real_score = gather_scores(discriminator(own.targets, own.lengths), number, run.ranks)
        lengths = run.ranks.gather(fake.lengths, number)
        written = lengths if part.starts is None else lengths - part.starts
        loss = gan_loss("generator", settings, real_score, fake_score, part.lengths, lengths, part.starts)
        (weight * loss).backward()
        found["g_loss"] += weight * loss.detach()
        if logged:
            with run.autocast():
                entropy = text_entropy(generator, fake.inputs, fake.lengths, fake.starts)
            found["entropy"] += weight * run.ranks.gather(entropy, number).sum() / written.sum()
        found["fake_length"] += weight * written.float().mean()
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
    given: Texts | None,
    starts: Tensor | None = None,
) -> Rollout:
    """This rank's of ``size`` texts, with relaxed tokens that carry gradient to the generator.

    ``given``: ids and lengths of this rank's, drawn from the generator as it is; None: fresh ones. ``starts``: how many
    of their tokens open pairs and were not drawn.

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
        return rollout(generator, ids, lengths, **common, starts=starts)
