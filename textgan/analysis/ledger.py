"""What stands in a run's ``evaluation/`` folder beside its records: looks at the test split, and the super-baseline.

``test_reads.json``: how often evaluations of this run have read the test split, when, and by which command. Selection
reads dev; a number of the test split that was looked at often is worth less, and says so.

``super_baseline.json``: for each arm trained by maximum likelihood, or a bound of it, alone, the best value of each
metric over all samplers, and which sampler that was: what an adversarial arm has to beat.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from textgan.analysis.points import Point
from textgan.errors import UserError
from textgan.metrics.suite import better
from textgan.training.checkpoint import write_atomically

MLE_ARMS = ("pretrained", "mle", "continued", "mle+kneser_ney", "vae", "vae+aggregate")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file; empty where there is none. UserError where it is no JSON."""
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is broken ({error}); mend it or move it away") from None


def test_reads(run: Path) -> int:
    """How often evaluations of this run have read its test split."""
    return read_json(run / "evaluation" / "test_reads.json").get("count", 0)


def begin_test_read(run: Path, command: str, points: int) -> int:
    """Enter a look at the test split, of so many points, and return the count with this one.

    The same command again, after it was stopped, goes on with the look that it had begun.
    """
    path = run / "evaluation" / "test_reads.json"
    reads = read_json(path).get("reads", [])
    if not (reads and reads[-1]["command"] == command and not reads[-1]["finished"]):
        date = datetime.now(timezone.utc).isoformat(timespec="seconds")
        reads.append({"date": date, "command": command, "points": points, "finished": False})
    _write(path, {"count": len(reads), "reads": reads})
    return len(reads)


def end_test_read(run: Path) -> None:
    """Enter that the last look came to its end."""
    path = run / "evaluation" / "test_reads.json"
    content = read_json(path)
    content["reads"][-1]["finished"] = True
    _write(path, content)


def super_baseline(points: Iterable[Point], real: Mapping[str, float]) -> dict[str, dict[str, dict[str, Any]]]:
    """By arm (of :data:`MLE_ARMS`) and metric: the best ``value``, its ``sampler`` and ``interval``.

    Best is highest or lowest, as the metric says; where more is neither better nor worse (length), nearest to real
    text, and left out where that is not known. Metrics that are the same for all samplers are theirs without one.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    by_arm: dict[str, list[Point]] = {}
    for point in points:
        if point.arm in MLE_ARMS:
            by_arm.setdefault(point.arm, []).append(point)
    for arm, own in by_arm.items():
        for name in dict.fromkeys(name for point in own for name in point.values):
            having = [point for point in own if name in point.values]
            best = min(having, key=lambda point: badness(name, point.values[name], real))
            if math.isinf(badness(name, best.values[name], real)):
                continue
            same = len({point.values[name] for point in having}) == 1 and len(having) > 1
            found.setdefault(arm, {})[name] = {
                "value": best.values[name],
                "sampler": None if same else best.sampler,
                "interval": best.intervals.get(name),
                "better": better(name),
            }
    return found


def badness(name: str, value: float, real: Mapping[str, float]) -> float:
    """A number that is lower the better the metric's value is; infinite where there is nothing to judge it by."""
    if better(name):
        return -better(name) * value
    return abs(value - real[name]) if name in real else math.inf


def write_super_baseline(run: Path, setting: str, points: Sequence[Point], real: Mapping[str, float]) -> None:
    """Enter the super-baseline of these points under ``setting`` (such as ``dev-n10000-s0``)."""
    path = run / "evaluation" / "super_baseline.json"
    _write(path, {**read_json(path), setting: super_baseline(points, real)})


def _write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(content, indent=1, ensure_ascii=False))
