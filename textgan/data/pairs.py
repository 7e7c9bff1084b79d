"""Pairs: what a text is written for, its condition, and how that opens the row that a generator reads."""

from collections.abc import Iterable

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


def ends_visibly(tokenizer: Tokenizer, template: str, condition: str) -> bool:
    """Whether the tokens of the opening show where the condition ends: that something of the template follows it."""
    before = template.partition(PLACE)[0]
    return tokenizer.encode(opening_of(template, condition)) != tokenizer.encode(before + condition)
