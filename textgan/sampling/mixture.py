"""N-gram models as generators, alone and mixed with a neural one, token by token: p = (1 - w) p_G + w p_KN.

A baseline without a critic: the neural model generalises, the n-gram model remembers, and w is one number fitted on
held-out text (linear interpolation: Jelinek and Mercer 1980; of neural and n-gram models: Bengio et al. 2003, section
4.2). Both classes stand in for a :class:`textgan.models.generator.Generator` in
:func:`textgan.sampling.decode.generate` and wherever a model is asked for the logits that follow ids. They are not
trained any further, and their likelihood is exact.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from textgan.models.generator import Generator
from textgan.models.kneser_ney import KneserNey
from textgan.models.lstm import LSTMGenerator
from textgan.sampling.context import Context


class NgramGenerator(nn.Module):
    """A Kneser-Ney model that can be decoded from.

    Attributes:
        ngrams: the model.
        block_size: most tokens of a text, its end included.
    """

    def __init__(self, ngrams: KneserNey, block_size: int):
        super().__init__()
        self.ngrams, self.vocab_size, self.block_size = ngrams, ngrams.vocab_size, block_size

    def forward(self, ids: Tensor, at: Tensor | None = None) -> Tensor:
        """Log-probabilities, float32, of the token that follows each column of ``ids`` (B, T): (B, T, V), or (M, V) of
        the M columns ``at`` (B, T)."""
        log_q = self.ngrams.all_next_probs(ids, torch.float32).log()
        return log_q if at is None else log_q[at]


class Mixture(nn.Module):
    """A generator mixed with a Kneser-Ney model over the same vocabulary.

    Attributes:
        generator, ngrams: the two models; ``ngrams`` on the device of the generator.
        weight: of ``ngrams``, 0 to 1.
        block_size: the generator's.
    """

    def __init__(self, generator: Generator | LSTMGenerator, ngrams: KneserNey, weight: float):
        """Raises ValueError for vocabularies of different sizes, or a weight that is none."""
        super().__init__()
        if generator.vocab_size != ngrams.vocab_size:
            raise ValueError(f"vocabularies of {generator.vocab_size} and {ngrams.vocab_size} ids cannot be mixed")
        if not 0 <= weight <= 1:
            raise ValueError(f"weight={weight} must be between 0 and 1")
        self.generator, self.ngrams, self.weight = generator, ngrams.to(generator.device), weight
        self.vocab_size, self.block_size = generator.vocab_size, generator.block_size

    def forward(self, ids: Tensor, at: Tensor | None = None) -> Tensor:
        """Log-probabilities, at least float32, of the token that follows each column of ``ids`` (B, T): (B, T, V), or
        (M, V) of the M columns ``at`` (B, T)."""
        logits = self.generator(ids, at=at)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        log_q = self.ngrams.all_next_probs(ids, logits.dtype).log()
        return mix(logits.log_softmax(-1), log_q if at is None else log_q[at], self.weight)


def mix(log_p: Tensor, log_q: Tensor, weight: float) -> Tensor:
    """log((1 - weight) p + weight q), elementwise; ``weight`` in [0, 1]."""
    if weight in (0, 1):
        return log_q if weight else log_p
    shares = torch.tensor([1 - weight, weight], dtype=torch.float64).log().tolist()
    return torch.logaddexp(log_p + shares[0], log_q + shares[1])


def fit_weight(log_p: Tensor, log_q: Tensor) -> float:
    """The weight in [0, 1] that makes tokens likeliest under :func:`mix`, given their log-probabilities (M,) each.

    The likelihood is concave in the weight, so halving the interval by the sign of its slope finds the one optimum, to
    1e-9. Where q is nowhere likelier the weight is 0.
    """
    ratio = (log_q.double() - log_p.double()).exp() - 1  # q / p - 1
    low, high = 0.0, 1.0
    for _ in range(30):
        weight = (low + high) / 2
        if (ratio / (1 + weight * ratio)).sum() > 0:
            low = weight
        else:
            high = weight
    return 1.0 if high == 1 else low


class MixedContext(Context):
    """What a :class:`Mixture` has read and written: ``logits`` are its log-probabilities."""

    def __init__(
        self, mixture: Mixture, rows: Sequence[Sequence[int]], *, room: int, pad_id: int, keep_states: bool = False
    ):
        self._mixture = mixture
        super().__init__(mixture.generator, rows, room=room, pad_id=pad_id, keep_states=keep_states)

    def _read(self, tokens: Tensor) -> None:
        super()._read(tokens)
        ngrams = self._mixture.ngrams.next_probs(self.ids, self.logits.dtype)
        self.logits = mix(self.logits.log_softmax(-1), ngrams.log(), self._mixture.weight)


class NgramContext:
    """What an :class:`NgramGenerator` has read and written; see :class:`Context` for its attributes."""

    def __init__(self, model: NgramGenerator, rows: Sequence[Sequence[int]], *, room: int, pad_id: int):
        """``room`` is not needed: an n-gram model looks at the end of a row only, however long that gets."""
        self._ngrams = model.ngrams
        T = max(len(row) for row in rows)
        self.ids = torch.tensor([[pad_id] * (T - len(row)) + list(row) for row in rows], device=model.ngrams.device)
        self.left_pad = torch.tensor([T - len(row) for row in rows], device=self.ids.device)
        self._read()

    @property
    def choices(self) -> Tensor:
        """What tokens are chosen by."""
        return self.logits

    def append(self, tokens: Tensor) -> None:
        """Gives each row one more token (B,)."""
        self.ids = torch.cat([self.ids, tokens[:, None]], dim=1)
        self._read()

    def select(self, rows: Tensor) -> None:
        """Keeps the rows of these indices, in their order; an index may repeat."""
        self.ids, self.left_pad, self.logits = self.ids[rows], self.left_pad[rows], self.logits[rows]

    def _read(self) -> None:
        self.logits = self._ngrams.next_probs(self.ids, torch.float32).log()


def open_context(
    model: Generator | LSTMGenerator | Mixture | NgramGenerator,
    rows: Sequence[Sequence[int]],
    *,
    room: int,
    pad_id: int,
    keep_states: bool = False,
) -> Context | NgramContext:
    """The rows as read by this model, ready to grow; ``pad_id`` opens texts. n-gram models have no states to keep."""
    if isinstance(model, NgramGenerator):
        return NgramContext(model, rows, room=room, pad_id=pad_id)
    kind = MixedContext if isinstance(model, Mixture) else Context
    return kind(model, rows, room=room, pad_id=pad_id, keep_states=keep_states)
