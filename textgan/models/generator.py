"""The generator: a Transformer decoder of GPT-2's exact shape that reads token ids or probability vectors."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from textgan.models.transformer import (
    Block,
    Dropout,
    LayerCache,
    check_dropout,
    check_heads,
    check_sizes,
    embed_tokens,
    init_weights,
)


class KVCache:
    """Keys and values of what a generator has read, so that each token is computed once. No gradient.

    `length` counts the columns read so far, left padding included.
    """

    def __init__(self, generator: "Generator", batch_size: int, max_len: int):
        check_sizes(batch_size=batch_size, max_len=max_len)
        if max_len > generator.block_size:
            raise ValueError(f"`max_len={max_len}` is above the model's `block_size={generator.block_size}`")
        self.batch_size, self.max_len, self.length = batch_size, max_len, 0
        self.layers = [LayerCache(max_len) for _ in range(generator.n_layer)]

    def select(self, rows: Tensor) -> None:
        """Keeps the rows of these indices, in their order (with repeats, for beams)."""
        for layer in self.layers:
            layer.select(rows)
        self.batch_size = rows.numel()


class Generator(nn.Module):
    """GPT-2: pre-LN blocks, learned positions, tanh-GELU, biases, output head tied to the token embedding.

    The buffer `logit_bias` (V,) is added to the logits; calibration puts the `<unk>` bias there, else zero.
    """

    def __init__(
        self,
        vocab_size: int,
        block_size: int,
        n_layer: int,
        n_head: int,
        n_embd: int,
        dropout: float = 0.1,
    ):
        """Raises ValueError for sizes below one, a width that does not split into heads, or a bad dropout."""
        super().__init__()
        check_sizes(vocab_size=vocab_size, block_size=block_size, n_layer=n_layer, n_head=n_head, n_embd=n_embd)
        check_heads(n_embd, n_head)
        check_dropout(dropout)
        self.vocab_size, self.block_size = vocab_size, block_size
        self.n_layer, self.n_head, self.n_embd, self.dropout = n_layer, n_head, n_embd, dropout
        self.wte = nn.Embedding(vocab_size, n_embd)
        self.wpe = nn.Embedding(block_size, n_embd)
        self.drop = Dropout(dropout)
        self.h = nn.ModuleList(Block(n_embd, n_head, dropout) for _ in range(n_layer))
        self.ln_f = nn.LayerNorm(n_embd)
        self.register_buffer("logit_bias", torch.zeros(vocab_size))
        init_weights(self, n_layer)

    def forward(self, tokens: Tensor, *, left_pad: Tensor | None = None, cache: KVCache | None = None) -> Tensor:
        """Logits (B, T, V) of the token that follows each column.

        Args:
            tokens: ids (B, T), or probability vectors (B, T, V).
            left_pad: (B,) number of padding columns at the left of the whole sequence, what the cache holds
                included. They are never looked at, and positions are counted from the first real column.
                The logits of padding columns mean nothing.
            cache: what was read before these columns; advanced in place.

        Raises:
            ValueError: for more than `block_size` columns, a cache that is full or of another batch size, or
                a cache while gradients are on.
        """
        B, T = tokens.shape[:2]
        start = 0 if cache is None else cache.length
        end = start + T
        limit = self.block_size if cache is None else cache.max_len
        if end > limit:
            what = "block_size" if cache is None else "max_len"
            raise ValueError(f"{end} columns, but `{what}={limit}`")
        if cache is not None and torch.is_grad_enabled():
            raise ValueError("a KV cache works without gradient only: wrap the call in torch.no_grad()")
        if cache is not None and cache.batch_size != B:
            raise ValueError(f"the cache holds {cache.batch_size} rows, the input has {B}")

        column = torch.arange(end, device=tokens.device)
        position, mask = column[start:], None
        if left_pad is not None:
            position = (position - left_pad[:, None]).clamp(min=0)
            # A padding column looks at itself: a softmax over nothing would be NaN.
            seen = (column >= left_pad[:, None, None]) | (column == column[start:, None])
            mask = (seen & (column <= column[start:, None]))[:, None]  # (B, 1, T, end)
        elif start and T > 1:
            mask = column <= column[start:, None]  # (T, end)

        x = self.drop(embed_tokens(tokens, self.wte.weight) + self.wpe(position))
        for i, block in enumerate(self.h):
            layer = None if cache is None else cache.layers[i]
            x = block(x, mask=mask, causal=mask is None and T > 1, cache=layer, start=start)
        if cache is not None:
            cache.length = end
        return F.linear(self.ln_f(x), self.wte.weight, self.logit_bias)

    def num_parameters(self) -> int:
        """Number of trained values; the tied head counts once."""
        return sum(p.numel() for p in self.parameters())
