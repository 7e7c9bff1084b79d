"""Prompts of the command line: where they come from."""

import click

from textgan.errors import UserError


def given_prompts(prompt: str | None, prompts: str | None) -> list[tuple[str, str]]:
    """Where each prompt comes from, for messages, and its text; nothing when neither option is given.

    Args:
        prompt: the text of ``--prompt``.
        prompts: the file of ``--prompts``, one prompt a line; ``-`` is standard input.

    Raises:
        UserError: both are given, or the file is empty or cannot be read.
    """
    if prompt is not None and prompts is not None:
        raise UserError("--prompt and --prompts are two sources: give one")
    if prompt is not None:
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
    return [(f"{name}, line {number}", line) for number, line in enumerate(lines, 1)]
