"""Remedies of posterior collapse side by side: one base config, trained once for each of them, as one table.

    python -m tests.benchmarks vae_remedies configs/vae/ptb.yaml data.source=... --out runs/remedies --seeds 0,1

Every run has a folder of its own, OUT/ROW/seed-N, and is trained by `textgan train` in a process of its own. What is
finished there is not trained again and what was interrupted goes on, so more rows and seeds can be asked for later.
With --warm, the decoder of each VAE starts from row mle of its own seed; row mle_longer is then the autoregressive
model that had as many updates as those two phases together.
"""

import json
import math
import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import click

from textgan.config import Config
from textgan.configfile import dump_config, load_config
from textgan.errors import UserError

# What a base config may have of remedies is taken out first: each row shows what it names and nothing else.
PLAIN = [
    "vae.kl_weight=1",
    "vae.kl_schedule=constant",
    "vae.free_bits=0",
    "vae.word_dropout=0",
    "vae.bn_gamma=none",
    "vae.bn_whiten=false",
    "vae.pretrain_steps=0",
    "vae.aggressive=false",
    "vae.latents=flat",
    "vae.aggregate=none",
    "latent_gan=none",
    "mle=none",
]


def remedies(base: Config) -> dict[str, list[str]]:
    """By row, the overrides of ``base`` that make it.

    Values are the usual ones of the papers; lengths of ramps and of pretraining follow the base config.
    """
    vae = base.vae
    ramp = vae.kl_ramp_steps or vae.max_steps // 2
    pretrain = vae.pretrain_steps or vae.max_steps // 4
    linear = [*PLAIN, "vae.kl_schedule=linear", f"vae.kl_ramp_steps={ramp}"]
    grouped = max(vae.z_size // base.generator.n_layer, 1) * base.generator.n_layer
    longer = f"mle.max_steps={base.mle.max_steps + vae.max_steps}"
    return {
        "mle": ["vae=none", "latent_gan=none"],  # the autoregressive model of the same size
        "mle_longer": ["vae=none", "latent_gan=none", longer],
        "ae": [*PLAIN, "vae.kl_weight=0"],
        "plain": PLAIN,
        "linear": linear,  # Bowman et al. 2016
        "cyclical": [*PLAIN, "vae.kl_schedule=cyclical"],  # Fu et al. 2019
        "free_bits": [*linear, "vae.free_bits=0.25"],  # Kingma et al. 2016, of each dimension
        "free_bits_total": [*linear, f"vae.free_bits={0.25 * vae.z_size}", "vae.free_bits_mode=total"],
        "beta": [*PLAIN, "vae.kl_weight=0.4"],  # Higgins et al. 2017, below 1; a row of He et al. 2019
        "word_dropout": [*linear, "vae.word_dropout=0.3"],  # Bowman et al. 2016
        "bn": [*linear, "vae.bn_gamma=0.5"],  # Zhu et al. 2020
        "bn_whiten": [*linear, "vae.bn_gamma=0.5", "vae.bn_whiten=true"],
        "fbp": [*linear, "vae.free_bits=0.25", f"vae.pretrain_steps={pretrain}", "vae.reset_decoder=true"],  # Li 2019
        # He et al. 2019, but at most 10 encoder updates before one of the decoder (there 100): else it takes hours.
        "aggressive": [*linear, "vae.aggressive=true", "vae.aggressive_max_updates=10"],
        "layerwise": [*linear, "vae.latents=layerwise", f"vae.z_size={grouped}"],  # Hu et al. 2022
    }


AUTOREGRESSIVE = ("mle", "mle_longer")
ROWS = (*AUTOREGRESSIVE, "ae", "plain", "linear", "cyclical", "free_bits", "free_bits_total", "beta", "word_dropout")
ROWS += ("bn", "bn_whiten", "fbp", "aggressive", "layerwise")
COLUMNS = {
    "ppl": 2,
    "nll": 2,
    "elbo": 2,
    "recon": 2,
    "kl": 2,
    "mi": 2,
    "active_units": 1,
    "active_directions": 1,
    "minutes": 1,
    "cpu_minutes": 1,
}
HEADS = ("PPL", "NLL", "-ELBO", "rec", "KL", "MI", "AU", "AD", "minutes", "CPU min")


@click.command()
@click.argument("base", type=click.Path(exists=True, dir_okay=False))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--out", required=True, type=click.Path(file_okay=False), help="Folder of all runs.")
@click.option("--rows", default=None, help=f"Comma between them: {','.join(ROWS)}.  [default: all that fit BASE]")
@click.option("--seeds", default="0", show_default=True, help="Training seeds, comma between them.")
@click.option("--warm", is_flag=True, help="Start decoders from the autoregressive model, OUT/mle, of their seed.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(
    base: str, overrides: tuple[str, ...], out: str, rows: str | None, seeds: str, warm: bool, as_json: bool
) -> None:
    """Train the remedies of posterior collapse on the config BASE, and print one table."""
    try:
        parents = Path(out) if warm else None
        plan = make_plan(base, list(overrides), rows.split(",") if rows else None, parse_seeds(seeds), parents)
        for row, seed, config in plan:
            check_finished(Path(out), row, seed, config)
    except UserError as error:
        raise click.ClickException(str(error)) from None
    for row, seed, config in plan:
        train(Path(out), row, seed, config)
    runs = [read_run(Path(out), row, seed, config) for row, seed, config in plan]
    if as_json:
        click.echo(json.dumps({"base": base, "overrides": overrides, "runs": runs}, indent=2))
    else:
        click.echo(table(runs))
        click.echo(legend(runs))


def parse_seeds(text: str) -> list[int]:
    """The seeds, each once; UserError for anything else than numbers."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise UserError(f"--seeds {text}: give numbers with commas between them, such as 0,1,2")
    return list(dict.fromkeys(map(int, parts)))


def make_plan(
    base: str, overrides: list[str], rows: list[str] | None, seeds: list[int], parents: Path | None = None
) -> list[tuple[str, int, Config]]:
    """Row, seed and config of every run. Rows that do not fit the base config are refused, or left out if not named.

    ``parents`` is the folder of the runs ``mle`` that decoders start from; None: they start from scratch.

    Raises:
        UserError: an unknown row, a config that is wrong, or one without VAE.
    """
    config = load_config(base, overrides)
    if config.vae is None:
        raise UserError(f"{base} has no `vae` section to compare remedies of")
    known = remedies(config)
    if unknown := [row for row in rows or [] if row not in known]:
        raise UserError(f"unknown row {', '.join(unknown)}; known: {', '.join(known)}")
    plan = []
    for row in dict.fromkeys(rows or known):
        if not rows and (reason := misfit(row, config)):
            click.echo(f"{row}: left out: {reason}", err=True)
            continue
        if row == "mle_longer" and parents is None and not rows:
            continue  # decoders from scratch have had no other updates
        for seed in seeds:
            own = [*overrides, *known[row], f"seed={seed}", f"name={config.name}-{row}-{seed}"]
            if row not in AUTOREGRESSIVE:
                parent = "none" if parents is None else run_folder(parents, "mle", seed)
                own.append(f"vae.init_from={parent}")
            plan.append((row, seed, load_config(base, own)))
    return plan


def misfit(row: str, base: Config) -> str | None:
    """Why ``base`` cannot have this row; None if it can."""
    if row == "layerwise" and base.generator.kind != "transformer":
        return "it needs generator.kind=transformer"
    if row == "bn_whiten" and base.vae.batch_size // base.vae.accumulate <= base.vae.z_size:
        return "it needs more texts in a micro-batch than vae.z_size"
    return None


def run_folder(out: Path, row: str, seed: int) -> Path:
    """Where the run of ``row`` and ``seed`` lies."""
    return out / row / f"seed-{seed}"


def check_finished(out: Path, row: str, seed: int, config: Config) -> None:
    """Raise UserError where another config was trained in this run's folder."""
    folder = run_folder(out, row, seed)
    written = folder / "config.yaml"
    if written.is_file() and load_config(written).model_dump() != config.model_dump():
        raise UserError(f"{folder} was trained with another config; give another --out or remove that folder")


def train(out: Path, row: str, seed: int, config: Config) -> None:
    """Train the run, or go on with it, unless it is finished; its times are added up in OUT/ROW/seed-N.json."""
    folder = run_folder(out, row, seed)
    if (folder / "results.json").is_file():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    files = {suffix: folder.with_name(f"{folder.name}.{suffix}") for suffix in ("yaml", "log", "json")}
    files["yaml"].write_text(dump_config(config), encoding="utf-8")
    command = [sys.executable, "-m", "textgan", "train", str(files["yaml"]), "--run", str(folder)]
    if (folder / "checkpoints" / "last").exists():
        command.append("--resume")
    elif folder.exists():
        shutil.rmtree(folder)  # it was stopped before its first checkpoint
    click.echo(f"{row}, seed {seed}: {' '.join(command[1:])}", err=True)
    before = spent(files["json"])
    started, used = time.perf_counter(), cpu_seconds()
    try:
        with files["log"].open("a", encoding="utf-8") as log:
            done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False)
    finally:
        now = {"seconds": time.perf_counter() - started, "cpu_seconds": cpu_seconds() - used}
        text = json.dumps({name: before[name] + value for name, value in now.items()})
        files["json"].write_text(text, encoding="utf-8")
    if done.returncode:
        click.echo(f"{row}, seed {seed}: failed, see {files['log']}", err=True)


def spent(path: Path) -> dict[str, float]:
    """Seconds that a run took until now, over all that trained at it: by the clock, and of processors."""
    if not path.is_file():
        return {"seconds": 0.0, "cpu_seconds": 0.0}
    return json.loads(path.read_text(encoding="utf-8"))


def cpu_seconds() -> float:
    """Processor time of all runs that this process has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def read_run(out: Path, row: str, seed: int, config: Config) -> dict:
    """What the table says of one run; ``failed`` where it came to no end.

    Values are of the test split where there is one, in nats a text but perplexity; those of the MLE model are exact.
    """
    folder = run_folder(out, row, seed)
    record = {"row": row, "seed": seed, "folder": str(folder), "failed": True}
    if not (folder / "results.json").is_file():
        return record
    phase = json.loads((folder / "results.json").read_text(encoding="utf-8"))["phases"]["mle" if config.mle else "vae"]
    metrics = phase["metrics"]
    split, prefix = ("test", "test_") if "test_nll" in metrics else ("dev", "")
    record |= {"failed": False, "split": split, "iw_samples": phase.get("iw_samples"), "step": phase["step"]}
    record |= {"ppl": metrics[f"{prefix}ppl"], "nll": metrics[f"{prefix}nll_text"]}
    took = spent(folder.with_name(f"{folder.name}.json"))
    record |= {"minutes": took["seconds"] / 60, "cpu_minutes": took["cpu_seconds"] / 60}
    if config.vae:
        record["z_size"] = config.vae.z_size
        record |= {
            name: metrics[f"{prefix}{name}"] for name in ("recon", "kl", "mi", "active_units", "active_directions")
        }
        record["elbo"] = record["recon"] + record["kl"]
    return record


def table(runs: list[dict]) -> str:
    """A Markdown table: a row of means over seeds for each remedy, with the standard deviation where there are more."""
    rows = list(dict.fromkeys(run["row"] for run in runs))
    lines = ["| | " + " | ".join(HEADS) + " |", "| --- |" + " ---: |" * len(HEADS)]
    for row in rows:
        own = [run for run in runs if run["row"] == row]
        good = [run for run in own if not run["failed"]]
        name = row + (f" ({len(own) - len(good)} of {len(own)} failed)" if len(good) < len(own) else "")
        cells = [_cell([run[key] for run in good if key in run], digits) for key, digits in COLUMNS.items()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(values: list[float], digits: int) -> str:
    values = [value for value in values if value is not None and math.isfinite(value)]
    if not values:
        return ""
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def legend(runs: list[dict]) -> str:
    """What the columns are."""
    good = [run for run in runs if not run["failed"]]
    seeds = sorted({run["seed"] for run in runs})
    splits = " and ".join(sorted({run["split"] for run in good})) or "no split"
    draws = ", ".join(sorted({f"{run['iw_samples']}" for run in good if run["iw_samples"]})) or "no"
    sizes = ", ".join(sorted({f"{run['z_size']}" for run in good if "z_size" in run})) or "no"
    spread = "" if len(seeds) == 1 else ", mean ± standard deviation"
    return (
        f"\nseeds {', '.join(map(str, seeds))}{spread}; {splits} split; PPL and NLL of VAEs: importance-weighted bound "
        f"with {draws} draws of z a text, of mle: exact; NLL, -ELBO, rec, KL and MI: nats a text; AU: active units of "
        f"{sizes}; AD: the same without copies; minutes by the clock and of processor time: the whole run, evaluations "
        "included, not the generator that it started from"
    )


if __name__ == "__main__":
    main()
