"""Encoders: networks that turn a text into one vector of features, or one vector a layer.

They read the targets of a row, the text and its closing token. What follows `lengths` never matters: neither
values nor gradients reach past it.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from textgan.models.transformer import (
    Block,
    Dropout,
    check_dropout,
    check_heads,
    check_sizes,
    embed_tokens,
    init_weights,
)

POOLINGS = ("cls", "mean", "max", "attention")


class TransformerEncoder(nn.Module):
    """A bidirectional Transformer whose last states are pooled over the text.

    `pooling`: "cls" reads the state of a learned vector that stands before the text; "mean" and "max" pool the
    states of the text; "attention" weighs them by a learned query, which starts at zero and so as the mean.

    Attributes:
        n_features: width of the features.
        n_layer: number of layers that `layers` tells of.
    """

    def __init__(
        self,
        vocab_size: int,
        block_size: int,
        n_layer: int,
        n_head: int,
        n_embd: int,
        dropout: float = 0.1,
        pooling: str = "mean",
    ):
        """Raises ValueError for sizes below one, a width that does not split into heads, a bad dropout or pooling."""
        super().__init__()
        check_sizes(vocab_size=vocab_size, block_size=block_size, n_layer=n_layer, n_head=n_head, n_embd=n_embd)
        check_heads(n_embd, n_head)
        check_dropout(dropout)
        if pooling not in POOLINGS:
            raise ValueError(f"unknown pooling `{pooling}`; choose one of {', '.join(POOLINGS)}")
        self.vocab_size, self.block_size, self.pooling = vocab_size, block_size, pooling
        self.n_layer, self.n_features = n_layer, n_embd
        self.wte = nn.Embedding(vocab_size, n_embd)
        self.wpe = nn.Embedding(block_size, n_embd)
        self.drop = Dropout(dropout)
        self.h = nn.ModuleList(Block(n_embd, n_head, dropout) for _ in range(n_layer))
        self.ln_f = nn.LayerNorm(n_embd)
        init_weights(self, n_layer)
        if pooling == "cls":
            self.cls = nn.Parameter(torch.randn(n_embd) * 0.02)
        if pooling == "attention":
            self.query = nn.Parameter(torch.zeros(n_embd))

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Features (B, n_features) of texts, ids (B, T) or probability vectors (B, T, V).

        The first `lengths` (B,) columns, at least one, are real.

        Raises:
            ValueError: above `block_size` columns.
        """
        states, mask = self._states(tokens, lengths)
        return self._pool(self.ln_f(states[-1]), mask)

    def layers(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Features (B, n_layer, n_features): the pooled states of every layer; the last entry is `forward`'s."""
        states, mask = self._states(tokens, lengths)
        # What reads them is linear, so the norms before the last layer need no scales of their own.
        normed = [nn.functional.layer_norm(x, x.shape[-1:]) for x in states[:-1]] + [self.ln_f(states[-1])]
        return torch.stack([self._pool(x, mask) for x in normed], dim=1)

    def _states(self, tokens: Tensor, lengths: Tensor) -> tuple[list[Tensor], Tensor]:
        """The states (B, T, D) after each block and the mask (B, T) of real columns; one column more with "cls"."""
        columns = tokens.size(1)
        if columns > self.block_size:
            raise ValueError(f"{columns} columns, but `block_size={self.block_size}`")
        x = embed_tokens(tokens, self.wte.weight) + self.wpe.weight[:columns]
        if self.pooling == "cls":
            x = torch.cat([self.cls.expand(len(x), 1, -1), x], dim=1)
            lengths = lengths + 1
        mask = torch.arange(x.size(1), device=x.device) < lengths[:, None]
        x, states = self.drop(x), []
        for block in self.h:
            x = block(x, mask=mask[:, None, None], causal=False)
            states.append(x)
        return states, mask

    def _pool(self, x: Tensor, mask: Tensor) -> Tensor:
        if self.pooling == "cls":
            return x[:, 0]
        if self.pooling == "max":
            return x.masked_fill(~mask[..., None], float("-inf")).amax(dim=1)
        if self.pooling == "mean":
            return x.masked_fill(~mask[..., None], 0.0).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        weights = torch.softmax((x @ self.query).masked_fill(~mask, float("-inf")), dim=-1)
        return (weights.to(x.dtype)[:, None] @ x)[:, 0]


class LSTMEncoder(nn.Module):
    """An LSTM that reads the text from left to right; the features are its state at the closing token.

    Attributes:
        n_features: width of the features, `n_hidden`.
        n_layer: number of layers that `layers` tells of.
    """

    def __init__(self, vocab_size: int, n_layer: int, n_embd: int, n_hidden: int, dropout: float = 0.0):
        """`dropout` is on the embeddings and between layers (He et al. 2019 have none).

        Embeddings start at N(0, 1): with the usual small ones the states of any two texts hardly differ, and an
        autoencoder takes hundreds of steps to find the latent at all.

        Raises:
            ValueError: for sizes below one or a bad dropout.
        """
        super().__init__()
        check_sizes(vocab_size=vocab_size, n_layer=n_layer, n_embd=n_embd, n_hidden=n_hidden)
        check_dropout(dropout)
        self.vocab_size, self.n_layer, self.n_features = vocab_size, n_layer, n_hidden
        self.wte = nn.Embedding(vocab_size, n_embd)
        self.drop = Dropout(dropout)
        self.lstm = nn.LSTM(n_embd, n_hidden, n_layer, batch_first=True, dropout=dropout if n_layer > 1 else 0.0)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Features (B, n_features) of texts, ids (B, T) or probability vectors (B, T, V); `lengths` (B,) are real."""
        return self.layers(tokens, lengths)[:, -1]

    def layers(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Features (B, n_layer, n_features): the last state of every layer; the last entry is `forward`'s."""
        x = self.drop(embed_tokens(tokens, self.wte.weight))
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        _, (h, _) = self.lstm(packed)
        return h.transpose(0, 1)
