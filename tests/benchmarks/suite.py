"""The whole suite of ``textgan evaluate`` on 10,000 captions: seconds of each family of metrics.

As many references and training texts as samples, leave-group-out values included; LM scores are told apart. No peer
measures all of this; for those of single metrics see the benchmark ``metrics``.
"""

import json
import statistics
import time

import click
import torch

from tests.benchmarks.metrics import load
from textgan.analysis.all_measures import make_measures
from textgan.analysis.measures import TextSet


@click.command()
@click.option("--n", default=10_000, show_default=True, help="Texts, and references, and training texts.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(n: int, rounds: int, device: str, as_json: bool) -> None:
    """Time the suite of `textgan evaluate`, family by family."""
    corpus, first, second = load(n)
    texts, references = ([" ".join(row) for row in rows] for rows in (first, second))
    train = texts[::-1]
    started = time.perf_counter()
    measures = make_measures(references, train, tokenize="whitespace", device=device)
    preparation = time.perf_counter() - started
    seconds: dict[str, list[float]] = {}
    for _ in range(rounds):
        for measure in measures:
            started = time.perf_counter()
            measure(TextSet(texts))
            name = type(measure).__name__.removesuffix("Measure").lower()
            seconds.setdefault(name, []).append(time.perf_counter() - started)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    report = {
        "benchmark": "suite",
        "corpus": corpus,
        "texts": n,
        "threads": torch.get_num_threads(),
        "preparation": preparation,
        "seconds": medians,
        "without_lm": sum(value for name, value in medians.items() if name != "lm"),
    }
    if as_json:
        click.echo(json.dumps(report, indent=2))
        return
    click.echo(f"{corpus}, {n} texts, {report['threads']} torch threads, median of {rounds} rounds")
    for name, value in {"references, once": preparation, **medians, "all without lm": report["without_lm"]}.items():
        click.echo(f"  {name:<17} {value:7.2f} s")
