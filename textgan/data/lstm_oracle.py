"""SeqGAN's oracle: an LSTM with random weights as the true distribution over token sequences of a fixed length.

Every text GAN paper since SeqGAN (Yu et al. 2017, section 4) reports NLL_oracle, the loss of a model's samples under
it: vocabulary 5000, embedding and hidden size 32, all weights drawn from N(0, 1), start token 0, length 20 or 40.
The original's weights are a pickled list of arrays; ours are drawn from a seed, so values compare with one another but
not with the papers', whose value for the oracle's own samples is 5.750 nats a token at length 20. Ours at seed 0:
5.881 (standard error 0.008) at length 20, 5.863 (0.006) at length 40.
"""

from __future__ import annotations

import math
import random
import re
from functools import lru_cache

import torch
from torch import Tensor

from textgan.errors import UserError

START = 0


class LSTMOracle:
    """A distribution over `length` token ids, and over their texts: the ids in decimal joined by single spaces.

    Args:
        length: tokens a sequence; none ends it earlier.
        vocab_size: number of token ids; the start token is one of them, as in the original.
        hidden_size: size of the embedding and of the hidden state.
        seed: of the weights.
    """

    def __init__(self, length: int, vocab_size: int, hidden_size: int, seed: int):
        draw = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=draw)

        self.length = length
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.embedding = normal(vocab_size, hidden_size)
        self.weight_ih = normal(4 * hidden_size, hidden_size)  # gates in torch's order: input, forget, cell, output
        self.weight_hh = normal(4 * hidden_size, hidden_size)
        self.bias = normal(4 * hidden_size)
        self.head_weight = normal(vocab_size, hidden_size)
        self.head_bias = normal(vocab_size)

    def sample_ids(self, n: int, seed: int) -> Tensor:
        """`n` sequences of ids (n, length), int64; the same for the same seed."""
        draw = torch.Generator().manual_seed(seed)
        return torch.cat([self._sample(torch.rand(len(part), self.length, generator=draw)) for part in _parts(n)])

    def nll(self, ids: Tensor) -> Tensor:
        """Mean negative log-likelihood of each row of `ids` (n, length), in nats a token: (n,) float64.

        Its mean over a model's samples is the papers' NLL_oracle.
        """
        if ids.ndim != 2 or ids.shape[1] != self.length:
            raise ValueError(f"ids of shape (n, {self.length}) expected, got {tuple(ids.shape)}")
        return torch.cat([self._nll(ids[part.start : part.stop]) for part in _parts(len(ids))])

    def sample(self, rng: random.Random) -> str:
        """One text. For many, `sample_many` is a hundred times faster."""
        return self.sample_many(1, rng.getrandbits(63))[0]

    def sample_many(self, n: int, seed: int) -> list[str]:
        """`n` texts."""
        return [" ".join(map(str, row)) for row in self.sample_ids(n, seed).tolist()]

    def log_prob(self, text: str) -> float:
        """Log-probability of `text` in nats; -inf for anything but `length` ids in range joined by single spaces."""
        if self.explain(text):
            return -math.inf
        ids = torch.tensor([[int(word) for word in text.split(" ")]])
        return -self.nll(ids).item() * self.length

    def entropy(self) -> tuple[float, float]:
        """Entropy of a text in nats by Monte Carlo over 1024 samples, and its standard error."""
        nats = self.nll(self.sample_ids(1024, seed=0)) * self.length
        return nats.mean().item(), (nats.std() / math.sqrt(len(nats))).item()

    def explain(self, text: str) -> str | None:
        """None for a text of the distribution, else one line that says what is wrong with it."""
        words = text.split(" ")
        for i, word in enumerate(words):
            if not re.fullmatch("0|[1-9][0-9]{0,9}", word) or int(word) >= self.vocab_size:
                return f'word {i + 1} is "{word}", expected an id from 0 to {self.vocab_size - 1}'
        return None if len(words) == self.length else f"{len(words)} ids, expected {self.length}"

    def _step(self, ids: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities (B, V) of what follows `ids` (B,), and the new state."""
        gates = self.embedding[ids] @ self.weight_ih.T + hidden @ self.weight_hh.T + self.bias
        i, f, g, o = gates.chunk(4, dim=-1)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        hidden = o.sigmoid() * cell.tanh()
        return (hidden @ self.head_weight.T + self.head_bias).log_softmax(-1), hidden, cell

    def _start(self, n: int) -> tuple[Tensor, Tensor, Tensor]:
        state = torch.zeros(n, self.hidden_size)
        return torch.full((n,), START), state, state

    def _sample(self, uniforms: Tensor) -> Tensor:
        token, hidden, cell = self._start(len(uniforms))
        ids = []
        for t in range(self.length):
            log_probs, hidden, cell = self._step(token, hidden, cell)
            cumulative = log_probs.double().exp().cumsum(-1)
            threshold = uniforms[:, t : t + 1].double() * cumulative[:, -1:]
            token = torch.searchsorted(cumulative, threshold, right=True).squeeze(-1)
            ids.append(token)
        return torch.stack(ids, dim=1)

    def _nll(self, ids: Tensor) -> Tensor:
        token, hidden, cell = self._start(len(ids))
        total = torch.zeros(len(ids), dtype=torch.float64)
        for target in ids.unbind(dim=1):
            log_probs, hidden, cell = self._step(token, hidden, cell)
            total -= log_probs.gather(1, target[:, None]).squeeze(1)
            token = target
        return total / self.length


@lru_cache
def load_lstm_oracle(length: int, vocab_size: int = 5000, seed: int = 0) -> LSTMOracle:
    """SeqGAN's oracle for sequences of `length` tokens.

    Raises:
        UserError: a length or a vocabulary that makes no sense.
    """
    if length < 1 or vocab_size < 2:
        raise UserError(f"the LSTM oracle needs length >= 1 and vocab_size >= 2, got {length} and {vocab_size}")
    return LSTMOracle(length, vocab_size, hidden_size=32, seed=seed)


def _parts(n: int) -> list[range]:
    """0..n-1 in pieces of 512: what a step holds stays at some 40 MB."""
    return [range(i, min(i + 512, n)) for i in range(0, max(n, 1), 512)]
