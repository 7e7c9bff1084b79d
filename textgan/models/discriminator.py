"""Critics: networks that score how real a text looks. They read token ids or probability vectors.

All ignore strictly what follows a text's end: neither values nor gradients reach past `lengths`.
Within `textgan.models.transformer.differentiable_twice` all are, with respect to the embeddings: gradient penalties
need it.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm as spectrally_normed

from textgan.models.bert import PretrainedEncoder, mean_state
from textgan.models.transformer import (
    Block,
    Dropout,
    check_dropout,
    check_heads,
    check_sizes,
    embed_tokens,
    init_weights,
)
from textgan.ops.parts import like_lengths
from textgan.ops.relaxed_tokens import RelaxedTokens


class Critique(NamedTuple):
    """Scores of a batch of texts, higher for real. `tokens` is zero past the end, or None."""

    sequence: Tensor  # (B,)
    tokens: Tensor | None  # (B, T)


class _Critic(nn.Module):
    """What all kinds do with tokens; they differ in how they score embedded texts."""

    def embed(self, tokens: Tensor | RelaxedTokens) -> Tensor:
        """Vectors (B, T, E) of ids (B, T) or probability vectors (B, T, V)."""
        return embed_tokens(tokens, self.wte.weight)

    def forward(self, tokens: Tensor | RelaxedTokens, lengths: Tensor) -> Critique:
        """Scores of texts; see `score`. Those of like length are scored together."""
        embedded, parts = self.embed(tokens), like_lengths(lengths)
        with parametrize.cached():  # one power iteration of spectral norms for all parts
            scored = [self.score(embedded[rows, :width], lengths[rows]) for rows, width in parts]
        return _in_order(scored, parts, embedded.size(1))


class TransformerCritic(_Critic):
    """A bidirectional Transformer that scores every token in its context, and the text as a whole.

    The text's score is a linear function of its states pooled with the attention of one learned query. The
    query starts at zero, so that pooling starts as the mean over the text.
    """

    def __init__(
        self,
        vocab_size: int,
        block_size: int,
        n_layer: int,
        n_head: int,
        n_embd: int,
        dropout: float = 0.1,
        spectral_norm: bool = False,
    ):
        """`spectral_norm` bounds every linear map, but not the embeddings: penalties are taken behind them.

        Raises:
            ValueError: for sizes below one, a width that does not split into heads, or a bad dropout.
        """
        super().__init__()
        check_sizes(vocab_size=vocab_size, block_size=block_size, n_layer=n_layer, n_head=n_head, n_embd=n_embd)
        check_heads(n_embd, n_head)
        check_dropout(dropout)
        self.vocab_size, self.block_size = vocab_size, block_size
        self.wte = nn.Embedding(vocab_size, n_embd)
        self.wpe = nn.Embedding(block_size, n_embd)
        self.drop = Dropout(dropout)
        self.h = nn.ModuleList(Block(n_embd, n_head, dropout) for _ in range(n_layer))
        self.ln_f = nn.LayerNorm(n_embd)
        self.query = nn.Parameter(torch.zeros(n_embd))
        self.sequence_head = nn.Linear(n_embd, 1)
        self.token_head = nn.Linear(n_embd, 1)
        init_weights(self, n_layer)
        if spectral_norm:
            _normalise(self)

    def score(self, embeddings: Tensor, lengths: Tensor) -> Critique:
        """Scores of embedded texts (B, T, E). The first `lengths` (B,) columns, at least one, are real."""
        mask = _real_columns(embeddings, lengths, self.block_size)
        x = torch.where(mask[..., None], embeddings, 0.0) + self.wpe.weight[: embeddings.size(1)]
        x = self.drop(x)
        for block in self.h:
            x = block(x, mask=mask[:, None, None], causal=False)
        x = self.ln_f(x)
        attention = torch.softmax((x @ self.query).masked_fill(~mask, float("-inf")), dim=-1)
        pooled = (attention.to(x.dtype)[:, None] @ x)[:, 0]
        tokens = self.token_head(x)[..., 0].masked_fill(~mask, 0.0)
        return Critique(self.sequence_head(pooled)[:, 0], tokens)


class CNNCritic(_Critic):
    """RelGAN's critic: several small embeddings of the text, one set of convolutions shared by all.

    Each of the `n_representations` embeddings is `n_embd / n_representations` wide and is scored alone
    (convolutions, maximum over time, highway, linear); the text's score is the mean (Nie et al. 2019).
    Its own setting is 64 representations of width 1 with 300 channels. Cost grows with their number: on a CPU
    that setting is about seven times dearer than a single representation.
    """

    def __init__(
        self,
        vocab_size: int,
        block_size: int,
        n_embd: int,
        n_representations: int,
        channels: int,
        widths: tuple[int, ...] = (2, 3, 4, 5),
        dropout: float = 0.1,
        spectral_norm: bool = False,
    ):
        """`channels` is per width. `spectral_norm` bounds convolutions and linear maps, not the embeddings.

        Raises:
            ValueError: for sizes below one, no widths, a width that does not split into representations, or a
                bad dropout.
        """
        super().__init__()
        check_sizes(
            vocab_size=vocab_size,
            block_size=block_size,
            n_embd=n_embd,
            n_representations=n_representations,
            channels=channels,
        )
        for width in widths:
            check_sizes(widths=width)
        if not widths:
            raise ValueError("`widths` must name at least one kernel width")
        if n_embd % n_representations:
            raise ValueError(f"`n_embd={n_embd}` is not divisible by `n_representations={n_representations}`")
        check_dropout(dropout)
        self.vocab_size, self.block_size = vocab_size, block_size
        self.n_representations, self.widths = n_representations, tuple(widths)
        self.wte = nn.Embedding(vocab_size, n_embd)
        self.convs = nn.ModuleList(nn.Conv1d(n_embd // n_representations, channels, w) for w in widths)
        features = channels * len(widths)
        self.highway = nn.Linear(features, 2 * features)
        self.drop = Dropout(dropout)
        self.head = nn.Linear(features, 1)
        if spectral_norm:
            _normalise(self)

    def score(self, embeddings: Tensor, lengths: Tensor) -> Critique:
        """Scores of embedded texts (B, T, E). The first `lengths` (B,) columns, at least one, are real.

        A window counts when it begins in the text; what it sees past the end is zero. So a text may be
        shorter than the widest window.
        """
        B, T, E = embeddings.shape
        S = self.n_representations
        mask = _real_columns(embeddings, lengths, self.block_size)
        x = torch.where(mask[..., None], embeddings, 0.0)
        x = x.view(B, T, S, E // S).permute(0, 2, 3, 1).reshape(B * S, E // S, T)
        outside = ~mask.repeat_interleave(S, dim=0)[:, None]  # (B * S, 1, T)
        features = [
            conv(F.pad(x, (0, width - 1))).masked_fill(outside, float("-inf")).amax(dim=-1)
            for conv, width in zip(self.convs, self.widths, strict=True)
        ]
        x = F.relu(torch.cat(features, dim=-1))  # (B * S, features)
        gate, new = self.highway(x).chunk(2, dim=-1)
        gate = torch.sigmoid(gate)
        x = self.drop(gate * F.relu(new) + (1 - gate) * x)
        return Critique(self.head(x).view(B, S).mean(dim=-1), None)


class EncoderCritic(_Critic):
    """A pretrained encoder that scores every token in its context, and the text by the mean of its states."""

    def __init__(self, encoder: PretrainedEncoder):
        super().__init__()
        self.vocab_size, self.block_size = encoder.vocab_size, encoder.block_size
        self.encoder = encoder
        self.sequence_head = nn.Linear(encoder.n_features, 1)
        self.token_head = nn.Linear(encoder.n_features, 1)

    @property
    def wte(self) -> nn.Embedding:
        return self.encoder.wte

    def score(self, embeddings: Tensor, lengths: Tensor) -> Critique:
        """Scores of embedded texts (B, T, E). The first `lengths` (B,) columns, at least one, are real."""
        states, mask = self.encoder.states(embeddings, lengths)
        tokens = self.token_head(states[:, 1:])[..., 0].masked_fill(~mask[:, 1:], 0.0)
        return Critique(self.sequence_head(mean_state(states, mask))[:, 0], tokens)

    def get_extra_state(self) -> str:
        """The encoder's architecture: a checkpoint can be read without the place that the encoder came from."""
        return self.encoder.architecture

    def set_extra_state(self, state: str) -> None:
        """Nothing: the encoder is built by the time that weights are filled in."""


DISCRIMINATORS = {"transformer": TransformerCritic, "cnn": CNNCritic}


def _in_order(scored: list[Critique], parts: list[tuple[Tensor, int]], columns: int) -> Critique:
    """The scores of all parts as those of one batch of so many columns."""
    back = torch.cat([rows for rows, _ in parts]).argsort()
    tokens = None
    if scored[0].tokens is not None:
        tokens = torch.cat([F.pad(s.tokens, (0, columns - s.tokens.size(1))) for s in scored])[back]
    return Critique(torch.cat([s.sequence for s in scored])[back], tokens)


def _real_columns(embeddings: Tensor, lengths: Tensor, block_size: int) -> Tensor:
    """Mask (B, T), True before each text's length; ValueError above `block_size` columns."""
    columns = embeddings.size(1)
    if columns > block_size:
        raise ValueError(f"{columns} columns, but `block_size={block_size}`")
    return torch.arange(columns, device=embeddings.device) < lengths[:, None]


def _normalise(module: nn.Module) -> None:
    for child in list(module.modules()):
        if isinstance(child, nn.Linear | nn.Conv1d):
            spectrally_normed(child)
