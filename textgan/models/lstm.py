"""The classical LSTM language model, with the interface of the Transformer generator."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from textgan.models.generator import check_cache_sizes, columns_read
from textgan.models.transformer import Dropout, check_dropout, check_sizes, embed_tokens
from textgan.ops.linear_cross_entropy import linear_cross_entropy
from textgan.ops.packed_linear import PackedLinear

State = tuple[Tensor, Tensor]  # (h, c), each (n_layer, B, n_hidden)


class LSTMCondition(NamedTuple):
    """What an LSTM generator is told of each row besides its tokens (He et al. 2019 use both).

    extra: (B, n_extra) numbers concatenated to the embedding of every column, or None.
    state: the state (h, c) before the first column, each (n_layer, B, n_hidden), or None for zeros.
    """

    extra: Tensor | None = None
    state: State | None = None

    def select(self, rows: Tensor) -> "LSTMCondition":
        """The rows of these indices, in their order; an index may repeat."""
        extra = None if self.extra is None else self.extra.index_select(0, rows)
        return LSTMCondition(extra, self.state and tuple(x.index_select(1, rows) for x in self.state))

    def repeat(self, k: int) -> "LSTMCondition":
        """Each row `k` times in a row."""
        extra = None if self.extra is None else self.extra.repeat_interleave(k, dim=0)
        return LSTMCondition(extra, self.state and tuple(x.repeat_interleave(k, dim=1) for x in self.state))


class LSTMCache:
    """The state of an LSTM generator after what it has read. No gradient.

    `length` counts the columns read so far, left padding included. `condition` is that of the rows.
    """

    def __init__(
        self, generator: "LSTMGenerator", batch_size: int, max_len: int, condition: LSTMCondition | None = None
    ):
        check_cache_sizes(batch_size, max_len, generator.block_size)
        generator.check_condition(condition, batch_size)
        self.batch_size, self.max_len, self.length = batch_size, max_len, 0
        self.condition = condition
        self.state: State | None = None

    def select(self, rows: Tensor) -> None:
        """Keeps the rows of these indices, in their order (with repeats, for beams)."""
        self.state = self.state and tuple(x.index_select(1, rows) for x in self.state)
        self.condition = self.condition and self.condition.select(rows)
        self.batch_size = rows.numel()


class LSTMGenerator(nn.Module):
    """An LSTM language model: dropout on embeddings and on every layer's output, an output layer of its own.

    The shape of the decoders of He et al. 2019 (https://arxiv.org/abs/1901.05534), who use one layer. The LSTM has
    no limit of length; `block_size` is the length of the longest text that is asked of it.

    The buffer `logit_bias` (V,) is added to the logits; calibration puts the `<unk>` bias there, else zero.
    """

    packed_output: PackedLinear | None = None  # the output layer while weights are packed for decoding

    def __init__(
        self,
        vocab_size: int,
        block_size: int,
        n_layer: int,
        n_embd: int,
        n_hidden: int,
        dropout: float = 0.5,
        n_extra: int = 0,
    ):
        """`n_extra`: how many numbers of a condition stand beside each embedding.

        Raises:
            ValueError: for sizes below one (`n_extra`: below zero) or a bad dropout.
        """
        super().__init__()
        check_sizes(vocab_size=vocab_size, block_size=block_size, n_layer=n_layer, n_embd=n_embd, n_hidden=n_hidden)
        check_dropout(dropout)
        if n_extra:
            check_sizes(n_extra=n_extra)
        self.vocab_size, self.block_size = vocab_size, block_size
        self.n_layer, self.n_embd, self.n_hidden, self.n_extra = n_layer, n_embd, n_hidden, n_extra
        self.wte = nn.Embedding(vocab_size, n_embd)
        self.drop = Dropout(dropout)
        self.lstm = nn.ModuleList(
            nn.LSTM(n_hidden if i else n_embd + n_extra, n_hidden, batch_first=True) for i in range(n_layer)
        )
        self.head = nn.Linear(n_hidden, vocab_size, bias=False)
        self.register_buffer("logit_bias", torch.zeros(vocab_size))
        nn.init.uniform_(self.wte.weight, -0.1, 0.1)

    def train(self, mode: bool = True) -> "LSTMGenerator":
        """As usual, but the LSTMs stay in training mode: cuDNN has no gradient otherwise, and they have no dropout."""
        super().train(mode)
        self.lstm.train()
        return self

    @property
    def device(self) -> torch.device:
        return self.wte.weight.device

    def new_cache(self, batch_size: int, max_len: int, condition: LSTMCondition | None = None) -> LSTMCache:
        """An empty cache for rows of at most `max_len` columns that all carry this condition."""
        return LSTMCache(self, batch_size, max_len, condition)

    def forward(
        self,
        tokens: Tensor,
        *,
        left_pad: Tensor | None = None,
        cache: LSTMCache | None = None,
        condition: LSTMCondition | None = None,
        at: Tensor | None = None,
    ) -> Tensor:
        """Logits (B, T, V) of the token that follows each column, or (M, V) of the M columns `at`, row by row.

        Args:
            tokens: ids (B, T), or probability vectors (B, T, V).
            left_pad: (B,) number of padding columns at the left of the whole sequence, what the cache holds
                included. They are not read; their logits mean nothing.
            cache: what was read before these columns, with its condition; advanced in place.
            condition: of the rows, where there is no cache.
            at: (B, T) bool, the columns whose logits are wanted; None: all. The head is the dear part of a
                small model: logits of padding would cost as much as those of text.

        Raises:
            ValueError: for more than `block_size` columns, a cache that is full or of another batch size,
                a cache while gradients are on, a condition beside a cache, or one of another shape.
        """
        x = self._states(tokens, left_pad=left_pad, cache=cache, condition=condition)
        return self.logits(x if at is None else x[at])

    def nll(
        self,
        tokens: Tensor,
        targets: Tensor,
        *,
        at: Tensor,
        condition: LSTMCondition | None = None,
        reduction: str = "none",
    ) -> Tensor:
        """Negative log-likelihoods (M,) of the targets of the M columns `at`, row by row, nats; or their sum.

        The cross-entropy of `forward`'s logits without ever holding all of them: what training looks at.

        Args:
            tokens: ids (B, T), or probability vectors (B, T, V).
            targets: (B, T) long, the token that follows each column.
            at: (B, T) bool, the columns that count.
            condition: of the rows.
            reduction: "none" or "sum".
        """
        states = self.states(tokens, at=at, condition=condition)
        return linear_cross_entropy(states, *self.output_layer, targets[at], reduction)

    def states(
        self,
        tokens: Tensor,
        *,
        at: Tensor | None = None,
        left_pad: Tensor | None = None,
        cache: LSTMCache | None = None,
        condition: LSTMCondition | None = None,
    ) -> Tensor:
        """What the output layer reads, (B, T, D), or (M, D) of the M columns `at`, row by row; see `forward`."""
        x = self._states(tokens, left_pad=left_pad, cache=cache, condition=condition)
        return x if at is None else x[at]

    def logits(self, states: Tensor) -> Tensor:
        """Logits (..., V) of states (..., D), packed weights or not."""
        return F.linear(states, *self.output_layer) if self.packed_output is None else self.packed_output(states)

    @property
    def output_layer(self) -> tuple[Tensor, Tensor]:
        """Weight (V, D) and bias (V,) of the linear layer from states to logits."""
        return self.head.weight, self.logit_bias

    def _states(
        self,
        tokens: Tensor,
        *,
        left_pad: Tensor | None = None,
        cache: LSTMCache | None = None,
        condition: LSTMCondition | None = None,
    ) -> Tensor:
        """What the output layer reads, (B, T, D); see `forward`."""
        B, T = tokens.shape[:2]
        start, end = columns_read(B, T, cache, self.block_size, condition)
        if cache is None:
            self.check_condition(condition, B)
        else:
            condition = cache.condition
        extra, state = condition or (None, None)
        x = self.drop(embed_tokens(tokens, self.wte.weight))
        if extra is not None:
            x = torch.cat([x, extra[:, None].expand(B, T, -1)], dim=-1)
        if cache is not None and cache.state is not None:
            state = cache.state
        if state is None:
            state = (x.new_zeros(self.n_layer, B, self.n_hidden),) * 2
        if left_pad is None:
            x, state = self._run(x, state)
        else:
            x, state = self._run_padded(x, state, (left_pad - start).clamp(0, T))
        if cache is not None:
            cache.length, cache.state = end, state
        return x

    def check_condition(self, condition: LSTMCondition | None, batch_size: int) -> None:
        """Raises ValueError where `n_extra` numbers a row are missing, or a part has another shape."""
        extra, state = condition or (None, None)
        given = () if extra is None else tuple(extra.shape)
        wanted = (batch_size, self.n_extra) if self.n_extra else ()
        if given != wanted:
            raise ValueError(f"the generator has `n_extra={self.n_extra}`: `extra` must be {wanted}, not {given}")
        wanted = (self.n_layer, batch_size, self.n_hidden)
        for x in state or ():
            if x.shape != wanted:
                raise ValueError(f"the first state must be two tensors {wanted}, not {tuple(x.shape)}")

    @torch.no_grad()
    def scale_logits_(self, temperature: float, bias: Tensor | None = None) -> None:
        """Makes the logits `logits / temperature + bias` for good, in place; `bias` is (V,)."""
        self.head.weight.div_(temperature)
        self.logit_bias.div_(temperature)
        if bias is not None:
            self.logit_bias.add_(bias)

    def num_parameters(self) -> int:
        """Number of trained values."""
        return sum(p.numel() for p in self.parameters())

    def _run(self, x: Tensor | PackedSequence, state: State) -> tuple[Tensor | PackedSequence, State]:
        """Outputs of the last layer after dropout, and the state after each row's last column."""
        states = []
        for i, lstm in enumerate(self.lstm):
            x, last = lstm(x, (state[0][i : i + 1], state[1][i : i + 1]))
            x = x._replace(data=self.drop(x.data)) if isinstance(x, PackedSequence) else self.drop(x)
            states.append(last)
        h, c = (torch.cat(parts) for parts in zip(*states, strict=True))
        return x, (h, c)

    def _run_padded(self, x: Tensor, state: State, pad: Tensor) -> tuple[Tensor, State]:
        """`_run` where the first `pad` (B,) of the columns are not read: they leave the state as it was."""
        B, T, _ = x.shape
        real = T - pad
        if T == 1:
            y, new = self._run(x, state)
        else:
            # Padding goes behind the text, where packing leaves it out, and back.
            column, row = torch.arange(T, device=x.device), torch.arange(B, device=x.device)[:, None]
            x = x[row, (column + pad[:, None]) % T]
            packed = pack_padded_sequence(x, real.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False)
            packed, new = self._run(packed, state)
            y, _ = pad_packed_sequence(packed, batch_first=True, total_length=T)
            y = y[row, (column - pad[:, None]) % T]
        read = (real > 0)[:, None]
        return y, tuple(torch.where(read, x, old) for x, old in zip(new, state, strict=True))
