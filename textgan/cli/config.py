"""``textgan config``: what a config comes to, and whether it is right."""

import click

from textgan.errors import UserError


@click.group()
def config() -> None:
    """Show a config with all its defaults, or check configs."""


@config.command()
@click.argument("file", type=click.Path())
@click.argument("overrides", nargs=-1, metavar="[KEY.PATH=VALUE]...")
def show(file: str, overrides: tuple[str, ...]) -> None:
    """Print FILE as it is understood: every key, its meaning, what is allowed, and what differs from the default.

    The output is a config file itself. Values after FILE replace those in it: mle.max_steps=100.
    """
    from textgan.configfile import describe_config, load_config

    click.echo(describe_config(load_config(file, overrides)), nl=False)


@config.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(), metavar="FILE...")
def check(files: tuple[str, ...]) -> None:
    """Check each FILE as a whole and print all problems; exit with 1 if there are any."""
    from textgan.configfile import load_config

    problems = []
    for file in files:
        try:
            click.echo(f"{file}: OK: {_summary(load_config(file))}")
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(problems))


def _batch(phase) -> str:
    budget = getattr(phase, "batch_tokens", None)
    return str(phase.batch_size) if budget is None else f"{budget} tokens"


def _summary(config) -> str:
    """Return what a config trains, in one line; ``config`` is a ``textgan.config.Config``."""
    model = config.generator
    phases = [
        f"{name} {phase.max_steps} steps of {_batch(phase)}"
        for name in ("mle", "adversarial", "vae", "latent_gan", "classifier")
        if (phase := getattr(config, name, None)) is not None
    ]
    if config.classifier:
        shape = config.encoder
        encoder = config.classifier.init_from or f"{shape.kind} of {shape.n_layer} layers"
        return f"{config.name}: {config.data.source} by {config.data.label or 'file'}; encoder {encoder}; {phases[0]}"
    shape = f"{model.n_layer} x {model.n_embd}, {model.n_head} heads"
    if model.kind == "lstm":
        shape = f"{model.n_layer} x {model.n_hidden}, LSTM"
    if model.init_from:
        shape = model.init_from
    return (
        f"{config.name}: {config.data.source}, {config.tokenizer.kind} tokens; generator {shape}, texts up to "
        f"{model.block_size}; {', '.join(phases)}"
    )
