"""Training end to end on a tiny model: learning, determinism, resuming, every option, and how runs end."""

import json
import math
import time
from pathlib import Path

import pytest
import torch

from tests.kills import Killed
from textgan.config import Config
from textgan.configfile import load_config
from textgan.data.dataset import BatchPlan
from textgan.errors import UserError
from textgan.training import adversarial, adversarial_steps, experiment, mle, run, seeding
from textgan.training.checkpoint import POINTERS, arms, find_checkpoint
from textgan.training.critic import load_critic
from textgan.training.evaluation import Evaluator
from textgan.training.experiment import Experiment, TrainingDiverged
from textgan.training.loading import load_for_sampling
from textgan.training.progress import Progress

SMOKE = Path(__file__).parents[1] / "configs" / "smoke.yaml"


def config(*overrides: str) -> Config:
    return load_config(SMOKE, ["threads=1", *overrides])


def weights(folder: Path, name: str | None = None) -> dict[str, torch.Tensor]:
    """Of an arm (none: the adversarial one), or of what a pointer names."""
    path = find_checkpoint(folder, prefer=name) if name in POINTERS else arms(folder)[name or "adversarial"]
    return load_for_sampling(path).generator.state_dict()


def same(a: dict, b: dict) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def records(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run of both phases, and its results."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return folder, run.train(config(), folder)


def test_a_run_leaves_a_folder_that_explains_itself(whole):
    folder, results = whole
    names = {path.name for path in folder.iterdir()}
    assert {"config.yaml", "tokenizer.json", "metrics.jsonl", "results.json", "checkpoints"} <= names
    assert sum(name.startswith("events.out.tfevents") for name in names) == 1
    assert json.loads((folder / "results.json").read_text()) == json.loads(json.dumps(results))
    assert load_config(folder / "config.yaml") == config()
    steps = [record["step"] for record in records(folder)]
    assert steps == sorted(steps)
    assert steps[-1] == 10  # one axis over both phases: 6 + 4 generator updates
    assert {"mle", "adversarial", "continued"} <= set(results["phases"])
    beside = [json.loads(line)["step"] for line in (folder / "continued" / "metrics.jsonl").read_text().splitlines()]
    assert sorted(set(beside)) == [7, 8, 9, 10]
    assert len(list(folder.rglob("events.out.tfevents*"))) == 3  # its own, real text, the continuation
    signature = results["signature"]
    assert (signature["texts"], signature["references"], signature["train"]) == (16, 20, 400)
    drawn = {"temperature": 1.0, "unk": "never drawn", "max_new_tokens": 96, "seed": 1234}
    assert signature["sampling"] == drawn
    for entry in results["phases"].values():
        assert all(math.isfinite(value) for value in entry["metrics"].values())


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(whole, tmp_path):
    folder, _ = whole
    run.train(config(), tmp_path / "again")
    assert (tmp_path / "again" / "metrics.jsonl").read_bytes() == (folder / "metrics.jsonl").read_bytes()
    for arm in arms(folder):
        assert same(weights(folder, arm), weights(tmp_path / "again", arm))
    run.train(config("seed=1"), tmp_path / "other")
    assert not same(weights(folder), weights(tmp_path / "other"))


@pytest.mark.parametrize("step", [1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14])
def test_killed_and_resumed_equals_uninterrupted_to_the_bit(whole, tmp_path, monkeypatch, step):
    folder, _ = whole
    advance, counted = Progress.advance, []

    def fatal(self, **counts):
        advance(self, **counts)
        counted.append(self.label != "discriminator")
        if sum(counted) == step and counted[-1]:
            raise Killed

    monkeypatch.setattr(Progress, "advance", fatal)
    with pytest.raises(Killed):
        run.train(config(), tmp_path / "run")
    monkeypatch.undo()
    if step == 1:  # before the first checkpoint
        with pytest.raises(UserError, match="no checkpoint yet"):
            load_for_sampling(tmp_path / "run")
    run.train(config(), tmp_path / "run", resume=True)
    for log in ("metrics.jsonl", "continued/metrics.jsonl"):
        assert (tmp_path / "run" / log).read_bytes() == (folder / log).read_bytes()
    for name in ("mle", "adversarial", "continued", "best", "last"):
        assert same(weights(folder, name), weights(tmp_path / "run", name)), name
    ours, theirs = (load_critic(f)[0].state_dict() for f in (tmp_path / "run", folder))
    assert same(ours, theirs)


def test_resuming_a_finished_run_changes_nothing(whole):
    folder, results = whole
    before = (folder / "metrics.jsonl").read_bytes()
    again = run.train(config(), folder, resume=True)
    assert again["phases"] == json.loads(json.dumps(results["phases"]))
    assert (folder / "metrics.jsonl").read_bytes() == before


def test_a_checkpoint_gives_the_dev_nll_it_was_saved_with(whole):
    folder, _ = whole
    settings = config()
    corpus = run.read_corpus(settings)
    for path in sorted((folder / "checkpoints").iterdir()):
        if not path.is_dir():
            continue
        model = load_for_sampling(path)
        splits = run.encode(settings, corpus, model.tokenizer)
        device = torch.device("cpu")
        evaluator = Evaluator(settings, corpus, model.tokenizer, splits["dev"], None, device)
        nll = evaluator.likelihood(model.generator, splits["dev"])["quality/nll"]
        if model.meta["metrics"]:
            assert nll == model.meta["metrics"]["quality/nll"], path.name


def test_folders_in_use_and_other_settings_are_refused(whole, tmp_path):
    folder, _ = whole
    with pytest.raises(UserError, match="not empty; give another --run, or --resume"):
        run.train(config(), folder)
    with pytest.raises(UserError, match=r"other settings \(mle\.lr was 0\.001, now 0\.002\)"):
        run.train(config("mle.lr=0.002"), folder, resume=True)
    with pytest.raises(UserError, match="nothing to resume"):
        run.train(config(), tmp_path / "nowhere", resume=True)


def test_changed_data_is_refused_on_resume(tmp_path):
    text = tmp_path / "texts.txt"
    text.write_text("\n".join(f"the cat number {i} sat on a mat ." for i in range(200)))
    settings = config(f"data.source={text}", "adversarial=none", "mle.max_steps=2")
    run.train(settings, tmp_path / "run")
    (tmp_path / "run" / "results.json").unlink()  # as if it had been killed before its end
    text.write_text(text.read_text() + "\nand one more .")
    with pytest.raises(UserError, match="the data has changed"):
        run.train(settings, tmp_path / "run", resume=True)


ADVERSARIAL = [
    *(f"adversarial.loss={name}" for name in ("non_saturating", "hinge", "least_squares", "wasserstein", "ragan")),
    *(f"adversarial.estimator={name}" for name in ("soft", "relgan", "gapped", "gumbel_rao", "reinmax")),
    "adversarial.tau_start=2 adversarial.tau_end=2",
    "adversarial.tau_schedule=exponential adversarial.tau_end=0.5",
    "adversarial.d_steps=2",
    "adversarial.share_fakes=true adversarial.replay_batches=0",
    "adversarial.d_pretrain_steps=0",
    "adversarial.accumulate=2",
    "adversarial.lr=1e-3",
    "adversarial.lr_d=1e-2",
    "adversarial.final_lr_ratio=1",
    "adversarial.warmup_steps=3",
    "adversarial.betas=[0.5,0.9]",
    "adversarial.betas_d=[0.9,0.9]",
    "adversarial.weight_decay=0.5",
    "adversarial.weight_decay_d=3",
    "adversarial.grad_clip=0.01",
    "adversarial.calibrate=false",
    "adversarial.ema=0",
    "adversarial.mle_weight=0.5",
    "adversarial.kl_weight=10",
    "adversarial.adv_ratio=2",
    "adversarial.adv_ratio=none",
    "adversarial.adv_ratio=none adversarial.mle_weight=0",
    "adversarial.token_weight=1",
    "adversarial.r1=10",
    "adversarial.r2=10",
    "adversarial.gradient_penalty=10",
    "adversarial.r1=10 adversarial.penalty_every=3",
    "adversarial.replay_batches=0",
    "adversarial.replay_share=0.9",
    "discriminator.kind=cnn",
    "discriminator.kind=cnn discriminator.n_representations=4",
    "discriminator.kind=cnn discriminator.channels=8",
    "discriminator.spectral_norm=true",
    "discriminator.dropout=0.5",
    "discriminator.n_layer=2",
    "precision=bfloat16",
]


@pytest.fixture(scope="module")
def base(whole, tmp_path_factory):
    """Settings of an adversarial phase alone, and the folder of a run with them."""
    settings = ["mle=none", f"adversarial.init_from={whole[0]}/checkpoints/mle", "evaluation.every=4"]
    settings += ["adversarial.continuation=none"]
    folder = tmp_path_factory.mktemp("runs") / "base"
    run.train(config(*settings), folder)
    return settings, folder


@pytest.mark.parametrize("options", ADVERSARIAL)
def test_every_adversarial_option_trains_and_moves_the_weights(base, tmp_path, options):
    settings, folder = base
    results = run.train(config(*settings, *options.split()), tmp_path / "run")
    assert all(math.isfinite(v) for v in results["phases"]["adversarial"]["metrics"].values())
    assert not same(weights(folder), weights(tmp_path / "run")), "the option was ignored"


def test_hops_change_the_soft_gradient(whole, tmp_path):
    folder, _ = whole
    settings = ["mle=none", f"adversarial.init_from={folder}/checkpoints/mle", "adversarial.estimator=soft"]
    settings += ["adversarial.continuation=none"]
    for hops in (0, 2):
        run.train(config(*settings, f"adversarial.hops={hops}"), tmp_path / str(hops))
    assert not same(weights(tmp_path / "0"), weights(tmp_path / "2"))


def test_adversarial_phase_from_another_run_goes_on_with_its_step(whole, tmp_path):
    folder, _ = whole
    results = run.train(config("mle=none", f"adversarial.init_from={folder}/checkpoints/mle"), tmp_path / "run")
    assert results["phases"]["mle"]["step"] == 6
    assert results["phases"]["adversarial"]["step"] == 10
    assert same(weights(folder), weights(tmp_path / "run"))  # the same seed: as if it had been one run


def test_a_parent_of_another_shape_is_refused(whole, tmp_path):
    folder, _ = whole
    settings = config("mle=none", f"adversarial.init_from={folder}", "generator.n_layer=2")
    with pytest.raises(UserError, match=r"other settings: generator\.n_layer=1 there, 2 here"):
        run.train(settings, tmp_path / "run")
    settings = config("mle=none", f"adversarial.init_from={folder}", "tokenizer.kind=char")
    with pytest.raises(UserError, match=r"other settings: tokenizer\.kind=word there, char here"):
        run.train(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_adversarial_gradient_is_held_at_the_ratio(whole):
    folder, _ = whole
    found = [r for r in records(folder) if "train/adv_scale" in r]
    assert len(found) == 4
    for record in found:
        held = record["train/adv_scale"] * record["train/grad_norm_adv"] / record["train/grad_norm_mle"]
        assert held == pytest.approx(0.2, rel=1e-4)
        mle, both = record["train/grad_norm_mle"], record["train/grad_norm"]  # a triangle: the cosine rule
        assert (both / mle) ** 2 == pytest.approx(1 + held**2 + 2 * held * record["train/grad_cosine"], rel=1e-4)


def test_each_player_is_moved_by_its_own_step_only(whole, tmp_path, monkeypatch):
    moved = {}

    def watch(name, step):
        def watched(experiment, players, *args):
            nets = {"generator": players.generator, "discriminator": players.discriminator}
            before = {n: [p.detach().clone() for p in net.parameters()] for n, net in nets.items()}
            result = step(experiment, players, *args)
            for n, net in nets.items():
                changed = any(not torch.equal(a, b) for a, b in zip(before[n], net.parameters(), strict=True))
                moved.setdefault((name, n), set()).add(changed)
            return result

        return watched

    for name in ("discriminator_step", "generator_step"):
        monkeypatch.setattr(adversarial, name, watch(name, getattr(adversarial, name)))
    run.train(config(), tmp_path / "run")
    assert moved == {
        ("discriminator_step", "discriminator"): {True},
        ("discriminator_step", "generator"): {False},
        ("generator_step", "generator"): {True},
        ("generator_step", "discriminator"): {False},
    }


@pytest.mark.parametrize("phase, log_every", [("mle", 1), ("mle", 100), ("adversarial", 100)])
def test_divergence_stops_with_the_evidence_and_the_way_back(tmp_path, monkeypatch, phase, log_every):
    module, name = {"mle": (mle, "mle_loss_and_nll"), "adversarial": (adversarial_steps, "gan_loss")}[phase]
    real, calls = getattr(module, name), []

    def broken(*args, **kwargs):
        calls.append(1)
        found, scale = real(*args, **kwargs), float("nan") if len(calls) >= 5 else 1.0
        return tuple(x * scale for x in found) if isinstance(found, tuple) else found * scale

    monkeypatch.setattr(module, name, broken)
    with pytest.raises(TrainingDiverged) as error:
        run.train(config(f"log_every={log_every}"), tmp_path / "run")
    message = str(error.value)
    assert "diverged at step" in message
    assert "loss=nan" in message
    assert "grad_norm" in message
    last = find_checkpoint(tmp_path / "run", prefer="last")
    assert str(last) in message
    assert all(t.isfinite().all() for t in weights(tmp_path / "run", "last").values())


def test_the_limit_on_dev_nll_counts_from_the_parent(tmp_path, monkeypatch):
    rise, evaluate = {7: -0.4, 8: -0.2, 9: 0.04, 10: 0.06}, Experiment.evaluate  # the best of the phase is at 7

    def changed(self, generator, step):
        values = evaluate(self, generator, step)
        if step in rise:
            values["quality/nll"] = self.results["mle"]["metrics"]["nll"] + rise[step]
        return values

    monkeypatch.setattr(Experiment, "evaluate", changed)
    settings = config("adversarial.max_nll_rise=0.05", "adversarial.max_steps=9", "evaluation.every=1")
    assert run.train(settings, tmp_path / "run")["phases"]["adversarial"]["step"] == 10


def test_schedules_run_from_the_start_of_the_phase(base, tmp_path):
    options = ["adversarial.tau_schedule=linear", "adversarial.tau_start=2", "adversarial.tau_end=1"]
    run.train(config(*base[0], *options, "adversarial.warmup_steps=2"), tmp_path / "run")
    logged = [r for r in records(tmp_path / "run") if "schedule/tau" in r]
    assert [r["schedule/tau"] for r in logged] == [2.0, 1.75, 1.5, 1.25]
    assert [r["schedule/lr"] for r in logged] == pytest.approx([2.5e-5, 5e-5, 5e-5, 2.75e-5])
    assert [r["schedule/lr_d"] for r in logged] == pytest.approx([1e-4, 2e-4, 2e-4, 1.1e-4])


def test_no_two_steps_share_their_randomness_or_their_batch(tmp_path, monkeypatch):
    drawn, plain = [], seeding.stream_seed
    monkeypatch.setattr(seeding, "stream_seed", lambda *parts: drawn.append(parts) or plain(*parts))
    batches, indices = {}, BatchPlan.indices
    monkeypatch.setattr(
        BatchPlan, "indices", lambda self, step: batches.setdefault(self, []).append(step) or indices(self, step)
    )
    monkeypatch.setattr(run, "forecast", lambda *args: {})  # which looks at what batches will be like
    options = ["adversarial.d_steps=2", "adversarial.gradient_penalty=1", "adversarial.accumulate=2"]
    # The continuation takes the batches and noise of the adversarial phase on purpose.
    options += ["adversarial.continuation=none"]
    run.train(config(*options), tmp_path)
    assert len(drawn) > 60
    assert len(set(drawn)) == len(drawn)
    assert list(batches.values()) == [list(range(n)) for n in (6, 2 + 4 * 2, 4)]  # MLE; critic, pretraining first; G
    assert [spread(plan) for plan in list(batches)] == [False, True, False]


def test_shared_fakes_are_drawn_once_an_iteration(tmp_path, monkeypatch):
    """For every step of the critic and for the generator's, from the generator as it is then."""
    seen, drawn = [], []
    judge, roll, sample = adversarial.discriminator_step, adversarial_steps.rollout, adversarial_steps.sample_ids

    def judging(run, players, real, fakes, name, count):
        if name[0] == "d":
            seen.append(fakes[0])
        return judge(run, players, real, fakes, name, count)

    def rolling(generator, ids, lengths, **options):
        seen.append(ids)
        return roll(generator, ids, lengths, **options)

    def drawing(generator, *args, **options):
        drawn.append(sample(generator, *args, **options))
        return drawn[-1]

    monkeypatch.setattr(adversarial, "discriminator_step", judging)
    monkeypatch.setattr(adversarial_steps, "rollout", rolling)
    monkeypatch.setattr(adversarial_steps, "sample_ids", drawing)
    options = ["adversarial.d_steps=3", "adversarial.max_steps=2", "adversarial.d_pretrain_steps=0"]
    options += ["adversarial.replay_batches=0", "adversarial.continuation=none"]
    run.train(config(*options, "adversarial.share_fakes=true", "adversarial.accumulate=1"), tmp_path)
    assert len(drawn) == 2
    assert len(seen) == 8
    for (ids, _), group in zip(drawn, (seen[:4], seen[4:]), strict=True):
        assert all(torch.equal(ids[: len(x)], x) for x in group)
    assert not torch.equal(seen[0], seen[4])


@pytest.mark.parametrize("option", ["adversarial.replay_batches=2", "adversarial.estimator=soft"])
def test_fakes_cannot_be_shared_with_old_or_soft_ones(option):
    with pytest.raises(UserError, match="share_fakes=true"):
        config(option, "adversarial.share_fakes=true")


def spread(plan: BatchPlan) -> bool:
    """Whether batches hold texts of all lengths, as the critic's do, who would else judge by length."""
    lengths = torch.arange(1, 1601)
    own = BatchPlan(lengths, plan._batch_size, 0, by_length=plan._by_length)
    return bool(lengths[own.indices(0)].float().std() > 200)


def test_too_few_texts_are_refused_before_anything_is_written(tmp_path):
    text = tmp_path / "one.txt"
    text.write_text("a single text .\n")
    with pytest.raises(UserError, match="no text is left"):
        run.train(config(f"data.source={text}"), tmp_path / "run")
    with pytest.raises(UserError, match=r"evaluation\.prompts\[0\]"):
        run.train(config(f"evaluation.prompts=['{'too long ' * 96}']"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_logged_discriminator_loss_leaves_penalties_out(base, tmp_path):
    settings, _ = base
    settings = [*settings, "adversarial.max_steps=1", "adversarial.d_pretrain_steps=0"]
    found = {}
    for weight in (0, 100):
        run.train(config(*settings, f"adversarial.r1={weight}"), tmp_path / str(weight))
        found[weight] = next(r for r in records(tmp_path / str(weight)) if "train/d_loss" in r)
    assert found[0]["train/d_loss"] == found[100]["train/d_loss"]
    assert found[0]["train/grad_norm_d"] != found[100]["train/grad_norm_d"]


def test_what_evaluations_cost_is_logged_and_said_once_where_it_is_much(tmp_path, monkeypatch, capsys):
    now = [time.monotonic()]

    def clock(device):
        now[0] += 20
        return now[0]

    monkeypatch.setattr(experiment, "seconds_on", clock)
    run.train(config("adversarial=none", "mle.max_steps=4", "evaluation.every=1"), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "timing.jsonl").read_text().splitlines()]
    costs = [line for line in lines if "perf/eval_s" in line]
    assert [line["step"] for line in costs] == [1, 2, 3, 4, 4]
    for line in costs[1:]:
        assert (line["perf/eval_s"], line["perf/eval_share"]) == (20, 1)
    said = [line for line in capsys.readouterr().err.splitlines() if "an evaluation took" in line]
    assert len(said) == 1
    assert "took 20.0 s" in said[0]
    assert "raise evaluation.every or lower evaluation.samples" in said[0]
