"""``python -m tests.benchmarks [NAME ...] [--json]``: our speed beside that of others, in one table.

Other names are tools with options of their own: ``cost`` (prices of forecasts), ``metrics`` and ``suite`` (metrics in
detail) and ``vae_remedies``.
"""

import importlib
import json
import platform
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import torch

from tests.benchmarks import adversarial, memory, metrics_races, mle, precision, race, sampling
from tests.benchmarks.race import Race

RACES: dict[str, Callable[[str], Iterator[Race]]] = {
    "mle": mle.races,
    "sampling": sampling.races,
    "precision": precision.races,
    "adversarial": adversarial.races,
    "self_bleu": lambda device: metrics_races.races("self_bleu", bar=100.0),
    "bleu": lambda device: metrics_races.races("bleu", bar=None),
}
NAMES = (*RACES, "memory")
TOOLS = ("cost", "metrics", "suite", "vae_remedies")


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(NAMES), metavar="[NAME]...")
@click.option("--rounds", default=7, show_default=True, type=click.IntRange(min=1), help="Interleaved, after one more.")
@click.option("--threads", type=click.IntRange(min=1), help="Of torch; default: its own choice.")
@click.option("--device", default="cpu", show_default=True, type=click.Choice(["cpu", "cuda"]))
@click.option("--json", "as_json", is_flag=True)
def main(names: tuple[str, ...], rounds: int, threads: int | None, device: str, as_json: bool) -> None:
    """Race textgan against other libraries, or in other arithmetic.

    All of mle, sampling, precision, adversarial, self_bleu, bleu, memory, or NAMEs.
    """
    if threads:
        torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    results, memories = {}, None
    for name in names or NAMES:
        if name == "memory":
            memories = memory.measure()
            continue
        for contest in RACES[name](device):
            results[contest.name] = race.run(contest, rounds, lambda line: click.echo(line, err=True))
    machine = (
        f"{torch.cuda.get_device_name()}" if device == "cuda" else f"{torch.get_num_threads()} threads of {_cpu()}"
    )
    if as_json:
        click.echo(json.dumps({"machine": machine, **results, **({"memory": memories} if memories else {})}, indent=2))
        return
    click.echo(f"torch {torch.__version__}, {machine}; medians of {rounds} interleaved rounds")
    if results:
        click.echo(race.table(results))
    if memories:
        click.echo(memory.table(memories))


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if len(sys.argv) > 1 and sys.argv[1] in TOOLS:
    tool = sys.argv.pop(1)
    importlib.import_module(f"tests.benchmarks.{tool}").main(prog_name=f"python -m tests.benchmarks {tool}")
else:
    main(prog_name="python -m tests.benchmarks")
