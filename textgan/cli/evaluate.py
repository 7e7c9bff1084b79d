"""``textgan evaluate``: a run's generators at many operating points."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from textgan.errors import UserError

if TYPE_CHECKING:
    from textgan.analysis.evaluate import Sweep
    from textgan.analysis.protocols import Protocol

# Metrics of the table, where no protocol names others; of those with * one for each embedder or language model.
HEADLINE = ("bleu_4", "self_bleu_4", "nll", "frechet_*", "lm_*", "rlm_*", "valid", "kl_to_model", "copies")
OF_PAIRS = ("relevance_auc_*", "condition_self_bleu_2", "condition_gain", "obeyed")  # where texts have conditions
OF_LATENTS = (
    "recon",
    "kl",
    "mi",
    "active_units",
    "active_directions",
)  # shown behind these, where some arm has latents
FIXED = ("n", "seed", "samplers", "embedders", "lm")  # options that a protocol decides
SMALLEST_N = 40  # two texts in each group of the jackknife


@click.command(
    short_help="Measure a run's generators at many temperatures, filters and rejections.",
    epilog="`textgan compare RUN...` says what the records show.",
)
@click.argument("run", required=False, type=click.Path(path_type=Path))
@click.option(
    "--arms",
    metavar="NAME,...",
    help="Only these generators, at all samplers: of pretrained, mle, adversarial, continued, vae, latent_gan, "
    "vae+aggregate (latents of the fitted aggregate posterior), kneser_ney (n-gram model of the training text), "
    "mle+kneser_ney (mixture).  [default: all there are; n-grams and vae+aggregate at temperature 1 only]",
)
@click.option(
    "--samplers",
    multiple=True,
    metavar="LIST",
    help="Operating points, such as temperature=0.5:1.3:0.1,top_p=0.9; families: temperature, top_p, top_k, typical_p,"
    " rejection (by own likelihood), z_temperature (of latents).  [default: 24 points, 3 more for arms with latents]",
)
@click.option(
    "-n", "--n", type=click.IntRange(min=SMALLEST_N), default=10_000, show_default=True, help="Texts a point."
)
@click.option(
    "--split",
    type=click.Choice(["dev", "test"]),
    default="dev",
    show_default=True,
    help="Where references and held-out text come from. Looks at test are counted: choose on dev.",
)
@click.option("--seed", type=click.IntRange(min=0, max=2**63 - 1), default=0, show_default=True, help="Of the texts.")
@click.option(
    "--protocol", "protocol_name", metavar="NAME", help="A named benchmark: fixes data, samplers, n and metrics."
)
@click.option("--list-protocols", is_flag=True, help="Print the benchmarks with what they fix, and stop.")
@click.option(
    "--embedder",
    "embedders",
    multiple=True,
    metavar="NAME",
    help="How texts become vectors for Frechet distance, MMD, MAUVE and Vendi score: ngrams, minilm, hf:NAME, lm, none;"
    " may be repeated.  [default: ngrams]",
)
@click.option(
    "--lm",
    multiple=True,
    type=click.Choice(["kn", "neural", "none"]),
    help="Language models for forward and reverse scores; may be repeated. neural trains three on the texts of each"
    " point.  [default: kn]",
)
@click.option(
    "--iw-samples",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="Latents drawn for each text to bound the likelihood of a VAE; runs compare at equal numbers. Papers: 500.",
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print values and intervals as JSON.")
@click.pass_context
def evaluate(
    ctx: click.Context,
    run: Path | None,
    arms: str | None,
    samplers: tuple[str, ...],
    n: int,
    split: str,
    seed: int,
    protocol_name: str | None,
    list_protocols: bool,
    embedders: tuple[str, ...],
    lm: tuple[str, ...],
    iw_samples: int,
    device: str,
    as_json: bool,
) -> None:
    """Draw and measure texts of RUN's generators at many operating points, and keep a record of each in the run.

    The same command again goes on where it was stopped, and makes anew what has changed. Text i of every point comes
    from the same random numbers, so that points compare better than their intervals say. TensorBoard shows the points
    under evaluation/, the knob of the sampler as the step (times 100).
    """
    if list_protocols:
        click.echo("\n".join(_protocol_lines()))
        return
    if run is None:
        raise click.UsageError("give the folder of a run, such as runs/NAME, or --list-protocols")
    commanded = {name for name in ctx.params if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    given = {"n": n, "seed": seed, "samplers": samplers, "embedders": embedders, "lm": lm, "split": split}
    given["iw_samples"] = iw_samples

    from textgan.analysis.evaluate import evaluate as evaluate_run
    from textgan.ops.devices import pick_device
    from textgan.training.interrupt import Interrupt
    from textgan.training.ranks import joined, local_device

    command = shlex.join(["textgan", *sys.argv[1:]])
    where = pick_device(device)
    try:
        with (
            joined(where, "what is done stays; the same command goes on, with any number of processes") as ranks,
            Interrupt(quiet=not ranks.first) as interrupt,
        ):
            sweep = _sweep({name: value for name, value in given.items() if name in commanded}, protocol_name, arms)
            settings = {"device": local_device(where), "command": command, "between": interrupt.check}
            result = evaluate_run(run, sweep, **settings, ranks=ranks)
            click.echo(json.dumps(_plain(result), indent=1, ensure_ascii=False) if as_json else _table(result, sweep))
    except KeyboardInterrupt:
        click.echo(f"stopped; go on with: {command}", err=True)
        raise


def _headline(sweep: Sweep) -> tuple[str, ...]:
    """Names of the metrics of the table."""
    if sweep.protocol is not None:
        return (*sweep.protocol.headline, *OF_LATENTS)
    embedders = [name.partition(":")[0] for name in sweep.embedders]
    ends = {"frechet_*": embedders, "lm_*": sweep.lm, "rlm_*": sweep.lm, "relevance_auc_*": embedders}
    names = (*HEADLINE, *OF_PAIRS)
    own = tuple(name[:-1] + end if name in ends else name for name in names for end in ends.get(name, [""]))
    return (*own, *OF_LATENTS)


def _sweep(given: dict[str, Any], protocol_name: str | None, arms: str | None) -> Sweep:
    """What is asked for: defaults, then the protocol's, then what was given, where the protocol leaves it open.

    Protocols fix how tokens are drawn; temperatures of latents go with them where nothing is given.
    """
    from textgan.analysis.evaluate import Sweep
    from textgan.analysis.protocols import find_protocol
    from textgan.sampling.samplers import DEFAULT_SAMPLERS, LATENT_SAMPLERS, parse_samplers

    protocol: Protocol | None = None if protocol_name is None else find_protocol(protocol_name)
    values: dict[str, Any] = {"samplers": DEFAULT_SAMPLERS}
    if protocol is not None:
        fixed = {name: getattr(protocol, name) for name in (*FIXED, "split", "tokenize")}
        for name in FIXED:
            if name in given and not _within(name, given[name], fixed[name]):
                shown = fixed[name] if isinstance(fixed[name], int) else ",".join(fixed[name])
                flag = "--embedder" if name == "embedders" else f"--{name}"
                raise UserError(f"{protocol} fixes {name}={shown}; leave {flag} away, or leave --protocol away")
        values |= fixed | {"samplers": (*fixed["samplers"], LATENT_SAMPLERS)}
    values |= given
    for name in ("embedders", "lm"):
        if name in values:
            values[name] = tuple(part for part in values[name] if part != "none")
    values["samplers"] = tuple(parse_samplers(values["samplers"]))
    names = None if arms is None else tuple(name.strip() for name in arms.split(",") if name.strip())
    return Sweep(**values, arms=names, protocol=protocol)


def _within(name: str, given: Any, fixed: Any) -> bool:
    """Whether what was given is the protocol's, or some of its samplers: each point is the same without the others."""
    from textgan.sampling.samplers import LATENT_FAMILY, parse_samplers

    if name == "samplers":
        of_tokens = {sampler for sampler in parse_samplers(given) if sampler.family != LATENT_FAMILY}
        return of_tokens <= set(parse_samplers(fixed))
    return set(given) == set(fixed) if name in ("embedders", "lm") else given == fixed


def _protocol_lines() -> list[str]:
    import textwrap

    from textgan.analysis.protocols import protocols

    lines = []
    for protocol in protocols():
        sizes = ", ".join(f"{name} {size:,}" for name, size in protocol.sizes.items())
        lines += [
            str(protocol),
            *textwrap.wrap(protocol.about, 100, initial_indent="  ", subsequent_indent="  "),
            f"  texts: {sizes}; references: {protocol.split}; n={protocol.n}, seed={protocol.seed},"
            f" tokenize={protocol.tokenize}, generator.block_size>={protocol.block_size}",
            f"  train with: {protocol.overrides()}",
            *(f"  {name}: SHA-256 {digest}" for name, digest in protocol.files.items()),
            "",
        ]
    return lines[:-1]


def _plain(result: dict[str, Any]) -> dict[str, Any]:
    """The result with what JSON can hold."""
    shown = ("arm", "sampler", "step", "training_seed", "weights", "values", "intervals")
    points = [{name: getattr(point, name) for name in shown} for point in result["points"]]
    return {**result, "points": points}


def _table(result: dict[str, Any], sweep: Sweep) -> str:
    """A row for each point, under its arm, with real text above and half the width of the 95 % interval behind ±."""
    points = result["points"]
    names = [name for name in _headline(sweep) if any(name in point.values for point in points)]
    rows = [["", *names], ["real text", *(_number(result["real"].get(name)) for name in names)]]
    for point in points:
        cells = [_number(point.values.get(name), point.intervals.get(name)) for name in names]
        rows.append([f"{point.arm} {point.sampler}", *cells])
    for arm, best in result["super_baseline"].items():
        if any(point.arm == arm for point in points):
            rows.append([f"{arm}, best of all samplers", *(_number(best.get(name, {}).get("value")) for name in names)])
            rows.append(["  at", *(best.get(name, {}).get("sampler") or "" for name in names)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(names) + 1)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
    about = f"{result['run']}: {result['n']:,} texts a point, split {result['split']}, seed {result['seed']}"
    if result["protocol"]:
        about += f", protocol {result['protocol']}"
    if result["test_reads"]:
        about += f"; looks at the test split so far: {result['test_reads']}"
    return "\n".join([about, "", *lines, *_bounds_told(result, names)])


def _bounds_told(result: dict[str, Any], names: list[str]) -> list[str]:
    """A line on which values of the table are bounds, where some are."""
    from textgan.analysis.judged import BOUNDED, OF_LIKELIHOOD

    arms = [arm for arm in dict.fromkeys(point.arm for point in result["points"]) if arm in BOUNDED]
    shown = [name for name in names if name in OF_LIKELIHOOD]
    if not arms or not shown:
        return []
    draws = result["signature"]["held_out"]["iw_samples"]
    return [
        "",
        f"{', '.join(shown)} of {', '.join(arms)}: upper bounds, importance-weighted with {draws} draws of z a text",
    ]


def _number(value: float | None, interval: list[float] | None = None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" + (f" ±{(interval[1] - interval[0]) / 2:.4f}" if interval else "")
