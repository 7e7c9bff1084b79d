"""Beam search."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from textgan.errors import UserError
from textgan.sampling.context import Context, check_choice

NEVER = -1e9  # the score of a beam that must not win; finite, so that sums and quotients stay numbers


def beam_search(
    context: Context,
    limits: Tensor,
    *,
    num_beams: int,
    eos_id: int,
    penalize: Callable,
    stops: Callable[[int, list[int]], bool] | None = None,
) -> list[list[tuple[list[int], float]]]:
    """Ids and log-probability (of the model itself, nats) of the best continuations of each row, best first, at most k.

    As Hugging Face's ``generate(num_beams=k, do_sample=False)`` with ``length_penalty`` 1 and
    ``early_stopping`` False: a text's score is its mean log-probability a token after penalties (the end
    counts as a token), and a row is done when k texts have ended and all score at least as well as the best
    open one does so far.

    Args:
        context: (B,) rows; used up.
        limits: (B,) how many tokens each row gets at most, at least 1.
        num_beams: k, at least 2.
        eos_id: closes a text.
        penalize: (logits, context ids, left_pad, number of the token) -> logits; applied to log-probabilities.
        stops: (row, ids written) -> whether the text is at its end, as after ``eos_id``.

    Raises:
        UserError: no beam of a row has a token left, or the model's logits are not finite.
    """
    B, K, V, device = limits.numel(), num_beams, context.logits.size(-1), limits.device
    ended: list[list[tuple[float, list[int], float]]] = [[] for _ in range(B)]  # score, ids, log_prob: the K best
    rows = torch.arange(B, device=device)  # of the batch, that are still open
    context.select(rows.repeat_interleave(K))
    # All beams of a row start equal: only the first may be continued, or they would stay equal.
    score = torch.full((B, K), NEVER, dtype=context.logits.dtype, device=device)
    score[:, 0] = 0
    log_prob = torch.zeros(B, K, dtype=torch.float64, device=device)
    for t in range(int(limits.max())):
        gains = context.logits.log_softmax(-1)
        penalized = penalize(gains, context.ids, context.left_pad, t)
        totals = (score.view(-1, 1) + penalized).view(-1, K * V)
        check_choice(context.logits, totals)
        at_limit = t + 1 == limits[rows]
        width = 2 * K
        while True:
            top, index = totals.topk(width)
            tokens = index % V
            parents = torch.arange(len(rows), device=device)[:, None] * K + index // V  # rows of the context
            ends = (tokens == eos_id) | at_limit[:, None]
            # A beam has one end of text, so that of 2 K continuations at least K go on; of stops it may have many.
            if stops is None:
                break
            ends |= _stopped(context.ids[:, context.ids.size(1) - t :], rows, parents, tokens, stops)
            if width == K * V or bool(((~ends).sum(1) >= K).logical_or(at_limit).all()):
                break
            width = min(2 * width, K * V)
        log_prob = log_prob.flatten()[parents] + gains[parents, tokens]
        for i, j in ends[:, :K].nonzero().tolist():
            ids = [*context.ids[parents[i, j], context.ids.size(1) - t :].tolist(), int(tokens[i, j])]
            kept = ended[int(rows[i])]
            kept.append((float(top[i, j]) / (t + 1), ids, float(log_prob[i, j])))
            kept.sort(key=lambda text: -text[0])
            del kept[K:]

        score, order = (top + ends * NEVER).topk(K)
        worst = [ended[row][-1][0] if len(ended[row]) == K else NEVER for row in rows.tolist()]
        improvable = score[:, 0] / (t + 1) > torch.tensor(worst, dtype=score.dtype, device=device)
        improvable &= score[:, 0] > NEVER / 2  # else all have ended
        open_rows = (improvable & ~at_limit).nonzero().squeeze(1)
        if not len(open_rows):
            break
        rows, score = rows[open_rows], score[open_rows]
        log_prob, tokens, parents = (x.gather(1, order)[open_rows] for x in (log_prob, tokens, parents))
        context.select(parents.flatten())
        context.append(tokens.flatten())
    # Where a row has fewer than k texts, beams that never started have filled up.
    return [[(ids, log_prob) for rate, ids, log_prob in kept if rate * len(ids) > NEVER / 2] for kept in ended]


def _stopped(written: Tensor, rows: Tensor, parents: Tensor, tokens: Tensor, stops: Callable) -> Tensor:
    """Which continuations (B, N) of ``written`` (rows of the context, t) stop."""
    so_far, rows = written.tolist(), rows.tolist()
    return torch.tensor(
        [
            [stops(row, [*so_far[parent], token]) for parent, token in zip(of_row, next_tokens, strict=True)]
            for row, of_row, next_tokens in zip(rows, parents.tolist(), tokens.tolist(), strict=True)
        ],
        device=tokens.device,
    )


def best_of(
    found: Sequence[list[tuple[list[int], float]]], prompts: Sequence[list[int]], n: int
) -> tuple[list[list[int]], list[tuple[list[int], float]]]:
    """The ``n`` best of the texts that :func:`beam_search` found of each prompt, and before them the prompt of each.

    Raises:
        UserError: a prompt has fewer.
    """
    fewest = min(map(len, found))
    if fewest < n:
        raise UserError(
            f"{n} texts of a prompt are to be returned, but what may be written there makes {fewest} only: "
            "ask for fewer, or allow longer texts"
        )
    return [prompt for prompt in prompts for _ in range(n)], [text for texts in found for text in texts[:n]]
