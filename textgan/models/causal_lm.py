"""Causal language models of Hugging Face's transformers (Llama, Qwen, GPT-Neo, ...) with the generator's interface.

What :class:`textgan.models.generator.Generator` does with ids or probability vectors, a cache and left padding, this
does with any decoder that reads embeddings and writes states, over which a linear output layer stands.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from textgan.models.generator import check_cache_sizes, columns_read
from textgan.models.transformer import embed_tokens, needs_gradient, recomputed
from textgan.ops.linear_cross_entropy import linear_cross_entropy
from textgan.ops.packed_linear import Linear, PackedLinear


class CausalCache:
    """Keys and values of what a :class:`CausalLM` has read, in the library's own cache; as ``KVCache``. No gradient."""

    condition = None

    def __init__(self, model: "CausalLM", batch_size: int, max_len: int):
        from transformers import DynamicCache

        check_cache_sizes(batch_size, max_len, model.block_size)
        self.batch_size, self.max_len, self.length = batch_size, max_len, 0
        self.kept = DynamicCache(config=model.base.config)

    def select(self, rows: Tensor) -> None:
        """Keeps the rows of these indices, in their order (with repeats, for beams)."""
        if self.length:
            self.kept.batch_select_indices(rows)
        self.batch_size = rows.numel()


class CausalLM(nn.Module):
    """A decoder of transformers and its output layer; see ``Generator`` for what its methods do.

    The buffers are ours: ``logit_scale`` and ``logit_bias`` (V,) change the logits, for calibration; ``opening`` (D,)
    is added to the embedding of the first position, where our end of text stands and the model may have learned to see
    another token.
    """

    prefix = None  # adapters before the text are for our own layers; those in linear layers are for these, too
    trained: frozenset[str] | None = None  # as the generator's
    packed_output: PackedLinear | None = None  # the output layer while weights are packed for decoding

    def __init__(self, base: nn.Module, head: nn.Linear | None, block_size: int, gradient_checkpointing: bool = False):
        """
        Args:
            base: the decoder, without output layer.
            head: the output layer; None: the table of the embeddings is.
            block_size: the most columns that are read.
            gradient_checkpointing: compute layers again on the way back rather than keep what they made.
        """
        super().__init__()
        self.base, self.head, self.block_size = base, head, block_size
        for module in base.modules():
            if type(module) is nn.Linear:  # so that it can be packed and adapted, as ours
                module.__class__ = Linear
                module.register_module("delta", None)
        table = base.get_input_embeddings().weight
        self.vocab_size, self.n_embd = table.shape
        self.n_layer = base.config.num_hidden_layers
        self.register_buffer("logit_scale", torch.ones(()))
        self.register_buffer("logit_bias", torch.zeros(self.vocab_size))
        self.register_buffer("opening", torch.zeros(self.n_embd))
        if gradient_checkpointing:
            for block in self.blocks:
                block.forward = _Recomputed(block)

    @property
    def device(self) -> torch.device:
        return self.logit_bias.device

    @property
    def wte(self) -> nn.Embedding:
        """The table that tokens are read from."""
        return self.base.get_input_embeddings()

    @property
    def cached_per_column(self) -> int:
        """Numbers that a cache keeps of each column of a row, at most."""
        config = self.base.config
        heads = config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // heads
        return 2 * self.n_layer * (getattr(config, "num_key_value_heads", None) or heads) * width

    @property
    def blocks(self) -> nn.ModuleList:
        """The decoder's layers."""
        lists = (module for module in self.base.modules() if isinstance(module, nn.ModuleList))
        return next(layers for layers in lists if len(layers) == self.n_layer)

    def new_cache(self, batch_size: int, max_len: int, condition: None = None) -> CausalCache:
        """An empty cache for rows of at most ``max_len`` columns; ValueError for a condition, which it cannot read."""
        _refuse(condition)
        return CausalCache(self, batch_size, max_len)

    def forward(
        self,
        tokens: Tensor,
        *,
        left_pad: Tensor | None = None,
        cache: CausalCache | None = None,
        condition: None = None,
        at: Tensor | None = None,
    ) -> Tensor:
        """Logits (B, T, V), or (M, V) of the M columns ``at``; as ``Generator.forward``, without conditions."""
        _refuse(condition)
        x = self._states(tokens, left_pad=left_pad, cache=cache)
        return self.logits(x if at is None else x[at])

    def nll(
        self, tokens: Tensor, targets: Tensor, *, at: Tensor, condition: None = None, reduction: str = "none"
    ) -> Tensor:
        """Negative log-likelihoods (M,) of the targets of the M columns ``at``, nats, or their sum."""
        states = self.states(tokens, at=at, condition=condition)
        return linear_cross_entropy(states, *self.output_layer, targets[at], reduction)

    def states(
        self,
        tokens: Tensor,
        *,
        at: Tensor | None = None,
        left_pad: Tensor | None = None,
        cache: CausalCache | None = None,
        condition: None = None,
    ) -> Tensor:
        """What the output layer reads, (B, T, D), or (M, D) of the M columns ``at``, row by row."""
        _refuse(condition)
        x = self._states(tokens, left_pad=left_pad, cache=cache)
        return x if at is None else x[at]

    def logits(self, states: Tensor) -> Tensor:
        """Logits (..., V) of states (..., D), packed weights or not."""
        return F.linear(states, *self.output_layer) if self.packed_output is None else self.packed_output(states)

    @property
    def output_layer(self) -> tuple[Tensor, Tensor]:
        """Weight (V, D) and bias (V,) of the linear layer from states to logits."""
        if self.head is None:
            return self.wte.weight, self.logit_bias
        own = self.head.bias
        return self.head.weight, self.logit_bias if own is None else self.logit_bias + self.logit_scale * own

    def _states(self, tokens: Tensor, *, left_pad: Tensor | None = None, cache: CausalCache | None = None) -> Tensor:
        """What the output layer reads, (B, T, D)."""
        B, T = tokens.shape[:2]
        start, end = columns_read(B, T, cache, self.block_size, None)
        column = torch.arange(end, device=tokens.device)
        position, mask = column[None, start:].expand(B, T), None
        if left_pad is not None:
            position = (position - left_pad[:, None]).clamp(min=0)
            mask = (column >= left_pad[:, None]).long()  # (B, end)
        x = embed_tokens(tokens, self.wte.weight) * getattr(self.wte, "embed_scale", 1.0)  # Gemma's
        first = column[start:] == (0 if left_pad is None else left_pad[:, None])
        x = x + self.opening * first.expand(B, T)[..., None]
        found = self.base(
            inputs_embeds=x,
            attention_mask=mask,
            position_ids=position,
            past_key_values=None if cache is None else cache.kept,
            use_cache=cache is not None,
        )
        if cache is not None:
            cache.length = end
        return found.last_hidden_state * self.logit_scale

    @torch.no_grad()
    def scale_logits_(self, temperature: float, bias: Tensor | None = None) -> None:
        """Makes the logits ``logits / temperature + bias`` for good, in place; ``bias`` is (V,)."""
        self.logit_scale.div_(temperature)
        self.logit_bias.div_(temperature)
        if bias is not None:
            self.logit_bias.add_(bias)

    def num_parameters(self) -> int:
        """Number of trained values; a tied head counts once."""
        return sum(p.numel() for p in self.parameters())


class _Recomputed:
    """The forward pass of a layer with gradient checkpointing.

    The library's own (``gradient_checkpointing_enable``) is for models that know it, and for training mode alone, while
    an adversarial gradient is taken without dropout.
    """

    def __init__(self, block: nn.Module):
        self.block = block

    def __call__(self, *args, **kwargs):
        forward = type(self.block).forward
        if needs_gradient(self.block, *args):
            return recomputed(forward, self.block, *args, **kwargs)
        return forward(self.block, *args, **kwargs)


def _refuse(condition: object) -> None:
    if condition is not None:
        raise ValueError("a causal language model of transformers reads no condition beside its tokens")
