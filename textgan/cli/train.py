"""``textgan train``: run a config."""

import json
import shlex
from pathlib import Path

import click

# What --max-steps limits in each phase.
STEPS = {
    "mle": ("max_steps",),
    "adversarial": ("max_steps",),
    "vae": ("max_steps", "pretrain_steps", "kl_ramp_steps"),
    "latent_gan": ("max_steps",),
    "classifier": ("max_steps",),
}


@click.command(
    short_help="Train as a config says: by likelihood, against a critic, a VAE, a classifier.",
    epilog="Watch it with `tensorboard --logdir runs`; sample from it with `textgan sample RUN`.",
)
@click.argument("config_file", metavar="CONFIG", type=click.Path())
@click.argument("overrides", metavar="[KEY=VALUE]...", nargs=-1)
@click.option(
    "--run",
    "--run-folder",  # torchrun takes --run for short for an option of its own
    "folder",
    type=click.Path(path_type=Path),
    help="Run folder; default: runs/NAME of the config.",
)
@click.option("--resume", is_flag=True, help="Go on with the run in that folder from its last checkpoint.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Overrides `device` of the config.")
@click.option("--seed", type=click.IntRange(min=0), help="Overrides `seed` of the config.")
@click.option(
    "--max-steps",
    type=click.IntRange(min=1),
    help="At most this many steps in each phase (schedules shrink too).",
)
@click.option("--dry-run", is_flag=True, help="Read data and config, say what would be done, and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def train(
    config_file: str,
    overrides: tuple[str, ...],
    folder: Path | None,
    resume: bool,
    device: str | None,
    seed: int | None,
    max_steps: int | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Train as CONFIG (a YAML file) says, with single values overridden: `mle.lr=5e-4 adversarial=none`."""
    from textgan.configfile import load_config

    options = [f"{key}={value}" for key, value in (("device", device), ("seed", seed)) if value is not None]
    config = load_config(config_file, [*overrides, *options])
    if max_steps:
        capped = [
            f"{phase}.{name}={min(max_steps, getattr(getattr(config, phase), name))}"
            for phase, names in STEPS.items()
            if getattr(config, phase, None)
            for name in names
        ]
        config = load_config(config_file, [*overrides, *options, *capped])

    from textgan.ops.devices import pick_device
    from textgan.training import dry_run as forecasts
    from textgan.training import report, run
    from textgan.training.experiment import say
    from textgan.training.ranks import joined

    go_on = "go on from the last checkpoint with --resume, with any number of processes"
    with joined(pick_device(config.device), go_on) as ranks:
        folder = ranks.same(folder or run.default_folder(config.name, resume=resume))
        if dry_run:
            facts = forecasts.plan(config, folder, resume=resume)
            click.echo(json.dumps(facts, indent=1) if as_json else forecasts.plan_text(config, facts))
            return
        say(f"run: {folder}")
        try:
            results = run.train(config, folder, resume=resume, ranks=ranks)
        except KeyboardInterrupt:
            if run.is_run(folder):
                again = [
                    config_file,
                    *overrides,
                    "--run" if ranks.size == 1 else "--run-folder",
                    str(folder),
                    "--resume",
                ]
                for flag, value in (("--device", device), ("--seed", seed), ("--max-steps", max_steps)):
                    again += [flag, str(value)] if value is not None else []
                say(f"stopped; go on with: textgan train {shlex.join(again)}")
            else:
                say("stopped before anything was written")
            raise
        except OSError as error:
            error.filename = error.filename or str(folder)  # a write into a full disk does not say where
            raise
        if as_json:
            click.echo(json.dumps(results, indent=1, ensure_ascii=False))
        else:
            report.print_results(results)
        shown = [shlex.quote(str(path)) for path in (folder, folder.parent)]
        use = "classify {} FILE" if config.classifier else "sample {}"
        say(f"next: `textgan {use}`, `tensorboard --logdir {{}}`".format(*shown))
