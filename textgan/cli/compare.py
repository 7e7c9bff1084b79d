"""``textgan compare``: which generator is better, by how much, and what may be said about it."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from textgan.cli.score import read_texts
from textgan.errors import UserError

if TYPE_CHECKING:
    from textgan.analysis.runs import Source
    from textgan.analysis.study import Study

# Rows of the table, beside the metrics of the fronts and the joint ones; all others are in --json and --html.
HEADLINE = ("nll", "valid", "copies", "nearest_train", "unique", "distinct_2", "length_mean", "truncated")
OF_FILES = ("references", "train", "lowercase", "tokenize", "limit", "embedders", "lm", "device")


@click.command(
    short_help="Judge generators against each other: fronts, bands, a verdict.",
    epilog="Records come from `textgan evaluate RUN`.",
)
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--baseline",
    metavar="ARM|RUN",
    help="What all others are held against.  [default: of each adversarial run its own parent and continuation; else"
    " the arm mle]",
)
@click.option(
    "--pair",
    "pairs",
    multiple=True,
    metavar="QUALITY,DIVERSITY",
    help="Metrics that make a front; may be repeated.  [default: bleu_4,self_bleu_4 and lm_kn,rlm_kn]",
)
@click.option(
    "--split", type=click.Choice(["dev", "test"]), default="dev", show_default=True, help="Whose records are read."
)
@click.option(
    "--level",
    type=click.FloatRange(0.5, 1, min_open=True, max_open=True),
    default=0.95,
    show_default=True,
    help="Of intervals and bands.",
)
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Write JSON, pictures, TensorBoard there.")
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Write a page to read and to send.")
@click.option("--mark-differences", is_flag=True, help="Go on where arms were measured differently, and mark them.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.option("--references", metavar="FILE", help="For folders of texts: held-out real texts.")
@click.option("--train", metavar="FILE", help="For folders of texts: what the generators were trained on.")
@click.option("--lowercase", is_flag=True, help="For folders of texts: lower-case everything.")
@click.option(
    "--tokenize",
    type=click.Choice(["words", "whitespace", "chars"]),
    default="words",
    show_default=True,
    help="For folders of texts: what the metrics count.",
)
@click.option(
    "--limit", type=click.IntRange(min=1), metavar="N", help="For folders of texts: only the first N of each."
)
@click.option(
    "--embedder",
    "embedders",
    multiple=True,
    metavar="NAME",
    help="For folders of texts: ngrams, minilm, hf:NAME, lm, none; may be repeated.  [default: ngrams]",
)
@click.option(
    "--lm",
    multiple=True,
    type=click.Choice(["kn", "neural", "none"]),
    help="For folders of texts: language models of the LM scores; may be repeated.  [default: kn]",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="For folders of texts: where they are scored.",
)
@click.pass_context
def compare(ctx: click.Context, runs: tuple[Path, ...], baseline: str | None, **options: Any) -> None:
    """Compare the generators of RUNS: which front lies above which, with bands over seeds and samples, and a verdict.

    RUNS are folders of evaluated runs, or folders of text files NAME_POINT_SEED.txt (such as mle_0.8_1.txt: arm,
    temperature, seed), one text or one JSON string a line, which are scored against --references and --train. Runs
    that differ in their seed only are taken together. What was measured differently is refused.
    """
    pairs = [_pair(text) for text in options["pairs"]] or None
    given = list(runs)
    extra = Path(baseline) if baseline is not None and Path(baseline).is_dir() else None
    if extra is not None and extra.resolve() not in {path.resolve() for path in given}:
        given.append(extra)
    folders = [path for path in given if not _is_run(path)]
    _check_options(ctx, folders)

    from textgan.analysis.compare import compare as compare_study
    from textgan.analysis.runs import run_sources
    from textgan.analysis.study import build_study
    from textgan.training.interrupt import Interrupt

    with tempfile.TemporaryDirectory(prefix="textgan-") as passing:
        cache = (options["out"] or Path(passing)) / "scored"
        with Interrupt() as interrupt:
            scored = _score(folders, cache, interrupt.check, options) if folders else []
        sources = [*run_sources([path for path in given if path not in folders]), *scored]
        study = build_study(sources, split=options["split"], mark_differences=options["mark_differences"])
        arm = _arm_of_run(study, sources, extra) if extra is not None else baseline
        comparison = compare_study(study, baseline=arm, pairs=pairs, level=options["level"])
    _write(comparison, options["out"], options["html"])
    if options["as_json"]:
        click.echo(json.dumps(comparison, indent=1, ensure_ascii=False))
    else:
        _print(comparison)


def _pair(text: str) -> tuple[str, str]:
    names = [name.strip() for name in text.split(",")]
    if len(names) != 2 or not all(names):
        raise UserError(f"--pair {text!r} must be two metrics, QUALITY,DIVERSITY, such as bleu_4,self_bleu_4")
    return names[0], names[1]


def _is_run(path: Path) -> bool:
    if not path.is_dir():
        raise UserError(f"{path} is no folder; give runs/NAME, or a folder of text files")
    return (path / "config.yaml").is_file()


def _check_options(ctx: click.Context, folders: list[Path]) -> None:
    """UserError where folders of texts lack what they are scored with, or are not there though it is given."""
    given = [name for name in OF_FILES if ctx.get_parameter_source(name).name == "COMMANDLINE"]
    if given and not folders:
        flag = "--embedder" if given[0] == "embedders" else f"--{given[0]}"
        raise UserError(f"{flag} is for folders of texts, and only runs were given; `textgan evaluate` measures runs")
    for name in ("references", "train"):
        if folders and name not in given:
            raise UserError(f"{folders[0]} is a folder of texts: give --{name} FILE to score them with")


def _score(folders: list[Path], cache: Path, between: Any, options: dict[str, Any]) -> list[Source]:
    """Read and measure the texts of the folders."""
    from textgan.analysis.all_measures import make_measures
    from textgan.analysis.textfiles import decode_lines, score_files, text_files
    from textgan.ops.devices import pick_device

    limit = options["limit"]
    texts = {
        folder: {file: decode_lines(read_texts(str(file.path)))[:limit] for file in text_files(folder)}
        for folder in folders
    }
    measures = make_measures(
        read_texts(options["references"]),
        read_texts(options["train"]),
        tokenize=options["tokenize"],
        lowercase=options["lowercase"],
        device=pick_device(options["device"]),
        embedders=[name for name in options["embedders"] or ("ngrams",) if name != "none"],
        lm=[name for name in options["lm"] or ("kn",) if name != "none"],
    )
    return [s for folder, own in texts.items() for s in score_files(folder, own, measures, cache, between=between)]


def _arm_of_run(study: Study, sources: list[Source], run: Path) -> str:
    """The arm that a run means as a baseline: its ``mle``, or the only one it has."""
    settings = {source.setting for source in sources if Path(source.shown).resolve() == run.resolve()}
    names = {kind: name for (setting, kind), name in study.name_of.items() if setting in settings}
    trained = {kind: name for kind, name in names.items() if study.arms[name].trained}
    if "mle" in trained:
        return trained["mle"]
    if len(trained) == 1:
        return next(iter(trained.values()))
    raise UserError(f"{run} has several arms ({', '.join(names.values())}): give one of these as --baseline")


def _write(comparison: dict[str, Any], out: Path | None, html: Path | None) -> None:
    from textgan.analysis.margin_log import log_margins
    from textgan.analysis.plots import has_matplotlib, plot_fronts
    from textgan.analysis.report import write_report
    from textgan.training.checkpoint import write_atomically

    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / "comparison.json", json.dumps(comparison, indent=1, ensure_ascii=False))
        log_margins(comparison, out / "tensorboard")
        if has_matplotlib():
            plot_fronts(comparison, out)
        else:
            click.echo("note: no pictures of the fronts, they need matplotlib: pip install 'textgan[plots]'", err=True)
        click.echo(f"written: {out}/comparison.json, front-*.png, tensorboard --logdir {out}/tensorboard", err=True)
    if html is not None:
        write_report(comparison, html)
        click.echo(f"written: {html}", err=True)


def _print(comparison: dict[str, Any]) -> None:
    """Verdict, table, fronts and notes for a reader at a terminal."""
    from rich.console import Console

    from textgan.analysis.tables import WIDE, summaries

    console = Console(highlight=False, width=WIDE)  # a terminal wraps lines; rich would cut numbers off
    width = shutil.get_terminal_size((120, 40)).columns

    def lines(head: str, texts: list[str]) -> None:
        if texts:
            console.print(f"\n{head}", style="bold", markup=False)
        for text in texts:
            console.print(f"- {text}", markup=False, soft_wrap=True)

    names = ", ".join(f"{arm['label']} ({_seeds(arm)})" for arm in comparison["arms"])
    about = f"split {comparison['split']}, {comparison['n']:,} texts a point, baseline {comparison['baseline']}"
    console.print(f"{names}; {about}", markup=False, soft_wrap=True)
    lines("Verdict", comparison["verdict"])
    joint = [row["metric"] for row in comparison["joint"]]
    pairs = [row[axis] for row in comparison["pairs"] for axis in ("quality", "diversity")]
    for table in summaries(comparison, list(dict.fromkeys([*pairs, *joint, *HEADLINE])), width):
        console.print()
        console.print(table)
    lines("Fronts", [front["sentence"] for pair in comparison["pairs"] for front in pair["comparisons"]])
    lines("Best over samplers", [row["sentence"] for row in comparison["joint"]])
    lines("Notes", comparison["notes"])


def _seeds(arm: dict[str, Any]) -> str:
    return "1 seed" if len(arm["seeds"]) == 1 else f"{len(arm['seeds'])} seeds"
