"""What a person meets at ``textgan train``: refusals, --dry-run, Ctrl-C and the command that goes on, the end table."""

import errno
import json
import math
import os
import shlex
import signal
from pathlib import Path

import pytest
from click.testing import CliRunner

from textgan.cli.main import cli
from textgan.configfile import load_config
from textgan.training import progress, report, run
from textgan.training.experiment import Experiment
from textgan.training.interrupt import Interrupt

SMOKE = Path(__file__).parents[1] / "configs" / "smoke.yaml"
FEW = ["data.size=60", "threads=1"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def train(*args):
    return CliRunner().invoke(cli, ["train", str(SMOKE), *FEW, *map(str, args)])


def started(folder: Path, *overrides: str) -> Path:
    """A run that was started with the smoke config and killed before its first checkpoint."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(run.dump_config(load_config(SMOKE, [*FEW, *overrides])))
    (folder / "metrics.jsonl").write_text("{}\n")
    return folder


def read_all(terminal: int) -> str:
    """What was written to a pseudo-terminal so far, as its other end ``terminal`` gives it."""
    os.set_blocking(terminal, False)
    parts = []
    while True:
        try:
            parts.append(os.read(terminal, 65536))
        except BlockingIOError:
            return b"".join(parts).decode()


def everything(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_places_that_cannot_hold_a_run_are_refused_in_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    done = train("--run", "file")
    assert done.stderr.splitlines()[-1] == "error: file is a file; give a folder for the run"
    done = train("--run", "file/below")
    assert done.stderr.splitlines()[-1].startswith("error: the run folder file/below cannot be made: Not a directory")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    done = train("--run", "mine")
    assert done.stderr.splitlines()[-1] == "error: mine is not empty; give a new or an empty --run"
    assert done.exit_code == 1


def test_a_dry_run_writes_nothing_and_refuses_what_the_run_would_refuse(tmp_path):
    folder = started(tmp_path / "runs" / "smoke")
    before = everything(tmp_path)
    done = train("--dry-run", "--json")
    assert done.exit_code == 0
    facts = json.loads(done.stdout)
    assert facts["run"] == "runs/smoke-2"  # the first name that is free
    assert facts["resumed_at"] is None
    assert train("--dry-run", "--run", folder).exit_code == 1
    done = train("--dry-run", "--resume", "mle.lr=0.5")
    assert "was started with other settings" in done.stderr
    done = train("--dry-run", "--resume")
    assert done.stdout.startswith("run: runs/smoke\n")
    assert everything(tmp_path) == before


def test_ctrl_c_prints_a_command_that_goes_on_with_the_same_settings(tmp_path, monkeypatch):
    given = []

    def stop(config, folder, *, resume, ranks):
        given.append(config)
        if not resume:
            started(folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "train", stop)
    override = 'evaluation.prompts=["Once upon a time", it\'s]'
    done = train(override, "--run", "my run", "--seed", "5", "--max-steps", "3", "--device", "cpu")
    command = done.stderr.split("go on with: ")[1].splitlines()[0]
    words = shlex.split(command)
    assert words[:2] == ["textgan", "train"]
    assert "--resume" in words
    CliRunner().invoke(cli, words[1:])
    assert given[0] == given[1]
    assert given[0].seed == 5
    assert given[0].mle.max_steps == 3


def test_ctrl_c_before_anything_is_written_offers_no_way_on(monkeypatch):
    monkeypatch.setattr(run, "read_corpus", lambda config: (_ for _ in ()).throw(KeyboardInterrupt))
    done = train()
    assert "stopped before anything was written" in done.stderr
    assert "--resume" not in done.stderr
    assert not Path("runs").exists()


def test_ctrl_c_ends_a_final_evaluation_and_the_run_goes_on_from_there(tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = ("mle.max_steps=2", "adversarial=none", "evaluation.batch_size=8")
    assert train("--run", whole, *options).exit_code == 0
    check, calls = Experiment.check_interrupt, []

    def pressed(self):
        calls.append(self)
        self.interrupt.requested = len(calls) == 2
        check(self)

    monkeypatch.setattr(Experiment, "check_interrupt", pressed)
    assert train("--run", parts, *options).exit_code == 1  # click's Abort
    assert len(calls) == 2
    assert not (parts / "results.json").exists()
    monkeypatch.undo()
    assert train("--run", parts, *options, "--resume").exit_code == 0
    first, second = (json.loads((folder / "results.json").read_text())["phases"] for folder in (whole, parts))
    assert first == second


def test_the_second_ctrl_c_leaves_at_once_with_a_visible_cursor(monkeypatch):
    master, slave = os.openpty()
    monkeypatch.setattr(os, "_exit", lambda code: (_ for _ in ()).throw(SystemExit(code)))
    with os.fdopen(slave, "w") as stderr, Interrupt() as interrupt:
        monkeypatch.setattr("sys.stderr", stderr)
        signal.raise_signal(signal.SIGINT)
        assert interrupt.requested
        with pytest.raises(SystemExit) as left:
            signal.raise_signal(signal.SIGINT)
        assert "\x1b[?25h" in read_all(master)
    assert left.value.code == 130


def test_a_full_disk_is_one_line_that_says_where(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("textgan.training.logging._write_line", full)
    done = train("--run", "a")
    assert done.stderr.splitlines()[-1] == "error: a: No space left on device"
    assert done.exit_code == 1


def test_too_long_texts_name_their_split(tmp_path):
    texts = [f"{i} a b" for i in range(20)]
    (tmp_path / "x.txt").write_text("\n".join(texts))
    (tmp_path / "dev.txt").write_text("a b " * 100)
    done = train("data.source=x.txt", "data.dev=dev.txt", "data.test_fraction=0", "--dry-run")
    assert done.stderr.splitlines()[-1].startswith("error: dev: ")


def results(**metrics: float) -> dict:
    entry = {"step": 1200, "metrics": {"nll": 1.25, "self_bleu_4": 0.5, "self_bleu_4_real": 0.25, **metrics}}
    best = (f"{arm} (best dev NLL)" for arm in ("adversarial", "continued"))
    phases = dict.fromkeys(("mle", "adversarial", "continued", *best), entry)
    return {"run": "runs/a", "phases": phases, "signature": {"texts": 5000}}


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_the_table_keeps_its_names_and_numbers_on_narrow_terminals(columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(columns))
    report.print_results(results(nll_oracle=8.5, nll_true=1700.0, test_nll_known=3.0))
    shown = capsys.readouterr().out
    assert all(len(line) <= columns for line in shown.splitlines())
    rows = {line.split()[0]: line.split()[1:] for line in shown.splitlines() if line.strip()}
    count = 3 if columns == 60 else 5  # five do not fit
    assert rows["self_bleu_4"] == ["0.250", *["0.500"] * count, "real"]
    assert rows["nll"] == ["-", *["1.2500"] * count, "low"]
    assert ("left out on a narrow terminal" in shown) == (count == 3)
    assert rows["nll_oracle"][1] == "8.5000"
    assert "nll_oracle: nats a token" in " ".join(shown.split())
    assert "nll_true: nats a text" in " ".join(shown.split())
    assert "kl_to_model" not in shown  # no unit of what is not there


def test_the_end_says_how_each_arm_was_calibrated_and_what_the_baseline_cost(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    found = results()
    fitted = {"temperature": 0.95, "unk_bias": -0.5, "nll_before": 3.25, "nll_after": 3.125}
    parent, end = ({**found["phases"]["mle"], "calibration": value} for value in (fitted, None))
    budget = {"rule": "tokens", "tokens": 123456, "steps": 1300, "schedule_steps": 1300}
    found["phases"] = {"mle": parent, "adversarial": end, "continued": {**end, "budget": budget}}
    report.print_results(found)
    assert capsys.readouterr().out.splitlines()[-4:] == [
        "mle: calibrated on dev: temperature 0.950, <unk> bias -0.50, nll 3.2500 -> 3.1250",
        "adversarial: not calibrated",
        "continued: not calibrated",
        "continued: maximum likelihood from the same parent, 1,300 steps, as many tokens (123,456) as the adversarial "
        "phase",
    ]


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_the_bar_keeps_counts_and_the_newest_numbers_on_narrow_terminals(columns, monkeypatch):
    master, slave = os.openpty()
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    with os.fdopen(slave, "w") as stderr:
        monkeypatch.setattr("sys.stderr", stderr)
        with progress.Progress("adversarial", total=20000, done=1000) as bar:
            bar.advance()
            bar.show(g_loss=0.70341, d_acc=0.8906, dev_nll=5.7661)
        monkeypatch.undo()
        shown = read_all(master)
    assert "1001/20000" in shown.replace(" ", "")
    assert "dev_nll 5.766" in shown
    assert "…" not in shown
    assert ("steps/s" in shown) == (columns == 120)


def test_piped_progress_has_no_number_twice_and_no_trailing_space(capsys):
    with progress.Progress("mle", total=10) as bar:
        bar.advance()
    line = capsys.readouterr().err
    assert line.startswith("mle 1/10  ")
    assert line.endswith(" left\n")
    assert math.isfinite(float(line.split()[2]))
