"""Commands as tests call them."""

import click
from click.testing import CliRunner, Result


def invoke(command: click.Command, *args: object, stdin: str | None = None, code: int = 0) -> Result:
    """What the command printed; its exit code must be ``code``, and what it raises comes through."""
    result = CliRunner().invoke(command, [str(arg) for arg in args], input=stdin)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result
