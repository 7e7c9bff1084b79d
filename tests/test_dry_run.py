"""What ``textgan train --dry-run`` says: what would be done, what it would take, and how far off that was last time."""

import json
import math
import os
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from textgan.cli.main import cli
from textgan.ops.devices import device_name
from textgan.training import forecast

SMOKE = Path(__file__).parents[1] / "configs" / "smoke.yaml"
FEW = ["data.size=60", "threads=1"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def train(*args):
    return CliRunner().invoke(cli, ["train", str(SMOKE), *FEW, *map(str, args)])


def test_a_dry_run_says_at_which_step_the_run_goes_on(tmp_path):
    assert train("--run", "a", "--max-steps", "2", "adversarial=none").exit_code == 0
    done = train("--run", "a", "--max-steps", "2", "adversarial=none", "--resume", "--dry-run")
    assert done.stdout.startswith("run: a, to be resumed at step 2\n")


def test_a_dry_run_counts_epochs_by_what_batches_hold():
    plain, narrow = (
        json.loads(train("--dry-run", "--json", *options).stdout)
        for options in ([], ["mle.batch_tokens=1"])  # a text a batch
    )
    rows, steps = plain["rows"]["train"], plain["phases"]["mle"]["steps"]
    assert plain["phases"]["mle"]["epochs"] == steps / math.ceil(rows / 8)
    assert narrow["phases"]["mle"]["epochs"] == pytest.approx(steps / rows)


def note(folder: Path, device: str, when: float, **phases: float) -> None:
    """A ``took.json`` of so many seconds a step, a third more than was expected."""
    folder.mkdir(parents=True)
    entries = {
        name: {"steps": 50, "step_seconds": seconds, "expected_step_seconds": seconds * 0.75}
        for name, seconds in phases.items()
    }
    found = {"device": device, "phases": entries, "peak_bytes": 2**30, "expected_peak_bytes": 2**31}
    path = folder / forecast.TOOK
    path.write_text(json.dumps(found), encoding="utf-8")
    os.utime(path, (when, when))


def test_a_run_leaves_what_it_took_and_the_next_dry_run_tells_of_it():
    steps = ["mle.max_steps=14", "adversarial.max_steps=12", "mle.patience=0", "adversarial.patience=0"]
    assert train(*steps, "--run", "runs/one").exit_code == 0
    kept = json.loads(Path("runs/one/took.json").read_text(encoding="utf-8"))
    assert kept["device"] == "1 CPU threads"
    assert {name: phase["steps"] for name, phase in kept["phases"].items()} == {
        "mle": 14,
        "adversarial": 12,
        "continued": 12,
    }
    for phase in kept["phases"].values():
        assert 1e-4 < phase["step_seconds"] < 60
        assert phase["expected_step_seconds"] > 0
    assert 2**26 < kept["peak_bytes"] < 2**36
    facts = json.loads(train(*steps, "--run", "runs/two", "--dry-run", "--json").stdout)
    assert facts["last_time"] == {"run": "runs/one", **kept}
    mle = facts["phases"]["mle"]
    assert mle["seconds"] > 14 * mle["step_seconds"] > 0
    assert facts["seconds"] == pytest.approx(sum(phase["seconds"] for phase in facts["phases"].values()))
    assert facts["peak_bytes"] == max(phase["peak_bytes"] for phase in facts["phases"].values())
    line = train(*steps, "--run", "runs/two", "--dry-run").stdout.splitlines()[-1]
    took, expected = (kept["phases"]["mle"][f"{which}step_seconds"] for which in ("", "expected_"))
    assert line.startswith(f"last time (runs/one): mle took {took * 1e3:.3g} ms a step where {expected * 1e3:.3g} ms")
    assert f"({took / expected - 1:+.0%})" in line
    assert not Path("runs/two").exists()


def test_the_newest_run_on_such_a_device_is_told_of_and_broken_ones_are_passed_over():
    here = device_name(torch.device("cpu"))
    note(Path("runs/old"), here, 1000.0, mle=0.5)
    note(Path("runs/new"), here, 2000.0, mle=0.4, adversarial=2.0)
    note(Path("runs/other"), "a GPU", 3000.0, mle=0.1)
    note(Path("runs/short"), here, 4000.0)  # no phase had steps enough
    for broken, text in (("half", '{"device": "'), ("list", "[]"), ("empty", "{}"), ("bare", "")):
        Path(f"runs/{broken}").mkdir()
        Path(f"runs/{broken}/took.json").write_text(text, encoding="utf-8")
    told = forecast.last_time(Path("runs"), torch.device("cpu"))
    assert told["run"] == "runs/new"
    assert set(told["phases"]) == {"mle", "adversarial"}
    torch.set_num_threads(1)
    note(Path("runs/one-thread"), "1 CPU threads", 2500.0, mle=0.4, adversarial=2.0)
    assert train("--dry-run").stdout.splitlines()[-1] == (
        "last time (runs/one-thread): mle took 400 ms a step where 300 ms was expected (+33%), adversarial took 2 s a "
        "step where 1.5 s was expected (+33%), memory 1.00 GiB where 2.00 GiB was expected (-50%)"
    )
    assert forecast.last_time(Path("nowhere"), torch.device("cpu")) is None


def test_few_steps_are_no_record_and_a_resumed_run_keeps_that_of_phases_before(tmp_path):
    expected = {name: {"step_seconds": 0.1, "peak_bytes": 10} for name in ("mle", "adversarial")}
    took = forecast.Took(tmp_path, expected, torch.device("cpu"))

    class Steps:
        first, steps = 5, 5 + forecast.ENOUGH - 1

        def rate(self, name):
            return 4.0

    took.note("mle", Steps())
    assert not (tmp_path / forecast.TOOK).exists()
    Steps.steps += 1
    took.note("mle", Steps())
    took.note("discriminator", Steps())  # nobody forecast it
    forecast.Took(tmp_path, expected, torch.device("cpu")).note("adversarial", Steps())
    kept = json.loads((tmp_path / forecast.TOOK).read_text(encoding="utf-8"))
    assert kept["phases"]["mle"] == {"steps": 10, "step_seconds": 0.25, "expected_step_seconds": 0.1}
    assert set(kept["phases"]) == {"mle", "adversarial"}


def test_a_device_without_prices_is_told_of_and_memory_all_the_same(monkeypatch):
    monkeypatch.setattr("textgan.training.estimate.PRICES", {})
    told = train("--dry-run").stdout
    assert "in all: no times are fitted for 1 CPU threads, " in told
    facts = json.loads(train("--dry-run", "--json").stdout)
    assert facts["seconds"] is None
    assert facts["phases"]["mle"]["step_seconds"] is None
    assert facts["phases"]["mle"]["peak_bytes"] > 2**26
