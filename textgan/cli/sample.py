"""``textgan sample``: texts out of a run or checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from textgan.cli.choosing import check_choice, check_drawn, choose, judge_options
from textgan.cli.latent import NAMES, TASKS, drawn_latents, latent_options, load_model, read_request
from textgan.cli.output import check_output, json_lines, progress, say, sink, text_lines, wrap
from textgan.cli.prompts import given_prompts
from textgan.cli.sampling_options import SETTINGS, checked, guided, sampling_options, with_defaults_of
from textgan.cli.streaming import Shown, answer_lines, check_alone
from textgan.cli.writing import Job, Plan, write_all
from textgan.errors import UserError

if TYPE_CHECKING:
    from textgan.training.loading import SamplingModel


@click.command(
    short_help="Write texts with a trained generator.",
    epilog="`textgan score FILE` reads what `textgan sample RUN -n 1000 --lines --output FILE` writes.",
)
@click.argument("source", metavar="RUN_OR_CHECKPOINT", type=click.Path())
@click.option(
    "-n",
    "--num-samples",
    "--num-return-sequences",
    "num_samples",
    type=click.IntRange(min=1),
    help="Texts for each prompt; with --num-beams its best beams.  [default: 1; 5 without a prompt]",
)
@click.option("--prompt", help="How the texts begin; of a model of pairs what they are written for.")
@click.option("--prompts", metavar="FILE", help="One prompt a line; `-` is standard input.")
@sampling_options
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
@click.option("--stream", is_flag=True, help="Show each token as it is written, one text after the other.")
@click.option("--chat", is_flag=True, help="Continue each line of standard input at once, until its end or Ctrl-C.")
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
    stream: bool,
    chat: bool,
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

    A model of pairs (data.condition) takes a prompt for the condition, puts it into the template of its training
    and writes the text alone.

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
        asked = {name: options.pop(name) for name in NAMES}
        if chat:
            others = {"--stream": stream, "-n": num_samples, "--prompt": prompt, "--prompts": prompts}
            check_alone("--chat", others, "continues each line of standard input once, as it is written")
            stream = True
        if stream:
            mode = "--chat" if chat else "--stream"
            others = {"--json": as_json, "--output": output, "--batch-size": batch_size, "--best-of": best_of}
            check_alone(mode, others, "shows texts one by one as they are written")
            tasks = {f"--{name}": asked[name] for name in TASKS}
            check_alone(mode, tasks, "is for texts of prompts and free ones")
            if ranks.size > 1:
                raise UserError(f"{mode} shows what one process writes: leave torchrun away")
        # Standard input can be read by one of them.
        given = ranks.first_does(lambda: given_prompts(prompt, prompts))
        request = ranks.first_does(lambda: read_request(asked, prompted=bool(given)))
        commanded = {name for name in SETTINGS if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE}
        greedy = request.task is not None and "temperature" not in commanded
        settings = checked(options | ({"temperature": 0.0} if greedy else {}), commanded)
        model = load_model(source, local_device(where), request)
        _compute_in(model, precision)
        if judge:
            from textgan.training.classifying import text_judge

            judged = text_judge(judge, wanted, local_device(where))
        batch_size = batch_size or rows_that_fit(model.generator)
        settings = with_defaults_of(model.path, ctx, settings, commanded | ({"temperature"} if greedy else set()))
        if stream and settings["num_beams"] > 1:
            raise UserError(f"{mode}, but the {settings['num_beams']} beams are open to the end: give --num-beams 1")
        fixed = settings["num_beams"] > 1 or bool(settings["penalty_alpha"]) or settings["temperature"] == 0
        settings = guided(settings, model, prompted=bool(given) or chat, commanded="guidance_scale" in commanded)
        if best_of:
            check_drawn(best_of, fixed=fixed, task=request.task is not None)
        if request.task:
            from textgan.cli.latent_plans import latent_plan

            n = num_samples or (5 if request.task == "around" else 1)
            plan = latent_plan(model, request, n, seed=seed, batch_size=batch_size)
        else:
            if not given and not chat:
                model.check_free()
            n = num_samples or (1 if given or (fixed and drawn_latents(model) is None) else 5)
            plan = _plan(model, given, n * (best_of or 1), beams=settings["num_beams"])
        of_beams = ("num_beams", "num_beam_groups")
        shown = [
            f"{name} {value}" for name, value in settings.items() if value not in (None, ()) and name not in of_beams
        ]
        beams = [f"{name} {settings[name]}" for name in of_beams if settings[name] > 1]
        told = [plan.told] if plan.told else []
        told += [f"best of {best_of} by {judge}"] if best_of else []
        say(f"{model.path}, step {model.step}: {', '.join([*told, *shown, *beams, f'seed {seed}'])}")
        if chat:
            write_all_of = partial(
                write_all, model, settings=settings, seed=seed, allow_unk=allow_unk, batch_size=1, ranks=ranks
            )
            answer_lines(
                model, plan, write_all_of, lambda: Shown(model.tokenizer, settings["stop_strings"], lines=lines)
            )
            return
        if n > plan.per_search and fixed and not plan.draws_latents:
            say(f"note: nothing is drawn at these settings: the {n} {plan.repeats} are the same")
        if (settings["max_new_tokens"] or 0) > model.generator.block_size:
            say(f"note: the model reads {model.generator.block_size} tokens: texts end there at the latest")

        form = json_lines if as_json else text_lines if lines else None
        shown = Shown(model.tokenizer, settings["stop_strings"], lines=lines) if stream else None
        if shown:
            batch_size, form = 1, shown.rest
        batches = write_all(
            model,
            plan,
            settings,
            seed=seed,
            allow_unk=allow_unk,
            batch_size=batch_size,
            ranks=ranks,
            watch=shown and shown.grow,
        )
        if best_of:
            batches = choose(batches, best_of, judged)
            plan = replace(plan, total=plan.total // best_of)
        stopped = _put(
            batches, plan, output if ranks.first else None, form, shown, bar=plan.total > batch_size and not stream
        )
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
    shown: Shown | None,
    *,
    bar: bool,
) -> bool:
    """Print the batches, or write them into a file, and tell of them; returns whether Ctrl-C ended them early.

    ``form``: what is put for a batch; None: blocks as people read them. ``shown``: what shows it as it
    is written.
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
            if shown:
                shown.break_off()
    if cut:
        say(f"note: {cut} of {done} texts were cut at the limit of their length")
    if plan.closing and done:
        say(plan.closing())
    if stopped:
        say(f"stopped: {done} of {plan.total} texts are written")
    return stopped


def _plan(model: SamplingModel, given: list[tuple[str, str]], n: int, *, beams: int) -> Plan:
    """``n`` texts for each prompt, or free ones where there is none; a VAE draws their latents.

    Raises:
        UserError: the texts of a prompt are its best beams, and it has fewer.
    """
    prompts = [(text, model.encode_prompt(text, name=name)) for name, text in given] or [(None, [])]

    def job(row: int) -> Job:
        text, ids = prompts[row // n]
        return Job({field: text}, row, ids)

    def block(record: dict, width: int | None) -> str:
        text = wrap(record["text"], width) if width else record["text"]
        heading = record.get("condition")
        return (f"{heading}\n{text}" if heading else text) + "\n"

    field = "condition" if model.writes_for_conditions else "prompt"
    told, latents = drawn_latents(model) or ("", None)
    of_one_search = beams > 1 and latents is None
    if of_one_search and n > beams:
        raise UserError(
            f"-n {n}, but --num-beams {beams} finds {beams} texts of a prompt: lower -n or raise --num-beams to {n}"
        )
    return Plan(
        n * len(prompts),
        lambda rows: [job(row) for row in rows],
        block,
        told=told,
        latents=latents,
        draws_latents=latents is not None,
        per_search=n if of_one_search else 1,
        begins_behind_prompt=model.writes_for_conditions,
    )
