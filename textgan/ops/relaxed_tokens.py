"""Relaxed vectors in the place of sampled tokens, read by a critic without ever being held: the fused relaxation.

A text of T tokens is T vectors of V numbers, and a critic reads T vectors of E numbers from them. So the wide ones
exist for a block of positions at a time, in the cache of a CPU. Where they are exact one-hots, reading them is a lookup
of rows, and the logits are not even computed before the gradient comes back.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from textgan.ops.linear_cross_entropy import output_blocks, output_logits
from textgan.ops.pullbacks import PULLBACKS, soft_vectors
from textgan.ops.relaxation import HARD


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
        places: Tensor,
        shape: tuple[int, int],
        *,
        estimator: str,
        tau: float,
        rng: torch.Generator,
        given: tuple[Tensor, Tensor] | None = None,
    ):
        """
        Args:
            states: (M, D) of the M real positions, in any order; the logits are `states @ weight.T + bias`.
            weight, bias: (V, D) and (V,).
            ids: (M,) the sampled tokens.
            places: (M,) of the positions among all, counted row by row.
            shape: (B, T).
            estimator: a name of `textgan.ops.relaxation.ESTIMATORS`.
            tau: see there.
            rng: noise is drawn from a copy of it as it is now, so the same at every use.
            given: (K,) tokens that were not sampled, and their places: hard ones, without gradient to the generator.
        """
        self.shape = (*shape, len(weight))
        self._layer = (states, weight, bias)
        self._ids, self._places, self._given = ids, places, given
        self._relaxation = (estimator, tau, rng.clone_state())

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
            read = _Embed.apply(states, weight, bias, table, self._ids, self._relaxation)
        B, T, _ = self.shape
        embedded = read.new_zeros(B * T, table.size(1)).index_copy(0, self._places, read)
        if self._given is not None:
            ids, places = self._given
            embedded = embedded.index_copy(0, places, F.embedding(ids, table).to(read.dtype))
        return embedded.view(B, T, -1)

    def vectors(self) -> Tensor:
        """All of them at once, (B, T, V) float32: for tests and for what cannot do with less."""
        return self.embed(torch.eye(self.shape[2], device=self._ids.device))


class _Embed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, states, weight, bias, table, ids, relaxation):
        ctx.save_for_backward(states, weight, bias, table, ids)
        ctx.relaxation = relaxation
        estimator, tau, rng = relaxation
        if estimator in HARD:
            return F.embedding(ids, table)
        rng, read, embedded = rng.clone_state(), table.to(states.dtype), []
        for rows in output_blocks(states, weight):
            vectors = soft_vectors(output_logits(states[rows], weight, bias), ids[rows], tau, rng)
            embedded.append(vectors.to(states.dtype) @ read)
        return torch.cat(embedded)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        states, weight, bias, table, ids = ctx.saved_tensors
        estimator, tau, rng = ctx.relaxation
        of_table = (
            _of_table(table, ids, gradient, states, weight, bias, ctx.relaxation) if ctx.needs_input_grad[3] else None
        )
        if not any(ctx.needs_input_grad[:3]):
            return None, None, None, of_table, None, None
        rng, read, gradient = rng.clone_state(), table.to(states.dtype).T, gradient.to(states.dtype)
        of_states = torch.empty_like(states)
        of_weight, of_bias = (
            torch.zeros_like(x, dtype=torch.float32) if needed else None
            for x, needed in zip((weight, bias), ctx.needs_input_grad[1:3], strict=True)
        )
        for rows in output_blocks(states, weight):
            logits = output_logits(states[rows], weight, bias)
            of_logits = PULLBACKS[estimator](logits, ids[rows], (gradient[rows] @ read).float(), tau, rng)
            if of_bias is not None:
                of_bias += of_logits.sum(0)
            of_logits = of_logits.to(states.dtype)
            of_states[rows] = of_logits @ weight
            if of_weight is not None:
                of_weight += of_logits.T @ states[rows]
        of_weight = None if of_weight is None else of_weight.to(weight.dtype)
        return of_states, of_weight, None if of_bias is None else of_bias.to(bias.dtype), of_table, None, None


def _of_table(table, ids, gradient, states, weight, bias, relaxation) -> Tensor:
    """The gradient for the table: the vectors, transposed, times the gradient."""
    estimator, tau, rng = relaxation
    of_table = torch.zeros_like(table)
    if estimator in HARD:
        return of_table.index_add_(0, ids, gradient.to(table.dtype))
    rng, gradient = rng.clone_state(), gradient.to(states.dtype)
    for rows in output_blocks(states, weight):
        vectors = soft_vectors(output_logits(states[rows], weight, bias), ids[rows], tau, rng)
        of_table += (vectors.to(states.dtype).T @ gradient[rows]).to(table.dtype)
    return of_table
