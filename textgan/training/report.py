"""What a person reads at the end of a run: the table of metrics, before and after."""

import math
from typing import Any

from rich.console import Console
from rich.table import Table

from textgan.config import Config

# name, direction (which way is better; = means: close to real text), digits
ROWS = (
    ("nll", "lower", 4),
    ("nll_known", "lower", 4),
    ("test_nll", "lower", 4),
    ("test_nll_known", "lower", 4),
    ("valid", "higher", 3),
    ("kl_to_model", "lower", 3),
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
NOTES = {"lower": "lower is better", "higher": "higher is better", "real": "real text is the mark"}


def print_results(results: dict[str, Any]) -> None:
    """Print the table of results.json on stdout: one column a phase, real text beside."""
    phases = results["phases"]
    table = Table(title=f"{results['run']}: {results['signature']['texts']} samples", title_justify="left")
    table.add_column("metric")
    table.add_column("real text", justify="right")
    for name, entry in phases.items():
        table.add_column(f"{name}\nstep {entry['step']}", justify="right")
    table.add_column("")
    for name, better, digits in ROWS:
        values = [entry["metrics"].get(name, math.nan) for entry in phases.values()]
        if all(map(math.isnan, values)):
            continue
        real = next(iter(phases.values()))["metrics"].get(f"{name}_real", math.nan)
        shown = ["-" if math.isnan(v) else f"{v:.{digits}f}" for v in (real, *values)]
        table.add_row(name, *shown, NOTES[better])
    Console().print(table)


def plan_text(config: Config, facts: dict[str, Any]) -> str:
    """What a run would do, in a few lines."""
    rows = ", ".join(f"{name} {count:,}" for name, count in facts["rows"].items())
    lines = [
        f"data: {config.data.source}; rows: {rows}; {facts['tokens_a_row']:.1f} tokens a row",
        f"tokenizer: {config.tokenizer.kind}, {facts['vocab_size']:,} tokens",
        f"generator: {facts['generator_parameters']:,} parameters",
    ]
    if "discriminator_parameters" in facts:
        lines.append(f"discriminator: {facts['discriminator_parameters']:,} parameters")
    lines += [
        f"{name}: {phase['steps']:,} steps, {phase['epochs']:.1f} epochs" for name, phase in facts["phases"].items()
    ]
    return "\n".join(lines)
