"""The generator: a Transformer decoder of GPT-2's exact shape that reads token ids or probability vectors."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from textgan.models.transformer import (
    Block,
    Dropout,
    LayerCache,
    Memory,
    check_dropout,
    check_heads,
    check_sizes,
    embed_tokens,
    init_weights,
    needs_gradient,
    recomputed,
)
from textgan.ops.linear_cross_entropy import linear_cross_entropy
from textgan.ops.packed_linear import PackedLinear


class Condition(NamedTuple):
    """What a generator is told of each row besides its tokens: a latent, mapped to the generator's width.

    shifts: an entry a layer, (B, D) or None, added to the input of that block at every column. The first is
        added to the token embeddings (Li et al. 2020, "embedding"). None: no layer has one.
    memory: an entry a layer: extra keys and values, (B, H, n, d) each, that every column may look at
        (Li et al. 2020, "memory", n = 1). None: no layer has any.
    """

    shifts: tuple[Tensor | None, ...] | None = None
    memory: tuple[Memory, ...] | None = None

    def select(self, rows: Tensor) -> "Condition":
        """The rows of these indices, in their order; an index may repeat."""
        return self._map(lambda x: x.index_select(0, rows))

    def repeat(self, k: int) -> "Condition":
        """Each row `k` times in a row."""
        return self._map(lambda x: x.repeat_interleave(k, dim=0))

    def _map(self, f: Callable[[Tensor], Tensor]) -> "Condition":
        return Condition(
            self.shifts and tuple(None if shift is None else f(shift) for shift in self.shifts),
            self.memory and tuple((f(k), f(v)) for k, v in self.memory),
        )


class KVCache:
    """Keys and values of what a generator has read, so that each token is computed once. No gradient.

    `length` counts the columns read so far, left padding included. `condition` is that of the rows.
    """

    def __init__(self, generator: "Generator", batch_size: int, max_len: int, condition: Condition | None = None):
        check_cache_sizes(batch_size, max_len, generator.block_size)
        if condition is not None:
            generator.check_condition(condition, batch_size)
        self.batch_size, self.max_len, self.length = batch_size, max_len, 0
        self.condition = condition
        memory = generator.memory(batch_size, condition)
        self.n_memory = memory[0][0].size(2) if memory else 0
        self.layers = [LayerCache(max_len, memory and memory[i]) for i in range(generator.n_layer)]

    def select(self, rows: Tensor) -> None:
        """Keeps the rows of these indices, in their order (with repeats, for beams)."""
        for layer in self.layers:
            layer.select(rows)
        self.condition = self.condition and self.condition.select(rows)
        self.batch_size = rows.numel()


class Generator(nn.Module):
    """GPT-2: pre-LN blocks, learned positions, tanh-GELU, biases, output head tied to the token embedding.

    The buffer `logit_bias` (V,) is added to the logits; calibration puts the `<unk>` bias there, else zero.

    Attributes:
        prefix: None, or an adapter that gives keys and values to stand before every text; as those in the layers, see
            :mod:`textgan.models.adapters`.
        trained: names of the parameters that train where there is an adapter; None: all.
    """

    trained: frozenset[str] | None = None
    packed_output: PackedLinear | None = None  # the output layer while weights are packed for decoding

    def __init__(
        self,
        vocab_size: int,
        block_size: int,
        n_layer: int,
        n_head: int,
        n_embd: int,
        dropout: float = 0.1,
        attention_dropout: float | None = None,
        gradient_checkpointing: bool = False,
    ):
        """
        Args:
            vocab_size, block_size, n_layer, n_head, n_embd: the shape.
            dropout: of embeddings, attention weights and residual branches.
            attention_dropout: of the attention weights; None: as `dropout`.
            gradient_checkpointing: compute blocks again on the way back rather than keep what they made.

        Raises:
            ValueError: for sizes below one, a width that does not split into heads, or a bad dropout.
        """
        attention_dropout = dropout if attention_dropout is None else attention_dropout
        super().__init__()
        check_sizes(vocab_size=vocab_size, block_size=block_size, n_layer=n_layer, n_head=n_head, n_embd=n_embd)
        check_heads(n_embd, n_head)
        check_dropout(dropout)
        check_dropout(attention_dropout)
        self.vocab_size, self.block_size = vocab_size, block_size
        self.n_layer, self.n_head, self.n_embd, self.dropout = n_layer, n_head, n_embd, dropout
        self.attention_dropout, self.gradient_checkpointing = attention_dropout, gradient_checkpointing
        self.wte = nn.Embedding(vocab_size, n_embd)
        self.wpe = nn.Embedding(block_size, n_embd)
        self.drop = Dropout(dropout)
        self.h = nn.ModuleList(Block(n_embd, n_head, dropout, attention_dropout) for _ in range(n_layer))
        self.ln_f = nn.LayerNorm(n_embd)
        self.register_buffer("logit_bias", torch.zeros(vocab_size))
        self.register_module("prefix", None)
        init_weights(self, n_layer)

    @property
    def device(self) -> torch.device:
        return self.wte.weight.device

    def new_cache(self, batch_size: int, max_len: int, condition: Condition | None = None) -> KVCache:
        """An empty cache for rows of at most `max_len` columns that all carry this condition."""
        return KVCache(self, batch_size, max_len, condition)

    def forward(
        self,
        tokens: Tensor,
        *,
        left_pad: Tensor | None = None,
        cache: KVCache | None = None,
        condition: Condition | None = None,
        at: Tensor | None = None,
    ) -> Tensor:
        """Logits (B, T, V) of the token that follows each column, or (M, V) of the M columns `at`, row by row.

        Args:
            tokens: ids (B, T), or probability vectors (B, T, V).
            left_pad: (B,) number of padding columns at the left of the whole sequence, what the cache holds
                included. They are never looked at, and positions are counted from the first real column.
                The logits of padding columns mean nothing.
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
        condition: Condition | None = None,
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
        cache: KVCache | None = None,
        condition: Condition | None = None,
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
        return self.wte.weight, self.logit_bias

    def _states(
        self,
        tokens: Tensor,
        *,
        left_pad: Tensor | None = None,
        cache: KVCache | None = None,
        condition: Condition | None = None,
    ) -> Tensor:
        """What the output layer reads, (B, T, D); see `forward`."""
        B, T = tokens.shape[:2]
        start, end = columns_read(B, T, cache, self.block_size, condition)
        if cache is not None:
            condition = cache.condition
        elif condition is not None:
            self.check_condition(condition, B)
        shifts = (condition and condition.shifts) or (None,) * self.n_layer
        memory = self.memory(B, condition) if cache is None else None
        n_memory = cache.n_memory if cache is not None else memory[0][0].size(2) if memory else 0

        column = torch.arange(end, device=tokens.device)
        position, mask = column[start:], None
        if left_pad is not None:
            position = (position - left_pad[:, None]).clamp(min=0)
            # A padding column looks at itself: a softmax over nothing would be NaN.
            seen = (column >= left_pad[:, None, None]) | (column == column[start:, None])
            mask = (seen & (column <= column[start:, None]))[:, None]  # (B, 1, T, end)
        elif T > 1 and (start or n_memory):
            mask = column <= column[start:, None]  # (T, end)
        if n_memory and mask is not None:
            mask = F.pad(mask, (n_memory, 0), value=True)  # every column looks at the memory

        x = embed_tokens(tokens, self.wte.weight) + self.wpe(position)
        for i, block in enumerate(self.h):
            if shifts[i] is not None:
                x = x + shifts[i][:, None]
            if i == 0:
                x = self.drop(x)
            layer = None if cache is None else cache.layers[i]
            extra = memory[i] if memory else None
            # Behind the compiler's back where there is a cache: it would compile for each of its lengths.
            call = block if cache is None else block.forward
            if self.gradient_checkpointing and needs_gradient(block, x):
                call = partial(recomputed, call)
            x = call(x, mask=mask, causal=mask is None and T > 1, cache=layer, start=start, memory=extra)
        if cache is not None:
            cache.length = end
        return self.ln_f(x)

    def memory(self, batch_size: int, condition: Condition | None) -> tuple[Memory, ...] | None:
        """What rows of this condition can look at before their first column, an entry a layer; None: nothing."""
        if self.prefix is None:
            return condition and condition.memory
        return tuple(tuple(x.expand(batch_size, -1, -1, -1) for x in pair) for pair in self.prefix(self))

    def check_condition(self, condition: Condition, batch_size: int) -> None:
        """Raises ValueError for a condition of another number of layers, rows or widths, or memory beside a prefix."""
        if condition.memory and self.prefix is not None:
            raise ValueError("the generator has a prefix of its own, which leaves no place for a memory")
        columns = condition.memory[0][0].size(2) if condition.memory else 1
        heads = (batch_size, self.n_head, columns, self.n_embd // self.n_head)
        for name, entries in (("shifts", condition.shifts), ("memory", condition.memory)):
            if entries is not None and len(entries) != self.n_layer:
                raise ValueError(f"the condition has {len(entries)} {name}, but `n_layer={self.n_layer}`")
        for shift in condition.shifts or ():
            if shift is not None and shift.shape != (batch_size, self.n_embd):
                raise ValueError(f"a shift must be {(batch_size, self.n_embd)}, not {tuple(shift.shape)}")
        for pair in condition.memory or ():
            for x in pair:
                if x.shape != heads:
                    raise ValueError(f"keys and values of the memory must be {heads}, not {tuple(x.shape)}")

    @torch.no_grad()
    def scale_logits_(self, temperature: float, bias: Tensor | None = None) -> None:
        """Makes the logits `logits / temperature + bias` for good, in place; `bias` is (V,)."""
        self.ln_f.weight.div_(temperature)
        self.ln_f.bias.div_(temperature)
        self.logit_bias.div_(temperature)
        if bias is not None:
            self.logit_bias.add_(bias)

    def num_parameters(self) -> int:
        """Number of values in all parameters; the tied head counts once."""
        return sum(p.numel() for p in self.parameters())


def check_cache_sizes(batch_size: int, max_len: int, block_size: int) -> None:
    """Raises ValueError for sizes below one and for more columns than the model can read."""
    check_sizes(batch_size=batch_size, max_len=max_len)
    if max_len > block_size:
        raise ValueError(f"`max_len={max_len}` is above the model's `block_size={block_size}`")


def columns_read(B: int, T: int, cache, block_size: int, condition) -> tuple[int, int]:
    """The columns (start, end) that an input of B rows and T columns fills, for a generator of either kind.

    Raises:
        ValueError: as `Generator.forward` says.
    """
    start = 0 if cache is None else cache.length
    end = start + T
    limit = block_size if cache is None else cache.max_len
    if end > limit:
        what = "block_size" if cache is None else "max_len"
        raise ValueError(f"{end} columns, but `{what}={limit}`")
    if cache is None:
        return start, end
    if torch.is_grad_enabled():
        raise ValueError("a KV cache works without gradient only: wrap the call in torch.no_grad()")
    if cache.batch_size != B:
        raise ValueError(f"the cache holds {cache.batch_size} rows, the input has {B}")
    if condition is not None:
        raise ValueError("the cache has the condition of its rows: give `condition` to `new_cache`, not here")
    return start, end
