"""Texts that the command line names: prompts and texts to read, given there or in files."""

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
    return [] if prompts is None else lines_of(prompts, "--prompts", "prompt")


def lines_of(path: str, option: str, what: str) -> list[tuple[str, str]]:
    """Where each line of a UTF-8 file stands, for messages, and the line; ``-`` is standard input.

    Raises:
        UserError: the file, named by ``option``, is empty (``what`` should stand on each line) or cannot be read.
    """
    name = "standard input" if path == "-" else path
    try:
        with click.open_file(path, "rb") as file:
            text = file.read().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{option} {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{name}, line {line}: not UTF-8: convert the file") from None
    lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
    if lines == [""]:
        raise UserError(f"{name} is empty: needed is one {what} a line")
    return [(f"{name}, line {number}", line) for number, line in enumerate(lines, 1)]
