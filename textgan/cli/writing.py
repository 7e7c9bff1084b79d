"""Texts that ``textgan sample`` is to write, and the records that it makes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

    from textgan.sampling.decode import Sample
    from textgan.training.loading import SamplingModel
    from textgan.training.ranks import Ranks


class Job(NamedTuple):
    """One text to be written.

    Attributes:
        fields: what its record says of the task, before the text.
        stream: number of its stream of random numbers.
        prompt: ids that it begins with.
        z: (Z,) its latent; None: drawn from the model's source, or the model has none.
        before: (Z,) another latent, whose text the record holds too, under this name.
        target: ids of the text that it should be like.
    """

    fields: dict
    stream: int
    prompt: Sequence[int] = ()
    z: Tensor | None = None
    before: Tensor | None = None
    target: Sequence[int] | None = None


@dataclass(frozen=True)
class Plan:
    """What is to be written.

    Attributes:
        total: number of texts.
        jobs: those of a range of indices.
        block: a record as people read it, in a width of so many cells (None: no limit).
        between: what stands between blocks.
        told: where latents come from, in words; empty for models without.
        latents: the same for records; None for models without.
        compare: fields about a text written by a job, given its ids.
        heed: counts a record in for ``closing``.
        closing: the last word on all records that were counted in.
        draws_latents: whether texts differ even where no token is drawn.
        repeats: what is alike where nothing is drawn.
        per_search: how many texts, one behind the other, one beam search finds: its best. Their prompts are the same.
        begins_behind_prompt: whether the prompt is no part of the text.
    """

    total: int
    jobs: Callable[[range], list[Job]]
    block: Callable[[dict, int | None], str]
    between: str = "\n"
    told: str = ""
    latents: dict | None = None
    compare: Callable[[Job, list[int]], dict] = lambda job, ids: {}
    heed: Callable[[dict], None] = lambda record: None
    closing: Callable[[], str] | None = None
    draws_latents: bool = False
    repeats: str = "texts of a prompt"
    per_search: int = 1
    begins_behind_prompt: bool = False


def write_all(
    model: SamplingModel,
    plan: Plan,
    settings: dict,
    *,
    seed: int,
    allow_unk: bool,
    batch_size: int,
    ranks: Ranks,
    watch: Callable[[Sequence[int], Sequence[int]], None] | None = None,
) -> Iterator[list[dict]]:
    """Batches of what ``--json`` prints, in their order, on every rank; each rank writes one of them in turn.

    ``watch`` is given the prompt and the ids written so far of a text, after every token; not of beams.

    Raises:
        KeyboardInterrupt: after Ctrl-C; with several ranks when the batches are done that they have in hand.
    """
    from textgan.training.interrupt import Interrupt

    size = max(batch_size // plan.per_search, 1) * plan.per_search
    batches = [range(start, min(start + size, plan.total)) for start in range(0, plan.total, size)]
    # A rank that left the others in the middle of a turn would be lost to them.
    with Interrupt(quiet=not ranks.first) if ranks.size > 1 else nullcontext() as interrupt:
        for turn in range(0, len(batches), ranks.size):
            own = batches[turn + ranks.rank :][:1]  # none where the last turn is short
            written = [write(model, plan, rows, settings, seed, allow_unk, watch) for rows in own]
            of_ranks = ranks.collect((written, interrupt is not None and interrupt.requested))
            for batch, _ in of_ranks:
                yield from batch
            if any(stopped for _, stopped in of_ranks):
                raise KeyboardInterrupt


def write(
    model: SamplingModel,
    plan: Plan,
    rows: range,
    settings: dict,
    seed: int,
    allow_unk: bool,
    watch: Callable[[Sequence[int], Sequence[int]], None] | None = None,
) -> list[dict]:
    """What ``--json`` prints of the texts of these indices; ``watch``: see :func:`write_all`."""
    from textgan.sampling.stops import StopStrings

    jobs, tokenizer = plan.jobs(rows), model.tokenizer
    banned = () if allow_unk or tokenizer.unk_id is None else (tokenizer.unk_id,)
    stop, text_of = None, lambda prompt, ids: tokenizer.decode([*prompt, *ids])
    if settings["stop_strings"]:
        stop = StopStrings(settings["stop_strings"], tokenizer.decode)
        text_of = stop.text
    if watch is not None:
        stop = partial(_watched, watch, stop)
    if plan.begins_behind_prompt:
        stop = stop and partial(_without_prompt, stop)
        text_of = partial(_without_prompt, text_of)
    options = {"seed": seed, "banned_ids": banned, "num_return_sequences": plan.per_search, "stop": stop}
    options |= {name: value for name, value in settings.items() if name != "stop_strings"}
    before = None
    if jobs[0].before is not None:
        before = list(_decoded(model, [job._replace(z=job.before) for job in jobs], options))
    records = []
    samples = _decoded(model, jobs[:: plan.per_search], options)
    for i, (job, sample) in enumerate(zip(jobs, samples, strict=True)):
        record = {"index": rows[i], **job.fields}
        if before is not None:
            record["before"] = text_of((), before[i].ids)
        record["text"] = text_of(job.prompt, sample.ids)
        record |= plan.compare(job, sample.ids)
        record["log_prob" if plan.latents is None else "log_prob_given_z"] = sample.log_prob
        records.append(
            record
            | {
                "tokens": tokenizer.tokens(sample.ids),
                "finish_reason": sample.finish_reason,
                "seed": seed,
                "checkpoint": str(model.path),
                "step": model.step,
                "settings": {**settings, "allow_unk": allow_unk},
            }
            | ({} if plan.latents is None else {"latents": plan.latents})
        )
    return records


def _watched(watch: Callable, stop: Callable | None, prompt: Sequence[int], ids: Sequence[int]) -> bool:
    """What ``stop`` says of the text so far; where it goes on, it is shown to ``watch``."""
    ended = stop is not None and stop(prompt, ids)
    if not ended:
        watch(prompt, ids)
    return ended


def _without_prompt(f: Callable, prompt: Sequence[int], ids: Sequence[int]) -> object:
    """``f`` of a text whose prompt is no part of it."""
    return f((), ids)


def _decoded(model: SamplingModel, jobs: list[Job], options: dict) -> Iterator[Sample]:
    """The samples of the jobs, in their order."""
    import torch

    from textgan.sampling.decode import generate

    draws = options["temperature"] > 0 and options["num_beams"] == 1 and not options["penalty_alpha"]
    # Rows that are drawn together read streams that follow each other.
    for _, group in groupby(enumerate(jobs), key=lambda numbered: draws and numbered[1].stream - numbered[0]):
        together = [job for _, job in group]
        latents = {} if together[0].z is None else {"latents": torch.stack([job.z for job in together])}
        yield from generate(
            model.generator,
            [list(job.prompt) for job in together],
            eos_id=model.tokenizer.eos_id,
            batch_size=len(together) * options["num_return_sequences"],
            first_index=together[0].stream,
            **latents,
            **options,
        )
