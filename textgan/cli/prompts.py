"""Prompts of the command line: where they come from, and whether a model can continue them."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

import click

from textgan.errors import UserError

if TYPE_CHECKING:
    from textgan.data.tokenizer import LookupTokenizer
    from textgan.training.checkpoint import SamplingModel


def given_prompts(prompt: str | None, prompts: str | None) -> list[tuple[str, str]]:
    """Where each prompt comes from, for messages, and its text; nothing when neither option is given.

    Args:
        prompt: the text of ``--prompt``.
        prompts: the file of ``--prompts``, one prompt a line; ``-`` is standard input.

    Raises:
        UserError: both are given, the file cannot be read, or a prompt is empty.
    """
    if prompt is not None and prompts is not None:
        raise UserError("--prompt and --prompts are two sources: give one")
    if prompt is not None:
        if not prompt.strip():
            raise UserError("--prompt is empty: leave it away for free texts")
        return [("--prompt", prompt)]
    if prompts is None:
        return []
    name = "standard input" if prompts == "-" else prompts
    try:
        with click.open_file(prompts, "rb") as file:
            text = file.read().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"--prompts {prompts}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{name}, line {line}: not UTF-8: convert the file") from None
    lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
    if lines == [""]:
        raise UserError(f"{name} is empty: needed is one prompt a line")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            raise UserError(f"{name}, line {number}: an empty prompt: remove the line (free texts need no file)")
    return [(f"{name}, line {number}", line) for number, line in enumerate(lines, 1)]


def encode_prompt(model: SamplingModel, text: str, name: str) -> list[int]:
    """Ids of a prompt.

    Raises:
        UserError: the prompt, called ``name`` in the message, has words that the model does not know, or leaves
            no room for a continuation.
    """
    tokenizer, longest = model.tokenizer, model.generator.block_size - 1
    try:
        ids = tokenizer.encode(text)
    except UnicodeEncodeError:
        raise UserError(f"{name}: not UTF-8") from None
    if tokenizer.unk_id is not None and tokenizer.unk_id in ids:
        raise UserError(f"{name}: {_unknown(tokenizer, text, ids)}")
    if len(ids) > longest:
        raise UserError(
            f"{name}: {len(ids)} tokens, but the model reads {longest + 1} with the opening one: "
            f"shorten the prompt to {longest}"
        )
    return ids


def _unknown(tokenizer: LookupTokenizer, text: str, ids: list[int]) -> str:
    """Names the unknown words or characters, with the nearest known words."""
    from textgan.data.words import split_words

    text = text.lower() if tokenizer.lowercase else text
    pieces = split_words(text) if tokenizer.kind == "word" else list(text)
    unknown = list(dict.fromkeys(piece for piece, i in zip(pieces, ids, strict=True) if i == tokenizer.unk_id))
    what = "word" if tokenizer.kind == "word" else "character"
    named = []
    for piece in unknown[:5]:
        near = []
        if tokenizer.kind == "word":
            near = difflib.get_close_matches(piece, tokenizer.tokens(range(2, tokenizer.vocab_size)), 3)
        named.append(f"`{piece}`" + (f" (known: {', '.join(near)})" if near else ""))
    more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
    plural = "s" if len(unknown) > 1 else ""
    return f"the model does not know the {what}{plural} {', '.join(named)}{more}; use others"
