"""The ``textgan`` command: finds subcommands when they are needed, and says what went wrong in one line."""

import difflib
import errno
import importlib
import os
import sys

import click

from textgan import __version__
from textgan.errors import UserError
from textgan.threads import wait_briefly

# Commands stand in textgan/cli/<name>.py under the same name. They import torch inside their functions, so that
# `textgan --help` answers at once.
COMMANDS = ("train", "sample", "score", "evaluate", "compare", "certify", "classify", "export", "data", "config")
SHARED = ("train", "sample", "evaluate")  # those that processes of torchrun do together

wait_briefly()

# What no program can help: no space or quota left, a file system that is read-only or broken, rights that are missing.
OF_THE_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM)
INTERRUPTED = 130  # what a shell expects after Ctrl-C


class _Commands(click.Group):
    def list_commands(self, ctx):
        return list(COMMANDS)

    def get_command(self, ctx, name):
        if name not in COMMANDS:
            return None
        return getattr(importlib.import_module(f"textgan.cli.{name}"), name)

    def resolve_command(self, ctx, args):
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            near = difflib.get_close_matches(name, COMMANDS, 1)
            hint = f"did you mean `{near[0]}`?" if near else f"commands: {', '.join(COMMANDS)}"
            ctx.fail(f"unknown command `{name}`; {hint}")
        if _several() and name in COMMANDS and name not in SHARED:
            shared = ", ".join(f"`{command}`" for command in SHARED)
            ctx.fail(f"torchrun is for {shared}, whose work processes share; run `textgan {name}` without it")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except UserError as error:
            if ctx.params["debug"]:
                raise
            click.echo(f"error: {error}", err=True)
            return ctx.exit(1)
        except OSError as error:
            if ctx.params["debug"] or error.errno not in OF_THE_MACHINE:
                raise
            place = f"{error.filename}: " if error.filename else ""
            click.echo(f"error: {place}{error.strerror}", err=True)
            return ctx.exit(1)


@click.command(cls=_Commands, no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="textgan")
@click.option("--debug", is_flag=True, envvar="TEXTGAN_DEBUG", help="Show a traceback for every error.")
def cli(debug: bool) -> None:
    """Train text generators by maximum likelihood and against a discriminator, sample from them, measure them.

    First steps: `textgan train configs/quickstart.yaml`, then `tensorboard --logdir runs`.
    """


def _several() -> bool:
    """Whether torchrun started several processes."""
    return int(os.environ.get("WORLD_SIZE", 1)) > 1


def main() -> None:
    """Run the command line and exit: 0 fine, 1 error, 2 wrong usage, 130 interrupted by Ctrl-C."""
    try:
        code = cli.main(prog_name="textgan", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        if _several() and os.environ.get("RANK") != "0":
            # All find the same fault, and one says it: were this to fail first, torchrun would end that one before.
            sys.exit(0)
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        code = INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe has gone. What is still buffered cannot be written; without this, Python
        # complains at exit. Click itself ends with 1 when it notices first.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code if isinstance(code, int) else 0)
