"""Output layer and cross-entropy in one, by blocks of rows: the (M, V) logits of a batch never exist at once.

At the vocabularies of text the output layer is most of the arithmetic of a small generator, and the passes over its
logits (log-softmax forward and backward, their copies in float32) cost a CPU as much time again, and memory three
times the logits. Here a block of logits stays in the cache while its loss and its gradient are taken from it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# Logits that are held at once: about the second-level cache of a CPU, few launches on a GPU.
BLOCK = {"cpu": 2**21, "cuda": 2**26}
LEAST_ROWS = 64


def linear_cross_entropy(
    x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, reduction: str = "none"
) -> Tensor:
    """Cross-entropy of ``targets`` (M,) under ``x @ weight.T + bias``: (M,), or () for ``reduction="sum"``, in nats.

    Equal to ``F.cross_entropy(F.linear(x, weight, bias).float(), targets, reduction=reduction)``, under autocast as
    well. The gradient of the sum is taken along with the value; that of single losses computes the logits again.

    Args:
        x: (M, D) float; weight: (V, D); bias: (V,) or None.
        targets: (M,) long, each below V.
        reduction: "none" or "sum".
    """
    if reduction not in ("none", "sum"):
        raise ValueError(f"reduction={reduction!r}; allowed: none, sum")
    layer = _cast(x, weight, bias)
    with torch.autocast(x.device.type, enabled=False):
        return (_Sum if reduction == "sum" else _Each).apply(*layer, targets)


def smoothed_cross_entropy(
    x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, label_smoothing: float
) -> tuple[Tensor, Tensor]:
    """The sum of cross-entropies with label smoothing, (), and without, which carries no gradient; nats.

    A share ``label_smoothing`` of each target is spread evenly over the vocabulary (Szegedy et al. 2016,
    https://arxiv.org/abs/1512.00567, section 7): equal to ``F.cross_entropy(..., label_smoothing=label_smoothing,
    reduction="sum")``. The other arguments are those of :func:`linear_cross_entropy`.
    """
    layer = _cast(x, weight, bias)
    with torch.autocast(x.device.type, enabled=False):
        return _Smoothed.apply(*layer, targets, label_smoothing)


def _cast(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """What autocast would make of them."""
    kind = x.device.type
    if not torch.is_autocast_enabled(kind):
        return x, weight, bias
    dtype = torch.get_autocast_dtype(kind)
    return x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)


@torch.no_grad()
def linear_entropy(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Entropies (M,) of softmax(x @ weight.T + bias), nats; no gradient."""
    log_probs = (output_logits(x[rows], weight, bias).log_softmax(1) for rows in output_blocks(x, weight))
    return torch.cat([-(part.exp() * part).sum(1) for part in log_probs])


class _Each(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, targets):
        ctx.save_for_backward(x, weight, bias, targets)
        return _losses(x, weight, bias, targets)

    @staticmethod
    def backward(ctx, gradient):
        x, weight, bias, targets = ctx.saved_tensors
        return *_losses_and_gradients(x, weight, bias, targets, gradient, ctx.needs_input_grad)[2:], None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, targets):
        if not any(ctx.needs_input_grad):
            return _losses(x, weight, bias, targets).sum()
        losses, _, *gradients = _losses_and_gradients(x, weight, bias, targets, None, ctx.needs_input_grad)
        ctx.save_for_backward(*gradients)
        return losses.sum()

    @staticmethod
    def backward(ctx, gradient):
        return *(g if g is None else g * gradient.to(g.dtype) for g in ctx.saved_tensors), None


class _Smoothed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, targets, label_smoothing):
        needed = ctx.needs_input_grad
        nlls, losses, *gradients = _losses_and_gradients(x, weight, bias, targets, None, needed, label_smoothing)
        ctx.save_for_backward(*gradients)
        nll = nlls.sum()
        ctx.mark_non_differentiable(nll)
        return losses.sum(), nll

    @staticmethod
    def backward(ctx, gradient, _):
        return *(g if g is None else g * gradient.to(g.dtype) for g in ctx.saved_tensors), None, None


def output_blocks(x: Tensor, weight: Tensor) -> list[slice]:
    """Slices of the M rows of ``x`` whose logits under ``weight`` (V, D) are held at once."""
    rows = max(LEAST_ROWS, BLOCK.get(x.device.type, BLOCK["cuda"]) // len(weight))
    return [slice(start, start + rows) for start in range(0, len(x), rows)]


def output_logits(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Logits (M, V), at least float32."""
    logits = F.linear(x, weight, bias)
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _losses(x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """(M,), at least float32."""
    losses = [
        F.cross_entropy(output_logits(x[rows], weight, bias), targets[rows], reduction="none")
        for rows in output_blocks(x, weight)
    ]
    return torch.cat(losses) if losses else x.new_zeros(0, dtype=torch.promote_types(x.dtype, torch.float32))


def _losses_and_gradients(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    scale: Tensor | None,
    needed: tuple[bool, ...],
    smoothing: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """Losses without label smoothing (M,), and with; and the gradients for x, weight and bias of the latter's sum.

    ``scale``: weights (M,) of the losses in that sum. ``needed``: for which of the three; those of a frozen weight and
    bias are None.
    """
    full = torch.promote_types(x.dtype, torch.float32)
    losses, of_x = x.new_empty(len(x), dtype=full), torch.empty_like(x)
    smoothed = torch.empty_like(losses) if smoothing else losses
    of_weight = torch.zeros_like(weight, dtype=full) if needed[1] else None
    of_bias = torch.zeros_like(bias, dtype=full) if needed[2] else None
    for rows in output_blocks(x, weight):
        own, target = x[rows], targets[rows, None]
        logits = output_logits(own, weight, bias)
        top = logits.amax(1, keepdim=True)
        of_target = logits.gather(1, target) - top
        logits.sub_(top)
        mean = logits.mean(1, keepdim=True) if smoothing else 0.0
        probs = logits.exp_()
        total = probs.sum(1, keepdim=True)
        losses[rows] = (total.log() - of_target).squeeze(1)
        if smoothing:
            smoothed[rows] = (total.log() - (1 - smoothing) * of_target - smoothing * mean).squeeze(1)
        # softmax minus target, in place
        probs.div_(total).scatter_add_(1, target, torch.full_like(total, smoothing - 1))
        if smoothing:
            probs.sub_(smoothing / probs.size(1))
        if scale is not None:
            probs.mul_(scale[rows, None])
        if of_bias is not None:
            of_bias += probs.sum(0)
        probs = probs.to(x.dtype)
        of_x[rows] = probs @ weight
        if of_weight is not None:
            of_weight += probs.T @ own
    of_weight = None if of_weight is None else of_weight.to(weight.dtype)
    return losses, smoothed, of_x, of_weight, None if of_bias is None else of_bias.to(bias.dtype)
