"""The reference rows of every comparison: a Kneser-Ney model of the training text, and its mixture with a generator.

Both are made from what a run has (its token data sets and its generator), in seconds, and are judged like its arms.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from textgan.data.dataset import TokenDataset, eval_batches
from textgan.models.generator import Generator
from textgan.models.kneser_ney import KneserNey, fit_kneser_ney
from textgan.ops.ngrams import Ragged
from textgan.sampling.mixture import Mixture, NgramGenerator, fit_weight, mix

ORDER = 4
MAX_LOGITS = 2**25  # numbers held at once where both models are asked (128 MiB each)


class FittedMixture(NamedTuple):
    """A mixture, and NLL (nats a token) of the text that its weight was fitted on: of each model alone, and mixed."""

    mixture: Mixture
    nll_generator: float
    nll_ngrams: float
    nll_mixture: float


def kneser_ney_arm(train: TokenDataset, *, vocab_size: int, block_size: int, order: int = ORDER) -> NgramGenerator:
    """The Kneser-Ney model of the training rows; ``block_size`` bounds its texts as the generator's bounds those."""
    rows = texts_of(train)
    return NgramGenerator(fit_kneser_ney(rows, order=order, vocab_size=vocab_size, eos_id=train.eos_id), block_size)


def mixture_arm(generator: Generator, ngrams: KneserNey, held_out: TokenDataset) -> FittedMixture:
    """The generator mixed with an n-gram model, the weight fitted by maximum likelihood of the ``held_out`` rows."""
    log_p, log_q = token_log_probs(generator, ngrams, held_out)
    weight = fit_weight(log_p, log_q)
    nll = [-values.mean().item() for values in (log_p, log_q, mix(log_p, log_q, weight))]
    return FittedMixture(Mixture(generator, ngrams, weight), *nll)


def texts_of(dataset: TokenDataset) -> Ragged:
    """The texts of all rows without opening and end; windows of one text are joined again."""
    opening = torch.zeros(len(dataset.tokens), dtype=torch.bool)
    opening[dataset.offsets[:-1]] = True  # of a window: the token that the one before ends with
    targets = dataset.tokens[~opening]
    is_end = targets == dataset.eos_id
    ends = is_end.nonzero().squeeze(1)
    return Ragged(targets[~is_end], torch.diff(ends, prepend=ends.new_full((1,), -1)) - 1)


@torch.no_grad()
def token_log_probs(generator: Generator, ngrams: KneserNey, dataset: TokenDataset) -> tuple[Tensor, Tensor]:
    """Log-probabilities of every target of the rows under either model, float64 (M,) each, in one order."""
    was_training, device = generator.training, generator.wte.weight.device
    generator.eval()
    ngrams = ngrams.to(device)
    log_p, log_q = [], []
    longest = int(dataset.lengths.max())
    for rows in eval_batches(dataset.lengths, max(1, MAX_LOGITS // (longest * generator.vocab_size))):
        batch = dataset.batch(rows).to(device)
        logits = generator(batch.inputs, at=batch.mask).float()
        targets = batch.targets[batch.mask]
        log_p.append(-F.cross_entropy(logits, targets, reduction="none").double())
        probs = ngrams.all_next_probs(batch.inputs, torch.float32)[batch.mask]
        log_q.append(probs.gather(1, targets[:, None]).squeeze(1).double().log())
    generator.train(was_training)
    return torch.cat(log_p), torch.cat(log_q)
