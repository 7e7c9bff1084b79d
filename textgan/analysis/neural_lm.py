"""Forward and reverse scores by neural language models: small GPTs, trained alike on whatever they are a model of.

See :mod:`textgan.analysis.lm_scores` for what ``lm`` and ``rlm`` are. A neural model sees further than four words, and
costs about two minutes for 10,000 captions on one core where n-grams cost a tenth of a second. Its training is noisy:
published reverse scores moved by .03 to .1 nats from one training to the next. So each score is the mean over models of
several seeds, and their spread is part of it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from textgan.analysis.lm_scores import DEFINITIONS, RealText, quotients_without
from textgan.data.dataset import BatchPlan, TokenDataset, build_dataset, eval_batches
from textgan.errors import UserError
from textgan.metrics.jackknife import group_of_text
from textgan.metrics.suite import Scores
from textgan.models.generator import Generator
from textgan.training.evaluation import text_nll
from textgan.training.objectives import mle_loss
from textgan.training.optim import WeightAverage, adamw, clip_gradients, lr_at, set_lr
from textgan.training.seeding import stream, stream_seed

SMALLEST = 20  # texts: fewer leave nothing to stop by


class LMShape(NamedTuple):
    """Size and training of the models; part of the signature.

    The learning rate warms up and falls to 0 along a cosine over ``epochs`` (but at least ``min_steps`` updates). A
    tenth of a model's own texts is kept apart, and their likelihood under averaged weights measured every epoch (every
    50 updates where epochs are shorter): the best weights are kept, and training ends early when it has not improved
    ``patience`` times in a row.
    """

    n_layer: int = 2
    n_head: int = 4
    n_embd: int = 128
    dropout: float = 0.2
    lr: float = 2e-3
    warmup_steps: int = 50
    weight_decay: float = 0.1
    ema: float = 0.99
    batch_size: int = 64
    block_size: int = 128  # words; longer texts are cut into windows
    epochs: int = 10
    min_steps: int = 600
    patience: int = 3


class TrainedLM(NamedTuple):
    """A model, how many steps it was trained for, and NLL (nats a token) of the texts of its own kept apart."""

    generator: Generator
    steps: int
    nll: float


class _Rows:
    """Lets :func:`build_dataset` take rows of ids for texts."""

    encode = staticmethod(list)

    def __init__(self, eos_id: int):
        self.eos_id = eos_id


def dataset_of(rows: Sequence[Sequence[int]], *, eos_id: int, block_size: int) -> TokenDataset:
    """Rows of ids without end as a data set; long ones in windows."""
    return build_dataset(rows, _Rows(eos_id), block_size=block_size, too_long="window")[0]


def train_language_model(
    rows: Sequence[Sequence[int]],
    *,
    vocab_size: int,
    eos_id: int,
    shape: LMShape | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> TrainedLM:
    """A fresh model of these rows of ids; the same arguments give the same one on a device.

    Raises:
        UserError: fewer than 20 texts.
    """
    if len(rows) < SMALLEST:
        raise UserError(f"{len(rows)} texts are too few to train a language model on; give at least {SMALLEST}")
    shape, device = shape or LMShape(), torch.device(device)
    order = torch.randperm(len(rows), generator=stream("cpu", seed, "lm-split")).tolist()
    own_dev, train = (
        dataset_of([rows[i] for i in part], eos_id=eos_id, block_size=shape.block_size)
        for part in (order[: len(rows) // 10], order[len(rows) // 10 :])
    )
    # Its own random state for weights and dropout: what runs beside is not disturbed.
    with torch.enable_grad(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(stream_seed(seed, "lm"))
        return _train(train, own_dev, vocab_size, shape, seed, device)


def _train(
    train: TokenDataset, own_dev: TokenDataset, vocab_size: int, shape: LMShape, seed: int, device: torch.device
) -> TrainedLM:
    sizes = (shape.block_size, shape.n_layer, shape.n_head, shape.n_embd)
    generator = Generator(vocab_size, *sizes, dropout=shape.dropout).to(device)
    average = WeightAverage(generator, shape.ema)
    optimizer = adamw(generator, betas=(0.9, 0.98), weight_decay=shape.weight_decay)
    plan = BatchPlan(train.lengths, shape.batch_size, stream_seed(seed, "lm-batches"))
    tokens = shape.batch_size * train.lengths.double().mean().item()
    every = max(50, plan.batches_per_epoch)
    total = max(shape.epochs * plan.batches_per_epoch, shape.min_steps)
    best, best_step, kept, missed, step = float("inf"), 0, {}, 0, 0
    while missed < shape.patience and step < total:
        generator.train()
        lr = lr_at(step, total_steps=total, peak=shape.lr, warmup_steps=shape.warmup_steps, final_ratio=0.0)
        set_lr(optimizer, lr)
        optimizer.zero_grad()
        mle_loss(generator, train.batch(plan.indices(step)).to(device), tokens).backward()
        clip_gradients(generator, 1.0)
        optimizer.step()
        average.update()
        step += 1
        if step % every == 0 or step == total:
            nll = text_nll(average.module, own_dev, batch_size=128, device=device).sum() / own_dev.lengths.sum()
            missed += 1
            if nll < best:
                best, best_step, missed = nll.item(), step, 0
                kept = {name: value.clone() for name, value in average.module.state_dict().items()}
    if not kept:
        raise UserError(f"the language model diverged at lr={shape.lr}; lower it in LMShape")
    generator.load_state_dict(kept)
    return TrainedLM(generator.eval(), best_step, best)


class NeuralScorer:
    """``lm_neural``, ``rlm_neural`` and ``rlm_neural_sd`` of sets of texts.

    Args:
        real: training and held-out text.
        seeds: number of models behind each value, at least 2.
        shape: of the models.
        device: where they are trained.

    The models of real training text are trained at the first need and kept.
    """

    def __init__(
        self,
        real: RealText,
        *,
        seeds: int = 3,
        shape: LMShape | None = None,
        device: torch.device | str = "cpu",
    ):
        if seeds < 2:
            raise ValueError(f"seeds={seeds} must be at least 2: one training says nothing of its noise")
        self.real_text, self.seeds, self.device = real, seeds, torch.device(device)
        self.shape = shape or LMShape()
        self._models: list[Generator] = []
        self._held_out = dataset_of(real.held_out, eos_id=real.units.eos_id, block_size=self.shape.block_size)

    def signature(self, n: int) -> dict[str, object]:
        """What moves the values of ``n`` texts, under one key (a device moves them too, within their spread)."""
        model = {"kind": "GPT", **self.shape._asdict(), "seeds": self.seeds}
        return {"lm_neural": {"texts": n, "model": model, **self.real_text.signature, "definitions": DEFINITIONS}}

    def score(self, texts: Sequence[str], *, groups: int = 0, per_text: bool = False) -> Scores:
        """Means over the seeds, nats a token, and ``rlm_neural_sd``, the standard deviation over the seeds.

        Args:
            texts: at least 20.
            groups: number of jackknife groups of ``lm_neural``; ``rlm_neural`` has none, as no model is trained again.
            per_text: whether ``Scores.per_text`` has ``lm_neural_nats`` (mean over the seeds) and ``lm_neural_tokens``.

        Raises:
            UserError: too few texts.
        """
        if groups:
            group_of_text(len(texts), groups)  # refuses what cannot be grouped
        rows = self.real_text.units.rows(texts)
        reverse = self._reverse(rows)  # first: it refuses too few texts
        nats, tokens = self._forward(rows)
        values = {"lm_neural": (nats.sum() / tokens.sum()).item(), **reverse}
        without = {"lm_neural": quotients_without(nats, tokens, groups)} if groups else {}
        each = {"lm_neural_nats": nats.numpy(), "lm_neural_tokens": tokens.numpy()} if per_text else {}
        return Scores(values, self.signature(len(texts)), without, each)

    def real(self, n: int, seed: int = 0) -> Scores:
        """The values of ``n`` real texts, as :meth:`textgan.analysis.lm_scores.KneserNeyScorer.real`."""
        train, held_out = self.real_text.draw(n, seed)
        nats, tokens = self._forward(held_out)
        values = {"lm_neural": (nats.sum() / tokens.sum()).item()}
        if len(train) == n >= SMALLEST:
            values |= self._reverse(train)
        signature = {**self.signature(n)["lm_neural"], "held_out_texts": len(held_out), "seed": seed}
        return Scores(values, {"lm_neural": signature})

    def _fit(self, rows: Sequence[Sequence[int]], seed: int) -> Generator:
        units = self.real_text.units
        return train_language_model(
            rows, vocab_size=units.vocab_size, eos_id=units.eos_id, shape=self.shape, seed=seed, device=self.device
        ).generator

    def _forward(self, rows: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Nats of each text, mean over the models of real text, and its tokens, float64 and long (N,)."""
        if not self._models:
            self._models = [self._fit(self.real_text.train, seed) for seed in range(self.seeds)]
        eos_id = self.real_text.units.eos_id
        data = dataset_of(rows, eos_id=eos_id, block_size=self.shape.block_size)
        nats = torch.stack([text_nll(m, data, batch_size=128, device=self.device) for m in self._models]).mean(0)
        text = (data.tokens[data.offsets[:-1]] == eos_id).cumsum(0) - 1  # a window does not begin with an end
        return nats.new_zeros(len(rows)).index_add_(0, text, nats), torch.tensor([len(row) + 1 for row in rows])

    def _reverse(self, rows: list[list[int]]) -> dict[str, float]:
        found = [self._known_nll(self._fit(rows, seed)) for seed in range(self.seeds)]
        return {"rlm_neural": float(np.mean(found)), "rlm_neural_sd": float(np.std(found, ddof=1))}

    @torch.no_grad()
    def _known_nll(self, generator: Generator) -> float:
        """Nats a known token of the held-out text, among known words."""
        unk_id, total, count = self.real_text.units.unk_id, 0.0, 0
        for rows in eval_batches(self._held_out.lengths, 128):
            batch = self._held_out.batch(rows).to(self.device)
            known = batch.mask & (batch.targets != unk_id)
            logits = generator(batch.inputs, at=known).float()
            logits[:, unk_id] = -torch.inf
            losses = torch.nn.functional.cross_entropy(logits, batch.targets[known], reduction="none")
            total, count = total + losses.double().sum().item(), count + len(losses)
        return total / count
