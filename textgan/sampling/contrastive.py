"""Contrastive search: likely tokens that do not say again what was said."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from textgan.sampling.context import Context, check_choice


def contrastive_search(
    context: Context,
    limits: Tensor,
    *,
    top_k: int,
    penalty_alpha: float,
    block_size: int,
    eos_id: int,
    penalize: Callable,
    stops: Callable[[int, list[int]], bool] | None = None,
) -> list[tuple[list[int], float]]:
    """Ids and log-probability (of the model itself, nats) of each row's text.

    Of the ``top_k`` likeliest tokens v that is written whose

        (1 - penalty_alpha) p(v | x) - penalty_alpha max_j cos(h_v, h_j)

    is the highest: p after penalties, h_v the state that the output layer reads once v is read, and h_j those of what
    stands before it, opening token and prompt included (Su et al. 2022, https://arxiv.org/abs/2202.06417, equation 5).
    Nothing is drawn. A token that the model has no column left for, the last of a text as long as can be, has no
    state: the likeliest is written.

    Args:
        context: (B,) rows with ``keep_states``; used up.
        limits: (B,) how many tokens each row gets at most, at least 1.
        top_k: number of candidates, at least 2; each is read.
        penalty_alpha: above 0, at most 1.
        block_size: columns that the model can read.
        eos_id: closes a text.
        penalize: (logits, context ids, left_pad, number of the token) -> logits.
        stops: (row, ids written) -> whether the text is at its end, as after ``eos_id``.

    Raises:
        UserError: a row has no token left, or the model's logits are not finite.
    """
    K, device = min(top_k, context.logits.size(-1)), limits.device
    texts: list[list[int]] = [[] for _ in range(limits.numel())]
    log_probs = torch.zeros(limits.numel(), dtype=torch.float64, device=device)
    rows = torch.arange(limits.numel(), device=device)  # of the batch, that are still open
    columns = torch.arange(context.ids.size(1), device=device)
    lengths = (columns >= context.left_pad[:, None]).sum(1)
    # Of padding the state is zero, and so would be its cosine, which may be above the others: it is left out.
    seen, past = columns >= context.left_pad[:, None], F.normalize(context.states, dim=-1)
    for t in range(int(limits.max())):
        scores = penalize(context.logits, context.ids, context.left_pad, t)
        check_choice(context.logits, scores)
        p, candidates = scores.softmax(-1).topk(K)  # (n, K)
        gains = context.logits.log_softmax(-1).gather(1, candidates)
        best = torch.zeros_like(rows)
        readable = (lengths[rows] + t < block_size).nonzero().squeeze(1)
        if len(readable):
            context.select(readable.repeat_interleave(K))
            context.append(candidates[readable].flatten())
            states = F.normalize(context.states[:, -1], dim=-1).view(len(readable), K, -1)
            similar = (states @ past[readable].mT).masked_fill(~seen[readable, None], -torch.inf).amax(-1)
            value = (1 - penalty_alpha) * p[readable] - penalty_alpha * similar
            best[readable] = value.masked_fill(p[readable] == 0, -torch.inf).argmax(-1)
        tokens = candidates.gather(1, best[:, None]).squeeze(1)
        log_probs[rows] += gains.gather(1, best[:, None]).squeeze(1).double()
        going_on = []
        for i, (row, token) in enumerate(zip(rows.tolist(), tokens.tolist(), strict=True)):
            texts[row].append(token)
            ended = token == eos_id or t + 1 == int(limits[row])
            if not ended and not (stops is not None and stops(row, texts[row])):
                going_on.append(i)
        if not going_on:
            break
        keep = torch.tensor(going_on, device=device)
        place = torch.zeros_like(rows).index_put_((readable,), torch.arange(len(readable), device=device))[keep]
        context.select(place * K + best[keep])
        past = torch.cat([past[keep], states[place, best[keep]][:, None]], dim=1)
        seen = F.pad(seen[keep], (0, 1), value=True)
        rows = rows[keep]
    return list(zip(texts, log_probs.tolist(), strict=True))
