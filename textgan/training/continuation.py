"""The honest baseline of an adversarial phase: maximum likelihood gone on with, from the same parent, at equal cost.

It is that phase with the adversarial gradient left out: the same batches, dropout noise, optimiser, schedule, weight
average, clipping and selection, from the section ``adversarial``. The schedule is stretched to the number of updates
that cost as much; the number is fixed before the first of them and stored, so that a resumed run repeats it.
"""

import dataclasses
from typing import Any

import torch
from torch import Tensor

from textgan.data.dataset import Batch, BatchPlan
from textgan.models.generator import Generator
from textgan.models.sharing import copy_of, load_own_state, own_state
from textgan.training.adapting import pupil
from textgan.training.building import compile_blocks
from textgan.training.checkpoint import load_state
from textgan.training.conditioning import mean_targets, read_batch
from textgan.training.cost import seconds_on
from textgan.training.experiment import Experiment, Selection, say
from textgan.training.finetune import thaw, tuned_adamw
from textgan.training.finish import finish_phase
from textgan.training.logging import open_log
from textgan.training.objectives import mle_loss, share, split
from textgan.training.optim import WeightAverage, clip_gradients, lr_at, set_lr
from textgan.training.penalties import Penalties
from textgan.training.rank_allocation import RankAllocator
from textgan.training.seeding import seed_dropout, stream_seed

TIMED_STEPS = (3, 12)  # updates left out, and timed, to find what one costs


@dataclasses.dataclass
class Learner:
    """What the continuation trains, and what it needs to go on after a kill."""

    generator: Generator
    average: WeightAverage
    optimizer: torch.optim.Optimizer
    selection: Selection
    allocator: RankAllocator
    penalties: Penalties

    def state_dict(self) -> dict[str, Any]:
        """What is not frozen under an adapter."""
        return {
            name: own_state(part) if name == "generator" else part.state_dict() for name, part in vars(self).items()
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        load_own_state(self.generator, state["generator"])
        for name, part in vars(self).items():
            if name in state and name != "generator":  # older checkpoints have fewer parts
                part.load_state_dict(state[name])


def continue_mle(run: Experiment, parent: Generator, start: int, resumed: dict[str, Any] | None) -> None:
    """Train and save the arm ``continued`` of a run whose arm ``adversarial`` is finished.

    Steps count on from the parent's, and the log goes into ``RUN/continued`` under the tags of the adversarial phase,
    so that TensorBoard draws the two over each other.

    Args:
        run: the experiment.
        parent: the generator that both start from; left as it is.
        start: its step.
        resumed: state of the last checkpoint of this phase, where there is one.
    """
    done = load_state(run.checkpoints / "adversarial")
    position = (resumed["step"], resumed["log_position"]) if resumed else (start, 0)
    logger = open_log(run.folder / "continued", run.ranks, config=run.config, resume=position, beside=True)
    status = "failed"
    try:
        own = dataclasses.replace(run, logger=logger, beside=True)
        # What a resumed run needs of the run's own log, which stands still meanwhile.
        run_log = (done["step"], run.logger.position())
        budget = resumed["budget"] if resumed else plan_budget(run, parent, done["step"] - start, done["spent"])
        train_on(own, parent, start, budget, run_log, resumed)
        status = "finished"
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    finally:
        logger.close(status)


def train_on(
    run: Experiment,
    parent: Generator,
    start: int,
    budget: dict[str, Any],
    run_log: tuple[int, int],
    resumed: dict[str, Any] | None,
) -> None:
    """The loop of the phase, as that of the adversarial one, and its end."""
    config, settings = run.config, run.config.adversarial
    learner, plan = set_up(run, parent, budget["schedule_steps"])
    parent_nll = run.evaluator.likelihood(parent, run.dev)["quality/nll"]
    step, end, too_far, values, best = start, start + budget["steps"], False, {}, False
    if resumed:
        step, too_far = resumed["step"], resumed["too_far"]
        learner.load_state_dict(resumed["learner"])

    def save(name: str) -> None:
        run.save(
            name,
            generator=learner.average.module,
            phase="continued",
            step=step,
            state={
                "phase": "continued",
                "step": step,
                "budget": budget,
                "run_log": run_log,
                "too_far": too_far,
                "learner": learner.state_dict(),
            },
            metrics=values,
            best=name if best else None,
        )

    if not resumed:
        save(run.step_name(start))  # the budget is kept before anything is spent of it
    with run.progress("continued", total=budget["steps"], done=step - start) as progress:
        while step < end and not learner.selection.exhausted and not too_far:
            lr = rate(run, step - start, budget["schedule_steps"])
            thaw(config, learner.optimizer, (step - start) * settings.max_steps // budget["schedule_steps"])
            batch = read_batch(run, plan.indices(step - start), "g", step - start)
            found = update(run, learner, batch, lr, step - start)
            step += 1
            progress.advance()
            if step % config.log_every == 0 or step == end:
                numbers = run.check_finite(step, **found)
                run.logger.scalars(step, {f"train/{k}": v for k, v in numbers.items()} | {"schedule/lr": lr})
                run.logger.perf(step, {"steps_per_s": progress.rate("steps")})
                progress.show(mle_loss=numbers["mle_loss"])
            values, best = {}, False
            if step % config.evaluation.every == 0 or step == end:
                run.check_finite(step, **found)
                with progress.paused():
                    values = run.evaluate(learner.average.module, step)
                nll = values["quality/nll"]
                best = learner.selection.update(nll, step)
                too_far = settings.max_nll_rise is not None and nll > parent_nll + settings.max_nll_rise
                progress.show(dev_nll=nll)
            interrupted = run.stop_requested()  # read once: what raises below is what was saved here
            stopping = learner.selection.exhausted or too_far or interrupted
            if best or step % config.checkpoint.every == 0 or stopping or step == end:
                run.check_finite(step, **found)
                save(run.step_name(step))
            if interrupted:
                raise KeyboardInterrupt
    last = copy_of(learner.average.module).requires_grad_(False).eval()
    finish_phase(run, "continued", last, step, {"budget": budget, "run_log": run_log}, extra={"budget": budget})


def set_up(run: Experiment, parent: Generator, schedule_steps: int) -> tuple[Learner, BatchPlan]:
    """The parent's pupil with a fresh optimiser, and the batches that the adversarial phase learned from."""
    settings = run.config.adversarial
    generator = pupil(run.config, parent)
    average = WeightAverage(generator, settings.ema)
    compile_blocks(run.config, generator)
    learner = Learner(
        generator=generator,
        average=average,
        optimizer=tuned_adamw(run.config, generator, settings, run.shards),
        selection=Selection(settings.patience),
        allocator=RankAllocator(generator, average.module, run.config.adapter, schedule_steps),
        penalties=Penalties(run.config.finetune, generator),
    )
    return learner, BatchPlan(run.train.lengths, settings.batch_size, stream_seed(run.config.seed, "real"))


def rate(run: Experiment, done: int, schedule_steps: int) -> float:
    """Learning rate of the phase's update ``done``."""
    settings = run.config.adversarial
    return lr_at(
        done,
        total_steps=schedule_steps,
        peak=settings.lr,
        warmup_steps=settings.warmup_steps,
        final_ratio=settings.final_lr_ratio,
    )


def update(run: Experiment, learner: Learner, batch: Batch, lr: float, done: int) -> dict[str, Tensor]:
    """One update by the MLE gradient; returns scalars to log."""
    settings = run.config.adversarial
    tokens = settings.batch_size * mean_targets(run)
    set_lr(learner.optimizer, lr)
    seed_dropout(run.config.seed, "g", done, *run.ranks.stream)
    learner.generator.train()
    learner.optimizer.zero_grad()
    total = torch.zeros((), device=run.device)
    for part in split(batch, settings.batch_size // settings.accumulate):
        with run.autocast():
            own, smoothing = share(part, run.ranks), run.config.finetune.label_smoothing
            loss = mle_loss(learner.generator, own, tokens, smoothing) * bool(run.ranks.counted(len(part.ids)))
        loss.backward()
        total += loss.detach()
    (total,) = run.ranks.add_up(learner.generator, total)
    learner.penalties.add()
    learner.allocator.observe()
    norm = clip_gradients(learner.generator, settings.grad_clip)
    learner.optimizer.step()
    learner.average.update()
    learner.allocator.prune()
    return {"mle_loss": total, "grad_norm": norm}


def plan_budget(run: Experiment, parent: Generator, made: int, spent: dict[str, Any]) -> dict[str, Any]:
    """How many updates cost what the adversarial phase did.

    Args:
        run: the experiment.
        parent: where the continuation starts.
        made: number of the adversarial phase's generator updates.
        spent: its cost, as ``Spent.state_dict()``.

    Returns:
        ``rule`` (the config's ``continuation``), ``steps``, ``schedule_steps`` (over which the learning rate falls:
        stretched as the number of updates, so that a phase that stopped early is matched by one at the same point of
        its schedule), and what was compared: ``tokens``, or ``seconds`` and ``seconds_a_step``.
    """
    settings, rule = run.config.adversarial, run.config.adversarial.continuation
    budget = {"rule": rule}
    steps = made
    if rule == "tokens":
        epoch = BatchPlan(run.train.lengths, settings.batch_size, 0).batches_per_epoch
        steps = round(spent["tokens"] * epoch / int(run.train.lengths.sum()))
        budget["tokens"] = spent["tokens"]
    if rule == "seconds":
        a_step = run.ranks.same(seconds_a_step(run, parent))
        steps = round(spent["seconds"] / a_step)
        budget |= {"seconds": spent["seconds"], "seconds_a_step": a_step}
    steps = max(1, steps)
    budget |= {"steps": steps, "schedule_steps": max(steps, round(settings.max_steps * steps / made))}
    say(f"going on with maximum likelihood beside: {steps} updates, as many {rule} as the adversarial phase took")
    return budget


def seconds_a_step(run: Experiment, parent: Generator) -> float:
    """Seconds of one update here and now, timed on a copy that is thrown away."""
    learner, plan = set_up(run, parent, run.config.adversarial.max_steps)
    skipped, timed = TIMED_STEPS
    began = 0.0
    for k in range(skipped + timed):
        if k == skipped:
            began = seconds_on(run.device)
        update(run, learner, read_batch(run, plan.indices(k), "g", k), run.config.adversarial.lr, k)
    return (seconds_on(run.device) - began) / timed
