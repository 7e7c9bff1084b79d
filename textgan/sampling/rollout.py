"""Sampling that gradients can pass through: sample without gradient, then one parallel pass with it.

When the generator reads back the *hard* token that it sampled, no gradient passes through what it reads. So sample
first, fast and without gradient, then run the generator once over the sampled ids, as in maximum likelihood, and
build the relaxed one-hots of all positions at once. The gradient is that of sampling step by step with gradient,
which `sequential_rollout` does and the tests compare with.

*Soft* feedback reads the relaxed vectors back, through which gradient does pass. The parallel pass reads the stored
vectors; each further pass reads those of the pass before, with their gradient: one more hop of it through the
feedback. As many hops as positions give the whole gradient.

Sampling and the parallel pass must see the same function, so put a generator with dropout in eval mode for both.
Texts are `[w1..wn, eos]`, at most `max_len` tokens; each starts after an opening eos that is not part of it.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from textgan.models.generator import Generator
from textgan.ops.logits import inverse_cdf
from textgan.ops.packed_linear import packed
from textgan.ops.parts import like_lengths
from textgan.ops.relaxation import ESTIMATORS, FEEDBACK, gumbel_noise, soft
from textgan.ops.relaxed_tokens import RelaxedTokens

# Steps between looks at whether every text has ended: on a GPU each look waits for the device.
_LOOK_EVERY = 8


class Rollout(NamedTuple):
    """Sampled texts and the vectors that carry their gradient."""

    ids: Tensor  # (B, T), eos past the end
    lengths: Tensor  # (B,) tokens of each text, its eos included
    inputs: Tensor  # (B, T) or (B, T, V) what the generator read
    # (B, T, V) in place of one-hots, with gradient; exactly zero past the end, where none passes. A critic embeds
    # both kinds; hard feedback needs no tensor of them.
    tokens: Tensor | RelaxedTokens
    starts: Tensor | None = None  # (B,) tokens at the start of each text that were given, not sampled; None: none


class SoftSample(NamedTuple):
    """Texts sampled with soft feedback, without gradient, and the noise that they came from."""

    ids: Tensor  # (B, T), eos past the end
    lengths: Tensor  # (B,)
    tokens: Tensor  # (B, T, V) relaxed vectors, zero past the end
    noise: Tensor  # (B, T, V)


@torch.no_grad()
def sample_ids(
    generator: Generator,
    batch_size: int,
    max_len: int,
    *,
    eos_id: int,
    rng: torch.Generator,
    own: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Ids (B, T) and lengths (B,) of texts drawn from the model as it is, T <= max_len the longest of them.

    Uses a KV cache, leaves out finished texts once they are half of the batch, and inverts the distribution
    function, which is many times faster than `torch.multinomial` on a CPU. The amount drawn from `rng` (on the
    generator's device) depends on the batch size and `max_len` alone.

    Args:
        own: chooses rows of the batch, given what has an entry a row; only these are drawn, as they are in the batch.

    Raises:
        ValueError: if `max_len` is above the generator's block size.
    """
    device = generator.device
    uniform = torch.rand(batch_size, max_len, generator=rng, device=device)
    if own is not None:
        uniform = own(uniform)
        batch_size = len(uniform)
    ids = torch.full((batch_size, max_len), eos_id, device=device)
    lengths = torch.full((batch_size,), max_len, device=device)
    cache = generator.new_cache(batch_size, max_len)
    rows = torch.arange(batch_size, device=device)  # of the texts still computed, finished or not
    done = torch.zeros(batch_size, dtype=torch.bool, device=device)
    last = ids[:, :1]
    with packed(generator, batch_size):
        for t in range(max_len):
            if t and t % _LOOK_EVERY == 0:
                going = (~done).nonzero()[:, 0]
                if going.numel() == 0:
                    break
                if going.numel() <= done.numel() // 2:
                    cache.select(going)
                    rows, last, done = rows[going], last[going], done[going]
            drawn = inverse_cdf(generator(last, cache=cache)[:, -1], uniform[rows, t])[0][:, None]
            drawn = drawn.masked_fill_(done[:, None], eos_id)
            ids[rows, t] = drawn[:, 0]
            ends = (drawn[:, 0] == eos_id) & ~done
            lengths[rows] = torch.where(ends, t + 1, lengths[rows])
            done = done | ends
            last = drawn
    longest = int(lengths.max())
    return ids[:, :longest].contiguous(), lengths


@torch.no_grad()
def sample_continuations(
    generator: Generator,
    openings: Tensor,
    starts: Tensor,
    max_len: int,
    *,
    eos_id: int,
    rng: torch.Generator,
    own: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Ids (B, T) and lengths (B,) of texts that begin with the given openings, T <= max_len the longest of them.

    Openings of different lengths are read side by side, padded on the left; what comes back begins with them and is
    padded on the right, as any text. The amount drawn from `rng` depends on the batch size and `max_len` alone.

    Args:
        openings: (B, M) ids; row i begins with its first `starts[i]`.
        starts: (B,), each below `max_len`, so that there is room for a token.
        own: as in `sample_ids`.

    Raises:
        ValueError: if `max_len` is above the generator's block size, or an opening leaves no room.
    """
    if int(starts.max()) >= max_len:
        raise ValueError(f"an opening of {int(starts.max())} tokens leaves no room in `max_len={max_len}`")
    device = generator.device
    uniform = torch.rand(len(starts), max_len, generator=rng, device=device)
    if own is not None:
        uniform, openings, starts = own(uniform), own(openings), own(starts)
    batch_size, longest = len(starts), int(starts.max())
    left_pad = longest - starts
    # Columns of what is read: padding, eos, opening. Padding columns are never looked at.
    columns = torch.arange(longest + 1, device=device) - left_pad[:, None] - 1
    read = F.pad(openings[:, :longest], (0, 1), value=eos_id).gather(1, columns.clamp(min=0))
    read = read.masked_fill(columns < 0, eos_id)
    ids = F.pad(openings[:, :longest], (0, max_len - longest), value=eos_id)
    ids = ids.where(_mask(starts, max_len), eos_id)
    lengths = torch.full_like(starts, max_len)
    rows = torch.arange(batch_size, device=device)
    room = min(generator.block_size, max_len)
    with packed(generator, batch_size):
        while rows.numel():
            # Rows without padding reach the end of the cache first; the others are then read anew, further left.
            cache = generator.new_cache(len(rows), room)
            logits = generator(read, left_pad=left_pad, cache=cache)[:, -1]
            while True:
                place = read.size(1) - 1 - left_pad  # of the next token in each text
                drawn = inverse_cdf(logits, uniform[rows, place])[0]
                ids[rows, place] = drawn
                ended = (drawn == eos_id) | (place + 1 == max_len)
                lengths[rows[ended]] = place[ended] + 1
                read = torch.cat([read, drawn[:, None]], dim=1)
                full = cache.length == cache.max_len
                if ended.all() or full:
                    break
                if ended.any():
                    going = (~ended).nonzero()[:, 0]
                    cache.select(going)
                    rows, read, left_pad = rows[going], read[going], left_pad[going]
                logits = generator(read[:, -1:], left_pad=left_pad, cache=cache)[:, -1]
            going = (~ended).nonzero()[:, 0]
            rows, read, left_pad = rows[going], read[going], left_pad[going]
            if rows.numel():
                free = int(left_pad.min())
                read, left_pad = read[:, free:], left_pad - free
    longest = int(lengths.max())
    return ids[:, :longest].contiguous(), lengths


@torch.no_grad()
def sample_soft(
    generator: Generator, batch_size: int, max_len: int, *, eos_id: int, tau: float, rng: torch.Generator
) -> SoftSample:
    """Texts of a generator that reads its own relaxed vectors softmax((logits + noise) / tau) back.

    The noise (B, max_len, V) is drawn from `rng` at once. A text ends where the largest entry is eos.
    """
    device, V = generator.device, generator.vocab_size
    noise = gumbel_noise((batch_size, max_len, V), generator=rng, device=device)
    cache = generator.new_cache(batch_size, max_len)
    last = _opening(batch_size, V, eos_id, device)
    tokens, ids = [], []
    done = torch.zeros(batch_size, dtype=torch.bool, device=device)
    with packed(generator, batch_size):
        for t in range(max_len):
            if t % _LOOK_EVERY == 0 and done.all():
                break
            logits = generator(last, cache=cache)[:, 0]
            last = soft(logits, None, tau=tau, noise=noise[:, t])[:, None]
            tokens.append(last)
            ids.append(last[:, 0].argmax(dim=-1))
            done = done | (ids[-1] == eos_id)
    ids, lengths = _cut(torch.stack(ids, dim=1), eos_id)
    T = int(lengths.max())
    tokens = torch.cat(tokens, dim=1)[:, :T] * _mask(lengths, T)[..., None]
    return SoftSample(ids[:, :T], lengths, tokens, noise[:, :T])


def rollout(
    generator: Generator,
    ids: Tensor,
    lengths: Tensor,
    *,
    eos_id: int,
    estimator: str,
    tau: float,
    rng: torch.Generator,
    hops: int = 0,
    sample: SoftSample | None = None,
    starts: Tensor | None = None,
) -> Rollout:
    """Texts with relaxed vectors that carry gradient to the generator, by parallel passes.

    Args:
        generator: in the mode that it sampled in.
        ids, lengths: (B, T) and (B,), texts drawn by `sample_ids`. With soft feedback, only their shape is used.
        eos_id: the token that opens every text.
        estimator: a name of `ESTIMATORS`; `FEEDBACK` says whether its feedback is hard or soft.
        tau: see the estimator.
        rng: on the generator's device; noise given the ids is drawn from it.
        hops: soft feedback only: how many times gradient passes through what was read back. A parallel pass each.
        sample: soft feedback only: the texts of `sample_soft` at the same tau. Without it new ones are drawn, of
            the batch size and at most the length of `ids`.
        starts: hard feedback only: (B,) tokens at the start of each text that were given. They are hard in `tokens`.

    Raises:
        ValueError: for an unknown estimator, hops or a soft sample with hard feedback, or starts with soft feedback.
    """
    _check_estimator(estimator)
    if FEEDBACK[estimator] == "hard":
        if hops or sample is not None:
            raise ValueError(f"`{estimator}` feeds back hard tokens: `hops` and `sample` are for soft feedback")
        inputs = F.pad(ids[:, :-1], (1, 0), value=eos_id)
        B, T = ids.shape
        states, places, mask = [], [], _mask(lengths, T)
        if starts is not None:
            mask = mask & ~_mask(starts, T)
        for rows, width in like_lengths(lengths):
            at = mask[rows, :width]
            states.append(generator.states(inputs[rows, :width], at=at))
            places.append((rows[:, None] * T + torch.arange(width, device=rows.device))[at])
        states, places = torch.cat(states), torch.cat(places)
        layer = states, *generator.output_layer
        drawn = ids.flatten()[places]
        given = None
        if starts is not None:
            at = _mask(starts, T).flatten().nonzero()[:, 0]
            given = ids.flatten()[at], at
        tokens = RelaxedTokens(*layer, drawn, places, (B, T), estimator=estimator, tau=tau, rng=rng, given=given)
        return Rollout(ids, lengths, inputs, tokens, starts)

    if starts is not None:
        raise ValueError(f"`{estimator}` reads soft tokens back: `starts` are for hard feedback")
    if sample is None:
        sample = sample_soft(generator, *ids.shape, eos_id=eos_id, tau=tau, rng=rng)
    ids, lengths, tokens, noise = sample
    opening = _opening(ids.size(0), generator.vocab_size, eos_id, tokens.device)
    mask = _mask(lengths, ids.size(1))[..., None]
    for _ in range(hops + 1):
        inputs = torch.cat([opening, tokens[:, :-1]], dim=1)
        tokens = torch.where(mask, ESTIMATORS[estimator](generator(inputs), ids, tau=tau, noise=noise), 0.0)
    return Rollout(ids, lengths, inputs, tokens)


def sequential_rollout(
    generator: Generator,
    noise: Tensor,
    *,
    eos_id: int,
    estimator: str,
    tau: float,
    ids: Tensor | None = None,
) -> Rollout:
    """What `rollout` computes, step by step with gradient all the way: the reference, slow and hungry for memory.

    Reads the whole prefix anew at each step. With soft feedback its gradient is complete.

    Args:
        noise: Gumbel noise (..., B, T, V) for the estimator; (B, T, V) unless the estimator takes more.
        ids: (B, T) texts to follow instead of argmax(logits + noise).
    """
    _check_estimator(estimator)
    B, T, V = noise.shape[-3:]
    read = _opening(B, V, eos_id, noise.device)
    tokens, drawn = [], []
    for t in range(T):
        logits = generator(read)[:, -1]
        chosen = (logits + noise[..., t, :]).argmax(dim=-1) if ids is None else ids[:, t]
        tokens.append(ESTIMATORS[estimator](logits, chosen, tau=tau, noise=noise[..., t, :]))
        drawn.append(chosen)
        back = tokens[-1] if FEEDBACK[estimator] == "soft" else F.one_hot(chosen, V).float()
        read = torch.cat([read, back[:, None]], dim=1)
    drawn, lengths = _cut(torch.stack(drawn, dim=1), eos_id)
    tokens = torch.where(_mask(lengths, T)[..., None], torch.stack(tokens, dim=1), 0.0)
    return Rollout(drawn, lengths, read[:, :-1], tokens)


def _check_estimator(name: str) -> None:
    if name not in ESTIMATORS:
        raise ValueError(f"unknown estimator `{name}`; choose one of {', '.join(ESTIMATORS)}")


def _mask(lengths: Tensor, columns: int) -> Tensor:
    return torch.arange(columns, device=lengths.device) < lengths[:, None]


def _opening(batch_size: int, vocab_size: int, eos_id: int, device: torch.device) -> Tensor:
    """The one-hot (B, 1, V) of the eos that opens every text."""
    eos = torch.full((batch_size, 1), eos_id, device=device)
    return F.one_hot(eos, vocab_size).float()


def _cut(ids: Tensor, eos_id: int) -> tuple[Tensor, Tensor]:
    """The ids with eos after the first eos of each row, and the lengths up to and with it."""
    ended = (ids == eos_id).cumsum(dim=1)
    lengths = ((ended == 0).sum(dim=1) + 1).clamp(max=ids.size(1))
    return ids.masked_fill(ended > 0, eos_id), lengths
