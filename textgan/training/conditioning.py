"""Training rows of pairs: some are read without their opening, for models that write with and without conditions.

That is what classifier-free guidance learns from (Ho & Salimans 2022, "Classifier-Free Diffusion Guidance", algorithm
1): the condition is dropped at random. Which rows those are follows from the run's seed and the step alone.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from textgan.data.dataset import Batch
from textgan.training.experiment import Experiment
from textgan.training.seeding import stream


def read_batch(run: Experiment, rows: Tensor, *name: object) -> Batch:
    """The training rows of these indices on the run's device, without the openings that the step ``name`` drops."""
    dropped = _dropped(run, len(rows), *name)
    batch = run.train.batch(rows)
    return (batch if dropped is None else batch.without_openings(dropped)).to(run.device)


def read_parts(run: Experiment, rows: Tensor, size: int, *name: object) -> Iterator[Batch]:
    """This rank's rows of the same, in micro-batches of at most ``size`` rows of all; the same openings are dropped."""
    dropped = _dropped(run, len(rows), *name)
    for start in range(0, len(rows), size):
        part = slice(start, start + size)
        batch = run.train.batch(run.ranks.own(rows[part]))
        if dropped is not None:
            batch = batch.without_openings(run.ranks.own(dropped[part]))
        yield batch.to(run.device)


def _dropped(run: Experiment, n: int, *name: object) -> Tensor | None:
    """Of which of ``n`` rows the opening is dropped, (n,) bool; None: of none."""
    share = run.config.data.condition_dropout
    if not share:
        return None
    return torch.rand(n, generator=stream("cpu", run.config.seed, "condition-dropout", *name)) < share


def mean_targets(run: Experiment) -> float:
    """Targets of a training row that are learned, on average."""
    return run.train.counted.double().mean().item()
