"""The table of a comparison for terminals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from textgan.sampling.samplers import PLAIN

WIDE = 10_000
WAYS = {1: "high", -1: "low", 0: "real"}


def summaries(comparison: Mapping[str, Any], metrics: Sequence[str], width: int) -> list[Table]:
    """Arms beside each other: in one table, or in as many as it takes for none to be wider than ``width`` columns."""
    names = [arm["name"] for arm in comparison["arms"]]
    for columns in range(len(names), 0, -1):
        parts = [names[i : i + columns] for i in range(0, len(names), columns)]
        tables = [_summary(comparison, metrics, part) for part in parts]
        if columns == 1 or all(_width(table) <= width for table in tables):
            return tables
    return []


def _width(table: Table) -> int:
    wide = Console(width=WIDE)
    return Measurement.get(wide, wide.options, table).maximum


def _summary(comparison: Mapping[str, Any], metrics: Sequence[str], names: Sequence[str]) -> Table:
    """A row for each of these metrics that is known: real text, and each arm at temperature 1 and at its best."""
    arms = [arm for arm in comparison["arms"] if arm["name"] in names]
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("metric", no_wrap=True)
    table.add_column("best", no_wrap=True)
    table.add_column("real text", justify="right", no_wrap=True)
    for arm in arms:
        table.add_column(Text(f"{arm['label']}\ntemperature 1 / best"), justify="right", no_wrap=True)
    rows = {row["metric"]: row for row in comparison["table"]}
    for name in metrics:
        if name in rows:
            row = rows[name]
            real = "-" if row["real"] is None else f"{row['real']:.4f}"
            cells = [Text(_cell(row["arms"].get(arm["name"], {}))) for arm in arms]
            table.add_row(Text(name), WAYS[row["better"]], real, *cells)
    return table


def _cell(values: Mapping[str, Any]) -> str:
    """Two lines: at temperature 1, and the best with its sampler; one where that is the best, or no sampler matters."""
    plain, best = values.get("at_1"), values.get("best")
    lines = [_number(plain)]
    if best is not None and best["sampler"] not in (None, str(PLAIN)):
        lines.append(f"{_number(best)} {best['sampler']}")
    return "\n".join(lines)


def _number(value: Mapping[str, Any] | None) -> str:
    """The mean, and half the width of its interval."""
    if value is None:
        return "-"
    if value["lower"] is None:
        return f"{value['mean']:.4f}"
    return f"{value['mean']:.4f} ±{(value['upper'] - value['lower']) / 2:.4f}"
