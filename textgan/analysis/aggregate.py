"""Operating points of several seeds as one: mean and interval of each metric, fronts, and what is best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from textgan.analysis.ledger import badness
from textgan.analysis.points import Point, read_texts
from textgan.analysis.study import Arm
from textgan.metrics.bands import mean_over_seeds
from textgan.metrics.front import Front, envelope
from textgan.metrics.jackknife import t_quantile
from textgan.metrics.suite import better
from textgan.sampling.samplers import PLAIN

SAMPLES = 20  # texts of a point that are shown


def over_seeds(points: Sequence[Point], level: float) -> dict[str, dict[str, Any]]:
    """``mean``, ``lower``, ``upper`` and ``per_seed`` of each metric that the point has for every seed.

    The interval covers seeds and sampling where there are several seeds, sampling alone where there is one (delete-a-
    group jackknife, or the interval of the record where that is all there is). Ends are None where nothing is known.
    """
    found = {}
    for name in points[0].values:
        if not all(name in point.values for point in points):
            continue
        per_seed = [point.values[name] for point in points]
        lower, upper = _ends(name, points, per_seed, level)
        mean = float(np.mean(per_seed))
        found[name] = {"mean": mean, "lower": lower, "upper": upper, "per_seed": per_seed}
    return found


def _ends(
    name: str, points: Sequence[Point], per_seed: Sequence[float], level: float
) -> tuple[float | None, float | None]:
    if len(set(per_seed)) == 1 and all(not np.ptp(point.groups.get(name, [0, 1])) for point in points):
        return per_seed[0], per_seed[0]  # such as a share of 0: nothing varies
    if all(name in point.groups for point in points):
        rows = [np.append(point.values[name], point.groups[name])[:, None] for point in points]
        estimate = mean_over_seeds(rows, level=level)
        return float(estimate.lower[0]), float(estimate.upper[0])
    if len(per_seed) > 1:
        half = t_quantile(level, len(per_seed) - 1) * float(np.std(per_seed, ddof=1)) / len(per_seed) ** 0.5
        return float(np.mean(per_seed)) - half, float(np.mean(per_seed)) + half
    interval = points[0].intervals.get(name) if level == 0.95 else None
    return (None, None) if interval is None else (interval[0], interval[1])


def arm_points(arm: Arm, level: float) -> list[dict[str, Any]]:
    """Each sampler of an arm: ``sampler``, ``family``, ``values`` over seeds, ``samples`` of the first seed."""
    return [
        {
            "sampler": sampler,
            "family": own[0].point.family,
            "values": over_seeds([record.point for record in own], level),
            "samples": read_texts(own[0].path, SAMPLES),
        }
        for sampler, own in arm.records.items()
    ]


def fronts(
    arm: Arm, seeds: Sequence[int], quality: str, diversity: str, *, family: str | None = None
) -> list[Front] | None:
    """The front of each of these seeds, larger better on both axes; None where no sampler has both metrics.

    Args:
        arm: whose operating points they are.
        seeds: of the arm.
        quality, diversity: metrics of which more is better or worse.
        family: only samplers of this family.
    """
    samplers = [
        sampler
        for sampler in arm.having(quality, diversity, family=family)
        if all(name in record.point.groups for record in arm.records[sampler] for name in (quality, diversity))
    ]
    if not samplers:
        return None
    found = []
    for seed in seeds:
        points = [arm.records[sampler][arm.seeds.index(seed)].point for sampler in samplers]
        found.append(front_of(points, quality, diversity))
    return found


def envelopes(arm: Arm, seeds: Sequence[int], quality: str, diversity: str) -> list[Front] | None:
    """The best of all samplers of each of these seeds: at every quality, of the family that is best there."""
    families = dict.fromkeys(own[0].point.family for own in arm.records.values())
    curves = [fronts(arm, seeds, quality, diversity, family=family) for family in families]
    by_seed = list(zip(*filter(None, curves), strict=True))
    return [envelope(own) for own in by_seed] or None


def front_of(points: Sequence[Point], quality: str, diversity: str) -> Front:
    """The front of these points, of which each has both metrics with their leave-group-out values."""
    values = [np.array([point.values[name] * better(name) for point in points]) for name in (quality, diversity)]
    groups = [np.array([point.groups[name] * better(name) for point in points]) for name in (quality, diversity)]
    return Front(*values, *groups, tuple(point.sampler for point in points))


def summary_table(
    names: Sequence[str], arms: Mapping[str, Sequence[dict[str, Any]]], real: Mapping[str, float]
) -> list[dict[str, Any]]:
    """For each metric its value at temperature 1 and its best over all samplers, arm by arm.

    Args:
        names: of the metrics.
        arms: points by arm, as :func:`arm_points` gives them.
        real: values of real text; nearest to it is best where more is neither better nor worse.
    """
    rows = []
    for name in names:
        row: dict[str, Any] = {"metric": name, "better": better(name), "real": real.get(name), "arms": {}}
        for arm, points in arms.items():
            having = [point for point in points if name in point["values"]]
            cells: dict[str, Any] = {}
            for point in having:
                if point["sampler"] == str(PLAIN):
                    cells["at_1"] = point["values"][name]
            if having:
                best = min(having, key=lambda point: badness(name, point["values"][name]["mean"], real))
                if np.isfinite(badness(name, best["values"][name]["mean"], real)):
                    same = len(having) > 1 and len({tuple(p["values"][name]["per_seed"]) for p in having}) == 1
                    cells["best"] = {**best["values"][name], "sampler": None if same else best["sampler"]}
                row["arms"][arm] = cells
        rows.append(row)
    return rows
