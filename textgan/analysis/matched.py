"""Fronts of two arms whose texts were weighted to the same lengths and the same novelty."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from textgan.analysis.points import read_columns
from textgan.analysis.runs import Record
from textgan.analysis.study import Arm
from textgan.metrics.front import Front
from textgan.metrics.matching import PointTexts, matched_fronts
from textgan.metrics.suite import better

NOVELTY = "novelty_4"
STRATA = ("length", NOVELTY, "copied")


class Matched(NamedTuple):
    """One front a pair of seeds of either arm; ``effective``: the least effective share of texts of any point.

    ``left_out``: samplers at which, for some seed, the sets have too little in common to be matched.
    """

    baseline: list[Front]
    other: list[Front]
    effective: float
    left_out: tuple[str, ...]


def matched(
    against: Arm, arm: Arm, seeds: Sequence[tuple[int, int]], pair: tuple[str, str], *, family: str
) -> Matched | None:
    """Matched fronts over the samplers of a family that both arms have.

    None where some set cannot be weighted: a metric is no mean over texts, lengths or novelty are not known, or nothing
    is left.

    Args:
        against, arm: baseline and challenger.
        seeds: of ``arm`` and of ``against`` in each pair.
        pair: metrics (quality, diversity).
        family: of samplers.
    """
    there = against.having(*pair, family=family)
    samplers = [sampler for sampler in arm.having(*pair, family=family) if sampler in there]
    if not samplers:
        return None
    baseline, other, shares, left_out = [], [], [], {}
    for own, theirs in seeds:
        points = [
            [_point_texts(side.records[sampler][side.seeds.index(seed)], pair) for sampler in samplers]
            for side, seed in ((against, theirs), (arm, own))
        ]
        if any(point is None for side in points for point in side):
            return None
        found = matched_fronts(*points)
        if not found.effective:
            return None
        baseline.append(found.baseline)
        other.append(found.other)
        shares += found.effective.values()
        left_out.update(dict.fromkeys(found.left_out))
    return Matched(baseline, other, min(shares), tuple(left_out))


def _point_texts(record: Record, pair: tuple[str, str]) -> PointTexts | None:
    """The texts' values; None where they are not known, or their mean is not the metric."""
    point = record.point
    columns = read_columns(record.path, (*pair, *STRATA))
    if columns is None or any(name not in point.groups for name in pair):
        return None
    if not all(np.isclose(columns[name].mean(), point.values[name], atol=1e-6) for name in pair):
        return None
    quality, diversity = (columns[name] * better(name) for name in pair)
    without = [point.groups[name] * better(name) for name in pair]
    length, novelty, copied = (columns[name] for name in STRATA)
    return PointTexts(quality, diversity, length, novelty, copied, point.sampler, *without)
