"""What can be asked of the latent space of a VAE by ``textgan sample``: its options, and models that can answer."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from textgan.cli.prompts import lines_of
from textgan.errors import UserError

if TYPE_CHECKING:
    from textgan.training.loading import SamplingModel

SOURCES = {
    "prior": "z from the prior",
    "aggregate": "z from a Gaussian fitted to the aggregate posterior (not the model's prior)",
    "gan": "z from the latent GAN (not the model's prior)",
}
TASKS = ("reconstruct", "text", "interpolate", "around")  # read texts; one at a time
# What each of these needs, in place of which it would have no effect.
NEEDS = {"steps": "interpolate", "way": "interpolate", "radius": "around", "strength": "attribute_from"}
DEFAULTS = {"steps": 7, "way": "spherical", "radius": 1.0, "strength": 1.0}


def finite(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is not a finite number.")
    return value


OPTIONS = (
    click.option(
        "--latent",
        type=click.Choice(list(SOURCES)),
        help="VAE: where z is drawn from.  [default: prior; of a latent GAN's checkpoint gan]",
    ),
    click.option(
        "--z-temperature",
        type=click.FloatRange(min=0, min_open=True),
        callback=finite,
        help="VAE: factor of the noise that z is made of; below 1 closer to the middle.  [default: 1]",
    ),
    click.option("--reconstruct", metavar="FILE", help="VAE: write each line of FILE (`-`: standard input) anew."),
    click.option("--text", metavar="TEXT", help="VAE: write this one text anew."),
    click.option("--interpolate", nargs=2, metavar="A B", help="VAE: texts on the way from text A to text B."),
    click.option("--steps", type=click.IntRange(min=2), help="Texts on that way, both ends counted.  [default: 7]"),
    click.option(
        "--way",
        type=click.Choice(["spherical", "linear"]),
        help="Around the middle of the latent space, where texts are, or straight through.  [default: spherical]",
    ),
    click.option("--around", metavar="TEXT", help="VAE: texts near this one."),
    click.option(
        "--radius",
        type=click.FloatRange(min=0, min_open=True),
        callback=finite,
        help="How near: in standard deviations of the text's posterior.  [default: 1]",
    ),
    click.option(
        "--attribute-from",
        metavar="FILE",
        help="VAE: texts that lack what those of --attribute-to have; moves the texts of --reconstruct or --text.",
    ),
    click.option("--attribute-to", metavar="FILE", help="Texts that have it, in all else like the others."),
    click.option(
        "--strength",
        type=float,
        callback=finite,
        help="How far, in differences of the two sets' means; below 0 the other way.  [default: 1]",
    ),
)


NAMES = (*TASKS, "latent", "z_temperature", "attribute_from", "attribute_to", *NEEDS)


def latent_options(command: Callable) -> Callable:
    """The command with the options of VAEs."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


class Request(NamedTuple):
    """What was asked of the latent space; None where it was not.

    Attributes:
        task: one of :data:`TASKS`; None: texts are drawn.
        texts: the texts to read, with where each stands.
        source_set, target_set: texts that the direction of an attribute is taken from.
    """

    task: str | None
    latent: str | None
    z_temperature: float | None
    texts: list[tuple[str, str]]
    source_set: list[tuple[str, str]]
    target_set: list[tuple[str, str]]
    steps: int
    way: str
    radius: float
    strength: float

    @property
    def needs_vae(self) -> str | None:
        """The option given that only VAEs have."""
        if self.task:
            return f"--{self.task}"
        given = {"--latent": self.latent, "--z-temperature": self.z_temperature}
        return next((flag for flag, value in given.items() if value is not None), None)


def read_request(options: dict, *, prompted: bool) -> Request:
    """The checked request of these options by name; files are read.

    Raises:
        UserError: options that exclude each other or have no effect, or a file that cannot be used.
    """
    given = {name: value for name, value in options.items() if value is not None}
    tasks = [name for name in TASKS if name in given]
    if len(tasks) > 1:
        raise UserError(f"{_flag(tasks[0])} and {_flag(tasks[1])} are two tasks: give one")
    task = tasks[0] if tasks else None
    if ("attribute_from" in given) != ("attribute_to" in given):
        there, missing = sorted(("attribute_from", "attribute_to"), key=lambda name: name not in given)
        raise UserError(f"{_flag(there)} gives one of two sets of texts: add {_flag(missing)} FILE")
    for name, needed in NEEDS.items():
        if name in given and needed not in given:
            raise UserError(f"{_flag(name)} has no effect without {_flag(needed)}; leave it away")
    if "attribute_from" in given and task not in ("reconstruct", "text"):
        raise UserError("--attribute-from changes texts: name them by --reconstruct FILE or --text TEXT")
    if task and prompted:
        raise UserError(f"{_flag(task)} writes whole texts: --prompt and --prompts have no effect; leave one away")
    for name in ("latent", "z_temperature"):
        if task and name in given:
            raise UserError(f"{_flag(task)} takes z from texts, none is drawn: {_flag(name)} has no effect")
    _check_files(given)
    sets = [
        lines_of(given[name], _flag(name), "text") if name in given else []
        for name in ("attribute_from", "attribute_to")
    ]
    chosen = {name: given.get(name, default) for name, default in DEFAULTS.items()}
    return Request(task, given.get("latent"), given.get("z_temperature"), _texts(task, given), *sets, **chosen)


def _check_files(given: dict) -> None:
    """UserError where one file is given for two."""
    files = {name: given[name] for name in ("reconstruct", "attribute_from", "attribute_to") if name in given}
    if list(files.values()).count("-") > 1:
        raise UserError("`-` (standard input) was given more than once, but can be read only once")
    pair = [Path(files[name]).resolve() for name in ("attribute_from", "attribute_to") if name in files]
    if len(pair) == 2 and pair[0] == pair[1]:
        raise UserError(
            f"--attribute-from and --attribute-to are the same file, {files['attribute_to']}: give two sets"
        )


def _texts(task: str | None, given: dict) -> list[tuple[str, str]]:
    if task == "reconstruct":
        return lines_of(given["reconstruct"], "--reconstruct", "text")
    if task == "interpolate":
        return [(f"--interpolate, text {name}", text) for name, text in zip("AB", given["interpolate"], strict=True)]
    return [(f"--{task}", given[task])] if task else []


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


# ------------------------------------------------------------------------------------------------ models


def load_model(source: str, device, request: Request) -> SamplingModel:
    """The model of a run or checkpoint, a VAE with the source of latents that was asked for.

    ``--latent gan`` on a run means its latent GAN, whichever of its checkpoints is the best.

    Raises:
        UserError: it has no latents but an option is about them, or not this source.
    """
    from textgan.sampling.latent import LatentGenerator
    from textgan.training.checkpoint import arms, find_checkpoint
    from textgan.training.loading import load_for_sampling

    path = find_checkpoint(source)
    trained = path.parent / "latent_gan"
    if request.latent == "gan" and path != Path(source) and trained.is_dir():
        path = trained
    model = load_for_sampling(path, device)
    generator = model.generator
    if not isinstance(generator, LatentGenerator):
        if request.needs_vae:
            vae = arms(path.parent.parent).get("vae") if path.parent.name == "checkpoints" else None
            hint = f"give {vae}" if vae else "give the run of a VAE (a config with a `vae:` section)"
            raise UserError(
                f"{request.needs_vae}: {path} (phase {model.meta.get('phase', 'mle')}) has no latents; {hint}"
            )
        return model
    if request.latent == "gan" and generator.vae.latent_generator is None:
        hint = f"give {trained}" if trained.is_dir() else "it comes from a `latent_gan:` section of the config"
        raise UserError(f"--latent gan: {path} has no generator of latents; {hint}")
    if request.latent == "aggregate" and not _fitted(generator.vae):
        hint = "give the checkpoint `vae` of a finished run"
        raise UserError(f"--latent aggregate: {path} is older than the fit, which ends the phase of a VAE; {hint}")
    if request.latent or request.z_temperature:
        changed = generator.at(source=request.latent, z_temperature=request.z_temperature)
        model = replace(model, generator=changed.eval())
    return model


def _fitted(vae) -> bool:
    eye = vae.aggregate_factor.new_ones(vae.z_size).diag()
    return bool(vae.aggregate_mean.any()) or not bool((vae.aggregate_factor == eye).all())


def drawn_latents(model: SamplingModel) -> tuple[str, dict] | None:
    """Where a model takes the latents of its own texts from, in words and for records; None: it has none."""
    from textgan.sampling.latent import LatentGenerator

    generator = model.generator
    if not isinstance(generator, LatentGenerator):
        return None
    heat = f", z-temperature {generator.z_temperature}" if generator.z_temperature != 1 else ""
    return SOURCES[generator.source] + heat, {"source": generator.source, "z_temperature": generator.z_temperature}
