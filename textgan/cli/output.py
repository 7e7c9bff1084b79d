"""Where texts go and how they look there: files and terminals, formats, wrapped lines, progress."""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from textgan.errors import UserError

NARROWEST = 20  # cells that a text gets beside its label, however narrow the terminal is


def say(message: str) -> None:
    """One line on stderr."""
    click.echo(message, err=True)


def check_output(*, lines: bool, as_json: bool, output: str | None) -> None:
    """UserError for two formats, or for a file that cannot be written."""
    if lines and as_json:
        raise UserError("--lines and --json are two formats: give one")
    if output is not None and not Path(output).resolve().parent.is_dir():
        raise UserError(f"--output {output}: there is no folder {Path(output).resolve().parent}")
    if output is not None and Path(output).is_dir():
        raise UserError(f"--output {output} is a folder: give a file")


@contextmanager
def sink(output: str | None) -> Iterator[tuple[Callable[[str], None], int | None]]:
    """A function that writes, and the width of the terminal where it writes to one.

    A file appears under its name when all is written, or when Ctrl-C ended it early.
    """
    if output is None:
        terminal = sys.stdout.isatty()
        yield (
            lambda text: click.echo(text, nl=False),
            shutil.get_terminal_size().columns if terminal else None,
        )
        return
    path = Path(output)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            yield file.write, None
        partial.replace(path)
    except OSError as error:
        raise UserError(f"--output {output}: {error.strerror}") from None
    finally:
        partial.unlink(missing_ok=True)


def json_lines(records: list[dict]) -> str:
    """One JSON object a line."""
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def text_lines(records: list[dict]) -> str:
    """The ``text`` of each record on one line."""
    return "".join(" ".join(record["text"].splitlines()) + "\n" for record in records)


def wrap(text: str, width: int) -> str:
    """The text in lines of at most ``width`` terminal cells; a Chinese character takes two."""
    from rich.console import Console
    from rich.text import Text

    return "\n".join(line.plain.rstrip() for line in Text(text).wrap(Console(width=width), width))


def labelled(rows: Iterable[tuple[str, str]], width: int | None, column: int) -> str:
    """Texts behind labels, which take ``column`` cells and two more; later lines of a text stand under its first."""
    lines = []
    for label, text in rows:
        if width is not None:
            text = wrap(text, max(width - column - 2, NARROWEST))
        first, *more = text.splitlines() or [""]
        lines += [f"{label:<{column}}  {first}".rstrip(), *(f"{'':{column}}  {line}".rstrip() for line in more)]
    return "".join(line + "\n" for line in lines)


@contextmanager
def progress(total: int, *, visible: bool) -> Iterator[Callable[[int], None]]:
    """A function that counts texts, with a bar on stderr where that is a terminal."""
    if not visible or not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.0f} texts/s"),
        TimeRemainingColumn(),
    )
    started = time.monotonic()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("texts", total=total, rate=0.0)

        def advance(count: int) -> None:
            done = bar.tasks[0].completed + count
            bar.update(task, completed=done, rate=done / (time.monotonic() - started))

        yield advance
