"""A VAE run from config to results: its folder and arms, its alarm, and resuming to the bit in each part of it."""

import json
import math
import signal

import pytest
import torch

from tests import kills
from tests.kills import Killed, plain
from textgan.configfile import load_config
from textgan.errors import UserError
from textgan.sampling.decode import generate
from textgan.sampling.latent import LatentGenerator
from textgan.sampling.latent_likelihood import importance_nll
from textgan.training import dry_run, report, run, vae
from textgan.training.calibrate import calibrate
from textgan.training.checkpoint import arms, find_checkpoint, load_state, load_weights, read_pointer
from textgan.training.evaluation import text_nll
from textgan.training.experiment import Experiment, TrainingDiverged
from textgan.training.loading import load_for_sampling
from textgan.training.progress import Progress

TINY = [
    "name=tiny", "threads=1", "log_every=1", "data.source=stories", "data.size=200",
    "generator.block_size=96", "generator.n_layer=1", "generator.n_head=2", "generator.n_embd=16",
    "generator.dropout=0.2", "encoder.n_layer=1", "encoder.n_head=2", "encoder.n_embd=16", "encoder.dropout=0.2",
    "vae.z_size=4", "vae.max_steps=4", "vae.batch_size=8", "vae.warmup_steps=1", "vae.ema=0.9",
    "vae.kl_ramp_steps=2", "vae.word_dropout=0.2", "evaluation.every=2", "evaluation.samples=4",
    "evaluation.final_samples=4", "evaluation.iw_samples=2", "evaluation.final_iw_samples=3", "evaluation.show=1",
    "checkpoint.every=1", "checkpoint.keep_last=9",
]  # fmt: skip
MLE = ["mle.max_steps=2", "mle.batch_size=8", "mle.warmup_steps=1"]


pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "empty.yaml"
    path.write_text("name: tiny\n")
    return path


@pytest.fixture(scope="module")
def config(empty):
    return lambda *options: load_config(empty, [*TINY, *options])


@pytest.fixture(scope="module")
def alone(config):
    return lambda *options: config("mle=none", *options)


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """Folder and results of a run of both phases."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return folder, run.train(config(*MLE), folder)


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def everything(folder):
    """What must be the same bits; here also which steps were kept, and the newest of them to go on from."""
    steps = sorted((folder / "checkpoints").glob("step-*"))
    more = {"steps": [path.name for path in steps], "state of the newest": plain(load_state(steps[-1]))}
    return kills.everything(folder) | more


# ---------------------------------------------------------------------------------------------- the folder


def test_a_run_has_both_models_side_by_side(whole):
    folder, results = whole
    assert list(results["phases"]) == ["mle", "vae"]
    assert [results["phases"][name]["step"] for name in ("mle", "vae")] == [2, 6]
    assert arms(folder) == {name: folder / "checkpoints" / name for name in ("mle", "vae")}
    assert find_checkpoint(folder).name == "vae"
    metrics = results["phases"]["vae"]["metrics"]
    for name in ("nll", "test_nll", "elbo_nll", "recon", "shuffled_recon", "kl", "mi", "active_units", "test_kl"):
        assert math.isfinite(metrics[name])
    assert results["phases"]["vae"]["iw_samples"] == 3
    assert "iw_samples" not in results["phases"]["mle"]
    assert metrics["nll"] <= metrics["elbo_nll"] + 0.05  # a bound of three draws; this one of one
    logged = records(folder)
    assert [r["step"] for r in logged if "train/kl" in r] == [3, 4, 5, 6]
    assert [r["step"] for r in logged if "vae/mi" in r] == [4, 6, 6]
    assert [r["schedule/kl_weight"] for r in logged if "schedule/kl_weight" in r] == [0.0, 0.5, 1.0, 1.0]


def test_the_decoder_has_the_shape_of_the_generator_beside_it(whole):
    folder, _ = whole
    generator, latent = (load_for_sampling(path).generator for path in arms(folder).values())
    assert isinstance(latent, LatentGenerator)
    assert [p.shape for p in latent.vae.decoder.parameters()] == [p.shape for p in generator.parameters()]


def test_a_checkpoint_can_be_sampled_and_judged_alone(whole):
    folder, results = whole
    model = load_for_sampling(folder)
    assert model.meta["phase"] == "vae"
    settings = model.config.evaluation
    samples = generate(model.generator, [[]] * 3, eos_id=model.tokenizer.eos_id, seed=3)
    assert all(sample.ids for sample in samples)
    corpus = run.read_corpus(model.config)
    dev = run.encode(model.config, corpus, model.tokenizer)["dev"]
    nll = text_nll(model.generator, dev, batch_size=settings.batch_size, device=torch.device("cpu"), draws=3)
    found = nll.sum() / dev.lengths.sum()
    assert found.item() == pytest.approx(results["phases"]["vae"]["metrics"]["nll"], rel=1e-6)
    same = importance_nll(model.generator, dev, k=3, seed=0, batch_size=64, device="cpu")
    torch.testing.assert_close(nll, same)


def test_the_fitted_gaussian_is_that_of_the_posteriors(whole):
    folder, _ = whole
    model = load_for_sampling(folder)
    vae_ = model.generator.vae
    train = run.encode(model.config, run.read_corpus(model.config), model.tokenizer)["train"]
    batch = train.batch(torch.arange(len(train)))
    drawn = vae_.infer(vae_.encode(batch.targets, batch.lengths), torch.randn(len(train), 4))
    covariance = vae_.aggregate_factor @ vae_.aggregate_factor.T
    expected = torch.cov(drawn.z.T)
    torch.testing.assert_close(vae_.aggregate_mean, drawn.z.mean(0), atol=0.3, rtol=0)
    torch.testing.assert_close(covariance.diagonal(), expected.diagonal(), rtol=0.5, atol=0)
    assert not torch.equal(vae_.aggregate_factor, torch.eye(4))


def test_what_a_person_reads_at_the_end(whole, capsys):
    _, results = whole
    report.print_results(results)
    shown = capsys.readouterr().out
    for row in ("elbo_nll", "recon", "kl ", "mi ", "active_units"):
        assert f"\n{row}" in shown
    assert "vae: nll is an upper bound, importance-weighted with 3 draws of z a text" in shown
    assert "vae: calibrated on dev" in shown
    assert "reconstruction" in shown


def test_texts_and_histograms_are_logged(whole):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, _ = whole
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0, "histograms": 0}).Reload()
    assert [event.step for event in events.Histograms("vae/kl_dims")] == [4, 6, 6]
    (page,) = {e.tensor_proto.string_val[0].decode() for e in events.Tensors("samples/interpolated") if e.step == 4}
    assert "from:" in page.replace("\\", "")
    assert len(events.Tensors("samples/reconstructed")) == 3


def test_a_dry_run_tells_of_encoder_and_vae(config, tmp_path):
    settings = config(*MLE, "vae.pretrain_steps=3")
    facts = dry_run.plan(settings, tmp_path / "run")
    assert facts["phases"]["vae"]["steps"] == 7
    model = vae.build_vae(settings, facts["vocab_size"])
    assert facts["vae_parameters"] == model.num_parameters()
    assert facts["encoder_parameters"] == sum(p.numel() for p in model.encoder_parameters())
    assert f"vae: {model.num_parameters():,} parameters" in dry_run.plan_text(settings, facts)


def test_without_a_baseline_the_steps_start_at_zero(alone, tmp_path):
    results = run.train(alone(), tmp_path / "run")
    assert list(results["phases"]) == ["vae"]
    assert results["phases"]["vae"]["step"] == 4
    assert not (tmp_path / "run" / "checkpoints" / "mle").exists()


def test_a_vae_needs_two_texts_to_compare(alone, tmp_path):
    text = tmp_path / "texts.txt"
    text.write_text("\n".join(f"a {i} b" for i in range(9)))
    one = tmp_path / "one.txt"
    one.write_text("a 1 b\n")
    settings = alone(f"data.source={text}", f"data.dev={one}", "data.test_fraction=0")
    with pytest.raises(UserError, match="at least 2 texts in dev"):
        run.train(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------------------------------------- calibration


def test_calibration_fits_the_reconstruction_and_folds_it_in(whole):
    folder, results = whole
    fitted = results["phases"]["vae"]["calibration"]
    assert fitted["nll_after"] < fitted["nll_before"]
    model = load_for_sampling(folder)
    dev = run.encode(model.config, run.read_corpus(model.config), model.tokenizer)["dev"]
    again = calibrate(model.generator, dev, unk_id=model.tokenizer.unk_id, device=torch.device("cpu"))
    assert again["nll_before"] == pytest.approx(fitted["nll_after"], rel=1e-5)
    assert again["temperature"] == pytest.approx(1, abs=0.02)
    uncalibrated = results["phases"]["vae"]["uncalibrated"]
    assert results["phases"]["vae"]["metrics"]["recon"] < uncalibrated["recon"]
    assert results["phases"]["vae"]["metrics"]["kl"] == pytest.approx(uncalibrated["kl"])  # the encoder stays


# ---------------------------------------------------------------------------------------------- collapse


def test_collapse_provoked_on_purpose_rings_the_alarm(alone, tmp_path, capsys):
    """A decoder that reads everything, the whole KL from the start and no remedy, on few texts."""
    options = [
        "vae.max_steps=90", "vae.lr=2e-2", "vae.kl_schedule=constant", "vae.word_dropout=0", "generator.dropout=0",
        "evaluation.every=90", "checkpoint.every=90", "encoder.dropout=0", "vae.ema=0",
    ]  # fmt: skip
    results = run.train(alone(*options), tmp_path / "run")
    assert results["phases"]["vae"]["metrics"]["kl"] < 0.1
    assert results["phases"]["vae"]["metrics"]["active_units"] == 0
    assert "warning: step 90: Posterior collapse: KL is 0.0" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------- resuming


PARTS = {
    "pretraining": (["vae.pretrain_steps=2", "vae.max_steps=3"], 1),
    "just before the reset": (["vae.pretrain_steps=2", "vae.max_steps=3"], 2),
    "behind the reset": (["vae.pretrain_steps=2", "vae.max_steps=3"], 3),
    "while the encoder runs ahead": (
        ["vae.aggressive=true", "vae.aggressive_max_updates=3", "vae.aggressive_window=1", "vae.max_steps=5"],
        2,
    ),
    "by the bound": (["vae.free_bits=0.1", "vae.kl_schedule=cyclical", "vae.kl_cycles=2"], 3),
    "batch norm": (["vae.bn_gamma=0.6"], 2),
    "whitening batch norm": (["vae.bn_gamma=0.6", "vae.bn_whiten=true", "vae.batch_size=8"], 2),
    "a critic of latents": (["vae.aggregate=adversarial", "vae.kl_weight=0"], 2),
    "a critic of latents, pretraining": (["vae.aggregate=adversarial", "vae.pretrain_steps=2", "vae.max_steps=3"], 2),
    "layerwise": (["vae.latents=layerwise", "generator.n_layer=2"], 2),
    "an LSTM": (
        ["generator.kind=lstm", "generator.n_hidden=16", "encoder.kind=lstm", "encoder.n_hidden=16"],
        2,
    ),
    "no average": (["vae.ema=0", "vae.accumulate=2"], 3),
}


@pytest.mark.parametrize("part", PARTS)
def test_killed_and_resumed_equals_uninterrupted_to_the_bit(alone, tmp_path, monkeypatch, part):
    options, at = PARTS[part]
    run.train(alone(*options), tmp_path / "whole")
    advance = Progress.advance

    def fatal(self, **counts):
        advance(self, **counts)
        if self.label == "vae" and self.steps == at + 1:  # in the update behind checkpoint `at`
            raise Killed

    monkeypatch.setattr(Progress, "advance", fatal)
    with pytest.raises(Killed):
        run.train(alone(*options), tmp_path / "run")
    monkeypatch.undo()
    assert load_state(tmp_path / "run" / "checkpoints" / f"step-{at:08d}")["step"] == at
    run.train(alone(*options), tmp_path / "run", resume=True)
    found, expected = everything(tmp_path / "run"), everything(tmp_path / "whole")
    for what, value in expected.items():
        assert found[what] == value, what


@pytest.mark.parametrize("phase", ["mle", "vae"])
def test_killed_while_a_phase_ends(config, whole, tmp_path, monkeypatch, phase):
    final_scores = Experiment.final_scores

    def fatal(self, name, *args):
        if name == phase:
            raise Killed
        return final_scores(self, name, *args)

    monkeypatch.setattr(Experiment, "final_scores", fatal)
    with pytest.raises(Killed):
        run.train(config(*MLE), tmp_path / "run")
    monkeypatch.undo()
    run.train(config(*MLE), tmp_path / "run", resume=True)
    assert everything(tmp_path / "run") == everything(whole[0])


def test_ctrl_c_saves_and_the_rest_is_the_same(alone, tmp_path, monkeypatch):
    options = ["checkpoint.every=100", "evaluation.every=4"]
    run.train(alone(*options), tmp_path / "whole")
    advance = Progress.advance

    def press(self, **counts):
        advance(self, **counts)
        if self.label == "vae" and self.steps == 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Progress, "advance", press)
    with pytest.raises(KeyboardInterrupt):
        run.train(alone(*options), tmp_path / "run")
    monkeypatch.undo()
    assert read_pointer(tmp_path / "run" / "checkpoints", "last") == "step-00000003"
    run.train(alone(*options), tmp_path / "run", resume=True)
    found, expected = everything(tmp_path / "run"), everything(tmp_path / "whole")
    for what in ("metrics", "results", "weights"):
        assert found[what] == expected[what]


# ---------------------------------------------------------------------------------------------- how it ends


def test_stops_early_at_its_best_and_goes_back_to_it(alone, tmp_path, monkeypatch, capsys):
    rises = iter([5.0, 3.0, 4.0, 4.5, 9.0])
    evaluate = vae.evaluate_vae

    def told(*args):
        return evaluate(*args) | {"quality/nll": next(rises, 9.0)}

    monkeypatch.setattr(vae, "evaluate_vae", told)
    options = [
        "vae.kl_schedule=constant",
        "vae.max_steps=9",
        "vae.patience=2",
        "evaluation.every=1",
        "vae.calibrate=false",
    ]
    results = run.train(alone(*options), tmp_path / "run")
    assert results["phases"]["vae"]["step"] == 4
    assert "stopped early at step 4: dev NLL was best at step 2 (3.0000)" in capsys.readouterr().err
    root = tmp_path / "run" / "checkpoints"
    best, end = load_weights(root / "step-00000002"), load_weights(root / "vae")
    assert all(torch.equal(best[name], end[name]) for name in best if not name.startswith("aggregate"))


def test_patience_waits_for_the_whole_kl(alone, tmp_path, monkeypatch):
    rises = iter(range(100))
    evaluate = vae.evaluate_vae
    monkeypatch.setattr(vae, "evaluate_vae", lambda *args: evaluate(*args) | {"quality/nll": float(next(rises))})
    options = ["vae.kl_ramp_steps=4", "vae.max_steps=9", "vae.patience=2", "evaluation.every=1"]
    results = run.train(alone(*options), tmp_path / "run")
    assert results["phases"]["vae"]["step"] == 7  # the first that counts is behind update 4, which is step 5


@pytest.mark.parametrize("log_every", [1, 100])
def test_divergence_is_told_with_the_way_back(alone, tmp_path, monkeypatch, log_every):
    reconstruction = vae.TextVAE.reconstruction
    calls = []

    def broken(self, *args):
        calls.append(None)
        return reconstruction(self, *args) * (math.nan if len(calls) > 2 else 1)

    monkeypatch.setattr(vae.TextVAE, "reconstruction", broken)
    with pytest.raises(TrainingDiverged, match=r"diverged at step [34]: .*recon=nan.*the last good checkpoint is"):
        run.train(alone(f"log_every={log_every}"), tmp_path / "run")
    last = find_checkpoint(tmp_path / "run", prefer="last")
    assert all(t.isfinite().all() for t in load_weights(last).values())


def test_an_autoencoder_tells_texts_apart(tmp_path, alone):
    text = tmp_path / "texts.txt"
    text.write_text("\n".join(f"{a} {b} saw the {c} ." for a in "AB" for b in "CD" for c in "EF"))
    options = [
        f"data.source={text}", f"data.dev={text}", "data.test_fraction=0", "generator.block_size=8", "vae.kl_weight=0",
        "generator.dropout=0", "encoder.dropout=0", "vae.word_dropout=0", "vae.lr=1e-2", "vae.max_steps=300",
        "evaluation.every=300", "checkpoint.every=300", "log_every=300", "vae.calibrate=false",
    ]  # fmt: skip
    metrics = run.train(alone(*options), tmp_path / "run")["phases"]["vae"]["metrics"]
    assert metrics["recon"] < 1.5  # the entropy of eight texts is log 8 = 2.08
    assert metrics["shuffled_recon"] > 3
    assert 0.8 < metrics["mi"] < math.log(8)


# ---------------------------------------------------------------------------------------------- LSTM generators


@pytest.mark.parametrize("estimator", ["straight_through", "soft"])
def test_an_lstm_generator_learns_by_likelihood_and_against_a_critic(config, tmp_path, estimator):
    options = [
        *MLE, "vae=none", "generator.kind=lstm", "generator.n_hidden=16", "adversarial.max_steps=2",
        "adversarial.batch_size=4", "adversarial.d_pretrain_steps=1", "discriminator.n_layer=1",
        "discriminator.n_embd=16", f"adversarial.estimator={estimator}", "adversarial.continuation=steps",
    ]  # fmt: skip
    results = run.train(config(*options), tmp_path / "run")
    assert {"mle", "adversarial", "continued"} <= set(results["phases"])
    before, after = (load_weights(arms(tmp_path / "run")[name]) for name in ("mle", "adversarial"))
    assert not torch.equal(before["lstm.0.weight_hh_l0"], after["lstm.0.weight_hh_l0"])
    assert load_for_sampling(tmp_path / "run" / "checkpoints" / "adversarial").generator.n_hidden == 16
