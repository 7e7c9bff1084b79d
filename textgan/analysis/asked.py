"""What a model of pairs is asked for when it is judged: the conditions of held-out pairs, in turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from textgan.analysis.condition_measures import MOST, TIMES
from textgan.data.dataset import TokenDataset


class Asked(NamedTuple):
    """A condition for each text to be written.

    Attributes:
        conditions: N of them.
        openings: the ids that stand for each before its text.
    """

    conditions: list[str]
    openings: list[list[int]]


def in_turn(dataset: TokenDataset, conditions: Sequence[str], n: int) -> Asked:
    """Those of ``n`` texts: of the pairs one after the other, and again from the first.

    Args:
        dataset: rows of pairs.
        conditions: of each pair that the data set was built from.
    """
    return _of_rows(dataset, conditions, [i % len(dataset) for i in range(n)])


def repeated(dataset: TokenDataset, conditions: Sequence[str]) -> Asked:
    """:data:`TIMES` texts for each of the first :data:`MOST` conditions that differ."""
    first: dict[str, int] = {}
    for row, place in enumerate(dataset.origins.tolist()):
        first.setdefault(conditions[place], row)
    return _of_rows(dataset, conditions, [row for row in [*first.values()][:MOST] for _ in range(TIMES)])


def _of_rows(dataset: TokenDataset, conditions: Sequence[str], rows: list[int]) -> Asked:
    places = dataset.origins.tolist()
    return Asked([conditions[places[row]] for row in rows], [dataset.opening(row) for row in rows])
