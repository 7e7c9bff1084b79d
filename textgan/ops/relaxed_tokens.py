"""Relaxed vectors in the place of sampled tokens, read by a critic without ever being held: the fused relaxation.

A text of T tokens is T vectors of V numbers, and a critic reads T vectors of E numbers from them. So the wide ones
exist for a block of positions at a time, in the cache of a CPU. Where they are exact one-hots, reading them is a lookup
of rows, and the logits are not even computed before the gradient comes back.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from textgan.ops.linear_cross_entropy import output_blocks, output_logits
from textgan.ops.relaxation import HARD, SURROGATES


class RelaxedTokens:
    """Vectors (B, T, V) of an estimator in the place of one-hots, zero past each text's end, with their gradient.

    Held as what they are made of: the states that a generator's output layer reads. `embed` is what a critic calls in
    the place of `tokens @ table`.

    Attributes:
        shape: (B, T, V).
    """

    def __init__(
        self,
        states: Tensor,
        weight: Tensor,
        bias: Tensor,
        ids: Tensor,
        mask: Tensor,
        *,
        estimator: str,
        tau: float,
        rng: torch.Generator,
    ):
        """
        Args:
            states: (M, D) of the M real positions, row by row; the logits are `states @ weight.T + bias`.
            weight, bias: (V, D) and (V,).
            ids: (B, T) the sampled tokens.
            mask: (B, T) bool, True at the M real positions.
            estimator: a name of `textgan.ops.relaxation.ESTIMATORS`.
            tau: see there.
            rng: noise is drawn from a copy of it as it is now, so the same at every use.
        """
        self.shape = (*ids.shape, len(weight))
        self._layer = (states, weight, bias)
        self._mask, self._ids = mask, ids[mask]
        self._relax = _Relax(estimator, tau, rng.clone_state())

    def embed(self, table: Tensor) -> Tensor:
        """(B, T, E) vectors under a table (V, E): `self.vectors() @ table` in value and gradient.

        Exact one-hots look rows of the table up, in its own type under autocast too, as ids do.
        """
        states, weight, bias = self._layer
        kind = table.device.type
        if torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
            states, weight, bias = states.to(dtype), weight.to(dtype), bias.to(dtype)
        with torch.autocast(kind, enabled=False):
            read = _Embed.apply(states, weight, bias, table, self._ids, self._relax)
        blank = read.new_zeros(*self.shape[:2], table.size(1))
        return blank.masked_scatter(self._mask[..., None], read)

    def vectors(self) -> Tensor:
        """All of them at once, (B, T, V) float32: for tests and for what cannot do with less."""
        return self.embed(torch.eye(self.shape[2], device=self._ids.device))


class _Relax:
    """The vectors of blocks of positions, one after the other, always with the same noise."""

    def __init__(self, estimator: str, tau: float, rng: torch.Generator):
        self.hard, self.surrogate, self.tau, self._rng = estimator in HARD, SURROGATES[estimator], tau, rng

    def blocks(self, states: Tensor, weight: Tensor, bias: Tensor, ids: Tensor):
        """For each block its rows, its logits (a leaf), and the function from these to its vectors."""
        rng = self._rng.clone_state()
        for rows in output_blocks(states, weight):
            logits = output_logits(states[rows], weight, bias)
            yield rows, logits, lambda x, rows=rows: self.surrogate(x, ids[rows], tau=self.tau, generator=rng)


class _Embed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, states, weight, bias, table, ids, relax):
        ctx.save_for_backward(states, weight, bias, table, ids)
        ctx.relax = relax
        if relax.hard:
            return F.embedding(ids, table)
        vectors = [
            surrogate(logits).to(states.dtype) @ table.to(states.dtype)
            for _, logits, surrogate in relax.blocks(states, weight, bias, ids)
        ]
        return torch.cat(vectors)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        states, weight, bias, table, ids = ctx.saved_tensors
        hard, of_table = ctx.relax.hard, None
        if ctx.needs_input_grad[3]:
            of_table = torch.zeros_like(table)
            if hard:
                of_table.index_add_(0, ids, gradient.to(table.dtype))
        if not any(ctx.needs_input_grad[:3]):
            return None, None, None, of_table, None, None
        read = table.to(states.dtype)
        gradient = gradient.to(states.dtype)
        of_states = torch.empty_like(states)
        of_weight, of_bias = torch.zeros_like(weight, dtype=torch.float32), torch.zeros_like(bias, dtype=torch.float32)
        for rows, logits, surrogate in ctx.relax.blocks(states, weight, bias, ids):
            with torch.enable_grad():
                vectors = surrogate(logits.requires_grad_())
            (of_logits,) = torch.autograd.grad(vectors, logits, (gradient[rows] @ read.T).to(vectors.dtype))
            if of_table is not None and not hard:
                of_table += (vectors.detach().to(states.dtype).T @ gradient[rows]).to(table.dtype)
            of_bias += of_logits.sum(0)
            of_logits = of_logits.to(states.dtype)
            of_states[rows] = of_logits @ weight
            of_weight += of_logits.T @ states[rows]
        return of_states, of_weight.to(weight.dtype), of_bias.to(bias.dtype), of_table, None, None
