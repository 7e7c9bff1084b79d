"""Texts on the terminal while they are written."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from textgan.cli.output import say
from textgan.cli.writing import Job, Plan
from textgan.errors import UserError

if TYPE_CHECKING:
    from textgan.data.tokenizer import Tokenizer
    from textgan.training.loading import SamplingModel


class Shown:
    """Puts texts on standard output as they grow, one behind the other: what stays at once, the rest at the end.

    What may still change waits: a part of a character, the space at a quotation mark, the beginning of a stop string.
    All that is put is what ``textgan sample`` prints of the texts when they are done.
    """

    def __init__(self, tokenizer: Tokenizer, stop_strings: Sequence[str], *, lines: bool = False):
        """``lines``: one text a line, else an empty line between texts."""
        self._tokenizer, self._stop_strings, self._lines = tokenizer, stop_strings, lines
        self._put, self._before = "", ""  # what is out of this text; what is to stand before it

    def grow(self, prompt: Sequence[int], ids: Sequence[int]) -> None:
        """Puts what is new of a text that goes on."""
        text = self._tokenizer.settled([*prompt, *ids])
        begun = [
            len(text) - n for string in self._stop_strings for n in range(len(string)) if text.endswith(string[:n])
        ]
        self._advance(self._form(text[: min(begun, default=len(text))]))

    def rest(self, records: list[dict]) -> str:
        """What is to be put of a text that is done, with its line break."""
        text = self._form(records[0]["text"])
        rest = (text[len(self._put) :] if self._put else self._before + text) + "\n"
        self._put, self._before = "", "" if self._lines else "\n"
        return rest

    def break_off(self) -> None:
        """Ends the line of a text that will not be finished."""
        if self._put:
            click.echo()
        self._put = ""

    def _advance(self, text: str) -> None:
        if len(text) > len(self._put):
            click.echo(text[len(self._put) :] if self._put else self._before + text, nl=False)
            self._put = text

    def _form(self, text: str) -> str:
        return " ".join(text.splitlines()) if self._lines else text


def answer_lines(
    model: SamplingModel, plan: Plan, write_all: Callable[..., Iterator[list[dict]]], new_shown: Callable[[], Shown]
) -> None:
    """Shows a text of each line of standard input, its prompt, until its end or Ctrl-C; says which cannot be one.

    Args:
        model: what writes.
        plan: one for single texts; line i is written with the random numbers of text i.
        write_all: :func:`textgan.cli.writing.write_all` of this model, given a plan and who watches.
        new_shown: what shows a text.
    """
    lines = sys.stdin.buffer
    shown = new_shown()
    try:
        for number in itertools.count():
            if lines.isatty():
                click.echo("> ", nl=False, err=True)
            line = lines.readline()
            if not line:
                return
            try:
                text = line.decode().rstrip("\r\n")
                ids = model.encode_prompt(text, name="this line")
            except UnicodeDecodeError:
                say("this line: not UTF-8")
                continue
            except UserError as error:
                say(str(error))
                continue
            job, shown = Job({"prompt": text}, number, ids), new_shown()
            for records in write_all(plan=replace(plan, total=1, jobs=lambda rows, job=job: [job]), watch=shown.grow):
                click.echo(shown.rest(records), nl=False)
    except KeyboardInterrupt:
        shown.break_off()


def check_alone(option: str, others: dict[str, object], why: str) -> None:
    """UserError where one of the other options is given (not None, False or empty)."""
    given = [name for name, value in others.items() if value is not None and value is not False and value != ()]
    if given:
        raise UserError(f"{option} {why}: {given[0]} does not go with it; leave one away")
