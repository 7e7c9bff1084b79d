"""Adversarial training through Gumbel-softmax, anchored to maximum likelihood.

Each step: the discriminator learns ``d_steps`` times to tell real texts from sampled ones; then the generator is
updated once, by the MLE gradient on real text plus a gradient that comes from the discriminator through the
sampled tokens (a rollout in two passes, see ``sampling/rollout.py``). The second can be held at a fixed fraction
of the first, so that no loss scale has to be tuned; what the critic finds moves the generator, and the anchor
keeps it a language model.
"""

from typing import Any

from textgan.data.dataset import BatchPlan
from textgan.models.generator import Generator
from textgan.models.sharing import copy_of
from textgan.ops.relaxation import tau_at
from textgan.training.adapting import told
from textgan.training.adversarial_steps import (
    discriminator_step,
    draw_continuations,
    draw_fakes,
    draw_texts,
    generator_step,
)
from textgan.training.conditioning import read_batch
from textgan.training.experiment import Experiment, Selection, say
from textgan.training.finetune import thaw
from textgan.training.finish import finish_phase
from textgan.training.optim import set_lr
from textgan.training.players import Players, set_rates, set_up
from textgan.training.progress import Progress
from textgan.training.seeding import stream_seed


def train_adversarial(
    run: Experiment, parent: Generator, start: int, resumed: dict[str, Any] | None
) -> tuple[Generator, int]:
    """Run the adversarial phase from ``parent`` at step ``start``; returns the calibrated average and the step.

    ``parent`` is left as it is: it anchors the KL term and the limit on dev NLL.
    """
    config, settings = run.config, run.config.adversarial
    players = set_up(run, parent)
    if config.adapter or config.finetune.freeze:
        say(told(config, players.generator))
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

    with run.progress("adversarial", total=settings.max_steps, done=step - start) as progress:
        while step < end and not players.selection.exhausted and not too_far:
            done = step - start
            tau = tau_at(settings.tau_schedule, settings.tau_start, settings.tau_end, done, settings.max_steps)
            schedule = {"schedule/tau": tau, **set_rates(players, settings, done)}
            thaw(config, players.optimizer, done)
            with players.spent.clock():
                first = done * settings.d_steps
                real = read_batch(run, plan.indices(done), "g", done)
                reals = [
                    read_batch(run, plan_d.indices(k + settings.d_pretrain_steps), "d", k)
                    for k in range(first, first + settings.d_steps)
                ]
                if real.starts is None:
                    judged, own = draw_texts(run, players, first)
                else:
                    *judged, own = draw_continuations(run, players, [*reals, real], ("d", first))
                for k, (texts, fakes) in enumerate(zip(reals, judged, strict=True), first):
                    found = discriminator_step(run, players, texts, fakes, ("d", k), k)
                logged = (step + 1) % config.log_every == 0 or step + 1 == end
                found |= generator_step(run, players, parent, real, own, tau, done, logged)
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
    end = copy_of(players.average.module).requires_grad_(False).eval()
    kept = {"discriminator": players.discriminator.state_dict(), "spent": players.spent.state_dict()}
    return finish_phase(run, "adversarial", end, step, kept), step


def pretrain_discriminator(run: Experiment, players: Players, plan: BatchPlan) -> None:
    """Train the critic alone against the parent's samples before the generator first moves."""
    settings = run.config.adversarial
    set_lr(players.optimizer_d, settings.lr_d)
    with Progress("discriminator", total=settings.d_pretrain_steps) as progress:
        for k in range(settings.d_pretrain_steps):
            real = read_batch(run, plan.indices(k), "d-pretrain", k)
            with players.spent.clock():
                if real.starts is None:
                    (fakes,), _ = draw_fakes(run, players, 1, ("d-pretrain", k))
                else:
                    (fakes,) = draw_continuations(run, players, [real], ("d-pretrain", k))
                found = discriminator_step(run, players, real, fakes, ("d-pretrain", k), k)
            progress.advance()
            if (k + 1) % run.config.log_every == 0:
                progress.show(d_loss=float(found["d_loss"]), d_acc=float(found["d_acc"]))
            run.check_interrupt()


def report_stop(run: Experiment, selection: Selection, too_far: bool, step: int, parent_nll: float) -> None:
    """Say why the phase ended before its last step, if it did."""
    best = f"dev NLL was best at step {selection.best_step} ({selection.best:.4f}; parent {parent_nll:.4f})"
    if too_far:
        limit = run.config.adversarial.max_nll_rise
        say(f"stopped at step {step}: dev NLL rose more than max_nll_rise={limit} above the parent's; {best}")
    elif selection.exhausted:
        say(f"stopped early at step {step}: {best}")
