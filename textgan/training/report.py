"""What a person reads at the end of a run: the table of metrics, before and after."""

import math
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

# name, what is best (real: the value of real text), digits
ROWS = (
    ("nll", "low", 4),
    ("nll_known", "low", 4),
    ("test_nll", "low", 4),
    ("test_nll_known", "low", 4),
    ("elbo_nll", "low", 4),
    ("recon", "low", 3),
    ("kl", "-", 3),
    ("mi", "high", 3),
    ("active_units", "high", 0),
    ("active_directions", "high", 0),
    ("valid", "high", 3),
    ("condition_gain", "high", 2),
    ("obeyed", "high", 3),
    ("kl_to_model", "low", 3),
    ("nll_true", "real", 3),
    ("nll_oracle", "real", 4),
    ("bleu_2", "real", 3),
    ("bleu_3", "real", 3),
    ("bleu_4", "real", 3),
    ("bleu_5", "real", 3),
    ("self_bleu_2", "real", 3),
    ("self_bleu_3", "real", 3),
    ("self_bleu_4", "real", 3),
    ("self_bleu_5", "real", 3),
    ("distinct_1", "real", 3),
    ("distinct_2", "real", 3),
    ("distinct_3", "real", 3),
    ("entropy_2", "real", 3),
    ("unique", "real", 3),
    ("repetition_4", "real", 3),
    ("novelty_4", "real", 3),
    ("copies", "real", 4),
    ("length_mean", "real", 2),
    ("length_sd", "real", 2),
)
CLASSIFIER_ROWS = (
    ("accuracy", "high"),
    ("macro_f1", "high"),
    ("cross_entropy", "low"),
    ("ece", "low"),
    ("majority", "-"),
)
UNITS = {
    "nats a token, end counted": ("nll", "nll_known", "test_nll", "test_nll_known", "elbo_nll"),
    "nats a token": ("nll_oracle",),
    "nats a text": ("kl_to_model", "nll_true", "recon", "kl"),
    "nats": ("mi",),
}


def print_results(results: dict[str, Any]) -> None:
    """Print the table of results.json on stdout: one column a phase, real text beside.

    Where that is too wide for the terminal, the columns of the best dev NLL are left out, and it is said.
    """
    console = Console(highlight=False)
    phases = results["phases"]
    if "classifier" in phases:
        print_classifier(console, results["run"], phases["classifier"])
        return
    rows = table_rows(phases)
    if table_width(rows) > console.width:
        phases = {name: entry for name, entry in phases.items() if not name.endswith("(best dev NLL)")}
        rows = table_rows(phases)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("metric", no_wrap=True)
    titles = ["real text", *(f"{name}\nstep {entry['step']}" for name, entry in phases.items())]
    for i, title in enumerate(titles, 1):
        table.add_column(title, justify="right", min_width=max(len(row[i]) for row in rows))
    table.add_column("best", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(f"{results['run']}: {results['signature']['texts']} samples\n", markup=False, soft_wrap=True)
    console.print(table)
    shown = {row[0] for row in rows}
    units = {unit: [name for name in names if name in shown] for unit, names in UNITS.items()}
    told = "; ".join(f"{', '.join(names)}: {unit}" for unit, names in units.items() if names)
    console.print(f"\n{told}", markup=False)
    if len(phases) < len(results["phases"]):
        console.print("best dev NLL: left out on a narrow terminal; see results.json", markup=False)
    for line in arm_lines(phases):
        console.print(line, markup=False, soft_wrap=True)


def print_classifier(console: Console, run: str, entry: dict[str, Any]) -> None:
    """Print the scores of a classifier on dev and test, and its confusion matrix on the latter (else on dev)."""
    metrics, confusion = entry["metrics"], entry["confusion"]
    table = _plain_table(["metric", *confusion, "best"])
    for name, best in CLASSIFIER_ROWS:
        values = [metrics[name if split == "dev" else f"{split}_{name}"] for split in confusion]
        table.add_row(name, *(f"{value:.4f}" for value in values), best)
    console.print(f"{run}: classifier, best step {entry['step']}\n", markup=False, soft_wrap=True)
    console.print(table)
    split = list(confusion)[-1]
    console.print(f"\n{split} texts by true class (row) and named class (column)\n", markup=False)
    classes = _plain_table(["", *entry["classes"]])
    for name, row in zip(entry["classes"], confusion[split], strict=True):
        classes.add_row(escape(name), *map(str, row))
    console.print(classes)


def _plain_table(titles: list[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for i, title in enumerate(titles):
        table.add_column(escape(title), justify="right" if i else "left", no_wrap=True)
    return table


def table_rows(phases: dict[str, Any]) -> list[list[str]]:
    """Rows of the table, as text: the metric, real text, each phase, what is best; metrics nowhere known left out."""
    rows = []
    for name, best, digits in ROWS:
        values = [entry["metrics"].get(name, math.nan) for entry in phases.values()]
        if all(map(math.isnan, values)):
            continue
        real = next(iter(phases.values()))["metrics"].get(f"{name}_real", math.nan)
        cells = ["-" if math.isnan(v) else f"{v:.{digits}f}" for v in (real, *values)]
        rows.append([name, *cells, best])
    return rows


def table_width(rows: list[list[str]]) -> int:
    """Columns of a terminal that the cells of the table need, a space between each."""
    return sum(max(map(len, column)) + 1 for column in zip(*rows, strict=True))


def arm_lines(phases: dict[str, Any]) -> list[str]:
    """What the table does not show of each arm in results.json: what its nll is, what it started from, how it was
    calibrated, and the baseline's budget."""
    lines = []
    for name, entry in phases.items():
        fitted, bound = entry.get("calibration"), entry.get("iw_samples")
        if bound:
            lines.append(f"{name}: nll is an upper bound, importance-weighted with {bound} draws of z a text")
        if origin := entry.get("started_from"):
            lines.append(f"{name}: its decoder started from {origin} and learned on: no comparison at equal updates")
        if fitted:
            lines.append(
                f"{name}: calibrated on dev: temperature {fitted['temperature']:.3f}, <unk> bias "
                f"{fitted['unk_bias']:+.2f}, {'reconstruction' if 'recon' in entry['metrics'] else 'nll'} "
                f"{fitted['nll_before']:.4f} -> {fitted['nll_after']:.4f}"
            )
        elif "calibration" in entry:
            lines.append(f"{name}: not calibrated")
        if budget := entry.get("budget"):
            amount = {
                "steps": "",
                "tokens": f" ({budget.get('tokens', 0):,})",
                "seconds": f" ({budget.get('seconds', 0):.0f})",
            }[budget["rule"]]
            lines.append(
                f"{name}: maximum likelihood from the same parent, {budget['steps']:,} steps, as many "
                f"{budget['rule']}{amount} as the adversarial phase"
            )
    return lines
