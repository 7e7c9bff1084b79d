"""``textgan sample``: texts out of a run or checkpoint."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from textgan.cli.prompts import given_prompts
from textgan.errors import UserError

if TYPE_CHECKING:
    from textgan.training.checkpoint import SamplingModel

# What `generation.yaml` of a checkpoint may set; the command line goes before it.
SETTINGS = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "num_beams",
    "max_new_tokens",
)


def _finite(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is not a finite number.")
    return value


@click.command(
    short_help="Write texts with a trained generator.",
    epilog="`textgan score FILE` reads what `textgan sample RUN -n 1000 --lines --output FILE` writes.",
)
@click.argument("source", metavar="RUN_OR_CHECKPOINT", type=click.Path())
@click.option(
    "-n",
    "--num-samples",
    type=click.IntRange(min=1),
    help="Texts for each prompt.  [default: 1; 5 without a prompt]",
)
@click.option("--prompt", help="How the texts begin.")
@click.option("--prompts", metavar="FILE", help="One prompt a line; `-` is standard input.")
@click.option(
    "--temperature",
    type=click.FloatRange(min=0),
    default=1.0,
    callback=_finite,
    show_default=True,
    help="Below 1 safer, above 1 wilder; 0 takes the likeliest token each time.",
)
@click.option("--top-k", type=click.IntRange(min=0), help="Draw from the K likeliest tokens only; 0 is off.")
@click.option(
    "--top-p",
    type=click.FloatRange(0, 1),
    callback=_finite,
    help="Draw from the fewest likeliest tokens that hold this share of the probability; 1 is off.",
)
@click.option(
    "--min-p",
    type=click.FloatRange(0, 1),
    callback=_finite,
    help="Drop tokens less likely than this share of the likeliest one's probability; 0 is off.",
)
@click.option(
    "--typical-p",
    type=click.FloatRange(0, 1, min_open=True),
    callback=_finite,
    help="Draw from the tokens of the most usual surprise that hold this share of the probability; 1 is off.",
)
@click.option(
    "--repetition-penalty",
    type=click.FloatRange(min=0, min_open=True),
    callback=_finite,
    help="Above 1, tokens seen before get less likely; 1 is off. The end of text counts as seen.",
)
@click.option(
    "--no-repeat-ngram-size", type=click.IntRange(min=0), help="Never write the same N tokens twice; 0 is off."
)
@click.option(
    "--num-beams",
    type=click.IntRange(min=1),
    default=1,
    help="Above 1: beam search for the likeliest text instead of drawing.",
)
@click.option(
    "--max-new-tokens",
    type=click.IntRange(min=1),
    help="Cut after this many.  [default: as many as the model can read]",
)
@click.option("--allow-unk", is_flag=True, help="Let the model write <unk>; otherwise it is never chosen.")
@click.option("--seed", type=click.IntRange(min=0, max=2**64 - 1), default=0, show_default=True)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="Texts written at once (for speed; the texts stay the same).",
)
@click.option("--lines", is_flag=True, help="One text a line, as `textgan score` reads it.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--output", type=click.Path(), metavar="FILE", help="Write there, all or nothing, instead of printing.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.pass_context
def sample(
    ctx: click.Context,
    source: str,
    num_samples: int | None,
    prompt: str | None,
    prompts: str | None,
    allow_unk: bool,
    seed: int,
    batch_size: int,
    lines: bool,
    as_json: bool,
    output: str | None,
    device: str,
    **options: float | None,
) -> None:
    """Write texts with a trained generator: the best checkpoint of a run, or the checkpoint named.

    The same seed gives the same texts, whatever the batch size, and -n 10 begins with the texts of -n 5. The
    log-probability (--json) is in nats under the model itself, temperature 1 and no filter, with the end of
    text. A prompt may hold only words that the model knows. Defaults of the settings are the checkpoint's
    (generation.yaml), then those below.
    """
    if lines and as_json:
        raise UserError("--lines and --json are two formats: give one")
    if output is not None and not Path(output).resolve().parent.is_dir():
        raise UserError(f"--output {output}: there is no folder {Path(output).resolve().parent}")
    if output is not None and Path(output).is_dir():
        raise UserError(f"--output {output} is a folder: give a file")
    given = given_prompts(prompt, prompts)
    commanded = {name for name in SETTINGS if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    settings = _checked(options, commanded)

    from textgan.data.prompts import encode_prompt
    from textgan.ops.devices import pick_device
    from textgan.training.checkpoint import load_for_sampling

    model = load_for_sampling(source, pick_device(device))
    # In float64 the rounding of the model cannot tip a draw: so the batch size never shows in the texts.
    model.generator.double()
    settings = _with_defaults_of(model.path, ctx, settings, commanded)
    block_size = model.generator.block_size
    encoded = [
        (text, encode_prompt(model.tokenizer, text, block_size=block_size, name=name)) for name, text in given
    ] or [(None, [])]
    fixed = settings["num_beams"] > 1 or settings["temperature"] == 0
    n = num_samples or (1 if given or fixed else 5)
    shown = [f"{name} {value}" for name, value in settings.items() if value is not None and name != "num_beams"]
    beams = [f"num_beams {settings['num_beams']}"] if settings["num_beams"] > 1 else []
    _say(f"{model.path}, step {model.step}: {', '.join([*shown, *beams, f'seed {seed}'])}")
    if n > 1 and fixed:
        _say(f"note: nothing is drawn at these settings: the {n} texts of a prompt are the same")
    if (settings["max_new_tokens"] or 0) > block_size:
        _say(f"note: the model reads {block_size} tokens: texts end there at the latest")

    total, done, cut, stopped = n * len(encoded), 0, 0, False
    with _sink(output) as (put, width):
        form = _form(as_json=as_json, lines=lines, width=width)
        with _progress(total, visible=width is None and total > batch_size) as advance:
            try:
                while done < total:
                    rows = range(done, min(done + batch_size, total))
                    prompted = [encoded[row // n] for row in rows]
                    records = _records(model, prompted, settings, seed, first=done, allow_unk=allow_unk)
                    put(form(records, done == 0))
                    done += len(records)
                    cut += sum(record["finish_reason"] == "length" for record in records)
                    advance(len(records))
            except KeyboardInterrupt:
                stopped = True
    if cut:
        _say(f"note: {cut} of {done} texts were cut at the limit of their length")
    if stopped:
        _say(f"stopped: {done} of {total} texts are written")
        ctx.exit(130)


def _records(
    model: SamplingModel,
    prompted: list[tuple[str | None, list[int]]],
    settings: dict,
    seed: int,
    *,
    first: int,
    allow_unk: bool,
) -> list[dict]:
    """What ``--json`` prints, for one batch of prompts; ``first`` is the number of the first text."""
    from textgan.sampling.decode import generate

    tokenizer = model.tokenizer
    samples = generate(
        model.generator,
        [ids for _, ids in prompted],
        eos_id=tokenizer.eos_id,
        banned_ids=() if allow_unk or tokenizer.unk_id is None else (tokenizer.unk_id,),
        seed=seed,
        batch_size=len(prompted),
        first_index=first,
        **settings,
    )
    return [
        {
            "index": index,
            "prompt": prompt,
            "text": tokenizer.decode([*ids, *sample.ids]),
            "log_prob": sample.log_prob,
            "tokens": tokenizer.tokens(sample.ids),
            "finish_reason": sample.finish_reason,
            "seed": seed,
            "checkpoint": str(model.path),
            "step": model.step,
            "settings": {**settings, "allow_unk": allow_unk},
        }
        for index, ((prompt, ids), sample) in enumerate(zip(prompted, samples, strict=True), first)
    ]


def _checked(options: dict, commanded: set[str]) -> dict:
    """The settings without those of the checkpoint that mean nothing here; UserError for those of the user."""
    from textgan.sampling.decode import without_effect

    sampling = {name: options[name] for name in ("temperature", "top_k", "top_p", "min_p", "typical_p")}
    way, ignored = without_effect(num_beams=options["num_beams"], **sampling)
    for name in ignored:
        if name in commanded:
            flag = f"--{name.replace('_', '-')}"
            cause = "--num-beams" if options["num_beams"] > 1 else "--temperature 0"
            raise UserError(f"{cause} is {way}, which draws nothing: {flag} has no effect on it; leave one away")
    neutral = {name: 1.0 if name == "temperature" else None for name in ignored}
    return {name: neutral.get(name, options[name]) for name in SETTINGS}


def _with_defaults_of(folder: Path, ctx: click.Context, settings: dict, commanded: set[str]) -> dict:
    """The settings, those not given on the command line as the checkpoint's ``generation.yaml`` has them."""
    import yaml

    path = folder / "generation.yaml"
    options = {param.name: param for param in ctx.command.params}
    try:
        stored = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
    if not isinstance(stored, dict) or not set(stored) <= set(SETTINGS):
        raise UserError(f"{path} must hold settings of these names only: {', '.join(SETTINGS)}")
    for name, value in stored.items():
        if name not in commanded and value is not None:
            try:
                settings = settings | {name: options[name].process_value(ctx, value)}
            except click.BadParameter as error:
                raise UserError(f"{path}: `{name}: {value}`: {error.message}") from None
    return _checked(settings, commanded)


def _form(*, as_json: bool, lines: bool, width: int | None) -> Callable[[list[dict], bool], str]:
    """How a batch of records is printed; the second argument says whether it is the first batch."""
    if as_json:
        return lambda records, first: "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records)
    if lines:
        return lambda records, first: "".join(" ".join(r["text"].splitlines()) + "\n" for r in records)

    def stories(records: list[dict], first: bool) -> str:
        texts = [wrap(r["text"], width) if width else r["text"] for r in records]
        return ("" if first else "\n") + "\n\n".join(texts) + "\n"

    return stories


def wrap(text: str, width: int) -> str:
    """The text in lines of at most ``width`` terminal cells; a Chinese character takes two."""
    from rich.console import Console
    from rich.text import Text

    return "\n".join(line.plain.rstrip() for line in Text(text).wrap(Console(width=width), width))


@contextmanager
def _sink(output: str | None) -> Iterator[tuple[Callable[[str], None], int | None]]:
    """A function that writes, and the width of the terminal where it writes to one.

    A file appears under its name when all is written, or when Ctrl-C ended it early.
    """
    if output is None:
        terminal = sys.stdout.isatty()
        yield (
            lambda text: click.echo(text, nl=False),
            shutil.get_terminal_size().columns if terminal else None,
        )
        return
    path = Path(output)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            yield file.write, None
        partial.replace(path)
    except OSError as error:
        raise UserError(f"--output {output}: {error.strerror}") from None
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _progress(total: int, *, visible: bool) -> Iterator[Callable[[int], None]]:
    """A function that counts texts, with a bar on stderr where that is a terminal."""
    if not visible or not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.0f} texts/s"),
        TimeRemainingColumn(),
    )
    started = time.monotonic()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("texts", total=total, rate=0.0)

        def advance(count: int) -> None:
            done = bar.tasks[0].completed + count
            bar.update(task, completed=done, rate=done / (time.monotonic() - started))

        yield advance


def _say(message: str) -> None:
    click.echo(message, err=True)
