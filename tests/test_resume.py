"""Killed at any moment and resumed, a run ends with the same bits: in process at every write, and by signal."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.kills import Killed, everything
from textgan.config import Config
from textgan.configfile import load_config
from textgan.training import checkpoint, run
from textgan.training.checkpoint import read_pointer
from textgan.training.experiment import Experiment
from textgan.training.loading import load_for_sampling
from textgan.training.logging import RunLogger
from textgan.training.progress import Progress

SMOKE = Path(__file__).parents[1] / "configs" / "smoke.yaml"


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Overrides for a run of a moment: two steps of each phase on a hundred short texts, a checkpoint at each."""
    text = tmp_path_factory.mktemp("data") / "texts.txt"
    text.write_text("\n".join(f"{a} {b} {c} ." for a in "abcd" for b in "abcde" for c in "abcde"))
    return [
        "threads=1", f"data.source={text}", "generator.block_size=8", "mle.max_steps=2", "mle.lr=0.1", "mle.ema=0",
        "adversarial.max_steps=2", "adversarial.batch_size=4", "adversarial.d_pretrain_steps=1", "log_every=1",
        "adversarial.max_nll_rise=none", "adversarial.lr=0.5", "adversarial.ema=0",
        "evaluation.every=1", "evaluation.samples=4", "evaluation.final_samples=4",
        "checkpoint.every=1", "checkpoint.keep_last=1",
    ]  # fmt: skip


def config(*overrides: str) -> Config:
    return load_config(SMOKE, overrides)


def test_killed_before_any_write_and_resumed_equals_uninterrupted(few, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # a third of the time; the disk outlives these kills
    run.train(config(*few), tmp_path / "whole")
    expected = everything(tmp_path / "whole")
    count, fatal = 0, None

    def deadly(function):
        def call(*args, **kwargs):
            nonlocal count
            count += 1
            if count == fatal:
                raise Killed
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(Path, "rename", deadly(Path.rename))
    monkeypatch.setattr(Path, "replace", deadly(Path.replace))
    monkeypatch.setattr(checkpoint, "save_file", deadly(checkpoint.save_file))
    monkeypatch.setattr(checkpoint.shutil, "rmtree", deadly(checkpoint.shutil.rmtree))
    run.train(config(*few), tmp_path / "counted")
    assert everything(tmp_path / "counted") == expected
    writes = count
    assert writes > 25
    folder = tmp_path / "killed"
    for fatal in range(2, writes + 1):  # before the first one there is no run yet
        count = 0
        with pytest.raises(Killed):
            run.train(config(*few), folder)
        run.train(config(*few), folder, resume=True)
        assert everything(folder) == expected, f"killed before write {fatal} of {writes}"
        folder = tmp_path / f"killed-{fatal}"


def kill_and_resume(monkeypatch, settings, folder, label, steps):
    """Train until the progress ``label`` has made ``steps`` steps, die, and resume to the end."""
    advance = Progress.advance

    def fatal(self, **counts):
        advance(self, **counts)
        if self.label == label and self.steps - self.first == steps:
            raise Killed

    monkeypatch.setattr(Progress, "advance", fatal)
    with pytest.raises(Killed):
        run.train(config(*settings), folder)
    monkeypatch.undo()
    pointed = read_pointer(folder / "checkpoints", "best")
    run.train(config(*settings), folder, resume=True)
    return pointed, everything(folder)


def test_killed_while_the_discriminator_learns_alone(few, tmp_path, monkeypatch):
    settings = [*few, "adversarial.d_pretrain_steps=3"]
    run.train(config(*settings), tmp_path / "whole")
    _, found = kill_and_resume(monkeypatch, settings, tmp_path / "run", "discriminator", 2)
    assert found == everything(tmp_path / "whole")


def test_a_run_from_another_runs_checkpoint_keeps_its_own_dropout_when_resumed(few, tmp_path, monkeypatch):
    run.train(config(*few, "adversarial=none"), tmp_path / "parent")
    settings = [*few, "mle=none", f"adversarial.init_from={tmp_path / 'parent'}", "generator.dropout=0.5"]
    run.train(config(*settings), tmp_path / "whole")
    _, found = kill_and_resume(monkeypatch, settings, tmp_path / "run", "adversarial", 1)
    assert found == everything(tmp_path / "whole")


def test_a_run_counts_as_finished_only_when_its_summary_is_logged(few, tmp_path, monkeypatch):
    def fatal(self, stages):
        if "parent" in stages:  # the run's own; the continuation's comes before
            raise Killed

    monkeypatch.setattr(RunLogger, "summary", fatal)
    with pytest.raises(Killed):
        run.train(config(*few), tmp_path / "run")
    monkeypatch.undo()
    assert not (tmp_path / "run" / "results.json").exists()
    logged = []
    monkeypatch.setattr(RunLogger, "summary", lambda self, stages: logged.append(set(stages)))
    run.train(config(*few), tmp_path / "run", resume=True)
    assert logged == [{"parent", "end", "best"}]


@pytest.mark.parametrize("phase, last", [("mle", "step-00000001"), ("adversarial", "step-00000003")])
def test_early_stopping_goes_on_counting_after_a_kill(few, tmp_path, monkeypatch, phase, last):
    """The first evaluation of the phase is its best; the kill comes between the second and the third."""
    settings = [*few, f"{phase}.max_steps=9", f"{phase}.patience=3", f"{phase}.lr=1", "adversarial.ema=0"]
    run.train(config(*settings), tmp_path / "whole")
    assert json.loads((tmp_path / "whole" / "results.json").read_text())["phases"][phase]["step"] < 9
    pointed, found = kill_and_resume(monkeypatch, settings, tmp_path / "run", phase, 3)
    assert pointed == last
    assert found == everything(tmp_path / "whole")


def test_a_phase_that_was_stopped_stays_stopped(few, tmp_path, monkeypatch):
    settings = [*few, "adversarial.max_steps=9", "adversarial.max_nll_rise=0"]
    run.train(config(*settings), tmp_path / "whole")
    final_scores = Experiment.final_scores

    def fatal(self, name, *args):
        if name == "adversarial":
            raise Killed
        return final_scores(self, name, *args)

    monkeypatch.setattr(Experiment, "final_scores", fatal)
    with pytest.raises(Killed):
        run.train(config(*settings), tmp_path / "run")
    monkeypatch.undo()
    run.train(config(*settings), tmp_path / "run", resume=True)
    found = everything(tmp_path / "run")
    assert found == everything(tmp_path / "whole")
    assert found["results"]["phases"]["adversarial"]["step"] < 11


def start(folder: Path, *options: str) -> subprocess.Popen:
    """``textgan train`` of the smoke config, some steps longer, in a process of its own."""
    steps = ["mle.max_steps=12", "adversarial.max_steps=12", "evaluation.every=6", "checkpoint.every=3"]
    command = [sys.executable, "-m", "textgan", "train", str(SMOKE), *steps, "--run", str(folder), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_step(process: subprocess.Popen, folder: Path, step: int, log: str = "metrics.jsonl") -> None:
    """Return when the run has logged ``step``, or has ended."""
    log = folder / log
    while process.poll() is None:
        if log.exists() and f'{{"step": {step},' in log.read_text():
            return
        time.sleep(0.005)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    process = start(folder)
    assert process.communicate()[1] is not None
    assert process.returncode == 0
    return everything(folder)


@pytest.mark.slow
def test_sigkill_at_random_moments_of_all_phases(uninterrupted, tmp_path):
    rng = random.Random()
    steps = ((1, 11, "metrics.jsonl"), (13, 23, "metrics.jsonl"), (13, 23, "continued/metrics.jsonl"))
    moments = [(rng.randint(first, last), rng.random() / 10, log) for first, last, log in steps]
    folder, options = tmp_path / "run", []
    for step, delay, log in moments:
        process = start(folder, *options)
        wait_for_step(process, folder, step, log)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        options = ["--resume"]
    process = start(folder, *options)
    _, messages = process.communicate()
    assert process.returncode == 0, messages
    assert everything(folder) == uninterrupted, f"killed at {moments}"


@pytest.mark.slow
@pytest.mark.parametrize("step", [4, 16])
def test_ctrl_c_saves_exits_with_130_and_can_be_resumed(uninterrupted, tmp_path, step):
    folder = tmp_path / "run"
    process = start(folder)
    wait_for_step(process, folder, step)
    process.send_signal(signal.SIGINT)
    _, messages = process.communicate()
    assert process.returncode == 130
    assert "--resume" in messages
    saved = load_for_sampling(folder / "checkpoints" / read_pointer(folder / "checkpoints", "last")).step
    logged = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert saved == logged[-1] >= step  # nothing done is lost
    process = start(folder, "--resume")
    assert process.communicate()[1] is not None
    found = everything(folder)
    assert process.returncode == 0
    for what in ("metrics", "results", "pointers", "weights"):
        assert found[what] == uninterrupted[what]


@pytest.mark.slow
def test_a_second_ctrl_c_exits_at_once(tmp_path):
    process = start(tmp_path / "run", "evaluation.samples=20000")
    wait_for_step(process, tmp_path / "run", 5)
    time.sleep(0.5)  # in the long evaluation by now, which the first Ctrl-C would wait for
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == 130
    assert time.monotonic() - began < 2
