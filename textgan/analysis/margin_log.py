"""A comparison in TensorBoard: means over seeds with their intervals, as runs that its margin charts draw.

``OUT/tensorboard/ARM`` has the operating points of an arm under ``FAMILY/METRIC/value`` with ``lower`` and ``upper``;
the step is 100 times the knob of the sampler (temperature 0.8 is step 80). ``OUT/tensorboard/training/TITLE`` has the
curves of the training itself, mean over the runs of one setting. The custom-scalars page lays them out with bands.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from textgan.metrics.jackknife import t_quantile
from textgan.sampling.samplers import parse_samplers

PARTS = ("value", "lower", "upper")  # the order in which a margin chart wants its tags
EXPLAINING = ("copies", "nearest_train", "novelty_4", "length_mean", "distinct_2", "unique", "nll_div", "truncated")
TRAINING = ("quality/", "diversity/", "train/d_acc", "train/entropy")


def log_margins(comparison: Mapping[str, Any], folder: Path) -> None:
    """Write the event files of a comparison below ``folder``, in place of those that are there.

    Args:
        comparison: what ``textgan compare --json`` prints.
        folder: ``OUT/tensorboard``; what is in it is taken away first.
    """
    shutil.rmtree(folder, ignore_errors=True)
    charts: dict[str, dict[str, list[Any]]] = {}
    shown = _shown(comparison)
    for arm in comparison["arms"]:
        with SummaryWriter(str(folder / arm["name"])) as writer:
            for point in sorted(arm["points"], key=_knob):  # steps of one tag ascend
                for metric, value in point["values"].items():
                    ends = (value["mean"], value["lower"], value["upper"])
                    if None not in ends:
                        tag = f"{point['family']}/{metric}"
                        _write(writer, tag, ends, _knob(point))
                        if metric in shown:
                            charts.setdefault(f"{point['family']} (step: 100 x)", {})[metric] = _chart(tag)
    training: dict[str, list[Any]] = {}
    for title, runs in _settings(comparison["arms"]).items():
        curves = training_curves(list(map(Path, runs)), comparison["level"])
        if curves:
            with SummaryWriter(str(folder / "training" / title)) as writer:
                for tag, steps in curves.items():
                    training[tag] = _chart(tag)
                    for step, ends in steps.items():
                        _write(writer, tag, ends, step)
    if training:
        charts["training, mean over seeds"] = training
    # The page shows categories, and the charts of each, from the last to the first.
    order = [*shown, *training]
    layout = {
        title: dict(sorted(own.items(), key=lambda item: -order.index(item[0])))
        for title, own in reversed(charts.items())
    }
    with SummaryWriter(str(folder)) as writer:
        writer.add_custom_scalars(layout)


def _shown(comparison: Mapping[str, Any]) -> list[str]:
    """Metrics that get a chart: those of the fronts, those that are joint, then some that explain them."""
    fronts = [pair[axis] for pair in comparison["pairs"] for axis in ("quality", "diversity")]
    return list(dict.fromkeys([*fronts, *(row["metric"] for row in comparison["joint"]), *EXPLAINING]))


def training_curves(runs: Sequence[Path], level: float) -> dict[str, dict[int, tuple[float, float, float]]]:
    """Mean of each logged value over several runs with its Student-t interval, by tag and step.

    Steps and values that not all runs have are left out; empty for a single run.
    """
    logs = [_log(run) for run in runs if (run / "metrics.jsonl").is_file()]
    if len(logs) < 2 or len(logs) < len(runs):
        return {}
    quantile = t_quantile(level, len(logs) - 1)
    curves: dict[str, dict[int, tuple[float, float, float]]] = {}
    for (tag, step), first in logs[0].items():
        values = [first, *(log.get((tag, step)) for log in logs[1:])]
        if None in values:
            continue
        mean, half = float(np.mean(values)), quantile * float(np.std(values, ddof=1)) / len(values) ** 0.5
        curves.setdefault(tag, {})[step] = (mean, mean - half, mean + half)
    return curves


def _log(run: Path) -> dict[tuple[str, int], float]:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    return {
        (tag, record["step"]): value
        for record in records
        for tag, value in record.items()
        if tag.startswith(TRAINING) and not tag.endswith("_real") and value is not None
    }


def _settings(arms: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The runs of each setting, under its title."""
    return {arm["title"]: arm["runs"] for arm in arms}


def _knob(point: Mapping[str, Any]) -> int:
    return round(100 * parse_samplers(point["sampler"])[0].value)


def _write(writer: SummaryWriter, tag: str, ends: tuple[float, float, float], step: int) -> None:
    for part, value in zip(PARTS, ends, strict=True):
        writer.add_scalar(f"{tag}/{part}", value, step)


def _chart(tag: str) -> list[Any]:
    return ["Margin", [f"{tag}/{part}" for part in PARTS]]
