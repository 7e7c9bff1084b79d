"""``textgan sample``: texts out of a run or checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from textgan.cli.choosing import check_choice, check_drawn, choose, judge_options
from textgan.cli.latent import NAMES, drawn_latents, finite, latent_options, load_model, read_request
from textgan.cli.output import check_output, json_lines, progress, say, sink, text_lines, wrap
from textgan.cli.prompts import given_prompts
from textgan.cli.writing import Job, Plan, write_all
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
    callback=finite,
    show_default=True,
    help="Below 1 safer, above 1 wilder; 0 takes the likeliest token each time.",
)
@click.option("--top-k", type=click.IntRange(min=0), help="Draw from the K likeliest tokens only; 0 is off.")
@click.option(
    "--top-p",
    type=click.FloatRange(0, 1),
    callback=finite,
    help="Draw from the fewest likeliest tokens that hold this share of the probability; 1 is off.",
)
@click.option(
    "--min-p",
    type=click.FloatRange(0, 1),
    callback=finite,
    help="Drop tokens less likely than this share of the likeliest one's probability; 0 is off.",
)
@click.option(
    "--typical-p",
    type=click.FloatRange(0, 1, min_open=True),
    callback=finite,
    help="Draw from the tokens of the most usual surprise that hold this share of the probability; 1 is off.",
)
@click.option(
    "--repetition-penalty",
    type=click.FloatRange(min=0, min_open=True),
    callback=finite,
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
    help="Texts written at once (for speed; the texts stay the same).  [default: what fits into memory, at most 256; "
    "4096 on a GPU]",
)
@click.option("--lines", is_flag=True, help="One text a line, as `textgan score` reads it.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--output", type=click.Path(), metavar="FILE", help="Write there, all or nothing, instead of printing.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option(
    "--precision",
    type=click.Choice(["float64", "float32", "bfloat16", "int8"]),
    default="float64",
    show_default=True,
    help="Cheaper arithmetic, for big models; what the last two cost in likelihood is said. int8: on a CPU.",
)
@judge_options
@latent_options
@click.pass_context
def sample(
    ctx: click.Context,
    source: str,
    num_samples: int | None,
    prompt: str | None,
    prompts: str | None,
    allow_unk: bool,
    seed: int,
    batch_size: int | None,
    lines: bool,
    as_json: bool,
    output: str | None,
    device: str,
    precision: str,
    best_of: int | None,
    judge: str | None,
    wanted: str | None,
    **options: object,
) -> None:
    """Write texts with a trained generator: the best checkpoint of a run, or the checkpoint named.

    The same seed gives the same texts, whatever the batch size, and -n 10 begins with the texts of -n 5. The
    log-probability (--json) is in nats under the model itself, temperature 1 and no filter, with the end of
    text. (Cheaper --precision leaves rounding that may tip a draw where batch sizes differ.) A prompt may
    hold only words that the model knows. Defaults of the settings are the checkpoint's (generation.yaml),
    then those below.

    A VAE writes a text from a latent z: drawn, or where texts are that it has read (options that begin with VAE).
    It reads words that it does not know as <unk>, and writes greedily from where texts are unless --temperature is
    given. Its log-probability is given z: that of the text itself is not known.
    """
    from textgan.ops.devices import pick_device
    from textgan.sampling.decode import rows_that_fit
    from textgan.training.ranks import joined, local_device

    where = pick_device(device)
    with joined(where, "run the same command again: the same seed gives the same texts") as ranks:
        check_choice(best_of, judge, wanted)
        check_output(lines=lines, as_json=as_json, output=output)
        # Standard input can be read by one of them.
        given = ranks.first_does(lambda: given_prompts(prompt, prompts))
        asked = {name: options.pop(name) for name in NAMES}
        request = ranks.first_does(lambda: read_request(asked, prompted=bool(given)))
        commanded = {name for name in SETTINGS if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE}
        greedy = request.task is not None and "temperature" not in commanded
        settings = _checked(options | ({"temperature": 0.0} if greedy else {}), commanded)
        model = load_model(source, local_device(where), request)
        _compute_in(model, precision)
        if judge:
            from textgan.training.classifying import text_judge

            judged = text_judge(judge, wanted, local_device(where))
        batch_size = batch_size or rows_that_fit(model.generator)
        settings = _with_defaults_of(model.path, ctx, settings, commanded | ({"temperature"} if greedy else set()))
        fixed = settings["num_beams"] > 1 or settings["temperature"] == 0
        if best_of:
            check_drawn(best_of, fixed=fixed, task=request.task is not None)
        if request.task:
            from textgan.cli.latent_plans import latent_plan

            n = num_samples or (5 if request.task == "around" else 1)
            plan = latent_plan(model, request, n, seed=seed, batch_size=batch_size)
        else:
            n = num_samples or (1 if given or (fixed and drawn_latents(model) is None) else 5)
            plan = _plan(model, given, n * (best_of or 1))
        shown = [f"{name} {value}" for name, value in settings.items() if value is not None and name != "num_beams"]
        beams = [f"num_beams {settings['num_beams']}"] if settings["num_beams"] > 1 else []
        told = [plan.told] if plan.told else []
        told += [f"best of {best_of} by {judge}"] if best_of else []
        say(f"{model.path}, step {model.step}: {', '.join([*told, *shown, *beams, f'seed {seed}'])}")
        if n > 1 and fixed and not plan.draws_latents:
            say(f"note: nothing is drawn at these settings: the {n} {plan.repeats} are the same")
        if (settings["max_new_tokens"] or 0) > model.generator.block_size:
            say(f"note: the model reads {model.generator.block_size} tokens: texts end there at the latest")

        batches = write_all(model, plan, settings, seed=seed, allow_unk=allow_unk, batch_size=batch_size, ranks=ranks)
        if best_of:
            batches = choose(batches, best_of, judged)
            plan = replace(plan, total=plan.total // best_of)
        form = json_lines if as_json else text_lines if lines else None
        stopped = _put(batches, plan, output if ranks.first else None, form, bar=plan.total > batch_size)
    if stopped:
        ctx.exit(130)


def _compute_in(model: SamplingModel, precision: str) -> None:
    """Let the model compute so, and say what that costs where it may be much.

    In float64 the rounding of the model cannot tip a draw: so the batch size never shows in the texts.
    """
    from textgan.analysis.precision import check_precision, measured, set_precision

    check_precision(model, precision)
    if precision in ("float64", "float32"):
        set_precision(model, precision)
        return
    try:
        say(f"{precision}: {measured(model, precision)}")
    except UserError as error:
        say(f"note: what {precision} costs in likelihood is not known: {error}")
        set_precision(model, precision)


def _put(
    batches: Iterator[list[dict]],
    plan: Plan,
    output: str | None,
    form: Callable[[list[dict]], str] | None,
    *,
    bar: bool,
) -> bool:
    """Print the batches, or write them into a file, and tell of them; returns whether Ctrl-C ended them early.

    ``form``: what is put for a batch; None: blocks as people read them.
    """
    done, cut, stopped = 0, 0, False
    with sink(output) as (put, width), progress(plan.total, visible=width is None and bar) as advance:
        try:
            for records in batches:
                if form is not None:
                    put(form(records))
                else:
                    put((plan.between if done else "") + plan.between.join(plan.block(r, width) for r in records))
                for record in records:
                    plan.heed(record)
                done += len(records)
                cut += sum(record["finish_reason"] == "length" for record in records)
                advance(len(records))
        except KeyboardInterrupt:
            stopped = True
    if cut:
        say(f"note: {cut} of {done} texts were cut at the limit of their length")
    if plan.closing and done:
        say(plan.closing())
    if stopped:
        say(f"stopped: {done} of {plan.total} texts are written")
    return stopped


def _plan(model: SamplingModel, given: list[tuple[str, str]], n: int) -> Plan:
    """``n`` texts for each prompt, or free ones where there is none; a VAE draws their latents."""
    from textgan.data.prompts import encode_prompt

    block_size = model.generator.block_size
    prompts = [
        (text, encode_prompt(model.tokenizer, text, block_size=block_size, name=name)) for name, text in given
    ] or [(None, [])]

    def job(row: int) -> Job:
        text, ids = prompts[row // n]
        return Job({"prompt": text}, row, ids)

    told, latents = drawn_latents(model) or ("", None)
    return Plan(
        n * len(prompts),
        lambda rows: [job(row) for row in rows],
        lambda record, width: (wrap(record["text"], width) if width else record["text"]) + "\n",
        told=told,
        latents=latents,
        draws_latents=latents is not None,
    )


def _checked(options: dict, commanded: set[str]) -> dict:
    """The settings without those of the checkpoint that mean nothing here; UserError for those of the user."""
    from textgan.sampling.decode import without_effect

    sampling = {name: options[name] for name in ("temperature", "top_k", "top_p", "min_p", "typical_p")}
    way, ignored = without_effect(num_beams=options["num_beams"], **sampling)
    for name in ignored:
        if name in commanded:
            flag = f"--{name.replace('_', '-')}"
            cause = "--num-beams" if options["num_beams"] > 1 else "--temperature 0"
            if "temperature" not in commanded and not options["temperature"]:
                cause += " (the default here)"
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
