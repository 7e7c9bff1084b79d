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
    (batch,) = read_parts(run, rows, max(1, len(rows)), *name)
    return batch.to(run.device)


def read_parts(run: Experiment, rows: Tensor, size: int, *name: object) -> Iterator[Batch]:
    """The same as micro-batches of at most ``size`` rows, of which the openings of the same ones are dropped."""
    share = run.config.data.condition_dropout
    dropped = None
    if share:
        dropped = torch.rand(len(rows), generator=stream("cpu", run.config.seed, "condition-dropout", *name)) < share
    for start in range(0, len(rows), size):
        part = slice(start, start + size)
        batch = run.train.batch(run.ranks.own(rows[part]))
        yield batch if dropped is None else batch.without_openings(dropped[part])


def mean_targets(run: Experiment) -> float:
    """Targets of a training row that are learned, on average."""
    return run.train.counted.double().mean().item()
