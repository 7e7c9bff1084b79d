"""The best of several texts, as a classifier or a critic judges them: ``textgan sample --best-of``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import click

from textgan.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


def judge_options(command: Callable) -> Callable:
    """Add the options of this module to a command, as ``best_of``, ``judge`` and ``wanted``."""
    for option in (
        click.option(
            "--class", "wanted", metavar="NAME", help="The class that --judge, where it is a classifier, is to find."
        ),
        click.option(
            "--judge", metavar="RUN", help="Run of a classifier, or of an adversarial phase whose critic judges."
        ),
        click.option(
            "--best-of",
            type=click.IntRange(min=2),
            metavar="K",
            help="Draw K texts for each that is written, and write the one that --judge scores highest.",
        ),
    ):
        command = option(command)
    return command


def check_choice(best_of: int | None, judge: str | None, wanted: str | None) -> None:
    """UserError where the options of this module lack each other."""
    if wanted is not None and judge is None:
        raise UserError(f"--class {wanted} is for --judge RUN: give the run of a classifier, and --best-of K")
    if (best_of is None) != (judge is None):
        raise UserError("--best-of K and --judge RUN belong together: give both")


def check_drawn(best_of: int, *, fixed: bool, task: bool) -> None:
    """UserError where there is nothing to choose from.

    ``fixed``: the settings draw nothing; ``task``: a VAE writes where texts are.
    """
    if task:
        raise UserError(f"--best-of {best_of} chooses among free texts or continued prompts: leave the VAE's task away")
    if fixed:
        raise UserError(f"--best-of {best_of} chooses among drawn texts, but nothing is drawn at these settings")


def choose(
    batches: Iterator[list[dict]], best_of: int, judge: Callable[[Sequence[str]], Tensor]
) -> Iterator[list[dict]]:
    """Of each ``best_of`` records that follow each other the one whose text is scored highest, first among equals.

    Records get their score and how many they were chosen from. Each group is judged by itself, so that the choice does
    not depend on the batches.
    """
    waiting: list[dict] = []
    for records in batches:
        waiting += records
        chosen = []
        while len(waiting) >= best_of:
            group, waiting = waiting[:best_of], waiting[best_of:]
            scores = judge([record["text"] for record in group])
            best = int(scores.argmax())
            found = {"index": group[best]["index"] // best_of, "score": float(scores[best]), "best_of": best_of}
            chosen.append(group[best] | found)
        if chosen:
            yield chosen
