"""The pieces every network here is built of: dropout, attention, the pre-LN block of GPT-2, token embedding.

The generator calls the blocks causally, the critics both ways. Names and layout are GPT-2's, so that weights
move by a rename and a transpose.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from textgan.ops.packed_linear import Linear
from textgan.ops.relaxed_tokens import RelaxedTokens


def check_sizes(**sizes: int) -> None:
    """Raises ValueError naming the first size that is not a positive whole number."""
    for name, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"`{name}={value!r}` must be a whole number of at least 1")


def check_heads(n_embd: int, n_head: int) -> None:
    """Raises ValueError when the width does not split evenly into heads; proposes the two nearest widths."""
    if n_embd % n_head:
        below, above = n_embd // n_head * n_head, (n_embd // n_head + 1) * n_head
        near = f"{below} or {above}" if below else f"{above}"
        raise ValueError(f"`n_embd={n_embd}` is not divisible by `n_head={n_head}`; try {near}")


def check_dropout(p: float) -> None:
    """Raises ValueError when `p` is not a probability below one."""
    if not 0.0 <= p < 1.0:
        raise ValueError(f"`dropout={p!r}` must be at least 0 and below 1")


def dropout(x: Tensor, p: float) -> Tensor:
    """`x` with a share `p` of its entries set to zero and the others scaled up so that the mean is kept.

    On a CPU `F.dropout` draws one Bernoulli number at a time and takes a fifth of a training step. Sixteen
    random bits an entry, four entries from a 64-bit draw, do it in half the time; `p` is rounded to 1/65536
    and the scale uses the rounded value. Reads the global random state, as `F.dropout` does.
    """
    if x.device.type != "cpu":
        return F.dropout(x, p)
    dropped = round(p * 65536)
    if dropped == 0:
        return x
    draws = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    bits = draws.view(torch.int16)[: x.numel()].view(x.shape)
    keep = (bits >= dropped - 32768).to(x.dtype)
    return x * keep.mul_(65536 / (65536 - dropped))


class Dropout(nn.Module):
    """`dropout` in training mode, the identity otherwise."""

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p) if self.training and self.p else x

    def extra_repr(self) -> str:
        return f"p={self.p}"


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Tensor | None,
    causal: bool,
    dropout_p: float = 0.0,
) -> Tensor:
    """Softmax attention (B, H, Tq, d) of queries (B, H, Tq, d) over keys and values (B, H, Tk, d).

    Args:
        mask: True where a query may look at a key, broadcastable to (B, H, Tq, Tk); or None.
        causal: look only at keys up to the query's own column; needs Tq == Tk and no mask.
        dropout_p: share of the attention weights dropped.
    """
    if dropout_p == 0.0 or q.is_cuda:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, dropout_p=dropout_p)
    scores = (q * q.size(-1) ** -0.5) @ k.transpose(-2, -1)
    if causal:
        mask = torch.ones(q.size(-2), k.size(-2), dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    weights = torch.softmax(scores, dim=-1)
    return (dropout(weights, dropout_p) if dropout_p else weights) @ v


def recomputed(block: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
    """`block(*args, **kwargs)`, of which the arguments alone are kept: the way back computes it again.

    Gradient checkpointing (Chen et al. 2016, https://arxiv.org/abs/1604.06174). The random numbers are the same again,
    and what is drawn behind is what would have been drawn without.
    """
    return checkpoint(block, *args, use_reentrant=False, **kwargs)


def needs_gradient(block: nn.Module, *inputs: Any) -> bool:
    """Whether there is a way back through `block`: to tensors among its inputs, or to its parameters."""
    given = (x for x in (*inputs, *block.parameters()) if isinstance(x, Tensor))
    return torch.is_grad_enabled() and any(x.requires_grad for x in given)


def differentiable_twice() -> AbstractContextManager:
    """Within, :func:`attend` makes what can be differentiated twice (gradient penalties); fused kernels cannot."""
    return sdpa_kernel(SDPBackend.MATH)


# Keys and values (B, H, n, d) that stand before the first column of an attention layer.
Memory = tuple[Tensor, Tensor]


class LayerCache:
    """Keys and values of one attention layer, preallocated at the first write, in the type then used.

    Of each column its keys and values of all heads stand together, as the projection makes them, so that a column is
    written in one piece. `memory`, where there is one, is kept in front of the columns.
    """

    def __init__(self, max_len: int, memory: Memory | None = None):
        self.max_len, self.memory = max_len, memory
        self.kv: Tensor | None = None  # (B, columns, 2, H, d)

    def append(self, kv: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """All keys and values so far, (B, H, columns, d), after writing (B, T, 2, H, d) to columns from `start`."""
        B, T = kv.shape[:2]
        first = 0 if self.memory is None else self.memory[0].size(2)
        if self.kv is None:
            self.kv = kv.new_empty(B, first + self.max_len, *kv.shape[2:])
            if self.memory is not None:
                self.kv[:, :first] = torch.stack(self.memory).permute(1, 3, 0, 2, 4)
        end = first + start + T
        self.kv[:, end - T : end] = kv
        return split_heads(self.kv[:, :end])

    def select(self, rows: Tensor) -> None:
        if self.memory is not None:
            self.memory = tuple(x.index_select(0, rows) for x in self.memory)
        if self.kv is not None:
            self.kv = self.kv.index_select(0, rows)


class Recorder:
    """Stands for a cache of a layer that has read nothing yet: keeps its keys and values with their gradient."""

    def append(self, kv: Tensor, start: int) -> Memory:
        self.memory: Memory = split_heads(kv)
        return self.memory


def split_heads(x: Tensor) -> tuple[Tensor, ...]:
    """The n parts (B, H, T, d) of (B, T, n, H, d), as views."""
    return x.permute(2, 0, 3, 1, 4).unbind()


class Attention(nn.Module):
    """Multi-head self-attention with one fused projection for queries, keys and values.

    `adapter` is None, or a function of what it gives (see :mod:`textgan.models.adapters`); so in `MLP`.
    """

    def __init__(self, n_embd: int, n_head: int, dropout: float, attention_dropout: float | None = None):
        """`attention_dropout`: of the attention weights; None: as `dropout`, which is that of the output."""
        super().__init__()
        self.n_head = n_head
        self.dropout = dropout if attention_dropout is None else attention_dropout
        self.c_attn = Linear(n_embd, 3 * n_embd)
        self.c_proj = Linear(n_embd, n_embd)
        self.resid_dropout = Dropout(dropout)
        self.register_module("adapter", None)

    @property
    def cached_per_column(self) -> int:
        """Numbers that a cache keeps of each column of a row."""
        return 2 * self.c_proj.in_features

    def forward(
        self,
        x: Tensor,
        *,
        mask: Tensor | None,
        causal: bool,
        cache: LayerCache | Recorder | None = None,
        start: int = 0,
        memory: Memory | None = None,
    ) -> Tensor:
        B, T, D = x.shape
        qkv = self.c_attn(x).view(B, T, 3, self.n_head, D // self.n_head)
        q, k, v = split_heads(qkv)
        if cache is not None:
            k, v = cache.append(qkv[:, :, 1:], start)
        elif memory is not None:
            k, v = (torch.cat([m.to(x.dtype), x], dim=2) for m, x in zip(memory, (k, v), strict=True))
        dropout_p = self.dropout if self.training else 0.0
        y = attend(q, k, v, mask=mask, causal=causal, dropout_p=dropout_p)
        y = self.resid_dropout(self.c_proj(y.transpose(1, 2).reshape(B, T, D)))
        return y if self.adapter is None else self.adapter(y)


class MLP(nn.Module):
    """Two layers, four times as wide between, with the tanh form of GELU."""

    def __init__(self, n_embd: int, dropout: float):
        super().__init__()
        self.c_fc = Linear(n_embd, 4 * n_embd)
        self.c_proj = Linear(4 * n_embd, n_embd)
        self.dropout = Dropout(dropout)
        self.register_module("adapter", None)

    def forward(self, x: Tensor) -> Tensor:
        y = self.dropout(self.c_proj(self.c_fc(x, gelu=True)))
        return y if self.adapter is None else self.adapter(y)


class Block(nn.Module):
    """One pre-LN Transformer block: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, n_embd: int, n_head: int, dropout: float, attention_dropout: float | None = None):
        """`attention_dropout`: of the attention weights; None: as `dropout`."""
        super().__init__()
        self.ln_1 = nn.LayerNorm(n_embd)
        self.attn = Attention(n_embd, n_head, dropout, attention_dropout)
        self.ln_2 = nn.LayerNorm(n_embd)
        self.mlp = MLP(n_embd, dropout)

    def forward(
        self,
        x: Tensor,
        *,
        mask: Tensor | None,
        causal: bool,
        cache: LayerCache | Recorder | None = None,
        start: int = 0,
        memory: Memory | None = None,
    ) -> Tensor:
        """The states (B, T, D) after the block.

        Args:
            mask, causal: see `attend`; the mask's columns include the memory, which comes first.
            cache: keys and values of the columns before `start`, and the memory.
            memory: extra keys and values, when there is no cache.
        """
        x = x + self.attn(self.ln_1(x), mask=mask, causal=causal, cache=cache, start=start, memory=memory)
        return x + self.mlp(self.ln_2(x))


def memory_of(blocks: Iterable[Block], x: Tensor) -> tuple[Memory, ...]:
    """The keys and values, an entry a block, of states (B, n, D) that come before a text; with gradient."""
    found = []
    for block in blocks:
        recorder = Recorder()
        # Behind the compiler's back, as with a cache.
        x = block.forward(x, mask=None, causal=x.size(1) > 1, cache=recorder)
        found.append(recorder.memory)
    return tuple(found)


def init_weights(module: nn.Module, n_layer: int) -> None:
    """GPT-2's initialisation in place: N(0, 0.02), biases zero, residual projections / sqrt(2 n_layer).

    Reads the global random state: seed it before building a model.
    """
    for name, child in module.named_modules():
        if isinstance(child, nn.Linear | nn.Embedding):
            std = 0.02 / (2 * n_layer) ** 0.5 if name.endswith("c_proj") else 0.02
            nn.init.normal_(child.weight, std=std)
        if isinstance(child, nn.Linear) and child.bias is not None:
            nn.init.zeros_(child.bias)


def embed_tokens(tokens: Tensor | RelaxedTokens, weight: Tensor) -> Tensor:
    """Vectors (B, T, E) of tokens under the table `weight` (V, E).

    Args:
        tokens: ids (B, T), any integer type; or probability vectors (B, T, V), whose vector is the mean under
            them and through which the gradient flows, as a tensor or as what they are made of.

    Raises:
        ValueError: for another shape or type.
    """
    relaxed = isinstance(tokens, RelaxedTokens)
    if relaxed or tokens.is_floating_point():
        if len(tokens.shape) != 3 or tokens.shape[-1] != weight.size(0):
            raise ValueError(
                f"probability vectors must be (B, T, {weight.size(0)}), not {tuple(tokens.shape)}; "
                "token ids must be of an integer type"
            )
        return tokens.embed(weight) if relaxed else tokens @ weight
    if tokens.dim() != 2:
        raise ValueError(f"token ids must be (B, T), not {tuple(tokens.shape)}")
    return F.embedding(tokens, weight)
