"""Training a classifier of texts by their labels, with early stopping on dev; the best step is what is kept."""

import json
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from textgan.data.dataset import BatchPlan, TokenDataset, eval_batches
from textgan.errors import UserError
from textgan.metrics.classification import classification_scores
from textgan.models.classifier import Classifier
from textgan.training.building import compile_blocks, fill
from textgan.training.checkpoint import find_checkpoint, load_weights
from textgan.training.classes import class_names, digest_of, freeze, label_ids, new_classifier
from textgan.training.experiment import Experiment, Selection, say
from textgan.training.optim import adamw, clip_gradients, lr_at, set_lr
from textgan.training.ranks import Ranks
from textgan.training.seeding import seed_dropout, stream_seed


@torch.no_grad()
def logits_of(
    model: Classifier,
    dataset: TokenDataset,
    *,
    batch_size: int,
    device: torch.device | str,
    ranks: Ranks | None = None,
) -> Tensor:
    """Logits (N, K) float64 of each row on the CPU, dropout off; ``ranks`` share out the batches."""
    model.eval()
    ranks = ranks or Ranks()
    first, step = ranks.share
    logits = torch.zeros(len(dataset), model.head.out_features, dtype=torch.float64)
    for rows in eval_batches(dataset.lengths, batch_size)[first::step]:
        batch = dataset.batch(rows).to(device)
        logits[rows] = model(batch.targets, batch.lengths).double().cpu()
    return ranks.add(logits)


def train_classifier(run: Experiment, test: TokenDataset | None, resumed: dict[str, Any] | None) -> None:
    """Train as ``run.config.classifier`` says (from ``resumed`` on), and keep the best step's scores as results.

    Raises:
        UserError: the labels are not those that the resumed run had, or as :func:`freeze`.
    """
    config, settings = run.config, run.config.classifier
    classes = class_names(config, run.corpus)
    labels = label_ids(run.corpus, classes)
    digest = digest_of(run.corpus)
    seed_dropout(config.seed, "init-classifier")
    model = new_classifier(config, run.tokenizer, len(classes)).to(run.device)
    freeze(model, settings.freeze)
    compile_blocks(config, model)
    optimizer = adamw(model, betas=settings.betas, weight_decay=settings.weight_decay, shards=run.shards)
    plan = BatchPlan(run.train.lengths, settings.batch_size, stream_seed(config.seed, "classifier"))
    selection, step = Selection(settings.patience), 0
    if resumed:
        if resumed["labels"] != digest:
            raise UserError(f"the labels of {config.data.source} have changed since the run began; start a new run")
        step = resumed["step"]
        model.load_state_dict(resumed["model"])
        optimizer.load_state_dict(resumed["optimizer"])
        selection.load_state_dict(resumed["selection"])
    about = {"classes": classes, "architecture": json.loads(getattr(model.encoder, "architecture", "null"))}

    with run.progress("classifier", total=settings.max_steps, done=step) as progress:
        while step < settings.max_steps and not selection.exhausted:
            lr = lr_at(
                step,
                total_steps=settings.max_steps,
                peak=settings.lr,
                warmup_steps=settings.warmup_steps,
                final_ratio=settings.final_lr_ratio,
            )
            set_lr(optimizer, lr)
            seed_dropout(config.seed, "classifier", step, *run.ranks.stream)
            loss, norm = _update(run, model, optimizer, plan.indices(step), labels["train"])
            step += 1
            progress.advance()
            if step % config.log_every == 0 or step == settings.max_steps:
                numbers = run.check_finite(step, class_loss=loss, grad_norm=norm)
                run.logger.scalars(step, {f"train/{k}": v for k, v in numbers.items()} | {"schedule/lr": lr})
                run.logger.perf(step, {"steps_per_s": progress.rate("steps")})
                progress.show(loss=numbers["class_loss"])
            values, best = {}, False
            if step % config.evaluation.every == 0 or step == settings.max_steps:
                run.check_finite(step, class_loss=loss, grad_norm=norm)
                with progress.paused():
                    scores, confusion = _scores(run, model, run.dev, labels["dev"])
                values = {f"classifier/{name}": value for name, value in scores.items()}
                run.logger.scalars(step, values)
                run.logger.table(step, "samples/confusion", confusion_rows(confusion, classes))
                kept = scores[settings.select]
                best = selection.update(kept if settings.select == "cross_entropy" else -kept, step)
                progress.show(dev_accuracy=scores["accuracy"])
            interrupted = run.stop_requested()  # read once: what raises below is what was saved here
            stopping = selection.exhausted or interrupted or step == settings.max_steps
            if best or step % config.checkpoint.every == 0 or stopping:
                run.check_finite(step, class_loss=loss, grad_norm=norm)
                run.save(
                    run.step_name(step),
                    generator=model,
                    phase="classifier",
                    step=step,
                    state={
                        "phase": "classifier",
                        "step": step,
                        "labels": digest,
                        "model": model.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "selection": selection.state_dict(),
                    },
                    metrics=values,
                    best=run.step_name(step) if best else None,
                    about=about,
                )
            if interrupted:
                raise KeyboardInterrupt
    if selection.exhausted:
        say(
            f"stopped early at step {step}: {settings.select} on dev was best at step {selection.best_step} "
            f"({abs(selection.best):.4f})"
        )
    _finish(run, model, test, labels, selection.best_step, step, about)


def _update(
    run: Experiment, model: Classifier, optimizer: torch.optim.Optimizer, drawn: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """One update on the rows ``drawn``; returns the mean loss, nats a text, and the gradient norm before clipping."""
    settings = run.config.classifier
    model.train()
    optimizer.zero_grad()
    loss = torch.zeros((), device=run.device)
    for rows in drawn.split(-(-len(drawn) // settings.accumulate)):
        own = run.ranks.own(rows)
        batch = run.train.batch(own).to(run.device)
        with run.autocast():
            logits = model(batch.targets, batch.lengths)
        losses = F.cross_entropy(logits.float(), labels[own].to(run.device), reduction="sum")
        part = losses / len(drawn) * bool(run.ranks.counted(len(rows)))
        part.backward()
        loss = loss + part.detach()
    (loss,) = run.ranks.add_up(model, loss)
    norm = clip_gradients(model, settings.grad_clip)
    optimizer.step()
    return loss, norm


def _scores(run: Experiment, model: Classifier, rows: TokenDataset, labels: Tensor) -> tuple[dict[str, float], Tensor]:
    size = run.config.evaluation.batch_size
    logits = logits_of(model, rows, batch_size=size, device=run.device, ranks=run.ranks)
    if not torch.isfinite(logits).all():
        run.check_finite(0, logits=math.nan)
    return classification_scores(logits, labels)


def _finish(
    run: Experiment,
    model: Classifier,
    test: TokenDataset | None,
    labels: dict[str, Tensor],
    best_step: int,
    step: int,
    about: dict[str, Any],
) -> None:
    """Score the best step on dev and test, and save it as checkpoint ``classifier``."""
    source = find_checkpoint(run.folder, prefer="best")
    fill(model, load_weights(source), source)
    metrics, confusion = _scores(run, model, run.dev, labels["dev"])
    entry = {"step": best_step, "classes": about["classes"], "confusion": {"dev": confusion.tolist()}}
    if test is not None:
        on_test, confusion = _scores(run, model, test, labels["test"])
        metrics |= {f"test_{name}": value for name, value in on_test.items()}
        entry["confusion"]["test"] = confusion.tolist()
    run.results["classifier"] = entry | {"metrics": metrics}
    run.save(
        "classifier",
        generator=model,
        phase="classifier",
        step=best_step,
        state={"phase": "classifier-done", "step": step},
        metrics=metrics,
        best="classifier",
        about=about,
    )


def confusion_rows(confusion: Tensor | list[list[int]], classes: Sequence[str]) -> list[list[str]]:
    """A confusion matrix as rows of text, with a row and a column of headings."""
    rows = confusion.tolist() if isinstance(confusion, Tensor) else confusion
    head = ["true \\ named", *classes]
    return [head, *([name, *map(str, row)] for name, row in zip(classes, rows, strict=True))]
