"""Texts out of a generator: ancestral sampling with filters, greedy decoding, beam search."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from textgan.models.generator import Generator
from textgan.models.lstm import LSTMGenerator
from textgan.ops.logits import inverse_cdf, penalties, warpers
from textgan.ops.packed_linear import packed
from textgan.sampling.beam import beam_search, best_of
from textgan.sampling.context import Context, check_choice
from textgan.sampling.contrastive import contrastive_search
from textgan.sampling.guidance import GuidedContext
from textgan.sampling.latent import LatentGenerator
from textgan.sampling.mixture import Mixture, NgramContext, NgramGenerator, open_context
from textgan.sampling.settings import check_settings
from textgan.sampling.streams import row_uniforms

# Batches beyond these gain nothing more.
MOST_ROWS = {"cpu": 256, "cuda": 4096}
CPU_BYTES = 2**30  # for caches and logits; of a GPU a quarter of its memory
COPIES = 8  # of a row of logits in float32, at most, while a token is drawn


class Sample(NamedTuple):
    """One continuation.

    Attributes:
        prompt_ids: what was given, without the opening token.
        ids: what was written, the closing end-of-text token included when there is one.
        log_prob: nats, the sum over all of ``ids`` given the prompt under the model itself: temperature 1, no
            penalty, no filter, nothing banned, however the ids were chosen. So values of different settings
            can be compared; it is not the log-probability of the decoder. Of a VAE it is given the text's own
            latent, log p(x|z): the log-probability of the text itself, log p(x), is not known.
        finish_reason: ``eos`` when the model closed the text, ``stop`` when ``stop`` of :func:`generate` did (``ids``
            end with the token at which it did), ``length`` when it was cut.
    """

    prompt_ids: list[int]
    ids: list[int]
    log_prob: float
    finish_reason: Literal["eos", "stop", "length"]


@torch.no_grad()
def generate(
    generator: Generator | LSTMGenerator | LatentGenerator | Mixture | NgramGenerator,
    prompts: Sequence[Sequence[int]],
    *,
    eos_id: int,
    max_new_tokens: int | None = None,
    min_new_tokens: int | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    typical_p: float | None = None,
    repetition_penalty: float | None = None,
    no_repeat_ngram_size: int | None = None,
    penalty_alpha: float | None = None,
    guidance_scale: float | None = None,
    num_beams: int = 1,
    num_beam_groups: int = 1,
    diversity_penalty: float | None = None,
    num_return_sequences: int = 1,
    banned_ids: Sequence[int] = (),
    seed: int = 0,
    batch_size: int = 64,
    first_index: int = 0,
    latents: Tensor | None = None,
    stop: Callable[[Sequence[int], Sequence[int]], bool] | None = None,
) -> list[Sample]:
    """One :class:`Sample` for each prompt, in their order; of beam search ``num_return_sequences``, the best first.

    Every text starts with an opening ``eos_id``, which counts as context for the penalties (as the start
    token does in Hugging Face's ``generate``), then the prompt. Prompts of different lengths share a batch.

    The text of row i depends on the seed, on ``first_index + i``, on its own prompt and on the settings, not
    on the batch it was drawn in: each row has its own stream of random numbers. What is left is the rounding
    of the model's arithmetic, which may differ in the last bit between batch sizes and then, rarely, tip a
    draw. A generator in float64 (``generator.double()``) puts that out of reach.

    Args:
        generator: switched to eval mode for the call; its device and type are used. Also an n-gram model or a mixture
            of both (:mod:`textgan.sampling.mixture`), or a VAE (:mod:`textgan.sampling.latent`).
        prompts: ids without opening token; an empty one is a free text.
        eos_id: opens and closes every text.
        max_new_tokens: at least 1, the closing token included. A text never grows beyond what the model can
            read (``block_size - len(prompt)`` new tokens), which is also the default.
        min_new_tokens: so many are written before the text may close; 0 or None is off. A text may still be cut
            earlier, at what the model can read.
        temperature: 0 is greedy decoding.
        top_k: 0 or None is off. This and the next three (see ``ops.logits``) are for sampling only.
        top_p: in [0, 1]; 1 or None is off.
        min_p: in [0, 1]; 0 or None is off.
        typical_p: in (0, 1]; 1 or None is off.
        repetition_penalty: above 0; 1 or None is off.
        no_repeat_ngram_size: 0 or None is off.
        penalty_alpha: in [0, 1]; above 0 is contrastive search among ``top_k`` candidates, which draws nothing; see
            :mod:`textgan.sampling.contrastive`. 0 or None is off.
        guidance_scale: at least 0; above 1 keeps texts closer to their prompts, which must not be empty, see
            :mod:`textgan.sampling.guidance`; for sampling and greedy decoding. 1 or None is off.
        num_beams: above 1 is beam search, which draws nothing; see :mod:`textgan.sampling.beam`.
        num_beam_groups: above 1 is diverse beam search; divides ``num_beams``.
        diversity_penalty: above 0, of groups; see :mod:`textgan.sampling.beam`. 0 or None without groups.
        num_return_sequences: of beam search, how many texts each prompt gets: its best beams.
        banned_ids: never chosen.
        seed: of the random numbers, 0 to 2**128 - 1.
        batch_size: rows (times beams) read at once.
        first_index: number of the first row's random stream; texts k.. of a larger job are those with
            ``first_index=k``.
        latents: (N, Z) of a VAE, one for each prompt. None: drawn from the generator's source, that of row i from a
            random stream of its own, apart from the one that chooses its tokens; so decoding greedily is a function
            of the latent alone, and two texts of one row at two temperatures share their latent.
        stop: (prompt, ids written so far) -> whether the text is at its end, asked after every token; such as
            :class:`textgan.sampling.stops.StopStrings`. It may end a text before ``min_new_tokens``.

    Raises:
        ValueError: a prompt too long to be continued, a setting out of range or without effect, or latents of another
            shape or for a model that has none.
        UserError: penalties and bans left no token to choose from, or fewer texts than are to be returned; or the
            model's logits are not finite.
    """
    warp = {
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "typical_p": typical_p,
    }
    check_settings(
        generator,
        prompts,
        max_new_tokens,
        min_new_tokens,
        penalty_alpha,
        guidance_scale,
        num_beams,
        num_beam_groups,
        diversity_penalty,
        num_return_sequences,
        batch_size,
        warp,
    )
    _check_latents(generator, latents, len(prompts))
    contrastive = num_beams == 1 and bool(penalty_alpha)
    read_at_once = min(top_k, generator.vocab_size) if contrastive else num_beams  # rows that each text takes
    penalize = partial(
        _penalties,
        eos_id=eos_id,
        min_new_tokens=min_new_tokens or 0,
        repetition_penalty=repetition_penalty,
        no_repeat_ngram_size=no_repeat_ngram_size,
        banned_ids=banned_ids,
    )
    samples = []
    rows_at_once = max(1, batch_size // read_at_once)
    with _decoding(generator, rows_at_once * read_at_once):
        for start in range(0, len(prompts), rows_at_once):
            batch = [list(prompt) for prompt in prompts[start : start + rows_at_once]]
            limits = [generator.block_size - len(prompt) for prompt in batch]
            if max_new_tokens is not None:
                limits = [min(limit, max_new_tokens) for limit in limits]
            rows = [[eos_id, *prompt] for prompt in batch]
            if isinstance(generator, LatentGenerator):
                if latents is None:
                    z = generator.latents(seed, first_index + start, len(batch))
                else:
                    z = latents[start : start + len(batch)]
                context = generator.context(rows, z, room=max(limits), pad_id=eos_id, keep_states=contrastive)
            else:
                context = open_context(generator, rows, room=max(limits), pad_id=eos_id, keep_states=contrastive)
            if guidance_scale not in (None, 1):
                free = open_context(generator, [[eos_id]] * len(batch), room=max(limits), pad_id=eos_id)
                context = GuidedContext(context, free, guidance_scale)
            limits = torch.tensor(limits, device=context.ids.device)
            stops = None if stop is None else partial(_of_row, stop, batch)
            common = {"eos_id": eos_id, "penalize": penalize, "stops": stops}
            if num_beams > 1:
                found = beam_search(
                    context,
                    limits,
                    num_beams=num_beams,
                    num_beam_groups=num_beam_groups,
                    diversity_penalty=diversity_penalty,
                    **common,
                )
                batch, written = best_of(found, batch, num_return_sequences)
            elif contrastive:
                search = {"top_k": top_k, "penalty_alpha": penalty_alpha, "block_size": generator.block_size}
                written = contrastive_search(context, limits, **search, **common)
            else:
                choose = _greedy
                if temperature > 0:
                    uniforms = row_uniforms(seed, first_index + start, len(batch), int(limits.max()))
                    choose = partial(_draw, torch.from_numpy(uniforms).to(limits.device), warp)
                written = _write(context, limits, choose=choose, **common)
            samples += [
                Sample(prompt, ids, log_prob, _finish_reason(prompt, ids, eos_id, stop))
                for prompt, (ids, log_prob) in zip(batch, written, strict=True)
            ]
    return samples


def rows_that_fit(generator: nn.Module) -> int:
    """How many texts to write at once where nobody says: as many as memory has room for, at least 1."""
    weight = next(generator.parameters(), torch.empty(0))
    kind, size = weight.device.type, weight.element_size()
    cached = sum(getattr(module, "cached_per_column", 0) for module in generator.modules())
    cached *= generator.block_size * size
    room = torch.cuda.get_device_properties(weight.device).total_memory // 4 if kind == "cuda" else CPU_BYTES
    return max(1, min(MOST_ROWS[kind], room // (cached + COPIES * 4 * generator.vocab_size)))


@contextlib.contextmanager
def _decoding(generator: nn.Module, rows: int) -> Iterator[None]:
    """Within, ``generator`` is in eval mode with packed weights."""
    was_training = generator.training
    generator.eval()
    try:
        with packed(generator, rows):
            yield
    finally:
        generator.train(was_training)


def _write(
    context: Context | NgramContext | GuidedContext,
    limits: Tensor,
    *,
    eos_id: int,
    penalize: Callable,
    stops: Callable[[int, list[int]], bool] | None,
    choose: Callable,
) -> list[tuple[list[int], float]]:
    """Ids and log-probability of each row, written token by token until its end or its limit."""
    B, room = limits.numel(), int(limits.max())
    out = torch.full((B, room), eos_id, device=limits.device)
    lengths = torch.zeros_like(limits)
    log_probs = torch.zeros(B, dtype=torch.float64, device=limits.device)
    rows = torch.arange(B, device=limits.device)  # which row of the batch each row of the context is
    alive = torch.ones_like(rows, dtype=torch.bool)
    for t in range(room):
        scores = penalize(context.choices, context.ids, context.left_pad, t)
        try:
            tokens, gains = choose(scores, rows, t)
        except ValueError:
            check_choice(context.logits, scores)  # says what is wrong
            raise
        if gains is None or scores is not context.logits:
            gains = context.logits.log_softmax(-1).gather(1, tokens[:, None]).squeeze(1)
        out[rows[alive], t] = tokens[alive]
        lengths[rows[alive]] = t + 1
        log_probs[rows[alive]] += gains[alive].double()

        alive &= (tokens != eos_id) & (t + 1 < limits[rows])
        if stops is not None:
            for i in alive.nonzero().squeeze(1).tolist():
                row = int(rows[i])
                alive[i] = not stops(row, out[row, : t + 1].tolist())
        left = int(alive.sum())
        if not left:
            break
        # Dropping rows copies the cache, so wait for a quarter; but a row at its limit cannot be read on.
        if left <= 0.75 * len(rows) or bool((t + 1 >= limits[rows]).any()):
            keep = alive.nonzero().squeeze(1)
            context.select(keep)
            tokens, rows, alive = tokens[keep], rows[keep], alive[keep]
        context.append(tokens)
    texts = zip(out.tolist(), lengths.tolist(), log_probs.tolist(), strict=True)
    return [(ids[:length], log_prob) for ids, length, log_prob in texts]


def _of_row(stop: Callable, prompts: list[list[int]], row: int, ids: list[int]) -> bool:
    return stop(prompts[row], ids)


def _finish_reason(prompt: list[int], ids: list[int], eos_id: int, stop: Callable | None) -> str:
    if ids[-1] == eos_id:
        return "eos"
    return "stop" if stop is not None and stop(prompt, ids) else "length"


def _penalties(
    logits: Tensor,
    context: Tensor,
    left_pad: Tensor,
    t: int,
    *,
    eos_id: int,
    min_new_tokens: int,
    banned_ids: Sequence[int],
    **settings: float | None,
) -> Tensor:
    """Logits (B, V) of token ``t`` of each text after :func:`textgan.ops.logits.penalties`."""
    banned = (*banned_ids, eos_id) if t < min_new_tokens else banned_ids
    return penalties(logits, context, left_pad, banned_ids=banned, **settings)


def _greedy(scores: Tensor, rows: Tensor, t: int) -> tuple[Tensor, None]:
    """The likeliest ids; ValueError where a row has none."""
    best, ids = scores.max(-1)
    if not best.isfinite().all():
        raise ValueError("a row of logits has no finite value, or a NaN")
    return ids, None


def _draw(uniforms: Tensor, warp: dict, scores: Tensor, rows: Tensor, t: int) -> tuple[Tensor, Tensor | None]:
    """Ids, and their log-probabilities under the scores where these come with the draw."""
    warped = warpers(scores, **warp)
    ids, log_probs = inverse_cdf(warped, uniforms[rows, t])
    return ids, log_probs if warped is scores else None


def _check_latents(generator: object, latents: Tensor | None, n: int) -> None:
    if latents is None:
        return
    if not isinstance(generator, LatentGenerator):
        raise ValueError("`latents` are for a VAE; this model has none")
    if latents.shape != (n, generator.vae.z_size):
        raise ValueError(f"`latents` {tuple(latents.shape)} must be {(n, generator.vae.z_size)}, one for each prompt")
