"""Maximum likelihood: the generator learns to predict the next token of real text.

One step is one update of the generator. Losses are summed over tokens and divided by a constant, not by the
batch's own number of tokens: with batches sorted by length a mean would weight a text by one over its length.
"""

import copy
from typing import Any

from textgan.data.dataset import batch_plan
from textgan.models.generator import Generator
from textgan.models.sharing import own_state
from textgan.training.adapting import restore, told
from textgan.training.building import adapt, build_generator, compile_blocks, fill
from textgan.training.checkpoint import find_checkpoint, load_weights
from textgan.training.conditioning import read_parts
from textgan.training.experiment import Experiment, Selection, say
from textgan.training.finetune import freeze, thaw, tuned_adamw
from textgan.training.finish import finish_arm
from textgan.training.objectives import mle_loss_and_nll
from textgan.training.optim import WeightAverage, clip_gradients, lr_at, set_lr
from textgan.training.penalties import Penalties
from textgan.training.pretrained import fill_pretrained
from textgan.training.rank_allocation import RankAllocator
from textgan.training.seeding import seed_dropout, stream_seed


def train_mle(run: Experiment, resumed: dict[str, Any] | None) -> tuple[Generator, int]:
    """Run the MLE phase (from ``resumed`` on, where given); returns the calibrated generator and its step."""
    config, settings = run.config, run.config.mle
    seed_dropout(config.seed, "init")
    generator = build_generator(config, run.tokenizer.vocab_size).to(run.device)
    pretrained = config.generator.init_from
    if pretrained and not resumed:
        fill_pretrained(generator, pretrained)
        score_pretrained(run, generator)
    if config.adapter:
        generator = adapt(config, generator)
    freeze(config, generator)
    if config.adapter or config.finetune.freeze:
        say(told(config, generator) + ("" if pretrained else "; what is frozen is a random start"))
    average = WeightAverage(generator, settings.ema)
    compile_blocks(config, generator)
    optimizer = tuned_adamw(config, generator, settings, run.shards)
    plan = batch_plan(run.train.lengths, settings.batch_size, settings.batch_tokens, stream_seed(config.seed, "mle"))
    tokens = plan.mean_tokens * (int(run.train.counted.sum()) / int(run.train.lengths.sum()))
    penalties = Penalties(config.finetune, generator)
    allocator = RankAllocator(generator, average.module, config.adapter, settings.max_steps)
    selection = Selection(settings.patience)
    step = 0
    if resumed:
        step = resumed["step"]
        restore(generator, resumed["generator"], run.checkpoints)
        average.load_state_dict(resumed["average"])
        optimizer.load_state_dict(resumed["optimizer"])
        selection.load_state_dict(resumed["selection"])
        allocator.load_state_dict(resumed.get("allocator", {}))
        penalties.load_state_dict(resumed.get("penalties", {}))

    with run.progress("mle", total=settings.max_steps, done=step) as progress:
        while step < settings.max_steps and not selection.exhausted:
            lr = lr_at(
                step,
                total_steps=settings.max_steps,
                peak=settings.lr,
                warmup_steps=settings.warmup_steps,
                final_ratio=settings.final_lr_ratio,
            )
            set_lr(optimizer, lr)
            thaw(config, optimizer, step)
            seed_dropout(config.seed, "mle", step, *run.ranks.stream)
            generator.train()
            optimizer.zero_grad()
            loss, nll, seen = 0.0, 0.0, 0
            drawn = plan.indices(step)
            size = -(-len(drawn) // settings.accumulate)
            for rows, batch in zip(drawn.split(size), read_parts(run, drawn, size, "mle", step), strict=True):
                with run.autocast():
                    found = mle_loss_and_nll(generator, batch, tokens, config.finetune.label_smoothing)
                    part, plain = (x * bool(run.ranks.counted(len(rows))) for x in found)
                part.backward()
                loss, nll, seen = loss + part.detach(), nll + plain, seen + int(run.train.counted[rows].sum())
            loss, nll = run.ranks.add_up(generator, loss, nll)
            penalties.add()
            allocator.observe()
            norm = clip_gradients(generator, settings.grad_clip)
            optimizer.step()
            average.update()
            allocator.prune()
            step += 1
            progress.advance(tokens=seen)

            if step % config.log_every == 0 or step == settings.max_steps:
                numbers = run.check_finite(step, loss=loss, nll=nll, grad_norm=norm)
                run.logger.scalars(
                    step,
                    {
                        "train/loss": numbers["loss"],
                        "train/nll": numbers["nll"] * tokens / seen,
                        "train/grad_norm": numbers["grad_norm"],
                        "schedule/lr": lr,
                    },
                )
                run.logger.perf(step, {"tokens_per_s": progress.rate("tokens")})
                progress.show(nll=numbers["nll"] * tokens / seen)
            values, best = {}, False
            if step % config.evaluation.every == 0 or step == settings.max_steps:
                run.check_finite(step, loss=loss, grad_norm=norm)
                with progress.paused():
                    values = run.evaluate(average.module, step)
                best = selection.update(values["quality/nll"], step)
                progress.show(dev_nll=values["quality/nll"])
            interrupted = run.stop_requested()  # read once: what raises below is what was saved here
            stopping = selection.exhausted or interrupted or step == settings.max_steps
            if best or step % config.checkpoint.every == 0 or stopping:
                run.check_finite(step, loss=loss, grad_norm=norm)
                run.save(
                    run.step_name(step),
                    generator=average.module,
                    phase="mle",
                    step=step,
                    state={
                        "phase": "mle",
                        "step": step,
                        "generator": own_state(generator),
                        "average": average.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "selection": selection.state_dict(),
                        "allocator": allocator.state_dict(),
                        "penalties": penalties.state_dict(),
                    },
                    metrics=values,
                    best=run.step_name(step) if best else None,
                )
            if interrupted:
                raise KeyboardInterrupt

    return finish(run, average.module, selection, step), step


def score_pretrained(run: Experiment, generator: Generator) -> None:
    """What the pretrained model is before it learns anything here, calibrated as every arm: arm ``pretrained``."""
    before = copy.deepcopy(generator)
    entry = finish_arm(run, "pretrained", before, 0, fit=run.config.mle.calibrate)
    values = run.evaluate(before, 0)
    run.save(
        "pretrained",
        generator=before,
        phase="pretrained",
        step=0,
        state={"phase": "pretrained", "step": 0},
        metrics=values,
        calibration=entry["calibration"],
        last=False,  # a run that is killed before its first step is saved begins anew
    )


def finish(run: Experiment, generator: Generator, selection: Selection, step: int) -> Generator:
    """The phase's best weights, calibrated, evaluated and saved as checkpoint ``mle``."""
    if selection.exhausted:
        say(
            f"stopped early at step {step}: dev NLL was best at step {selection.best_step} "
            f"({selection.best:.4f} nats a token)"
        )
    best = find_checkpoint(run.folder, prefer="best")
    fill(generator, load_weights(best), best)
    entry = finish_arm(run, "mle", generator, step, fit=run.config.mle.calibrate)
    values = run.evaluate(generator, step)
    run.save(
        "mle",
        generator=generator,
        phase="mle",
        step=step,
        state={"phase": "mle-done", "step": step},
        metrics=values,
        calibration=entry["calibration"],
        best="mle",
    )
    return generator
