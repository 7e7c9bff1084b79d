"""Beam search, and diverse beam search in groups."""

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
    num_beam_groups: int = 1,
    diversity_penalty: float | None = None,
    eos_id: int,
    penalize: Callable,
    stops: Callable[[int, list[int]], bool] | None = None,
) -> list[list[tuple[list[int], float]]]:
    """Ids and log-probability (of the model itself, nats) of the best continuations of each row, best first, at most k.

    As Hugging Face's ``generate(num_beams=k, do_sample=False)`` with ``length_penalty`` 1 and
    ``early_stopping`` False: a text's score is its mean log-probability a token after penalties (the end
    counts as a token), and a row is done when k texts have ended and all score at least as well as the best
    open one does so far.

    With groups, diverse beam search with Hamming diversity (Vijayakumar et al. 2018,
    https://arxiv.org/abs/1610.02424, equation 5; as Hugging Face's ``num_beam_groups``): each group of k / G beams is a
    search of its own, but one step after the other, and what a group scores for a token is less by the penalty for
    each beam of the groups before it that goes on with that token at this step. Penalties stay in the scores by which
    the texts of all groups are put in order. Two groups may find the same text.

    Args:
        context: (B,) rows; used up.
        limits: (B,) how many tokens each row gets at most, at least 1.
        num_beams: k, at least 2.
        num_beam_groups: G, divides k.
        diversity_penalty: above 0, nats; where there are groups.
        eos_id: closes a text.
        penalize: (logits, context ids, left_pad, number of the token) -> logits; applied to log-probabilities.
        stops: (row, ids written) -> whether the text is at its end, as after ``eos_id``.

    Raises:
        UserError: no beam of a row has a token left, or the model's logits are not finite.
    """
    B, K, V, device = limits.numel(), num_beams, context.logits.size(-1), limits.device
    G, k = num_beam_groups, num_beams // num_beam_groups
    # Score, ids, log_prob of the k best of each row and group.
    ended: list[list[list[tuple[float, list[int], float]]]] = [[[] for _ in range(G)] for _ in range(B)]
    rows = torch.arange(B, device=device)  # of the batch, that are still open
    context.select(rows.repeat_interleave(K))
    # All beams of a group start equal: only the first may be continued, or they would stay equal.
    score = torch.full((B, G, k), NEVER, dtype=context.logits.dtype, device=device)
    score[:, :, 0] = 0
    log_prob = torch.zeros(B, K, dtype=torch.float64, device=device)
    done = torch.zeros(B, G, dtype=torch.bool, device=device)
    for t in range(int(limits.max())):
        gains = context.logits.log_softmax(-1)
        penalized = penalize(gains, context.ids, context.left_pad, t).view(len(rows), G, k, V)
        at_limit = t + 1 == limits[rows]
        counts = score.new_zeros(len(rows), V)  # how many beams of earlier groups go on with each token
        chosen = []
        for g in range(G):
            totals = score[:, g, :, None] + penalized[:, g]
            if g:
                totals = totals - diversity_penalty * counts[:, None]
            totals = totals.reshape(-1, k * V)
            check_choice(context.logits, totals)
            width = 2 * k
            while True:
                top, index = totals.topk(width)
                tokens = index % V
                parents = (
                    torch.arange(len(rows), device=device)[:, None] * K + g * k + index // V
                )  # rows of the context
                ends = (tokens == eos_id) | at_limit[:, None]
                # A beam has one end of text, so of 2 k continuations at least k go on; of stops it may have many.
                if stops is None:
                    break
                ends |= _stopped(context.ids[:, context.ids.size(1) - t :], rows, parents, tokens, stops)
                if width == k * V or bool(((~ends).sum(1) >= k).logical_or(at_limit).all()):
                    break
                width = min(2 * width, k * V)
            gained = log_prob.flatten()[parents] + gains[parents, tokens]
            for i, j in (ends[:, :k] & ~done[:, g, None]).nonzero().tolist():
                ids = [*context.ids[parents[i, j], context.ids.size(1) - t :].tolist(), int(tokens[i, j])]
                kept = ended[int(rows[i])][g]
                kept.append((float(top[i, j]) / (t + 1), ids, float(gained[i, j])))
                kept.sort(key=lambda text: -text[0])
                del kept[k:]

            best, order = (top + ends * NEVER).topk(k)
            tokens = tokens.gather(1, order)
            if g + 1 < G:
                counts.scatter_add_(1, tokens, (~done[:, g, None]).to(counts.dtype).expand_as(tokens))
            of_rows = (ended[row][g] for row in rows.tolist())
            worst = [kept[-1][0] if len(kept) == k else NEVER for kept in of_rows]
            improvable = best[:, 0] / (t + 1) > torch.tensor(worst, dtype=best.dtype, device=device)
            improvable &= best[:, 0] > NEVER / 2  # else all have ended
            done[:, g] |= ~improvable | at_limit
            chosen.append((best, gained.gather(1, order), tokens, parents.gather(1, order)))
        open_rows = (~done.all(1)).nonzero().squeeze(1)
        if not len(open_rows):
            break
        score, log_prob, tokens, parents = (torch.stack(x, 1)[open_rows] for x in zip(*chosen, strict=True))
        log_prob, rows, done = log_prob.flatten(1), rows[open_rows], done[open_rows]
        context.select(parents.flatten())
        context.append(tokens.flatten())
    found = [sorted((text for kept in groups for text in kept), key=lambda text: -text[0]) for groups in ended]
    # Where a row has fewer than k texts, beams that never started have filled up.
    return [[(ids, log_prob) for rate, ids, log_prob in kept if rate * len(ids) > NEVER / 2] for kept in found]


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
