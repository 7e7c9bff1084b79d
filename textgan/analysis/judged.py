"""The generators that are judged: the arms of a run, each of which can be drawn from and asked for likelihoods."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from textgan.analysis.measures import ratio_by_group
from textgan.data.dataset import TokenDataset
from textgan.errors import UserError
from textgan.metrics.jackknife import GROUPS
from textgan.metrics.suite import Scores
from textgan.sampling.samplers import Drawer, Drawn, Sampler
from textgan.training.checkpoint import SamplingModel, load_for_sampling
from textgan.training.evaluation import text_nll

BATCH_SIZE = 256  # part of how texts are drawn: rounding may tip a draw where it changes
LIKELIHOOD_BATCH = 128


class Draws(Protocol):
    """What draws the texts of one arm, sampler by sampler: :class:`textgan.sampling.samplers.Drawer`."""

    def batches(self, sampler: Sampler, *, after: Iterable[Sampler] = ()) -> int: ...

    def __call__(self, sampler: Sampler, between: Callable[[], None] | None = None) -> Drawn: ...


class Judged(Protocol):
    """One arm.

    Attributes:
        name: of the arm.
        step, training_seed: of its checkpoint, None where there is none.
        weights: tells one set of weights from another.
    """

    name: str
    step: int | None
    training_seed: int | None
    weights: str

    def draws(self, n: int, seed: int) -> Draws: ...

    def nll(self, dataset: TokenDataset) -> torch.Tensor:
        """Exact negative log-likelihood (N,) of each row, nats, end counted."""
        ...


class GeneratorArm:
    """A checkpoint of a run."""

    def __init__(self, name: str, folder: Path, device: torch.device):
        self.name, self.device = name, device
        self.model: SamplingModel = load_for_sampling(folder, device)
        self.step, self.training_seed = self.model.step, self.model.config.seed
        self.weights = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()[:16]

    def draws(self, n: int, seed: int, **options: Any) -> Drawer:
        """``options``: further settings of :func:`textgan.sampling.decode.generate`."""
        tokenizer = self.model.tokenizer
        return Drawer(
            self.model.generator,
            n,
            eos_id=tokenizer.eos_id,
            max_new_tokens=self.model.generator.block_size,
            banned_ids=() if tokenizer.unk_id is None else (tokenizer.unk_id,),
            seed=seed,
            batch_size=BATCH_SIZE,
            **options,
        )

    def nll(self, dataset: TokenDataset) -> torch.Tensor:
        return text_nll(self.model.generator, dataset, batch_size=LIKELIHOOD_BATCH, device=self.device)


class HeldOut:
    """Likelihood of real text: ``nll`` and ``nll_text`` of the held-out split, ``nll_gen`` of training text.

    All are exact, at temperature 1, with the end of text counted, in nats a token; ``nll_text`` is in nats a text, and
    ``nll_known`` over the texts without <unk>. With a true distribution, ``kl_to_model`` is KL(truth || model), nats a
    text. Leave-group-out values leave out the real texts of group ``i % G``, the same ones for every arm.
    """

    def __init__(
        self,
        held_out: TokenDataset,
        train: TokenDataset,
        *,
        unk_id: int | None,
        most_train: int,
        entropy: float | None = None,
    ):
        """``most_train``: of the training texts so many, drawn with a fixed seed; ``entropy`` of the truth, nats."""
        self.held_out, self.unk_id, self.entropy = held_out, unk_id, entropy
        rows = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:most_train].sort().values
        self.train = train.select(rows)

    def signature(self) -> dict[str, Any]:
        """What moves the values."""
        return {"held_out": {"texts": len(self.held_out), "train_texts": len(self.train), "temperature": 1}}

    def __call__(self, arm: Judged) -> Scores:
        """The values of an arm."""
        lengths, ones = self.held_out.lengths.numpy(), np.ones(len(self.held_out))
        nll = arm.nll(self.held_out).cpu().numpy()
        found = {"nll": ratio_by_group(nll, lengths), "nll_text": ratio_by_group(nll, ones)}
        if self.unk_id is not None:
            known = ~self.held_out.rows_with(self.unk_id).numpy()
            if 0 < known.sum() < len(known) and len(set(np.flatnonzero(known) % GROUPS)) > 1:
                found["nll_known"] = ratio_by_group(nll * known, lengths * known)
        found["nll_gen"] = ratio_by_group(arm.nll(self.train).cpu().numpy(), self.train.lengths.numpy())
        if self.entropy is not None:
            value, groups = found["nll_text"]
            found["kl_to_model"] = (value - self.entropy, groups - self.entropy)
        values = {name: value for name, (value, _) in found.items()}
        return Scores(values, self.signature(), {name: groups for name, (_, groups) in found.items()})


def check_same_data(arms: dict[str, Path], metas: dict[str, dict[str, Any]], fingerprint: str) -> None:
    """UserError where an arm was trained on other texts than the run's config gives now."""
    for name, meta in metas.items():
        if meta["data"] != fingerprint:
            raise UserError(
                f"{arms[name]} was trained on other data than its config gives now (fingerprint {meta['data'][:12]} "
                f"then, {fingerprint[:12]} now); bring the old files back, or train again"
            )
