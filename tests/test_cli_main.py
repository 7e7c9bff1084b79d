"""The command line: quick help, lazy commands, errors in one line, exit codes."""

import errno
import os
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

import textgan
from textgan.cli import main as main_module
from textgan.cli.main import cli
from textgan.config import Config
from textgan.errors import UserError


def run(*args, script=None, **options):
    """Run ``textgan args`` (or a script that ends in it) in a process of its own."""
    command = [sys.executable, "-c", script] if script else [sys.executable, "-m", "textgan"]
    return subprocess.run([*command, *args], capture_output=True, text=True, timeout=120, **options)


@pytest.fixture
def command(monkeypatch):
    """Let ``textgan try`` be a command made on the spot."""

    def command(function):
        monkeypatch.setattr(main_module, "COMMANDS", ("try", "train"))
        monkeypatch.setattr(
            main_module._Commands, "get_command", lambda self, ctx, name: click.command("try")(function)
        )
        return CliRunner().invoke(cli, ["try"])

    return command


def test_help_lists_every_command_without_importing_torch():
    script = (
        "import sys, textgan.cli.main as m\n"
        "try: m.main()\n"
        "except SystemExit as e: code = e.code\n"
        "heavy = {'torch', 'transformers', 'datasets', 'tensorboard', 'nltk'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else code)\n"
    )
    done = run("--help", script=script)
    assert done.returncode == 0, done.stderr
    for name in main_module.COMMANDS:
        assert f"\n  {name} " in done.stdout
    assert "textgan train configs/quickstart.yaml" in done.stdout
    assert run("-c", "x", script=script).returncode == 2


def test_help_says_of_every_command_what_it_does_without_cutting_it_off():
    shown = CliRunner().invoke(cli, ["--help"], terminal_width=80).stdout.partition("Commands:")[2]
    assert "..." not in shown


def test_every_command_can_be_found_under_its_name():
    for name in main_module.COMMANDS:
        found = cli.get_command(click.Context(cli), name)
        assert isinstance(found, click.Command)
        assert found.name == name
        assert found.get_short_help_str()


def test_version():
    result = CliRunner().invoke(cli, ["--version"])
    assert result.output == f"textgan, version {textgan.__version__}\n"


@pytest.mark.parametrize(
    "name, hint",
    [("trian", "did you mean `train`?"), ("zzz", "commands: train, sample, score, ")],
)
def test_an_unknown_command_names_the_nearest(name, hint):
    result = CliRunner().invoke(cli, [name])
    assert result.exit_code == 2
    assert f"unknown command `{name}`; {hint}" in result.stderr


def test_user_errors_are_plain_lines_on_stderr(command):
    def fail():
        raise UserError("a.yaml:1: no\na.yaml:2: neither")

    result = command(fail)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "error: a.yaml:1: no\na.yaml:2: neither\n"


def test_debug_shows_where_a_user_error_comes_from(tmp_path):
    for options in ({"args": ["--debug"]}, {"args": [], "env": {**os.environ, "TEXTGAN_DEBUG": "1"}}):
        done = run(*options.pop("args"), "config", "show", "absent.yaml", cwd=tmp_path, **options)
        assert done.returncode == 1
        assert "Traceback" in done.stderr
        assert "UserError: config file absent.yaml does not exist" in done.stderr
    done = run("config", "show", "absent.yaml", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "error: config file absent.yaml does not exist\n")


@pytest.mark.parametrize("number, told", [(errno.ENOSPC, "error: x/y: No space left on device\n"), (errno.EBADF, None)])
def test_what_the_machine_lacks_is_one_line_and_other_system_errors_are_bugs(command, number, told):
    def fail():
        raise OSError(number, os.strerror(number), "x/y")

    done = command(fail)
    if told is None:
        assert isinstance(done.exception, OSError)
    else:
        assert (done.exit_code, done.stderr) == (1, told)


def test_our_own_bugs_keep_their_traceback(command):
    def fail():
        raise ZeroDivisionError

    assert isinstance(command(fail).exception, ZeroDivisionError)


@pytest.mark.parametrize(
    "body, code, stderr",
    [
        ("raise KeyboardInterrupt", 130, "interrupted\n"),
        ("raise BrokenPipeError", 1, ""),
        ("sys.exit(7)", 7, ""),
        ("click.get_current_context().exit(130)", 130, ""),
        ("return 5", 5, ""),
        ("pass", 0, ""),
    ],
)
def test_exit_codes(body, code, stderr):
    script = (
        "import sys, click, textgan.cli.main as m\n"
        "m.COMMANDS = ('try',)\n"
        "@click.command('try')\n"
        f"def command():\n    {body}\n"
        "m._Commands.get_command = lambda self, ctx, name: command\n"
        "m.main()\n"
    )
    done = run("try", script=script)
    assert (done.returncode, done.stderr.lstrip("\n")) == (code, stderr)


def test_a_reader_that_goes_away_is_no_error(tmp_path):
    (tmp_path / "x.yaml").write_text("seed: 1\n")
    done = subprocess.run(
        f"set -o pipefail; {sys.executable} -m textgan config show x.yaml | head -c 1",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
    )
    assert done.stderr == ""
    assert done.stdout == "#"
    assert done.returncode in (0, 1)


def test_config_show_prints_a_config_with_the_overrides(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("name: mine\n")
    result = CliRunner().invoke(cli, ["config", "show", str(path), "mle.lr=1e-4", "adversarial={}"])
    assert result.exit_code == 0
    assert "  lr: 0.0001  # changed; default: 0.001\n" in result.stdout
    path.write_text(result.stdout)
    again = CliRunner().invoke(cli, ["config", "show", str(path)])
    assert again.stdout == result.stdout


def test_config_check_goes_through_all_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.yaml").write_text("name: good\nadversarial: {max_steps: 9}\n")
    (tmp_path / "bad.yaml").write_text("lr: 3\nmle: {lrr: 1}\n")
    result = CliRunner().invoke(cli, ["config", "check", "bad.yaml", "absent", "good.yaml"])
    assert result.exit_code == 1
    mle = Config().mle
    assert result.stdout.startswith("good.yaml: OK: good: stories, word tokens; generator 4 x 256")
    assert f"mle {mle.max_steps} steps of {mle.batch_size}, adversarial 9 steps of" in result.stdout
    lines = result.stderr.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("error: bad.yaml:2: unknown key `mle.lrr`")
    assert lines[1].startswith("bad.yaml:1: unknown key `lr`")
    assert lines[2] == "config file absent does not exist"
    assert CliRunner().invoke(cli, ["config", "check", "good.yaml"]).exit_code == 0


@pytest.mark.parametrize(
    "given, found",
    [
        ({}, ("PASSIVE", "500")),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, ("ACTIVE", None)),
        ({"GOMP_SPINCOUNT": "7"}, (None, "7")),
    ],
)
def test_threads_wait_briefly_unless_the_environment_says_how_and_before_torch_is_there(given, found):
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    script = (
        "import os, sys, textgan.cli.main\n"
        f"print('torch' in sys.modules, *[os.environ.get(name) for name in {names}])\n"
    )
    environment = {name: value for name, value in os.environ.items() if name not in names} | given
    done = run(script=script, env=environment)
    assert done.stdout.split() == ["False", *map(str, found)], done.stderr
