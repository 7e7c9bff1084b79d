"""Options of ``textgan sample`` that say how tokens are chosen, and their defaults in a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from textgan.cli.latent import drawn_latents, finite
from textgan.errors import UserError

if TYPE_CHECKING:
    from textgan.training.loading import SamplingModel

# What `generation.yaml` of a checkpoint may set; the command line goes before it.
SETTINGS = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "penalty_alpha",
    "guidance_scale",
    "num_beams",
    "num_beam_groups",
    "diversity_penalty",
    "max_new_tokens",
    "min_new_tokens",
    "stop_strings",
)


def not_empty(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    if "" in values:
        raise click.BadParameter("an empty text stops nothing; leave it away.")
    return values


OPTIONS = (
    click.option(
        "--temperature",
        type=click.FloatRange(min=0),
        default=1.0,
        callback=finite,
        show_default=True,
        help="Below 1 safer, above 1 wilder; 0 takes the likeliest token each time.",
    ),
    click.option("--top-k", type=click.IntRange(min=0), help="Draw from the K likeliest tokens only; 0 is off."),
    click.option(
        "--top-p",
        type=click.FloatRange(0, 1),
        callback=finite,
        help="Draw from the fewest likeliest tokens that hold this share of the probability; 1 is off.",
    ),
    click.option(
        "--min-p",
        type=click.FloatRange(0, 1),
        callback=finite,
        help="Drop tokens less likely than this share of the likeliest one's probability; 0 is off.",
    ),
    click.option(
        "--typical-p",
        type=click.FloatRange(0, 1, min_open=True),
        callback=finite,
        help="Draw from the tokens of the most usual surprise that hold this share of the probability; 1 is off.",
    ),
    click.option(
        "--repetition-penalty",
        type=click.FloatRange(min=0, min_open=True),
        callback=finite,
        help="Above 1, tokens seen before get less likely; 1 is off. The end of text counts as seen.",
    ),
    click.option(
        "--no-repeat-ngram-size", type=click.IntRange(min=0), help="Never write the same N tokens twice; 0 is off."
    ),
    click.option(
        "--penalty-alpha",
        type=click.FloatRange(0, 1),
        callback=finite,
        help="Above 0: contrastive search. Of the --top-k likeliest tokens the one that is likely, and unlike what was "
        "said before, which counts this much; such as 0.6 with --top-k 4.",
    ),
    click.option(
        "--guidance-scale",
        type=click.FloatRange(min=0),
        callback=finite,
        help="Above 1, texts keep closer to their prompt: what it does to a token's log-probability counts this much. "
        "1 is off. Takes twice the time.",
    ),
    click.option(
        "--num-beams",
        type=click.IntRange(min=1),
        default=1,
        help="Above 1: beam search for the likeliest text instead of drawing.",
    ),
    click.option(
        "--num-beam-groups",
        type=click.IntRange(min=1),
        default=1,
        help="Above 1: diverse beam search; the beams work in so many groups, each kept away from those before it.",
    ),
    click.option(
        "--diversity-penalty",
        type=click.FloatRange(min=0),
        callback=finite,
        help="Of groups of beams: what a token costs, in nats, for each beam of earlier groups that takes it too.",
    ),
    click.option(
        "--max-new-tokens",
        type=click.IntRange(min=1),
        help="Cut after this many.  [default: as many as the model can read]",
    ),
    click.option("--min-new-tokens", type=click.IntRange(min=0), help="No end of text before this many; 0 is off."),
    click.option(
        "--stop",
        "stop_strings",
        metavar="TEXT",
        multiple=True,
        callback=not_empty,
        help="End a text before this, once it is written; may be given several times. What the prompt holds ends "
        "nothing, and --min-new-tokens does not hold it off.",
    ),
)


def sampling_options(command: Callable) -> Callable:
    """The command with these options."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def checked(options: dict, commanded: set[str]) -> dict:
    """The settings without those of the checkpoint that mean nothing here; UserError for those of the user."""
    from textgan.sampling.settings import without_effect

    sampling = {name: options[name] for name in ("temperature", "top_k", "top_p", "min_p", "typical_p")}
    sampling |= {name: options[name] for name in ("penalty_alpha", "guidance_scale")}
    way, ignored = without_effect(num_beams=options["num_beams"], **sampling)
    for name in ignored:
        if name in commanded:
            flag = f"--{name.replace('_', '-')}"
            cause = {"beam search": "--num-beams", "contrastive search": "--penalty-alpha"}.get(way, "--temperature 0")
            if way == "greedy decoding" and "temperature" not in commanded:
                cause += " (the default here)"
            raise UserError(f"{cause} is {way}, which draws nothing: {flag} has no effect on it; leave one away")
    fewest, most = options["min_new_tokens"] or 0, options["max_new_tokens"]
    if most is not None and fewest > most:
        raise UserError(f"--min-new-tokens {fewest} is above --max-new-tokens {most}: lower it")
    neutral = {name: 1.0 if name == "temperature" else None for name in ignored}
    return {name: neutral.get(name, options[name]) for name in SETTINGS}


def with_defaults_of(folder: Path, ctx: click.Context, settings: dict, commanded: set[str]) -> dict:
    """The settings, those not given on the command line as the checkpoint's ``generation.yaml`` has them."""
    import yaml

    from textgan.sampling.settings import wrong_groups

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
            if options[name].multiple and isinstance(value, str):
                value = [value]
            try:
                settings = settings | {name: options[name].process_value(ctx, value)}
            except click.BadParameter as error:
                raise UserError(f"{path}: `{name}: {value}`: {error.message}") from None
    settings = checked(settings, commanded)
    if settings["penalty_alpha"] and (settings["top_k"] or 0) < 2:
        raise UserError("--penalty-alpha chooses among candidates: give --top-k 2 or more, such as --top-k 4")
    of_groups = {"num_beam_groups", "diversity_penalty"}
    if settings["num_beams"] == 1 and not of_groups & commanded:
        settings |= {"num_beam_groups": 1, "diversity_penalty": None}
    if wrong := wrong_groups(settings["num_beams"], settings["num_beam_groups"], settings["diversity_penalty"]):
        raise UserError(re.sub("num_beam_groups|num_beams|diversity_penalty", _as_option, wrong))
    return settings


def guided(settings: dict, model: SamplingModel, *, prompted: bool, commanded: bool) -> dict:
    """The settings without guidance where there is no prompt to keep to; UserError where it was asked for in vain."""
    scale = settings["guidance_scale"]
    if scale in (None, 1):
        return settings
    if not prompted:
        if not commanded:
            return settings | {"guidance_scale": None}
        raise UserError(f"--guidance-scale {scale:g} keeps texts to their prompt: give --prompt, --prompts or --chat")
    if drawn_latents(model) is not None:
        raise UserError(f"--guidance-scale {scale:g} is not for a VAE, whose texts follow their latent; leave it away")
    if model.writes_for_conditions and not model.config.data.condition_dropout:
        raise UserError(
            f"--guidance-scale {scale:g} compares with texts of no {model.config.data.condition}, which {model.path} "
            "never saw: train with data.condition_dropout above 0, such as 0.1"
        )
    return settings


def _as_option(name: re.Match) -> str:
    return f"--{name[0].replace('_', '-')}"
