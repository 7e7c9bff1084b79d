"""What every training method shares: the data, the device, the log, and how a run is evaluated and saved."""

import contextlib
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from textgan.config import Config
from textgan.data.corpus import Corpus
from textgan.data.dataset import TokenDataset
from textgan.data.tokenizer import Tokenizer
from textgan.errors import UserError
from textgan.sampling.latent import LatentGenerator
from textgan.training.checkpoint import point, prune, read_pointer, save_checkpoint
from textgan.training.cost import seconds_on
from textgan.training.evaluation import AnyGenerator, Evaluator, mode_collapse
from textgan.training.forecast import Took
from textgan.training.interrupt import Interrupt
from textgan.training.logging import RunLogger
from textgan.training.progress import Progress
from textgan.training.ranks import Ranks

MUCH = 0.05  # of the time between two evaluations, for one of them


class TrainingDiverged(UserError):
    """Losses or gradients are no numbers any more; the message holds the evidence and the way back."""


def say(message: str) -> None:
    """One line of chatter, on stderr so that stdout stays for results."""
    print(message, file=sys.stderr, flush=True)


@dataclass
class Selection:
    """The best dev NLL of a phase, and how many evaluations ago that was."""

    patience: int
    best: float = math.inf
    best_step: int = -1
    waited: int = 0

    def update(self, nll: float, step: int) -> bool:
        """Note an evaluation; True when it is the best so far."""
        if nll < self.best:
            self.best, self.best_step, self.waited = nll, step, 0
            return True
        self.waited += 1
        return False

    @property
    def exhausted(self) -> bool:
        return self.patience > 0 and self.waited >= self.patience

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_step": self.best_step, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.best_step, self.waited = state["best"], state["best_step"], state["waited"]


@dataclass
class Experiment:
    """One run: a folder, its data, and the services that the training loops call."""

    config: Config
    folder: Path
    device: torch.device
    corpus: Corpus
    tokenizer: Tokenizer
    train: TokenDataset
    dev: TokenDataset
    evaluator: Evaluator | None  # None: of a classifier, which writes nothing
    logger: RunLogger
    interrupt: Interrupt
    ranks: Ranks = field(default_factory=Ranks)
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    beside: bool = False  # the continuation, with step folders and a pointer to its best of its own
    evaluated: float = field(default_factory=time.monotonic)  # when the last evaluation ended
    told_cost: bool = False
    took: Took | None = None

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def shards(self) -> Ranks | None:
        """The processes that optimisers are divided among, if they are."""
        return self.ranks if self.config.shard_optimizer and self.ranks.size > 1 else None

    @property
    def best_pointer(self) -> str:
        return "best-continued" if self.beside else "best"

    def step_name(self, step: int) -> str:
        """Name of the checkpoint folder of a step."""
        return f"{'continued-' if self.beside else ''}step-{step:08d}"

    @contextlib.contextmanager
    def progress(self, phase: str, *, total: int, done: int = 0) -> Iterator[Progress]:
        """The progress of a phase; what its steps took is kept when it ends, however it does."""
        with Progress(phase, total=total, done=done) as progress:
            try:
                yield progress
            finally:
                if self.took:
                    self.took.note(phase, progress)

    def autocast(self) -> contextlib.AbstractContextManager:
        """Autocast of the networks to bfloat16 where the config asks for it."""
        if self.config.precision == "bfloat16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return contextlib.nullcontext()

    def evaluate(self, generator: AnyGenerator, step: int) -> dict[str, float]:
        """Evaluate at the config's number of samples, log values and samples; sounds the collapse alarm."""
        began = seconds_on(self.device)
        values, texts = self.evaluator(generator, self.config.evaluation.samples)
        self._note_cost(step, began)
        self.logger.scalars(step, values)
        shown = texts[: self.config.evaluation.show]
        if self.config.data.condition is not None:
            asked = self.evaluator.asked(len(shown))
            shown = [f"{condition}: {text}" for condition, text in zip(asked, shown, strict=True)]
        self.logger.text(step, "samples/free", _as_list(shown))
        if self.config.evaluation.prompts:
            continued = self.evaluator.continue_prompts(generator)
            self.logger.text(step, "samples/prompted", _as_list(continued))
        if alarm := mode_collapse(values):
            if self.config.adversarial:
                alarm += "; lower adversarial.lr or adv_ratio, raise mle_weight or kl_weight, or go back a checkpoint"
            say(f"warning: step {step}: {alarm}")
            self.logger.text(step, "samples/alarm", alarm)
        return values

    def _note_cost(self, step: int, began: float) -> None:
        """Log what the evaluation that ``began`` then cost, and say it once where that is much."""
        now = seconds_on(self.device)
        took, between = now - began, began - self.evaluated
        self.evaluated = now
        self.logger.perf(step, {"eval_s": took, "eval_share": took / between})
        if took > MUCH * between and took > 1 and not self.told_cost:
            self.told_cost = True
            say(
                f"note: step {step}: an evaluation took {took:.1f} s, {took / between:.0%} of the {between:.0f} s "
                "before it; raise evaluation.every or lower evaluation.samples if that is too much"
            )

    def stop_requested(self) -> bool:
        """Whether any process was asked to stop; all of them must ask at the same time."""
        return self.ranks.any(self.interrupt.requested)

    def check_interrupt(self) -> None:
        """Raise ``KeyboardInterrupt`` when any process was asked to stop; see :meth:`stop_requested`."""
        if self.stop_requested():
            raise KeyboardInterrupt

    def final_scores(self, name: str, generator: AnyGenerator, step: int) -> dict[str, Any]:
        """Metrics at ``final_samples`` texts, and test likelihood, kept as ``results[name]``.

        Ctrl-C ends it between two batches of samples: they can be minutes, and nothing of a phase is lost with them.
        """
        settings = self.config.evaluation
        values, _ = self.evaluator(generator, settings.final_samples, self.check_interrupt, settings.final_iw_samples)
        metrics = {tag.partition("/")[2]: value for tag, value in values.items()}
        metrics |= self.evaluator.test_likelihood(generator, settings.final_iw_samples)
        self.results[name] = {
            "step": step,
            "samples": settings.final_samples,
            "metrics": metrics,
        }
        if isinstance(generator, LatentGenerator) and generator.has_density:
            self.results[name]["iw_samples"] = settings.final_iw_samples
        return self.results[name]

    def save(
        self,
        name: str,
        *,
        generator: nn.Module,
        phase: str,
        step: int,
        state: dict[str, Any],
        metrics: dict[str, float] | None = None,
        calibration: dict[str, float] | None = None,
        best: str | None = None,
        last: bool = True,
        about: dict[str, Any] | None = None,
    ) -> Path:
        """Write checkpoint ``name``, let ``last`` point to it, and the pointer to the best to ``best``; prune old ones.

        The state says where the best is, as a kill can come between the two pointers: see :meth:`restore_best`.
        ``about``: what ``meta.json`` is to hold beside.
        """
        if not self.ranks.first:
            self.ranks.same(None)
            return self.checkpoints / name
        state = {
            "log_position": self.logger.position(),
            "best": best or read_pointer(self.checkpoints, self.best_pointer),
            "best_pointer": self.best_pointer,
            **state,
        }
        path = save_checkpoint(
            self.checkpoints / name,
            generator=generator,
            config=self.config,
            tokenizer=self.tokenizer,
            state=state,
            meta={
                "step": step,
                "phase": phase,
                "data": self.corpus.fingerprint,
                "threads": torch.get_num_threads(),
                "metrics": metrics or {},
                "calibration": calibration,
                "results": self.results,
                **(about or {}),
            },
        )
        if last:
            point(path, "last")
        if best:
            point(self.checkpoints / best, self.best_pointer)
        prune(self.checkpoints, self.config.checkpoint.keep_last)
        self.ranks.same(None)  # from here on the others may read it
        return path

    def restore_best(self, state: dict[str, Any]) -> None:
        """Let the pointer to the best name what it did when the checkpoint of ``state`` was whole."""
        if state["best"]:
            point(self.checkpoints / state["best"], state.get("best_pointer", "best"))

    def check_finite(self, step: int, **values: Tensor | float) -> dict[str, float]:
        """``values`` as floats; raises :class:`TrainingDiverged` when one of them is no finite number."""
        numbers = {name: float(value) for name, value in values.items()}
        if all(map(math.isfinite, numbers.values())):
            return numbers
        last = read_pointer(self.checkpoints, "last")
        good = f"the last good checkpoint is {self.checkpoints / last}" if last else "no checkpoint was saved yet"
        shown = ", ".join(f"{name}={value:.4g}" for name, value in numbers.items())
        raise TrainingDiverged(
            f"training diverged at step {step}: {shown}; {good}; lower the learning rate or grad_clip"
        )


def _as_list(texts: list[str]) -> str:
    return "\n\n".join(f"{i}. {text}" for i, text in enumerate(texts, 1))
