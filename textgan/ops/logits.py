"""From a model's logits to the next token: penalties, then filters, as in Hugging Face ``generate``.

All functions return new logits, never change their input, and work on the whole batch at once. A removed
token has the logit ``-inf``. ``penalties`` and ``warpers`` apply them in the order of ``transformers``:
penalties look at what was written so far and hold for every way of decoding; warpers reshape the
distribution and hold for sampling only.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

_BLOCK = 64  # tokens that are summed at once where one is drawn


def scale_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Logits (..., V) divided by ``temperature`` > 0: below 1 sharper, above 1 flatter."""
    return logits / temperature


def keep_top_k(logits: Tensor, top_k: int) -> Tensor:
    """Logits (..., V) with all but the ``top_k`` >= 1 largest removed; ties stay (Fan et al. 2018)."""
    kth = logits.topk(min(top_k, logits.size(-1))).values[..., -1:]
    return logits.masked_fill(logits < kth, -torch.inf)


def keep_top_p(logits: Tensor, top_p: float) -> Tensor:
    """Logits (..., V) reduced to the fewest likeliest tokens with mass >= ``top_p`` in [0, 1]; at least one.

    Nucleus sampling, Holtzman et al. 2020. Among equal logits at the border those with the larger id stay
    (Hugging Face leaves that open).
    """
    ascending, order = logits.sort(dim=-1, stable=True)
    mass = ascending.softmax(-1).cumsum(-1)  # of a token and all less likely ones
    remove = mass <= 1 - top_p
    remove[..., -1] = False
    return logits.masked_fill(torch.zeros_like(remove).scatter(-1, order, remove), -torch.inf)


def keep_min_p(logits: Tensor, min_p: float) -> Tensor:
    """Logits (..., V) of tokens at least ``min_p`` in [0, 1] times as likely as the likeliest.

    Nguyen et al. 2024.
    """
    probs = logits.softmax(-1)
    return logits.masked_fill(probs < min_p * probs.amax(-1, keepdim=True), -torch.inf)


def keep_typical(logits: Tensor, typical_p: float) -> Tensor:
    """Logits (..., V) reduced to the tokens with a surprise nearest to the entropy, with mass ``typical_p``.

    Locally typical sampling, Meister et al. 2023; ``typical_p`` in (0, 1). The likeliest token may be among
    those removed. Ties stay.
    """
    log_probs = logits.log_softmax(-1)
    probs = log_probs.exp()
    entropy = -(probs * log_probs).nansum(-1, keepdim=True)
    distance = (-log_probs - entropy).abs()
    nearest, order = distance.sort(dim=-1, stable=True)
    mass = probs.gather(-1, order).cumsum(-1)
    last = (mass < typical_p).sum(-1, keepdim=True).clamp(max=logits.size(-1) - 1)
    return logits.masked_fill(distance > nearest.gather(-1, last), -torch.inf)


def penalize_repetition(logits: Tensor, context: Tensor, penalty: float, left_pad: Tensor | None = None) -> Tensor:
    """Logits (B, V) where each token of the context is less likely for ``penalty`` > 1, likelier below 1.

    Positive logits are divided by it, negative ones multiplied (Keskar et al. 2019, CTRL).

    Args:
        logits: (B, V).
        context: (B, T) what the model has read and written, the opening token included.
        penalty: more than 0; 1 changes nothing.
        left_pad: (B,) how many columns at the left of the context are padding, which does not count.
    """
    V = logits.size(-1)
    if left_pad is not None:
        context = context.masked_fill(_is_padding(context, left_pad), V)
    seen = logits.new_zeros(logits.size(0), V + 1, dtype=torch.bool).scatter_(1, context, True)[:, :V]
    return torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)


def ban_repeated_ngrams(logits: Tensor, context: Tensor, size: int, left_pad: Tensor | None = None) -> Tensor:
    """Logits (B, V) without the tokens that would complete an n-gram of ``size`` tokens in the context again.

    Args:
        logits: (B, V).
        context: (B, T) what the model has read and written, the opening token included.
        size: n; 1 bans every token seen so far, an opening end-of-text token too.
        left_pad: (B,) how many columns at the left of the context are padding, which does not count.
    """
    V, T = logits.size(-1), context.size(1)
    if size > T:
        return logits
    windows = context.unfold(1, size, 1)  # (B, T - size + 1, size)
    repeats = (windows[..., :-1] == context[:, None, T - size + 1 :]).all(-1)
    if left_pad is not None:
        repeats &= ~_is_padding(windows[..., 0], left_pad)
    completing = torch.where(repeats, windows[..., -1], V)
    banned = logits.new_zeros(logits.size(0), V + 1, dtype=torch.bool).scatter_(1, completing, True)[:, :V]
    return logits.masked_fill(banned, -torch.inf)


def ban_ids(logits: Tensor, ids: Sequence[int]) -> Tensor:
    """Logits (..., V) without the tokens in ``ids``."""
    banned = torch.zeros(logits.size(-1), dtype=torch.bool, device=logits.device)
    banned[list(ids)] = True
    return logits.masked_fill(banned, -torch.inf)


def penalties(
    logits: Tensor,
    context: Tensor,
    left_pad: Tensor | None = None,
    *,
    repetition_penalty: float | None = None,
    no_repeat_ngram_size: int | None = None,
    banned_ids: Sequence[int] = (),
) -> Tensor:
    """Logits (B, V) after repetition penalty, n-gram ban and banned ids, in this order.

    ``None`` is off, and so are penalty 1, size 0 and no ids.
    """
    if repetition_penalty not in (None, 1):
        logits = penalize_repetition(logits, context, repetition_penalty, left_pad)
    if no_repeat_ngram_size:
        logits = ban_repeated_ngrams(logits, context, no_repeat_ngram_size, left_pad)
    if banned_ids:
        logits = ban_ids(logits, banned_ids)
    return logits


def warpers(
    logits: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    typical_p: float | None = None,
) -> Tensor:
    """Logits (..., V) after temperature, top-k, top-p, min-p and typical, in this order.

    Each one sees only what the one before left. ``None`` is off, and so are temperature 1, top-k 0, top-p 1,
    min-p 0 and typical 1.
    """
    if temperature != 1:
        logits = scale_temperature(logits, temperature)
    if top_k:
        logits = keep_top_k(logits, top_k)
    if top_p is not None and top_p < 1:
        logits = keep_top_p(logits, top_p)
    if min_p:
        logits = keep_min_p(logits, min_p)
    if typical_p is not None and typical_p < 1:
        logits = keep_typical(logits, typical_p)
    return logits


def inverse_cdf(logits: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Ids (B,) drawn from softmax(logits), and their log-probabilities (B,), at least float32, nats.

    Drawn is the first token whose cumulative probability exceeds the uniform. The probabilities are summed by blocks
    of tokens, the blocks are cumulated in float64, and then the tokens of the one block that is hit: the running sum
    over a whole vocabulary takes a CPU longer than everything else in a draw.

    Args:
        logits: (B, V); removed tokens (``-inf``) are never drawn.
        uniforms: (B,) in [0, 1 - 2**-32]: that far below one, rounding cannot carry a draw past the last token.

    Raises:
        ValueError: a row has no token left, or a NaN.
    """
    probs = logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(1)
    V = logits.size(1)
    whole = V // _BLOCK * _BLOCK
    sums = probs[:, :whole].unflatten(1, (-1, _BLOCK)).sum(-1)
    if whole < V:
        sums = torch.cat([sums, probs[:, whole:].sum(-1, keepdim=True)], dim=1)
    sums = sums.double()
    cumulative = sums.cumsum(1)
    total = cumulative[:, -1:]
    if not total.isfinite().all():
        raise ValueError("a row of logits has no finite value, or a NaN")
    target = uniforms[:, None].double() * total
    block = torch.searchsorted(cumulative, target, right=True)
    rest = target - (cumulative.gather(1, block) - sums.gather(1, block))
    places = block * _BLOCK + torch.arange(_BLOCK, device=logits.device)
    inside = probs.gather(1, places.clamp(max=V - 1)).double().masked_fill_(places >= V, 0.0).cumsum_(1)
    # Sums in two orders differ in their last bits, which must lead neither out of the block nor to a removed token.
    rest = rest.clamp(min=0).minimum(inside[:, -1:] * (1 - 2.0**-50))
    ids = block * _BLOCK + torch.searchsorted(inside, rest, right=True)
    return ids.squeeze(1), probs.gather(1, ids).log().squeeze(1)


def _is_padding(columns: Tensor, left_pad: Tensor) -> Tensor:
    return torch.arange(columns.size(1), device=columns.device) < left_pad[:, None]
