"""Real texts and samples as rows of the ids that a model writes: what a critic reads."""

from collections.abc import Iterable

import torch

from textgan.data.dataset import TokenDataset, build_dataset
from textgan.data.tokenizer import Tokenizer
from textgan.ops.ngrams import Ragged, ragged
from textgan.sampling.decode import generate
from textgan.training.loading import SamplingModel
from textgan.training.progress import Progress

BATCH_SIZE = 256  # part of how texts are drawn: rounding may tip a draw where it changes


def draw(model: SamplingModel, n: int, *, seed: int, label: str = "samples") -> Ragged:
    """``n`` texts from the model itself: temperature 1, unknown words allowed, the closing token included.

    Text i follows from stream i of ``seed``. Progress is shown under ``label``.
    """
    rows: list[list[int]] = []
    with Progress(label, total=-(-n // BATCH_SIZE)) as progress:
        for first in range(0, n, BATCH_SIZE):
            samples = generate(
                model.generator,
                [[]] * min(BATCH_SIZE, n - first),
                eos_id=model.tokenizer.eos_id,
                seed=seed,
                batch_size=BATCH_SIZE,
                first_index=first,
            )
            rows += [sample.ids for sample in samples]
            progress.advance()
            progress.show()
    return ragged(rows)


def encode_targets(texts: Iterable[str], tokenizer: Tokenizer, block_size: int) -> tuple[Ragged, int]:
    """The texts with their closing token, and how many were left out as longer than ``block_size`` with it.

    Raises:
        UserError: all of them are too long.
    """
    dataset, long = build_dataset(texts, tokenizer, block_size=block_size, too_long="drop")
    return targets(dataset), long


def targets(dataset: TokenDataset) -> Ragged:
    """The rows of a data set without their opening token."""
    inner = torch.ones(len(dataset.tokens), dtype=torch.bool)
    inner[dataset.offsets[:-1]] = False
    return Ragged(dataset.tokens[inner], dataset.lengths)
