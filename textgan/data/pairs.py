"""Pairs: what a text is written for, its condition, and how that opens the row that a generator reads."""

from collections.abc import Iterable

import torch

from textgan.data.dataset import TokenDataset
from textgan.data.prompts import encode_prompt
from textgan.data.tokenizer import Tokenizer
from textgan.errors import UserError

PLACE = "{condition}"


def opening_of(template: str, condition: str) -> str:
    """What stands before a text: the template, with the condition in its place; other braces stay as they are."""
    return template.replace(PLACE, condition)


def openings_of(template: str, conditions: Iterable[str]) -> list[str]:
    """:func:`opening_of` each condition."""
    return [opening_of(template, condition) for condition in conditions]


def encode_condition(tokenizer: Tokenizer, template: str, condition: str, *, block_size: int, name: str) -> list[int]:
    """Ids that open the row of a condition, without opening token.

    Raises:
        UserError: the condition, called ``name`` in the message, is empty, has words that the model does not know, or
            leaves no room for a text in ``block_size`` tokens.
    """
    if not condition.strip():
        raise UserError(f"{name} is empty; a condition is needed")
    return encode_prompt(tokenizer, opening_of(template, condition.strip()), block_size=block_size, name=name)


def with_other_openings(dataset: TokenDataset, block_size: int) -> tuple[TokenDataset, torch.Tensor]:
    """The texts of pairs behind the opening of another pair, and which rows of ``dataset`` (M,) these are.

    Each row gets the next opening that is not its own, from the first again behind the last. Left out are rows that
    are then longer than ``block_size`` targets; all of them, where there is one opening only.
    """
    openings = [dataset.opening(i) for i in range(len(dataset))]
    tokens, sizes, starts, kept = [], [0], [], []
    # Backwards, twice around: what comes next is known, with what comes next that differs from it.
    after: list[int] | None = None  # the next opening
    other: list[int] | None = None  # the next one that is not `after`
    chosen: dict[int, list[int] | None] = {}
    for i in [*range(len(dataset) - 1, -1, -1)] * 2:
        chosen[i] = after if after != openings[i] else other
        if openings[i] != after:
            after, other = openings[i], after
    for i, opening in sorted(chosen.items()):
        text = dataset.tokens[dataset.offsets[i] + 1 + dataset.starts[i] : dataset.offsets[i + 1]].tolist()
        if opening is not None and len(opening) + len(text) <= block_size:
            tokens += [dataset.eos_id, *opening, *text]
            sizes.append(len(tokens))
            starts.append(len(opening))
            kept.append(i)
    moved = TokenDataset(torch.tensor(tokens), torch.tensor(sizes), dataset.eos_id, starts=torch.tensor(starts))
    return moved, torch.tensor(kept, dtype=torch.long)


def ends_visibly(tokenizer: Tokenizer, template: str, condition: str) -> bool:
    """Whether the tokens of the opening show where the condition ends: that something of the template follows it."""
    before = template.partition(PLACE)[0]
    return tokenizer.encode(opening_of(template, condition)) != tokenizer.encode(before + condition)
