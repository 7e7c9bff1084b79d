"""The baseline of equal cost: the adversarial phase without its adversarial gradient, for as long as that cost."""

import json
from pathlib import Path

import pytest
import torch

from tests.kills import Killed
from textgan.configfile import load_config
from textgan.data.dataset import BatchPlan
from textgan.errors import UserError
from textgan.training import adversarial, adversarial_steps, continuation, cost, run
from textgan.training.checkpoint import arms, check_checkpoint, load_state, load_weights, read_pointer
from textgan.training.experiment import Experiment
from textgan.training.progress import Progress

SMOKE = Path(__file__).parents[1] / "configs" / "smoke.yaml"


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Overrides for a run of a moment, on a hundred short texts of different lengths."""
    text = tmp_path_factory.mktemp("data") / "texts.txt"
    text.write_text(
        "\n".join(f"{a} {b * (i % 3 + 1)} {c} ." for a in "abcd" for i, b in enumerate("abcde") for c in "abcde")
    )
    return [
        "threads=1", f"data.source={text}", "tokenizer.kind=char", "generator.block_size=12", "mle.max_steps=2",
        "mle.lr=0.1", "adversarial.max_steps=3", "adversarial.batch_size=8", "adversarial.d_pretrain_steps=1",
        "adversarial.lr=0.01", "adversarial.max_nll_rise=none",
        "evaluation.every=2", "evaluation.samples=4", "evaluation.final_samples=4",
    ]  # fmt: skip


def train(settings, folder, **options):
    return run.train(load_config(SMOKE, settings), folder, **options)["phases"]


def tensors(folder, arm):
    return load_weights(arms(folder)[arm])


def test_it_is_the_adversarial_phase_without_the_adversarial_gradient(few, tmp_path):
    settings = [*few, "adversarial.adv_ratio=1e-30", "adversarial.accumulate=2", "adversarial.grad_clip=0.1"]
    settings += ["adversarial.weight_decay=0.3", "adversarial.warmup_steps=2", "generator.dropout=0.2"]
    found = train(settings, tmp_path / "run")
    parent, ours, theirs = (tensors(tmp_path / "run", arm) for arm in ("mle", "continued", "adversarial"))
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-6, rtol=1e-5)
    assert any((ours[name] - parent[name]).abs().max() > 1e-3 for name in ours)
    assert found["continued"]["step"] == found["adversarial"]["step"] == 5
    assert found["continued"]["metrics"]["nll"] == pytest.approx(found["adversarial"]["metrics"]["nll"], abs=1e-6)
    logs = [
        {r["step"]: r for r in map(json.loads, (tmp_path / "run" / log).read_text().splitlines()) if tag in r}
        for tag, log in (("train/g_loss", "metrics.jsonl"), ("train/mle_loss", "continued/metrics.jsonl"))
    ]
    assert set(logs[1]) == {3, 4, 5}
    for step in (3, 4, 5):
        for tag in ("train/mle_loss", "schedule/lr"):
            assert logs[1][step][tag] == pytest.approx(logs[0][step][tag], rel=1e-5)


def test_tokens_are_those_learned_from_and_those_sampled(few, tmp_path, monkeypatch):
    counted = []
    sample, loss = adversarial_steps.sample_ids, adversarial_steps.mle_loss

    def sampling(*args, **kwargs):
        ids, lengths = sample(*args, **kwargs)
        counted.append(int(lengths.sum()))
        return ids, lengths

    def learning(generator, batch, *more):
        counted.append(int(batch.lengths.sum()))
        return loss(generator, batch, *more)

    monkeypatch.setattr(adversarial_steps, "sample_ids", sampling)
    monkeypatch.setattr(adversarial_steps, "mle_loss", learning)
    settings = [*few, "adversarial.continuation=tokens", "adversarial.d_steps=2", "adversarial.accumulate=2"]
    settings += ["adversarial.kl_weight=0.1"]  # reads the same texts again: counted once
    found = train(settings, tmp_path / "run")["continued"]
    assert len(counted) == 2 + 3 * (2 + 2)  # two halves: pretraining; three times fakes of all steps, and real texts
    budget = found["budget"]
    assert budget["tokens"] == sum(counted) == load_state(tmp_path / "run/checkpoints/adversarial")["spent"]["tokens"]
    lengths = learned_lengths(settings)
    plan = BatchPlan(lengths, 8, 0)
    an_update = lengths.sum().item() / plan.batches_per_epoch
    assert abs(budget["steps"] * an_update - sum(counted)) <= an_update / 2
    assert budget["steps"] > 6  # three kinds of token for one
    assert budget["schedule_steps"] == budget["steps"]
    assert found["step"] == 2 + budget["steps"]


def learned_lengths(settings):
    config = load_config(SMOKE, settings)
    corpus = run.read_corpus(config)
    return run.encode(config, corpus, run.make_tokenizer(config, corpus))["train"].lengths


def test_without_a_loss_on_real_texts_only_sampled_tokens_count(few, tmp_path):
    settings = [*few, "adversarial.mle_weight=0", "adversarial.adv_ratio=none", "adversarial.d_pretrain_steps=0"]
    train([*settings, "adversarial.replay_batches=0"], tmp_path / "without")
    train([*few, "adversarial.d_pretrain_steps=0", "adversarial.replay_batches=0"], tmp_path / "with")
    spent = [load_state(tmp_path / name / "checkpoints/adversarial")["spent"] for name in ("without", "with")]
    assert spent[0]["tokens"] <= 12 * 8 * 3 * 2  # at most block_size tokens of eight texts, two kinds, three steps
    assert spent[1]["tokens"] > spent[0]["tokens"]
    assert spent[0]["seconds"] == 0.0  # not asked for


class Clock:
    """A clock that goes on by itself when updates are made: those of the adversarial phase cost ten times as much."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(cost, "seconds_on", lambda device: self.now)
        monkeypatch.setattr(continuation, "seconds_on", lambda device: self.now)
        for module, name, seconds in (
            (adversarial, "discriminator_step", 5.0),
            (adversarial, "generator_step", 5.0),
            (continuation, "update", 2.0),
        ):
            monkeypatch.setattr(module, name, self.timed(getattr(module, name), seconds))
        monkeypatch.setattr(Experiment, "evaluate", self.timed(Experiment.evaluate, 1000.0))

    def timed(self, function, seconds):
        def call(*args, **kwargs):
            self.now += seconds
            return function(*args, **kwargs)

        return call


def test_seconds_are_those_of_the_updates_alone(few, tmp_path, monkeypatch):
    Clock(monkeypatch)
    found = train([*few, "adversarial.continuation=seconds"], tmp_path / "run")["continued"]
    assert found["budget"] == {
        "rule": "seconds", "seconds": 35.0, "seconds_a_step": 2.0, "steps": 18, "schedule_steps": 18,
    }  # fmt: skip
    assert found["step"] == 20


@pytest.mark.parametrize("kill", [("adversarial", 2), ("continued", 1), ("continued", 9)])
def test_measured_seconds_survive_a_kill_and_fix_the_steps_once(few, tmp_path, monkeypatch, kill):
    settings = [*few, "adversarial.continuation=seconds", "checkpoint.every=1"]
    with monkeypatch.context() as patch:
        Clock(patch)
        whole = train(settings, tmp_path / "whole")
    advance, (label, steps) = Progress.advance, kill

    def fatal(self, **counts):
        advance(self, **counts)
        if (self.label, self.steps) == (label, steps):
            raise Killed

    with monkeypatch.context() as patch:
        Clock(patch)
        patch.setattr(Progress, "advance", fatal)
        with pytest.raises(Killed):
            train(settings, tmp_path / "run")
    with monkeypatch.context() as patch:
        clock = Clock(patch)
        if label == "continued":  # a faster machine must not change what was planned
            patch.setattr(continuation, "seconds_a_step", lambda *args: clock.now + 1e9)
        resumed = train(settings, tmp_path / "run", resume=True)
    assert resumed == json.loads(json.dumps(whole))
    for log in ("metrics.jsonl", "continued/metrics.jsonl"):
        assert (tmp_path / "run" / log).read_bytes() == (tmp_path / "whole" / log).read_bytes()


def test_a_phase_that_stopped_early_is_matched_at_the_same_point_of_its_schedule(few, tmp_path, monkeypatch):
    settings = [*few, "adversarial.max_steps=9", "adversarial.max_nll_rise=0", "evaluation.every=3"]
    evaluate = Experiment.evaluate

    def worse(self, generator, step):
        values = evaluate(self, generator, step)
        return values | {"quality/nll": values["quality/nll"] + 9 * (step > 2 and not self.beside)}

    monkeypatch.setattr(Experiment, "evaluate", worse)
    found = train(settings, tmp_path / "run")
    assert found["adversarial"]["step"] == 3
    assert found["continued"]["step"] == 3
    assert found["continued"]["budget"] == {"rule": "steps", "steps": 1, "schedule_steps": 9}


def test_every_arm_is_calibrated_and_says_from_where(few, tmp_path, capsys):
    found = train(few, tmp_path / "run")
    said = capsys.readouterr().err
    for name in ("mle", "adversarial", "continued"):
        fitted, metrics = found[name]["calibration"], found[name]["metrics"]
        assert fitted["nll_after"] < fitted["nll_before"] == pytest.approx(found[name]["uncalibrated"]["nll"], abs=1e-5)
        assert metrics["nll"] == pytest.approx(fitted["nll_after"], abs=1e-5)
        meta = check_checkpoint(arms(tmp_path / "run")[name])
        assert meta["calibration"] == fitted
        assert meta["metrics"]["quality/nll"] == metrics["nll"]
        assert meta["step"] == found[name]["step"]
        assert f"{name}: calibrated on dev: softmax temperature {fitted['temperature']:.3f}" in said


def test_nothing_is_calibrated_where_it_is_switched_off(few, tmp_path):
    with pytest.raises(UserError, match="set both alike"):
        load_config(SMOKE, ["mle.calibrate=false"])
    found = train([*few, "mle.calibrate=false", "adversarial.calibrate=false"], tmp_path / "run")
    assert all(entry["calibration"] is None for entry in found.values())
    assert all("nll" in entry["metrics"] and "uncalibrated" not in entry for entry in found.values())


def test_a_parent_from_elsewhere_is_calibrated_once(few, tmp_path):
    parent = [*few, "adversarial=none"]
    train(parent, tmp_path / "parent")
    root = tmp_path / "parent" / "checkpoints"
    child = [*few, "mle=none", "adversarial.max_steps=1"]
    kept = train([*child, f"adversarial.init_from={root / 'mle'}"], tmp_path / "kept")
    assert kept["mle"]["calibration"] == check_checkpoint(root / "mle")["calibration"]
    assert all(torch.equal(w, load_weights(root / "mle")[n]) for n, w in tensors(tmp_path / "kept", "mle").items())
    raw = train([*child, f"adversarial.init_from={root / 'step-00000002'}"], tmp_path / "raw")
    assert raw["mle"]["metrics"]["nll"] == pytest.approx(kept["mle"]["metrics"]["nll"], abs=1e-6)
    assert raw["mle"]["uncalibrated"]["nll"] > raw["mle"]["metrics"]["nll"]


def test_a_parent_of_another_split_is_calibrated_on_this_dev_and_told(few, tmp_path, capsys):
    parent = [*few, "data.dev_fraction=0.3", "adversarial=none"]
    train(parent, tmp_path / "parent")
    fitted = check_checkpoint(tmp_path / "parent" / "checkpoints" / "mle")["calibration"]
    assert "warning" not in capsys.readouterr().err
    child = [*few, "mle=none", "adversarial.max_steps=1", f"adversarial.init_from={tmp_path / 'parent'}"]
    entry = train(child, tmp_path / "child")["mle"]
    assert entry["calibration"] != fitted
    assert entry["metrics"]["nll"] == pytest.approx(entry["calibration"]["nll_after"], abs=1e-6)
    assert entry["metrics"]["nll"] < entry["uncalibrated"]["nll"]
    assert "was trained on other texts or another split of them" in capsys.readouterr().err


@pytest.mark.parametrize("better", ["end", "best step"])
def test_the_best_is_chosen_after_calibration(few, tmp_path, monkeypatch, better):
    """Dev NLL while training says step 4; after calibration either may be the better one."""
    settings = [*few, "evaluation.every=1"]
    evaluate, scores = Experiment.evaluate, Experiment.final_scores

    def training(self, generator, step):
        values = evaluate(self, generator, step)
        return values | ({"quality/nll": {3: 5.0, 4: 4.0, 5: 6.0}[step]} if step > 2 else {})

    def final(self, name, *args):
        entry = scores(self, name, *args)
        entry["metrics"]["nll"] = 1.0 if ("best" in name) == (better == "best step") else 2.0
        return entry

    monkeypatch.setattr(Experiment, "evaluate", training)
    monkeypatch.setattr(Experiment, "final_scores", final)
    found = train(settings, tmp_path / "run")
    root = tmp_path / "run" / "checkpoints"
    for arm, pointer in (("adversarial", "best"), ("continued", "best-continued")):
        assert (found[arm]["step"], found[f"{arm} (best dev NLL)"]["step"]) == (5, 4)
        assert read_pointer(root, pointer) == (arm if better == "end" else f"{arm}-best")
        assert check_checkpoint(root / f"{arm}-best")["step"] == 4
    assert read_pointer(root, "last") == "continued"
    assert "discriminator" in load_state(root / "adversarial-best")


def test_the_continuation_is_a_run_of_its_own_in_tensorboard(few, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(few, tmp_path / "run")
    found = {}
    for name in ("", "continued"):
        accumulator = EventAccumulator(str(tmp_path / "run" / name), size_guidance={"scalars": 0})
        accumulator.Reload()
        found[name] = accumulator
    tags = set(found["continued"].Tags()["scalars"])
    assert {"quality/nll", "diversity/self_bleu_4", "train/mle_loss", "schedule/lr", "summary/end_nll"} <= tags
    assert tags <= set(found[""].Tags()["scalars"])
    assert found["continued"].Tags()["tensors"] == ["samples/free"]  # the run's own pages are not repeated
    assert not (tmp_path / "run" / "continued" / "real_text").exists()
    assert {e.step for e in found[""].Scalars("quality/nll")} == {2, 4, 5}
    assert {e.step for e in found["continued"].Scalars("quality/nll")} == {4, 5}
